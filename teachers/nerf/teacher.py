"""A fitted field, loaded from its artifact and ready to be rendered."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from storage.errors import ErrorKind, IntegrityError
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home, StoreVersion
from teachers.nerf.checkpoint import (
    FIELD_SCHEMA,
    FieldDescription,
    load_description,
    load_tensors,
    save_description,
    save_tensors,
)
from teachers.nerf.config import ExecutionConfig, NerfConfig
from teachers.nerf.losses import composite_weights
from teachers.nerf.methods import TeacherModel, model_config, require_method
from teachers.nerf.model import DrivingFieldModel, interval_edges, to_ray_bundle
from teachers.nerf.provenance import FIELD_KIND
from teachers.nerf.quality import FieldRendering
from teachers.nerf.scene_rays import RayBatch, SceneBounds

_TENSORS_FILE = "field.safetensors"
_DESCRIPTION_FILE = "field.json"


class NerfTeacher:
    """A field and everything needed to render it.

    Attributes:
        model: The nerfstudio model, in evaluation mode.
        nerf: Configuration of its fit.
        bounds: The scene's box.
        fitted_frames: Frames that it was fitted to.
        pose_corrections: See ``FieldDescription``; None for the recorded poses.
        version: The artifact it was loaded from, or None.
    """

    def __init__(
        self,
        model: TeacherModel,
        nerf: NerfConfig,
        bounds: SceneBounds,
        *,
        fitted_frames: tuple[int, ...],
        execution: ExecutionConfig,
        pose_corrections: Float[np.ndarray, "frames 4 4"] | None = None,
        version: StoreVersion | None = None,
    ) -> None:
        self.nerf = nerf
        self.fitted_frames = fitted_frames
        self.pose_corrections = pose_corrections
        self.bounds = bounds
        self.version = version
        self.execution = execution
        self.device = resolve_device(execution)
        self.model = model.to(self.device).eval()

    @classmethod
    def load(cls, home: Home, scene_key: str, execution: ExecutionConfig, digest: str | None = None) -> "NerfTeacher":
        """Load the current fit of a scene, or the one with this digest.

        Raises:
            MissingTargetError: If the scene was never fitted.
            IntegrityError: If the artifact is broken, of an unknown schema, or its configuration lacks a field.
            EnvironmentMissingError: If the method cannot run on the device.
        """
        version = home.require(FIELD_KIND, scene_key, digest)
        folder = home.open_files(version, verify=True)
        stored = load_description(folder / _DESCRIPTION_FILE)
        require_method(stored.config, resolve_device(execution))
        model = build_model(stored.config, stored.bounds, num_cameras=stored.num_cameras, num_frames=stored.num_frames)
        path = folder / _TENSORS_FILE
        tensors, _ = load_tensors(path)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"does not fit the field: {error}") from error
        return cls(
            model,
            stored.config,
            stored.bounds,
            fitted_frames=stored.fitted_frames,
            execution=execution,
            pose_corrections=np.array(stored.pose_corrections).reshape(-1, 4, 4),
            version=version,
        )

    def as_fitted(self, scene: SceneReader) -> SceneReader:
        """Return the scene, given as recorded, with the poses that the field was fitted to."""
        aligned = scene if self.pose_corrections is None else scene.moved(self.pose_corrections)
        refinement = self.model.refinement if isinstance(self.model, DrivingFieldModel) else None
        return aligned if refinement is None else refinement.corrected(aligned)

    @torch.no_grad()
    def render(self, batch: RayBatch) -> FieldRendering:
        """Return colour, depth (metres) and opacity of rays."""
        parts = []
        for start in range(0, len(batch.origins), self.execution.rays_per_chunk):
            stop = start + self.execution.rays_per_chunk
            chunk = dataclasses.replace(
                batch,
                origins=batch.origins[start:stop],
                directions=batch.directions[start:stop],
                camera_index=batch.camera_index[start:stop],
                frame_index=batch.frame_index[start:stop],
            ).to(self.device)
            outputs = self.model(to_ray_bundle(chunk, self.nerf, self.bounds))
            parts.append((outputs["rgb"].cpu(), outputs["depth"][:, 0].cpu(), outputs["opacity"][:, 0].cpu()))
        rgb, depth, opacity = (torch.cat(column) for column in zip(*parts, strict=True))
        return FieldRendering(rgb=rgb, termination_depth=depth * self.bounds.metres_per_unit, opacity=opacity)

    @torch.no_grad()
    def surface(self, batch: RayBatch, *, num_samples: int) -> "RaySurface":
        """Return the samples of each ray that weigh most: its frozen geometry.

        Weights are those of the samples kept, scaled so that they still sum to the ray's opacity.

        Raises:
            ValueError: If the model is not the driving field: its samples are read, which others keep to themselves.
        """
        if not isinstance(self.model, DrivingFieldModel):
            raise ValueError(  # noqa: TRY004 - a choice of configuration
                f"features are distilled into nerf.method {self.nerf.method!r}, want 'driving-field'"
            )
        bundle = to_ray_bundle(batch.to(self.device), self.nerf, self.bounds)
        samples, _, _ = self.model.sample_rays(bundle)
        density = self.model.field.sample(samples).density
        edges = interval_edges(samples)
        weights, kept = composite_weights(density[..., 0], edges[:, 1:] - edges[:, :-1]).sort(dim=-1, descending=True)
        opacity = weights.sum(dim=-1, keepdim=True)
        weights, kept = weights[:, :num_samples], kept[:, :num_samples, None]
        weights = weights * (opacity / weights.sum(dim=-1, keepdim=True).clamp_min(1e-6))
        positions = torch.take_along_dim(samples.frustums.get_positions(), kept, dim=1)
        cube = self.model.field.unit_cube(positions.reshape(-1, 3)).view(positions.shape)
        return RaySurface(positions=cube, weights=weights, directions=bundle.directions)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySurface:
    """Where rays end, whatever is rendered there.

    Attributes:
        positions: Points in the grids' unit cube.
        weights: Compositing weights; they sum to the opacity.
        directions: Unit vectors, world axes.
    """

    positions: Float[Tensor, "rays samples 3"]
    weights: Float[Tensor, "rays samples"]
    directions: Float[Tensor, "rays 3"]

    def __getitem__(self, rays: Tensor | slice) -> "RaySurface":
        return RaySurface(positions=self.positions[rays], weights=self.weights[rays], directions=self.directions[rays])


def save_teacher(
    folder: Path,
    model: TeacherModel,
    *,
    num_cameras: int,
    num_frames: int,
    fitted_frames: tuple[int, ...],
    pose_corrections: Float[np.ndarray, "frames 4 4"],
    details: dict[str, Any],
) -> None:
    """Write a field's tensors, and as JSON what they mean."""
    save_tensors(folder / _TENSORS_FILE, model.state_dict(), {"schema": FIELD_SCHEMA})
    description = FieldDescription(
        config=model.nerf,
        bounds=model.bounds,
        num_cameras=num_cameras,
        num_frames=num_frames,
        fitted_frames=fitted_frames,
        pose_corrections=tuple(map(tuple, pose_corrections.reshape(-1, 16).tolist())),
    )
    save_description(folder / _DESCRIPTION_FILE, description, details)


def build_model(nerf: NerfConfig, bounds: SceneBounds, *, num_cameras: int, num_frames: int) -> TeacherModel:
    """Return an untrained model of the method, without nerfstudio's trainer."""
    half = torch.tensor(bounds.half_extent)
    return model_config(nerf).setup(
        scene_box=SceneBox(aabb=torch.stack([-half, half])),
        num_train_data=0,
        metadata={
            "nerf_config": nerf,
            "bounds": bounds,
            "num_cameras": num_cameras,
            "frame_seconds": [0.0] * num_frames,  # like which frames were fitted, the true ones are among the tensors
            "fitted_frames": (),
            "camera_motion": None,
        },
    )


def resolve_device(execution: ExecutionConfig) -> str:
    """Return the device to run on.

    Raises:
        ValueError: If CUDA was asked for and there is none.
    """
    if execution.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds none")
    return execution.device
