"""Lift image features into a fitted field and render them back, so that they agree between views (EmerNeRF Sec. 3.3).

Geometry is frozen: where each ray ends, and with which weights, is computed once and kept. What is learned is a small
grid of features in space, a decoder applied to the composited feature, and a head for the sky by direction. Image
features of a foundation model flicker between views; the field can only hold what is consistent.
"""

import math
from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Float
from torch import Tensor, nn

from storage.kinds import Kind
from storage.stores.arrays import create_target, read_target
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.nerf.config import TeacherFeaturesConfig
from teachers.nerf.encoding import GridEncoding, geometric_resolutions
from teachers.nerf.field import encode_directions
from teachers.nerf.perceptron import perceptron
from teachers.nerf.progress import Progress
from teachers.nerf.render_source import RenderSource
from teachers.nerf.scene_rays import SceneBounds, split_frames
from teachers.nerf.teacher import RaySurface
from teachers.quality import at_least, gate

_SAMPLES_PER_RAY = 4
"""The heaviest samples of a ray; they hold nearly all of its weight, since surfaces are opaque."""

_NETWORK_LEARNING_RATE_RATIO = 0.2


class FeatureField(nn.Module):
    """Features of one scene, [0, 1].

    A head decodes them, and one of its own decodes the sky's by direction (EmerNeRF Eq. 9). The first reads composited
    features once per ray instead of every sample.

    Args:
        config: Size of the feature field.
        bounds: The scene's box.
        num_channels: Channels of the features that it learns.
    """

    def __init__(self, config: TeacherFeaturesConfig, bounds: SceneBounds, num_channels: int) -> None:
        super().__init__()
        resolutions = geometric_resolutions(
            bounds.half_extent_m,
            coarsest_cell_m=8.0 * config.finest_cell_m,
            finest_cell_m=config.finest_cell_m,
            num_levels=config.num_levels,
        )
        self.grid = GridEncoding(
            resolutions, features_per_level=config.features_per_level, log2_table_size=config.log2_table_size
        )
        self.decoder = perceptron(self.grid.output_width, config.hidden_width, num_channels)
        self.sky = perceptron(encode_directions(torch.zeros(1, 3)).shape[1], config.hidden_width, num_channels)

    def forward(self, surface: RaySurface) -> Float[Tensor, "rays channels"]:
        """Return the features of rays, filled up with the sky's by what opacity leaves (EmerNeRF Eq. 10)."""
        rays, samples = surface.weights.shape
        encoded = self.grid(surface.positions.reshape(-1, 3)).view(rays, samples, -1)
        composited = (surface.weights[..., None] * encoded).sum(dim=1)
        opacity = surface.weights.sum(dim=1, keepdim=True)
        sky = torch.sigmoid(self.sky(encode_directions(surface.directions)))
        return opacity * torch.sigmoid(self.decoder(composited)) + (1.0 - opacity) * sky


def render_teacher_features(
    home: Home, scene_key: str, config: TeacherFeaturesConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return features rendered at every camera of every frame, distilling and rendering them if they do not exist.

    Held-out frames of the field's fit are not distilled either; the PSNR of features there is stored and gated.

    Args:
        home: Where field and image features are read from and the result is published.
        scene_key: The scene.
        config: Source, grid and budget.
        on_progress: Told during distillation and after every rendered frame.

    Raises:
        MissingTargetError: If the scene was not fitted, or its image features were not extracted.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    version = home.require(config.feature_source, str(scene_key))
    size = config.size

    def write(group: zarr.Group) -> dict[str, Any]:
        stored = home.open_arrays(version)
        targets = read_target(stored, config.feature_source, "features")
        group.attrs.update(
            {
                "feature_source": config.feature_source,
                "feature_basis_digest": stored.attrs.get("feature_basis_digest"),
            }
        )
        field, psnr = _distil(source, config, targets, on_progress)
        shape = (*targets.shape[:2], *size, targets.shape[-1])
        features = create_target(group, Kind.TEACHER_FEATURES, "features", shape)
        for frame in range(shape[0]):
            features[frame] = np.stack(
                [
                    _render(field, _surface(source, frame, camera, size)).numpy().reshape(shape[2:])
                    for camera in range(shape[1])
                ]
            ).astype(np.float16)
            if on_progress is not None:
                on_progress("render_features", 0.5 + 0.5 * (frame + 1) / shape[0], {"frame": float(frame + 1)})
        checks = {"fit_passed": at_least(int(source.fit_passed), 1), "psnr": at_least(psnr, config.min_psnr)}
        return {"psnr": psnr, "quality": gate(checks)}

    return materialize_arrays(home, source.provenance(config), write)


def _distil(
    source: RenderSource,
    config: TeacherFeaturesConfig,
    targets: Float[np.ndarray, "frames cameras height width channels"],
    on_progress: Progress | None,
) -> tuple[FeatureField, float]:
    """Return the fitted feature field and the PSNR of features on held-out frames.

    The loss is the squared error of features (EmerNeRF Eq. A7).
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    frames, cameras, *grid = targets.shape[:4]
    split = split_frames(frames, holdout_every=source.teacher.nerf.holdout_every)
    size = (grid[0], grid[1])
    images = [(f, c) for f in split.train for c in range(cameras)]
    surfaces = [_surface(source, f, c, size)[source.shows_world(c, size)] for f, c in images]
    surface = RaySurface(
        positions=torch.cat([s.positions for s in surfaces]),
        weights=torch.cat([s.weights for s in surfaces]),
        directions=torch.cat([s.directions for s in surfaces]),
    )
    wanted = torch.cat([_as_rows(targets[f, c])[source.shows_world(c, size)] for f, c in images])
    field = FeatureField(config, source.teacher.bounds, targets.shape[-1])
    networks = [*field.decoder.parameters(), *field.sky.parameters()]
    optimizer = torch.optim.Adam(
        [
            {"params": field.grid.parameters(), "lr": config.learning_rate},
            {"params": networks, "lr": config.learning_rate * _NETWORK_LEARNING_RATE_RATIO},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    for step in range(config.num_steps):
        drawn = torch.randint(len(wanted), (config.rays_per_step,), generator=generator)
        loss = (field(surface[drawn]) - wanted[drawn]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            numbers = {"step": step + 1.0, "psnr": -10.0 * math.log10(max(float(loss.detach()), 1e-10))}
            on_progress("distil_features", 0.5 * (step + 1) / config.num_steps, numbers)
    errors = [
        float((_render(field, _surface(source, f, c, size)) - _as_rows(targets[f, c]))[shown].square().mean())
        for f in split.held_out
        for c in range(cameras)
        if (shown := source.shows_world(c, size)).any()
    ]
    return field, -10.0 * math.log10(max(sum(errors) / len(errors), 1e-10))


def _surface(source: RenderSource, frame: int, camera: int, size: tuple[int, int]) -> RaySurface:
    pose = source.scene.camera_to_world(frame, camera)
    return source.teacher.surface(source.rays(frame, camera, pose, size), num_samples=_SAMPLES_PER_RAY)


@torch.no_grad()
def _render(field: FeatureField, surface: RaySurface) -> Float[Tensor, "rays channels"]:
    return field(surface).clamp(0.0, 1.0)


def _as_rows(features: Float[np.ndarray, "height width channels"]) -> Float[Tensor, "rays channels"]:
    return torch.from_numpy(features.astype(np.float32).reshape(-1, features.shape[-1]))
