"""Street of planes and cylinders, seen by six cameras, whose points cluster as real ones do.

Random points would fall one to a cell, without neighbours, and would make a meaningless benchmark.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from student.model.config import ContractionConfig
from student.model.lifting import camera_rays, points_on_candidates, pool_points
from student.model.sparse_voxels import GridShape, PointOrder, SparseGrid, build_grid
from student.model.types import CameraDepth, CameraInputs, TargetCameras
from student.model.voxel_field import VoxelField

NUM_CAMERAS = 6
_EYE_HEIGHT = 1.5
_WALL_HALF_WIDTH = 15.0


class Street(NamedTuple):
    """Rays of six cameras in the ego frame, and the points where they end.

    Attributes:
        origins: Camera centres, metres.
        directions: Unit directions through the pixels.
        termination_depth: Distance along each ray to its end, metres.
    """

    origins: Float[Tensor, "6 3"]
    directions: Float[Tensor, "6 height width 3"]
    termination_depth: Float[Tensor, "6 height width"]


def street(height: int, width: int) -> Street:
    """Return the rays of a street seen from its middle."""
    intrinsics = torch.tensor([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]])
    angles = [2 * math.pi * index / NUM_CAMERAS for index in range(NUM_CAMERAS)]
    poses = torch.stack([_outward(angle) for angle in angles])
    origins, directions = camera_rays(intrinsics.expand(NUM_CAMERAS, 3, 3), poses, height=height, width=width)
    x, y, z = directions.unbind(-1)
    ground = torch.where(z < -1e-3, -_EYE_HEIGHT / z.clamp(max=-1e-3), 110.0)
    wall = _WALL_HALF_WIDTH / y.abs().clamp(min=1e-3)
    bearing = torch.atan2(y, x)
    parked = torch.where((torch.sin(7 * bearing) > 0.6) & (z.abs() < 0.15), 8.0 + 3 * torch.cos(3 * bearing), 110.0)
    return Street(origins, directions, torch.minimum(torch.minimum(ground, wall), parked).clamp(1.0, 110.0))


def street_rig(height: int, width: int, *, depth_feature_channels: int) -> tuple[CameraInputs, TargetCameras]:
    """Return the six cameras as inputs, with images of a texture on the surfaces, and as targets of half the size."""
    view = street(height, width)
    points = view.origins[:, None, None] + view.directions * view.termination_depth[..., None]
    colours = 0.5 + 0.5 * torch.sin(points * torch.tensor([0.7, 1.1, 2.3]))
    intrinsics = torch.tensor([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]])
    poses = torch.stack([_outward(2 * math.pi * index / NUM_CAMERAS) for index in range(NUM_CAMERAS)])
    is_present = torch.ones(1, NUM_CAMERAS, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    grid = (1, NUM_CAMERAS, depth_feature_channels, 9, 16)
    inputs = CameraInputs(
        images=colours.movedim(-1, 1)[None],
        intrinsics=intrinsics.expand(1, NUM_CAMERAS, 3, 3),
        camera_to_reference_ego=poses[None],
        camera_is_present=is_present,
        depth_features=torch.randn(grid, generator=generator),
    )
    targets = TargetCameras(
        intrinsics=intrinsics * torch.tensor([0.5, 0.5, 1.0])[:, None].expand(1, NUM_CAMERAS, 3, 3),
        camera_to_reference_ego=poses[None],
        target_is_present=is_present,
        render_height=height // 2,
        render_width=width // 2,
    )
    return inputs, targets


def repeated_views(cameras: TargetCameras, times: int) -> TargetCameras:
    """Return every target view so many times, as a run has that renders more views than its rig has cameras."""
    return replace(
        cameras,
        intrinsics=cameras.intrinsics.repeat(1, times, 1, 1),
        camera_to_reference_ego=cameras.camera_to_reference_ego.repeat(1, times, 1, 1),
        target_is_present=cameras.target_is_present.repeat(1, times),
    )


def candidates_around(
    depth: Float[Tensor, "n height width"], num_candidates: int
) -> Float[Tensor, "n candidates height width"]:
    """Return candidate distances, placed like those of the published model's second stage."""
    step = (0.025 * depth).clamp(0.05, 0.3)[:, None]
    half = num_candidates // 2
    return depth[:, None] + torch.arange(-half, half + 1)[:, None, None] * step


def candidate_points(view: Street, num_candidates: int) -> Float[Tensor, "points 3"]:
    """Return the points of all candidates in the ego frame, metres, pixel after pixel."""
    candidates = candidates_around(view.termination_depth, num_candidates)
    return points_on_candidates(view.origins, view.directions, candidates).reshape(-1, 3)


def street_grid(
    view: Street, *, num_candidates: int, coarse_level: int, device: str = "cpu"
) -> tuple[SparseGrid, PointOrder]:
    """Return the cells that candidates on the street's rays fall into, and the cell of each point."""
    shape = GridShape(batch_size=1, coarse_level=coarse_level)
    keys = point_keys(candidate_points(view, num_candidates), shape, ContractionConfig())
    return build_grid(shape, keys.to(device))


def lifted_field(view: Street, *, num_candidates: int, coarse_level: int, feature_width: int) -> VoxelField:
    """Lift random features to the street's surfaces, with most weight on the middle candidate."""
    grid, order = street_grid(view, num_candidates=num_candidates, coarse_level=coarse_level)
    num_pixels = view.termination_depth.numel()
    generator = torch.Generator().manual_seed(0)
    offset = torch.arange(num_candidates) - num_candidates // 2
    logits = (8.0 - 4.0 * offset.abs()).clamp(min=-20.0).repeat(num_pixels)
    features = torch.randn(num_pixels, 2 * feature_width, generator=generator)
    fine, coarse = pool_points(grid, order, features, torch.sigmoid(logits), logits, pooling="opacity")
    return VoxelField(
        grid=grid,
        contraction=ContractionConfig(),
        fine=fine,
        coarse=coarse,
        mean_sky=torch.zeros(1, 2 * feature_width),
        depth=_NO_DEPTH,
        lookup="nearest",
        logit_limit=10.0,
    )


def point_keys(
    points: Float[Tensor, "points 3"], shape: GridShape, contraction: ContractionConfig
) -> Int64[Tensor, " points"]:
    """Return the keys of the fine cells of a single scene's points."""
    batch_index = torch.zeros(len(points), dtype=torch.long)
    return shape.fine_keys(shape.cell_coordinates(points, contraction), batch_index)


def _outward(angle: float) -> Float[Tensor, "4 4"]:
    forward, up = torch.tensor([math.cos(angle), math.sin(angle), 0.0]), torch.tensor([0.0, 0.0, 1.0])
    camera_to_ego = torch.eye(4)
    camera_to_ego[:3, :3] = torch.stack([torch.linalg.cross(forward, up), -up, forward], dim=1)
    camera_to_ego[:3, 3] = _EYE_HEIGHT * up
    return camera_to_ego


_NO_DEPTH = CameraDepth(
    coarse_termination_depth=torch.zeros(1, 0, 1, 1),
    coarse_opacity=torch.zeros(1, 0, 1, 1),
    coarse_weights=torch.zeros(1, 0, 2, 1, 1),
    coarse_edges=torch.zeros(3),
    fine_termination_depth=torch.zeros(1, 0, 1, 1),
    fine_opacity=torch.zeros(1, 0, 1, 1),
)
