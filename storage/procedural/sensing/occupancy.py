"""Dense semantic occupancy in Occ3D's grid, computed from the surfaces."""

import itertools

import numpy as np
from jaxtyping import Float, Float32, UInt8

from storage.geometry.transforms import apply_se3, invert_se3
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.procedural.world.mesh import Mesh, chosen, cross
from storage.procedural.world.world import World
from storage.taxonomy import OCC3D_FREE, occ3d_table

_SPACING = 0.19
_REACH = 58.0  # a grid's corner is 56.6 m from the ego
_GRID_CORNERS = np.array(list(itertools.product(*zip(OCC3D_GRID.minimum, OCC3D_GRID.maximum, strict=True))))
# Where several classes share a voxel the most specific wins: things, then plants and buildings, then flat ground, and
# last the land that runs on beneath everything.
_PRIORITY = np.array([13, 20, 21, 16, 17, 18, 22, 24, 25, 14, 15, 2, 3, 4, 1, 6, 5], np.int64)

Grid = UInt8[np.ndarray, "200 200 16"]


def sample_surface(mesh: Mesh) -> tuple[Float32[np.ndarray, "points 3"], UInt8[np.ndarray, " points"]]:
    """Return points spread evenly over every face, at most ``_SPACING`` apart on average, and their Occ3D classes."""
    first, second = mesh.corners[:, 1] - mesh.corners[:, 0], mesh.corners[:, 2] - mesh.corners[:, 0]
    area = 0.5 * np.linalg.norm(cross(first, second), axis=1)
    counts = np.ceil(area / _SPACING**2).astype(np.int64) + 1
    face = np.repeat(np.arange(len(mesh)), counts)
    index = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The R2 sequence fills a parallelogram evenly; folding its far half gives the triangle.
    u = ((index + 0.5) * 0.7548776662466927 % 1.0).astype(np.float32)
    v = ((index + 0.5) * 0.5698402909980532 % 1.0).astype(np.float32)
    outside = u + v > 1.0
    u, v = np.where(outside, 1.0 - u, u), np.where(outside, 1.0 - v, v)
    points = mesh.corners[face, 0] + u[:, None] * first[face] + v[:, None] * second[face]
    return points.astype(np.float32), occ3d_table()[mesh.class_id[face]]


def voxel_centres() -> Float[np.ndarray, "200 200 16 3"]:
    """Return the centre of every voxel in the ego frame, metres."""
    return OCC3D_GRID.centres(np.moveaxis(np.indices(OCC3D_GRID.shape), 0, -1))


class OccupancyBuilder:
    """Voxelises one world at many times and poses; the static surfaces are sampled once."""

    def __init__(self, world: World) -> None:
        """Sample every static face that can fall into a grid along the ego's way."""
        self._world = world
        mesh = world.static_mesh
        low, high = mesh.corners.min(1), mesh.corners.max(1)
        path = np.array([world.ego_to_world(int(t * 1e6))[:3, 3] for t in np.arange(0.0, world.duration_s + 0.5, 0.5)])
        self._low, self._high = path.min(0) - _REACH, path.max(0) + _REACH
        near = np.ones(len(mesh), bool)
        for axis in (0, 1):
            near &= (high[:, axis] > self._low[axis]) & (low[:, axis] < self._high[axis])
        near &= (low[:, 2] < 6.0) & (high[:, 2] > -1.5)
        points, classes = sample_surface(chosen(mesh, np.flatnonzero(near)))
        kept = np.abs(points[:, 2] - 2.2) < 3.8
        # Sorted by priority once, so that plain assignment lets the most specific class win.
        order = np.argsort(_PRIORITY[classes[kept]], kind="stable")
        self._points, self._classes = points[kept][order], classes[kept][order]

    def occupancy(self, time_us: int) -> Grid:
        """Return the Occ3D classes, 17 where free, in the grid of the ego frame at a time (microseconds).

        A voxel is occupied when a surface passes through it. Closed objects are hollow.
        """
        return self.occupancy_at(time_us, self._world.ego_to_world(time_us))

    def occupancy_at(self, time_us: int, grid_to_world: Float[np.ndarray, "4 4"]) -> Grid:
        """Return the Occ3D classes at a time in a grid placed anywhere along the ego's way.

        Args:
            time_us: World time, microseconds.
            grid_to_world: Pose of the grid's frame; level, like the ego frame.

        Raises:
            ValueError: If part of the grid lies outside the sampled area, or the grid is not level.
        """
        corners = apply_se3(grid_to_world, _GRID_CORNERS)
        if (corners[:, :2] < self._low[:2]).any() or (corners[:, :2] > self._high[:2]).any():
            raise ValueError(f"the grid at {grid_to_world[:3, 3]} reaches beyond {self._low[:2]} to {self._high[:2]} m")
        if corners[:, 2].min() < -1.6 or corners[:, 2].max() > 6.0:
            raise ValueError(
                f"the grid reaches from {corners[:, 2].min():.1f} to {corners[:, 2].max():.1f} m in height"
            )
        snapshot = self._world.snapshot(time_us)
        world_to_grid = invert_se3(grid_to_world)
        grid = np.full(OCC3D_GRID.shape, OCC3D_FREE, np.uint8)
        _fill(grid, self._points, self._classes, world_to_grid)
        if snapshot.moving_mesh is not None:
            points, classes = sample_surface(snapshot.moving_mesh)
            order = np.argsort(_PRIORITY[classes], kind="stable")
            _fill(grid, points[order], classes[order], world_to_grid)
        return grid


def _fill(
    grid: Grid,
    points: Float32[np.ndarray, "points 3"],
    classes: UInt8[np.ndarray, " points"],
    world_to_grid: Float[np.ndarray, "4 4"],
) -> None:
    """Assign classes in order: later points overwrite earlier ones of the same voxel."""
    scaled = world_to_grid.astype(np.float32)
    scaled[:3, 3] -= np.asarray(OCC3D_GRID.minimum, np.float32)
    scaled[:3] /= np.float32(OCC3D_GRID.voxel_size)
    index = np.empty((3, len(points)), np.int32)
    inside = np.ones(len(points), bool)
    for axis in range(3):
        coordinate = points @ scaled[axis, :3] + scaled[axis, 3]
        inside &= (coordinate >= 0) & (coordinate < OCC3D_GRID.shape[axis])
        index[axis] = coordinate
    x, y, z = index[:, inside]
    flat = (x.astype(np.int64) * OCC3D_GRID.shape[1] + y) * OCC3D_GRID.shape[2] + z
    new = classes[inside]
    target = grid.reshape(-1)
    held = target[flat]
    # A moving thing may stand on ground that is already there; less specific classes never overwrite.
    stronger = (held == OCC3D_FREE) | (_PRIORITY[np.minimum(held, 16)] <= _PRIORITY[new])
    target[flat[stronger]] = new[stronger]
