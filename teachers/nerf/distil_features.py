"""Distil image features into a fitted field, judge them on frames that were not distilled, and publish the result.

Where each ray ends, and with which weights, is computed once and kept: geometry is frozen.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from storage.kinds import FeatureSource, features_kind
from storage.stores.arrays import read_target
from storage.stores.versioned import Home, Materialized, materialize_files
from teachers.nerf.config import FeatureFieldConfig
from teachers.nerf.feature_field import FeatureField, FeatureFieldDescription, save_feature_field
from teachers.nerf.positional_map import pixel_places
from teachers.nerf.progress import Progress
from teachers.nerf.render_source import RenderSource
from teachers.nerf.scene_rays import split_frames
from teachers.nerf.teacher import RaySurface
from teachers.quality import at_least, gate

SAMPLES_PER_RAY = 4
"""The heaviest samples of a ray; they hold nearly all of its weight, since surfaces are opaque."""

_NETWORK_LEARNING_RATE_RATIO = 0.2


def distil_features(
    home: Home, scene_key: str, config: FeatureFieldConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return the feature field of a scene, distilling it first if it does not exist.

    It is judged on the frames that the field's fit holds out, which are distilled only afterwards. What is judged is
    what a source's own features have, pattern of image positions included; the field's features alone have none.

    Args:
        home: Where field and image features are read from and the result is published.
        scene_key: The scene.
        config: Sources, grid and budget.
        on_progress: Told after every step.

    Raises:
        MissingTargetError: If the scene was not fitted, or its image features were not extracted.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    provenance = source.provenance(config)
    digests = {item.kind: item.digest for item in provenance.inputs}
    targets: dict[FeatureSource, np.ndarray] = {}
    bases: dict[FeatureSource, str | None] = {}
    for name in config.feature_sources:
        kind = features_kind(name)
        stored = home.open_arrays(home.require(kind, str(scene_key), digests[kind]))
        targets[name] = read_target(stored, kind, "features")
        basis = stored.attrs.get("feature_basis_digest")
        bases[name] = None if basis is None else str(basis)

    def write(folder: Path) -> dict[str, Any]:
        torch.manual_seed(config.seed)
        description = FeatureFieldDescription(
            config=config,
            bounds=source.teacher.bounds,
            num_cameras=source.scene.num_cameras,
            num_channels={name: features.shape[-1] for name, features in targets.items()},
            feature_basis_digests=bases,
        )
        field = FeatureField(description).to(source.teacher.device)
        psnr = _distil(source, field, targets, on_progress)
        save_feature_field(folder, field)
        checks = {"fit_passed": at_least(int(source.fit_passed), 1)}
        checks |= {f"{name}_psnr": at_least(value, config.min_psnr) for name, value in psnr.items()}
        return {f"{name}_psnr": value for name, value in psnr.items()} | {"quality": gate(checks)}

    return materialize_files(home, provenance, write)


def surface_of_image(source: RenderSource, frame: int, camera: int, size: tuple[int, int]) -> RaySurface:
    """Return where the rays of a recorded image of that size end, row-major, on the field's device."""
    pose = source.scene.camera_to_world(frame, camera)
    return source.teacher.surface(source.rays(frame, camera, pose, size), num_samples=SAMPLES_PER_RAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FeatureRays:
    """Rays with the features that one source has for them.

    Attributes:
        surface: Where they end.
        camera_index: Camera of each.
        places: Where they go through its image, right and down in [0, 1].
        wanted: Features of the image model.
    """

    surface: RaySurface
    camera_index: Int64[Tensor, " rays"]
    places: Float[Tensor, "rays 2"]
    wanted: Float[Tensor, "rays channels"]

    def __getitem__(self, rays: Tensor) -> "_FeatureRays":
        return _FeatureRays(
            surface=self.surface[rays],
            camera_index=self.camera_index[rays],
            places=self.places[rays],
            wanted=self.wanted[rays],
        )


def _distil(
    source: RenderSource,
    field: FeatureField,
    targets: dict[FeatureSource, np.ndarray],
    on_progress: Progress | None,
) -> dict[FeatureSource, float]:
    """Fit the feature field, and return the PSNR of each source on the held-out frames, dB."""
    config, num_frames = field.description.config, source.scene.num_frames
    split = split_frames(num_frames, holdout_every=source.teacher.nerf.holdout_every)
    distilled: dict[FeatureSource, _FeatureRays] = {
        name: _feature_rays(source, features, split.train) for name, features in targets.items()
    }
    held_out: dict[FeatureSource, _FeatureRays] = {
        name: _feature_rays(source, features, split.held_out) for name, features in targets.items()
    }
    tables = [field.grid.table]
    networks = [p for n, p in field.named_parameters() if n != "grid.table"]
    optimizer = torch.optim.Adam(
        [
            {"params": tables, "lr": config.learning_rate},
            {"params": networks, "lr": config.learning_rate * _NETWORK_LEARNING_RATE_RATIO},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    generator = torch.Generator().manual_seed(config.seed)
    psnr: dict[FeatureSource, float] = {}
    for step in range(config.judged_steps + config.whole_steps):
        if step == config.judged_steps:
            psnr = _judge(field, held_out)
            if source.fitted_frames.issuperset(split.held_out):  # else they are kept from the student as well
                distilled = {name: _join(rays, held_out[name]) for name, rays in distilled.items()}
        loss = torch.stack(
            [_error(field, name, _draw(rays, config.rays_per_step, generator)) for name, rays in distilled.items()]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            numbers = {"step": step + 1.0, "psnr": _psnr(float(loss.detach()) / len(distilled))}
            on_progress("distil_features", (step + 1) / config.num_steps, numbers)
    return psnr or _judge(field, held_out)


def _error(field: FeatureField, name: FeatureSource, rays: _FeatureRays) -> Float[Tensor, ""]:
    """Return the loss of some rays: the squared error of features (EmerNeRF Eq. A7)."""
    return (field.in_image(rays.surface, name, rays.camera_index, rays.places) - rays.wanted).square().mean()


def _draw(rays: _FeatureRays, number: int, generator: torch.Generator) -> _FeatureRays:
    drawn = torch.randint(len(rays.wanted), (number,), generator=generator)
    return rays[drawn.to(rays.wanted.device)]


@torch.no_grad()
def _judge(field: FeatureField, held_out: dict[FeatureSource, _FeatureRays]) -> dict[FeatureSource, float]:
    return {name: _psnr(float(_error(field, name, rays))) for name, rays in held_out.items()}


def _psnr(squared_error: float) -> float:
    return -10.0 * math.log10(max(squared_error, 1e-10))


def _feature_rays(
    source: RenderSource,
    features: Float[np.ndarray, "frames cameras height width channels"],
    frames: tuple[int, ...],
) -> _FeatureRays:
    """Return the rays of all images of some frames, as far as they show the world."""
    size, device = (features.shape[2], features.shape[3]), source.teacher.device
    places, parts = pixel_places(size), []
    for frame in frames:
        for camera in range(features.shape[1]):
            shown = source.shows_world(camera, size)
            wanted = torch.from_numpy(features[frame, camera].astype(np.float32).reshape(-1, features.shape[-1]))
            parts.append(
                _FeatureRays(
                    surface=surface_of_image(source, frame, camera, size)[shown.to(device)],
                    camera_index=torch.full((int(shown.sum()),), camera, device=device),
                    places=places[shown].to(device),
                    wanted=wanted[shown].to(device),
                )
            )
    return _join(*parts)


def _join(*parts: _FeatureRays) -> _FeatureRays:
    return _FeatureRays(
        surface=RaySurface(
            positions=torch.cat([p.surface.positions for p in parts]),
            weights=torch.cat([p.surface.weights for p in parts]),
            directions=torch.cat([p.surface.directions for p in parts]),
        ),
        camera_index=torch.cat([p.camera_index for p in parts]),
        places=torch.cat([p.places for p in parts]),
        wanted=torch.cat([p.wanted for p in parts]),
    )
