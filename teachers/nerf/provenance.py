"""What the field of a scene and its renders are made from, known before nerfstudio is started.

Starting nerfstudio takes as long as a render, so whether anything has to be made is decided without it.
"""

from collections.abc import Sequence

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.errors import MissingTargetError
from storage.kinds import Kind
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, Materialized, StoreVersion, reuse
from teachers.nerf.config import NerfConfig, TeacherDepthConfig, TeacherFeaturesConfig, VirtualViewsConfig, determining
from teachers.nerf.task import KIND_OF, Action, NerfStep

FIELD_KIND = Kind.NERF_TEACHER

MODULE_OF: dict[Action, str] = {
    "fit": "teachers.nerf.fit",
    "render_depth": "teachers.nerf.render",
    "render_virtual_views": "teachers.nerf.render",
    "render_features": "teachers.nerf.features",
}
"""The module that does each action, by name: importing one starts nerfstudio."""


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


def render_provenance(
    home: Home, field: StoreVersion, config: TeacherDepthConfig | VirtualViewsConfig | TeacherFeaturesConfig
) -> Provenance:
    """Return what something rendered from a fitted field is made from: the field, and all that it was fitted to.

    Raises:
        MissingTargetError: If the image features that are to be lifted into the field do not exist.
    """
    fitted = home.provenance(field)
    used, seed, action = (field.as_input,), None, _action_of(config)
    if isinstance(config, TeacherFeaturesConfig):
        used = (*used, home.require(config.feature_source, field.partition).as_input)
        seed = config.seed
    return Provenance(
        kind=KIND_OF[action],
        partition=field.partition,
        inputs=(*fitted.inputs, *used),
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
        except MissingTargetError:
            return None  # nothing can exist that is made from it; whoever makes it says what is missing
        materialized = reuse(home, provenance)
        if materialized is None:
            return None
        found[step.action] = materialized
    return found


def _action_of(config: TeacherDepthConfig | VirtualViewsConfig | TeacherFeaturesConfig) -> Action:
    actions: dict[type, Action] = {
        TeacherDepthConfig: "render_depth",
        VirtualViewsConfig: "render_virtual_views",
        TeacherFeaturesConfig: "render_features",
    }
    return actions[type(config)]
