"""What bounds the occupancy of a student: what exact depth, at the student's size, would reach.

``python -m student.experiments.occupancy_bound HOME SCENE ...`` reads the exact depth of procedural scenes at several
image sizes, puts a point where each pixel's ray ends, and calls the voxels that hold a point occupied. Between two
rows of pixels the road may be ten metres long, so points are also put between pixels, on the plane through their
neighbours, unless depth jumps there. Voxels are those that an evaluation counts, so a student can be held against it.
Fisheyes are left out: between their pixels there is no such plane.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float
from torch.nn.functional import interpolate, max_pool2d

from storage.geometry.cameras import scale_intrinsics
from storage.geometry.rays import camera_rays
from storage.geometry.resize import resize_nearest
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home
from storage.taxonomy import OCC3D_FREE
from student.evaluation.sections.occupancy import is_above_ground
from student.inference.occupancy import BinaryCounts

logger = logging.getLogger("student.experiments.occupancy_bound")

_MAX_JUMP = 1.6
"""Ratio of neighbouring depths above which nothing lies between them: flat road has 1.5 at 30 m in 36 rows."""


@dataclass(frozen=True, kw_only=True)
class OccupancyBound:
    """Measure exact depth as occupancy.

    Attributes:
        home: Home of procedural scenes.
        scenes: Keys of the scenes.
        rows: Numbers of image rows; columns follow the camera.
        fill: Numbers of points per pixel and axis.
        every: Every so many-th frame is read.
        output: File for the table as JSON; None prints it alone.
    """

    home: Annotated[Path, tyro.conf.Positional]
    scenes: Annotated[tuple[str, ...], tyro.conf.Positional]
    rows: tuple[int, ...] = (36, 72, 144)
    fill: tuple[int, ...] = (1, 8, 24)
    every: int = 4
    output: Path | None = None

    def run(self) -> list[dict[str, Any]]:
        """Measure, write and return one row per size and fill."""
        home = Home(self.home, store_url=store_url_from_environment())
        counts: dict[tuple[int, int, str], BinaryCounts] = {}
        for key in self.scenes:
            for scene, truth, frame in self._frames(home, key):
                is_visible = read_target(truth, Kind.SCENE_TRUTH, "occupancy_is_visible", frame)
                visible = np.flatnonzero(is_visible)
                labels = read_target(truth, Kind.SCENE_TRUTH, "occupancy", frame).reshape(-1)[visible]
                is_above = is_above_ground(visible)
                for rows in self.rows:
                    for fill in self.fill:
                        held = _held(scene, truth, frame, rows, fill)[visible]
                        for name, part in (("all", slice(None)), ("above ground", is_above)):
                            found = BinaryCounts.of(held[part], labels[part] != OCC3D_FREE)
                            counts[rows, fill, name] = counts.get((rows, fill, name), BinaryCounts()) + found
        table = [
            {
                "rows": rows,
                "points_per_pixel": fill**2,
                "voxels": name,
                "iou": count.iou,
                "precision": count.precision,
                "recall": count.recall,
            }
            for (rows, fill, name), count in counts.items()
        ]
        if self.output is not None:
            self.output.write_text(json.dumps(table, indent=1) + "\n")
        return table

    def _frames(self, home: Home, key: str) -> Iterator[tuple[SceneReader, Any, int]]:
        version = home.require(Kind.SCENE, key)
        scene = SceneReader(home.open_arrays(version), version)
        truth = home.open_arrays(home.require(Kind.SCENE_TRUTH, key))
        for frame in range(0, scene.num_frames, self.every):
            yield scene, truth, frame


def _held(scene: SceneReader, truth: Any, frame: int, rows: int, fill: int) -> Bool[np.ndarray, " voxels"]:  # noqa: ANN401 - a zarr group
    """Return the voxels that hold a point of some camera's depth."""
    held = np.zeros(int(np.prod(OCC3D_GRID.shape)), dtype=bool)
    depth = read_target(truth, Kind.SCENE_TRUTH, "termination_depth", frame)
    order = truth.attrs["camera_names"]
    for camera, name in enumerate(scene.camera_names):
        if np.isfinite(scene.fisheye(camera)).any():
            continue
        height, width = scene.image_size(camera)
        size = (rows, round(rows * width / height))
        intrinsics = scene.intrinsics(camera, size=size)
        pose = scene.camera_to_reference_ego(frame, camera)
        points = surface_points(resize_nearest(depth[order.index(name)], *size, axis=0), intrinsics, pose, fill=fill)
        held[OCC3D_GRID.flat_of(points)] = True
    return held


def surface_points(
    depth: Float[np.ndarray, "height width"],
    intrinsics: Float[np.ndarray, "3 3"],
    camera_to_ego: Float[np.ndarray, "4 4"],
    *,
    fill: int,
) -> Float[np.ndarray, "points 3"]:
    """Return points on the surface that a depth map shows, in the ego frame, metres.

    Args:
        depth: Distance along unit rays, metres; NaN where a ray meets nothing.
        intrinsics: Pinhole intrinsics of the depth map, pixels.
        camera_to_ego: Pose of the camera.
        fill: Points per pixel and axis. Inverse distance along the optical axis is linear between pixels, which is
            exact on a plane.
    """
    height, width = depth.shape
    origins, directions = camera_rays(intrinsics, camera_to_ego, height=height, width=width)
    along = directions @ camera_to_ego[:3, 2]
    inverse = torch.from_numpy(np.where(np.isfinite(depth), 1 / np.maximum(depth * along, 0.1), 0.0))[None, None]
    finer = scale_intrinsics(intrinsics, from_size=(height, width), to_size=(height * fill, width * fill))
    origins, directions = camera_rays(finer, camera_to_ego, height=height * fill, width=width * fill)
    size = directions.shape[:2]
    nearest, farthest = (
        interpolate(sign * max_pool2d(sign * inverse, 3, stride=1, padding=1), size=size, mode="nearest")
        for sign in (1, -1)
    )
    is_surface = inverse > 0 if fill == 1 else (farthest > 0) & (nearest < _MAX_JUMP * farthest)
    between = interpolate(inverse, size=size, mode="bilinear", align_corners=False)
    chosen = is_surface[0, 0].numpy()
    for axis, count in enumerate((height, width)):  # outside the outermost pixel centres there is one neighbour only
        place = (np.arange(count * fill) + 0.5) / fill - 0.5
        is_between = (place >= 0) & (place <= count - 1)
        chosen = chosen & (is_between[:, None] if axis == 0 else is_between)
    planes = directions / (directions @ camera_to_ego[:3, 2])[..., None]
    return origins[chosen] + planes[chosen] / between[0, 0].numpy()[chosen][:, None]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for line in tyro.cli(OccupancyBound).run():
        logger.info("%s", "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))
