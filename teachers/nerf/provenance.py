"""What the field of a scene and its renders are made from, known before nerfstudio is started.

Starting nerfstudio takes as long as a render, so whether anything has to be made is decided without it.
"""

from collections.abc import Sequence

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.errors import ErrorKind, MissingTargetError, ProvenanceMismatchError
from storage.kinds import Kind, features_kind
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, Materialized, StoreVersion, reuse
from teachers.nerf.config import (
    FeatureFieldConfig,
    NerfConfig,
    TeacherDepthConfig,
    TeacherFeaturesConfig,
    TeacherOccupancyConfig,
    VirtualViewsConfig,
    determining,
)
from teachers.nerf.task import KIND_OF, Action, NerfStep

FIELD_KIND = Kind.NERF_TEACHER

MODULE_OF: dict[Action, str] = {
    "fit": "teachers.nerf.fit",
    "render_depth": "teachers.nerf.render",
    "render_virtual_views": "teachers.nerf.render",
    "read_occupancy": "teachers.nerf.occupancy",
    "distil_features": "teachers.nerf.distil_features",
    "render_features": "teachers.nerf.features",
}
"""The module that does each action, by name: importing one starts nerfstudio."""


RenderConfig = (
    TeacherDepthConfig | VirtualViewsConfig | TeacherOccupancyConfig | FeatureFieldConfig | TeacherFeaturesConfig
)
"""What is made from a fitted field."""


def fit_provenance(home: Home, scene_key: str, config: NerfConfig) -> Provenance:
    """Return what the fit of a scene is made from.

    Raises:
        MissingTargetError: If the scene, or the sky mask that the configuration asks for, does not exist.
    """
    scene = home.require(Kind.SCENE, scene_key)
    masks = [home.require(Kind.SKY_MASK, scene_key)] if config.use_sky_mask else []
    inputs = tuple(version.as_input for version in (scene, *masks))
    of_scene = home.provenance(scene)
    return Provenance(
        kind=FIELD_KIND,
        partition=scene.partition,
        inputs=inputs,
        config_digest=config_digest(determining(config)),
        code_digest=code_digest(MODULE_OF["fit"], kind=FIELD_KIND),
        seed=config.seed,
        calibration_digest=of_scene.calibration_digest,
        pose_source=of_scene.pose_source,
        licence=home.licence_of(inputs),
        config=config_json(config),
    )


def render_provenance(home: Home, field: StoreVersion, config: RenderConfig) -> Provenance:
    """Return what something made from a fitted field is made from: the field, and all that it was fitted to.

    Raises:
        MissingTargetError: If the image features that are to be distilled, or the feature field that is to be rendered,
            do not exist.
        ProvenanceMismatchError: If that feature field is in another field.
    """
    fitted = home.provenance(field)
    used, seed, action = (*fitted.inputs, field.as_input), None, _action_of(config)
    if isinstance(config, FeatureFieldConfig):
        kinds = [features_kind(source) for source in config.feature_sources]
        used, seed = (*used, *(home.require(kind, field.partition).as_input for kind in kinds)), config.seed
    elif isinstance(config, TeacherFeaturesConfig):
        distilled = home.require(Kind.FEATURE_FIELD, field.partition)
        used = home.provenance(distilled).inputs
        if field.as_input not in used:
            raise ProvenanceMismatchError(
                ErrorKind.DIGEST_MISMATCH,
                str(distilled),
                f"was distilled into another field than {field}: want it distilled again",
            )
        used = (*used, distilled.as_input)
    return Provenance(
        kind=KIND_OF[action],
        partition=field.partition,
        inputs=used,
        config_digest=config_digest(determining(config)),
        code_digest=code_digest(MODULE_OF[action], kind=KIND_OF[action]),
        seed=seed,
        calibration_digest=fitted.calibration_digest,
        pose_source=fitted.pose_source,
        licence=home.licence_of(used),
        config=config_json(config),
    )


def find_existing(home: Home, scene_key: str, steps: Sequence[NerfStep]) -> dict[str, Materialized] | None:
    """Return what every step would make, if all of it exists already, and make it current; None otherwise."""
    found: dict[str, Materialized] = {}
    for step in steps:
        try:
            if isinstance(step.config, NerfConfig):
                provenance = fit_provenance(home, scene_key, step.config)
            else:
                provenance = render_provenance(home, home.require(FIELD_KIND, scene_key), step.config)
        except (MissingTargetError, ProvenanceMismatchError):
            return None  # nothing can exist that is made from it; whoever makes it says what is missing
        materialized = reuse(home, provenance)
        if materialized is None:
            return None
        found[step.action] = materialized
    return found


def _action_of(config: RenderConfig) -> Action:
    actions: dict[type, Action] = {
        TeacherDepthConfig: "render_depth",
        VirtualViewsConfig: "render_virtual_views",
        TeacherOccupancyConfig: "read_occupancy",
        FeatureFieldConfig: "distil_features",
        TeacherFeaturesConfig: "render_features",
    }
    return actions[type(config)]
