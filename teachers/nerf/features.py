"""Render the feature field at every camera of every frame: features that agree between views."""

from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Float

from storage.kinds import FeatureSource, Kind
from storage.stores.arrays import create_target
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.image_evidence import AppearanceLimits, appearance_checks, appearance_of
from teachers.nerf.config import TeacherFeaturesConfig
from teachers.nerf.distil_features import surface_of_image
from teachers.nerf.feature_field import FeatureField, load_feature_field
from teachers.nerf.progress import Progress
from teachers.nerf.render_source import RenderSource
from teachers.nerf.teacher import RaySurface
from teachers.quality import at_least, gate


def render_teacher_features(
    home: Home, scene_key: str, config: TeacherFeaturesConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return features rendered at every camera of every frame, an array for each source, rendering them if need be.

    The pattern of image positions that the field was distilled with is left out of them.

    Args:
        home: Where the feature field is read from and the result is published.
        scene_key: The scene.
        config: Grid.
        on_progress: Told after every frame.

    Raises:
        MissingTargetError: If the scene was not fitted or its features were not distilled.
        ProvenanceMismatchError: If they were distilled into another field than the scene's current one.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    provenance = source.provenance(config)
    distilled = next(item for item in provenance.inputs if item.kind == Kind.FEATURE_FIELD)
    version = home.require(Kind.FEATURE_FIELD, str(scene_key), distilled.digest)
    field = load_feature_field(home.open_files(version, verify=True)).to(source.teacher.device).eval()
    gate_of_field = home.gate(version)
    passed = gate_of_field is not None and gate_of_field.passed

    def write(group: zarr.Group) -> dict[str, Any]:
        description, scene, size = field.description, source.scene, config.size
        group.attrs["feature_basis_digests"] = {**description.feature_basis_digests}
        shape = (scene.num_frames, scene.num_cameras, *size)
        arrays: dict[FeatureSource, zarr.Array] = {
            name: create_target(group, Kind.TEACHER_FEATURES, name, (*shape, channels))
            for name, channels in description.num_channels.items()
        }
        for frame in range(scene.num_frames):
            surfaces = [surface_of_image(source, frame, camera, size) for camera in range(scene.num_cameras)]
            for name, array in arrays.items():
                rendered = np.stack([render_features(field, s, name) for s in surfaces])
                array[frame] = rendered.reshape(array.shape[1:]).astype(np.float16)
            if on_progress is not None:
                on_progress("render_features", (frame + 1) / scene.num_frames, {"frame": frame + 1.0})
        checks = {"feature_field_passed": at_least(int(passed), 1)}
        for name, array in arrays.items():
            checks |= appearance_checks(appearance_of(array, scene), AppearanceLimits(), f"{name}_")
        return {"quality": gate(checks)}

    return materialize_arrays(home, provenance, write)


@torch.no_grad()
def render_features(
    field: FeatureField, surface: RaySurface, source: FeatureSource
) -> Float[np.ndarray, "rays channels"]:
    """Return the features of rays, in [0, 1] and without any pattern of image positions."""
    return field(surface, source).clamp(0.0, 1.0).cpu().numpy()
