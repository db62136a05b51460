"""Exact ground truth of a scene, as a store apart from everything that training reads."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float, Float32, UInt8, UInt16

from storage.keys import SceneKey
from storage.procedural.classes import CLASSES, SKY, Theme
from storage.procedural.conditions import DEFAULT_CONDITIONS, Conditions
from storage.procedural.occupancy import GRID_ORIGIN, GRID_SHAPE, VOXEL_SIZE
from storage.procedural.world import World, build_world
from storage.targets.schema import write_target
from storage.versioned import Home

KIND = "scene_truth"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldRecipe:
    """What rebuilds a scene's world exactly, so that it can be rendered from poses the car never had.

    Attributes:
        theme: Kind of place.
        seed: World seed.
        duration_s: Time span of its traffic.
        start_timestamp_us: Timestamp of world time 0, the first LiDAR sweep.
        conditions: Its light and weather.
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
class SceneTruth:
    """Ground truth of every keyframe and camera of a scene.

    Attributes:
        termination_depth: Metres along the unit ray through each pixel's centre; NaN = sky.
        semantics: Class ids of ``storage.procedural.classes``; 255 = sky.
        instance: Actor number, 0 for surroundings and sky.
        occupancy: Occ3D classes in the ego frame of each keyframe's LiDAR sweep; 17 = free.
        occupancy_is_visible: Voxels that some camera sees.
        occupancy_is_scanned: Voxels that the keyframe's LiDAR beams cross or end in.
        intrinsics: Of the images.
    """

    termination_depth: Float32[np.ndarray, "frames cameras height width"]
    semantics: UInt8[np.ndarray, "frames cameras height width"]
    instance: UInt16[np.ndarray, "frames cameras height width"]
    occupancy: UInt8[np.ndarray, "frames 200 200 16"]
    occupancy_is_visible: Bool[np.ndarray, "frames 200 200 16"]
    occupancy_is_scanned: Bool[np.ndarray, "frames 200 200 16"]
    intrinsics: Float[np.ndarray, "cameras 3 3"]


def write_truth(
    group: zarr.Group, truth: SceneTruth, camera_names: tuple[str, ...], recipe: WorldRecipe
) -> dict[str, float]:
    """Fill an empty group and return summary metrics."""
    group.attrs.update(
        {
            "camera_names": list(camera_names),
            "intrinsics": truth.intrinsics.tolist(),
            "classes": [
                {"class_id": c.class_id, "name": c.name, "occ3d_index": c.occ3d_index} for c in (*CLASSES, SKY)
            ],
            "grid": {"shape": GRID_SHAPE, "origin": GRID_ORIGIN, "voxel_size": VOXEL_SIZE},
            "world": asdict(recipe),
            "use": "evaluation only",
        }
    )
    grids = ("occupancy", "occupancy_is_visible", "occupancy_is_scanned")
    for name in ("termination_depth", "semantics", "instance", *grids):
        write_target(group, KIND, name, getattr(truth, name))
    finite = np.isfinite(truth.termination_depth)
    return {
        "sky_share": float(1.0 - finite.mean()),
        "median_depth_m": float(np.median(truth.termination_depth[finite])) if finite.any() else 0.0,
        "occupied_share": float((truth.occupancy != 17).mean()),
        "visible_share": float(truth.occupancy_is_visible.mean()),
        "scanned_share": float(truth.occupancy_is_scanned.mean()),
    }


def read_recipe(home: Home, scene_key: SceneKey) -> WorldRecipe:
    """Return what rebuilds the world of a generated scene.

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
