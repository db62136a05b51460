"""Exact ground truth of a scene, in a store that training never reads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float, Float32, UInt8, UInt16

from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.procedural.conditions import DEFAULT_CONDITIONS, Conditions
from storage.procedural.world.world import World, build_world
from storage.stores.arrays import create_target
from storage.stores.versioned import Home
from storage.taxonomy import CLASSES, OCC3D_FREE, SKY, SurfaceKind, Theme

KIND = Kind.SCENE_TRUTH


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldRecipe:
    """Parameters that rebuild a scene's world exactly, so that it can be rendered from any pose.

    Attributes:
        theme: Kind of place.
        seed: World seed.
        duration_s: Time span of its traffic, seconds.
        start_timestamp_us: Timestamp of world time 0, the first LiDAR sweep.
        conditions: Light and weather.
    """

    theme: Theme
    seed: int
    duration_s: float
    start_timestamp_us: int
    conditions: Conditions = DEFAULT_CONDITIONS

    def build(self) -> World:
        """Build the world."""
        return build_world(self.theme, self.seed, duration_s=self.duration_s, conditions=self.conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTruth:
    """Ground truth of one keyframe.

    Attributes:
        termination_depth: Metres along the unit ray through each pixel's centre; NaN where nothing was hit.
        semantics: Class ids of ``storage.taxonomy``; 255 = sky, 254 = outside a fisheye's image circle.
        instance: Actor number, 0 for surroundings and sky.
        surface: Members of ``SurfaceKind``; 255 where nothing was hit.
        occupancy: Occ3D classes in the ego frame of the keyframe's LiDAR sweep; 17 = free.
        occupancy_is_visible: Whether some camera sees each voxel.
        occupancy_is_scanned: Whether the LiDAR's beams cross or end in each voxel.
    """

    termination_depth: Float32[np.ndarray, "cameras height width"]
    semantics: UInt8[np.ndarray, "cameras height width"]
    instance: UInt16[np.ndarray, "cameras height width"]
    surface: UInt8[np.ndarray, "cameras height width"]
    occupancy: UInt8[np.ndarray, "200 200 16"]
    occupancy_is_visible: Bool[np.ndarray, "200 200 16"]
    occupancy_is_scanned: Bool[np.ndarray, "200 200 16"]


def write_truth(
    group: zarr.Group,
    frames: Sequence[FrameTruth],
    camera_names: tuple[str, ...],
    intrinsics: Float[np.ndarray, "cameras 3 3"],
    recipe: WorldRecipe,
) -> dict[str, float]:
    """Fill an empty group and return summary metrics."""
    group.attrs.update(
        {
            "camera_names": list(camera_names),
            "intrinsics": intrinsics.tolist(),
            "classes": [
                {"class_id": c.class_id, "name": c.name, "occ3d_index": c.occ3d_index} for c in (*CLASSES, SKY)
            ],
            "surfaces": {str(kind.value): kind.name.lower() for kind in SurfaceKind},
            "grid": {"shape": OCC3D_GRID.shape, "origin": OCC3D_GRID.minimum, "voxel_size": OCC3D_GRID.voxel_size},
            "world": asdict(recipe),
            "use": "evaluation only",
        }
    )
    for name in (field.name for field in fields(FrameTruth)):
        array = create_target(group, KIND, name, (len(frames), *getattr(frames[0], name).shape))
        for index, frame in enumerate(frames):
            array[index] = getattr(frame, name)
    return {
        "sky_share": _mean([f.semantics == SKY.class_id for f in frames]),
        "median_depth_m": _median([f.termination_depth[np.isfinite(f.termination_depth)] for f in frames]),
        "occupied_share": _mean([f.occupancy != OCC3D_FREE for f in frames]),
        "visible_share": _mean([f.occupancy_is_visible for f in frames]),
        "scanned_share": _mean([f.occupancy_is_scanned for f in frames]),
    }


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.mean([part.mean() for part in parts]))


def _median(parts: list[np.ndarray]) -> float:
    """Return the median over frames of each frame's median; 0 if no frame has a value."""
    found = [np.median(part) for part in parts if len(part)]
    return float(np.median(found)) if found else 0.0


def read_recipe(home: Home, scene_key: SceneKey) -> WorldRecipe:
    """Return the recipe that rebuilds the world of a generated scene.

    Raises:
        MissingTargetError: If the scene has no published truth.
    """
    attributes: Any = home.open_arrays(home.require(KIND, str(scene_key))).attrs["world"]
    return WorldRecipe(
        theme=Theme(attributes["theme"]),
        seed=int(attributes["seed"]),
        duration_s=float(attributes["duration_s"]),
        start_timestamp_us=int(attributes["start_timestamp_us"]),
        # Worlds had no other conditions than the default before they were recorded.
        conditions=Conditions(**attributes["conditions"]) if "conditions" in attributes else DEFAULT_CONDITIONS,
    )
