"""Predictor for evaluation, queries, labels and the viewer: a trained student, deterministic, with numpy results."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from storage.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from storage.kinds import Kind
from storage.stores.versioned import Home, StoreVersion
from student.config import StudentConfig
from student.inference.checkpoint import from_pretrained
from student.inference.input_checks import check_inputs, check_target_cameras
from student.inference.occupancy import occupancy_probability
from student.model.distillnerf import DistillNeRF
from student.model.occupancy_head import READ_HEIGHTS, GridReading, OccupancyHead, nearest_held, read_grid
from student.model.types import CameraInputs, TargetCameras, to_device
from student.model.voxel_field import VoxelField

_POINTS_PER_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedViews:
    """Rendered views of one frame, without padding.

    Attributes:
        image: RGB images around [0, 1], not clamped; None for a model without a decoder.
        termination_depth: Distance along unit rays, metres; NaN where nothing was hit.
        opacity: Opacity in [0, 1]; 1 - opacity is the share of sky.
        is_seen: True for pixels that have a ray, which lie inside a fisheye's image circle and show the world. The
            values of the others are meaningless.
        features: Foundation features in [0, 1], by source.
    """

    image: Float32[np.ndarray, "views image_height image_width 3"] | None
    termination_depth: Float32[np.ndarray, "views height width"]
    opacity: Float32[np.ndarray, "views height width"]
    is_seen: Bool[np.ndarray, "views height width"]
    features: Mapping[str, Float32[np.ndarray, "views height width _"]]


class HeadSight(NamedTuple):
    """What an occupancy head saw in and around some voxels.

    Attributes:
        reading: What the field holds.
        seen: What the head sees in and around each voxel.
        nearest: Row of the reading that is nearest to each voxel.
    """

    reading: GridReading
    seen: Float[Tensor, "n width"]
    nearest: Int64[np.ndarray, " n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelAnswer:
    """What a student says of some voxels.

    Attributes:
        probability: Raw probability that each voxel is occupied, not calibrated: the occupancy head's, or what the
            density comes to for a student without one.
        density: Largest density inside each voxel, per metre.
        points: Place to ask for the features of what fills each voxel, ego frame, metres: the densest point inside.
            Where a voxel is empty and a head may fill it nevertheless, it lies in the nearest voxel that is not.
        has_features: Whether there is such a place.
        sight: What the occupancy head saw; None for a student without one or without features, and where the field
            holds nothing at all.
    """

    probability: Float64[np.ndarray, " n"]
    density: Float32[np.ndarray, " n"]
    points: Float32[np.ndarray, "n 3"]
    has_features: Bool[np.ndarray, " n"]
    sight: HeadSight | None = None


class Predictor:
    """Trained student that predicts.

    Args:
        model: The student; it is set to evaluation mode.
        config: Configuration of the run that fitted it.
        version: Checkpoint that it was read from; None for an unpublished student.
    """

    def __init__(self, model: DistillNeRF, config: StudentConfig, version: StoreVersion | None = None) -> None:
        self.model = model.eval()
        self.config = config
        self.version = version
        self._device = next(model.parameters()).device

    @classmethod
    def open(
        cls, home: Home, variant: str, digest: str | None = None, *, device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> "Predictor":
        """Load the current checkpoint of a variant, or the one with this digest.

        Args:
            home: Home of the checkpoint.
            variant: Partition of the checkpoint.
            digest: Digest of the checkpoint; None for the current one.
            device: Device to run on; "auto" takes CUDA where there is one.

        Raises:
            MissingTargetError: If there is no such checkpoint.
            IntegrityError: If a file is not the one that was published.
        """
        version = home.require(Kind.STUDENT_CHECKPOINT, variant, digest)
        return cls.from_folder(home.open_files(version, verify=True), device=device, version=version)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        version: StoreVersion | None = None,
    ) -> "Predictor":
        """Load a checkpoint from its folder.

        Raises:
            MissingTargetError: If the folder lacks a file.
            IntegrityError: If a file is damaged.
        """
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        model, config = from_pretrained(folder, device=chosen)
        return cls(model, config, version)

    @property
    def feature_sources(self) -> tuple[str, ...]:
        """Return the sources of the foundation features that it renders."""
        return tuple(head.source for head in self.config.model.feature_heads)

    @torch.inference_mode()
    def encode(self, inputs: CameraInputs) -> VoxelField:
        """Return the field of one frame (a batch of one) in the ego frame of its reference time.

        Raises:
            ValueError: If the inputs are not what the student was configured for; see ``check_inputs``.
        """
        check_inputs(inputs, self.config)
        return self.model.encode(to_device(inputs, self._device))

    @torch.inference_mode()
    def render(self, field: VoxelField, cameras: TargetCameras) -> RenderedViews:
        """Render the present views of a field of one frame.

        Raises:
            ValueError: If intrinsics or a pose cannot be those of a camera.
        """
        check_target_cameras(cameras)
        rendered = self.model.render(field, to_device(cameras, self._device))
        is_present = cameras.target_is_present[0]

        def out(values: Tensor) -> np.ndarray:
            return values[0].cpu()[is_present].float().numpy()

        return RenderedViews(
            image=None if rendered.image is None else out(rendered.image).transpose(0, 2, 3, 1),
            termination_depth=out(rendered.termination_depth),
            opacity=out(rendered.opacity),
            is_seen=rendered.is_seen[0].cpu()[is_present].numpy(),
            features={source: out(values).transpose(0, 2, 3, 1) for source, values in rendered.features.items()},
        )

    def occupancy(
        self, field: VoxelField, flat_index: Int64[np.ndarray, " n"], *, samples_per_axis: int = 2
    ) -> VoxelAnswer:
        """Return what is said of voxels of the Occ3D grid.

        Args:
            field: Field of one frame.
            flat_index: Indices of the voxels, in row-major order of x, y, z.
            samples_per_axis: Points per voxel and axis that the density is asked at.
        """
        density, points = self.voxel_density(field, OCC3D_GRID, flat_index, samples_per_axis=samples_per_axis)
        has_features = density > 0
        if self.model.occupancy_head is None:
            raw = occupancy_probability(density, OCC3D_GRID.voxel_size)
            return VoxelAnswer(probability=raw, density=density, points=points, has_features=has_features)
        raw, sight = self._look(self.model.occupancy_head, field, flat_index)
        if sight is not None:
            empty = np.flatnonzero(~has_features)
            points[empty] = _filled_points(sight.reading)[sight.nearest[empty]]
            has_features = np.ones_like(has_features)
        return VoxelAnswer(probability=raw, density=density, points=points, has_features=has_features, sight=sight)

    @torch.inference_mode()
    def _look(
        self, head: OccupancyHead, field: VoxelField, flat_index: Int64[np.ndarray, " n"]
    ) -> tuple[Float64[np.ndarray, " n"], HeadSight | None]:
        """Return the head's probability of some voxels, and what it saw there."""
        reading = read_grid(field, OCC3D_GRID)
        wanted = torch.from_numpy(flat_index).to(self._device)
        seen = head.look(reading).flatten(0, 2).index_select(0, wanted)
        raw = torch.sigmoid(head.label(seen)[:, 0].double()).cpu().numpy()
        if not len(reading.held) or not self.feature_sources:
            return raw, None
        nearest = nearest_held(reading.held.cpu().numpy(), flat_index, OCC3D_GRID)
        return raw, HeadSight(reading=reading, seen=seen, nearest=nearest)

    @torch.inference_mode()
    def voxel_features(
        self, field: VoxelField, source: str, answer: VoxelAnswer, rows: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n channels"]:
        """Return a foundation model's reduced features of what fills some voxels; NaN where nothing does.

        A student with a head for them tells them by what that head sees, any other by the field at ``answer.points``.

        Args:
            field: Field of one frame.
            source: Foundation model.
            answer: What was said of voxels of the same field.
            rows: Which of these voxels.

        Raises:
            ValueError: If the student does not render ``source``.
        """
        sight = answer.sight
        if sight is None or source not in self.model.voxel_feature_heads:
            return self.point_features(field, source, answer.points[rows])
        parts = []
        for chunk in np.array_split(rows, max(1, math.ceil(len(rows) / _POINTS_PER_CHUNK))):
            seen = sight.seen.index_select(0, torch.from_numpy(chunk).to(self._device))
            nearest = torch.from_numpy(sight.nearest[chunk]).to(self._device)
            parts.append(self.model.voxel_features(source, sight.reading, seen, nearest).cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def voxel_density(
        self, field: VoxelField, grid: VoxelGrid, flat_index: Int64[np.ndarray, " n"], *, samples_per_axis: int = 2
    ) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, "n 3"]]:
        """Return the largest density on a lattice of points inside each voxel, and its point.

        The student's cells are flatter than these voxels, so a surface through a voxel may miss its centre.

        Args:
            field: Field of one frame.
            grid: Voxels in the ego frame.
            flat_index: Indices of the voxels, in row-major order of x, y, z.
            samples_per_axis: Points per voxel and axis.

        Returns:
            Density per metre, and the point that has it, ego frame, metres. It is the first point if all are empty.
        """
        voxels = np.stack(np.unravel_index(flat_index, grid.shape), axis=1)
        density = np.zeros(len(voxels), np.float32)
        points = np.zeros((len(voxels), 3), np.float32)
        step = max(1, _POINTS_PER_CHUNK // samples_per_axis**3)
        for start in range(0, len(voxels), step):
            samples = grid.sample_points(voxels[start : start + step], samples_per_axis)
            found = self._density(field, samples.reshape(-1, 3)).reshape(samples.shape[:2])
            best = found.argmax(axis=1)
            rows = np.arange(len(best))
            density[start : start + step] = found[rows, best]
            points[start : start + step] = samples[rows, best]
        return density, points

    @torch.inference_mode()
    def point_features(
        self, field: VoxelField, source: str, points_ego: Float[np.ndarray, "n 3"]
    ) -> Float32[np.ndarray, "n channels"]:
        """Return a foundation model's reduced features at points of the ego frame; NaN in empty space.

        Raises:
            ValueError: If the student does not render ``source``.
        """
        parts = []
        for start in range(0, max(1, len(points_ego)), _POINTS_PER_CHUNK):
            points = self._tensor(points_ego[start : start + _POINTS_PER_CHUNK])
            density, features = field.query(points[None])
            reduced = self.model.foundation_features(source, features[0])
            parts.append(torch.where(density[0, :, None] > 0, reduced, torch.nan).float().cpu().numpy())
        return np.concatenate(parts)

    def _density(self, field: VoxelField, points_ego: Float[np.ndarray, "n 3"]) -> Float32[np.ndarray, " n"]:
        points = self._tensor(points_ego)
        batch_index = torch.zeros(len(points), dtype=torch.int64, device=self._device)
        return field.density(field.locate(points, batch_index)).float().cpu().numpy()

    def _tensor(self, points_ego: Float[np.ndarray, "n 3"]) -> Float[Tensor, "n 3"]:
        return torch.from_numpy(np.ascontiguousarray(points_ego, dtype=np.float32)).to(self._device)


def _filled_points(reading: GridReading) -> Float32[np.ndarray, "held 3"]:
    """Return a point inside each voxel that holds something, where it does."""
    centres = OCC3D_GRID.centres_of(reading.held.cpu().numpy())
    densest = reading.values[:, : len(READ_HEIGHTS)].argmax(dim=1).cpu().numpy()
    centres[:, 2] += np.array(READ_HEIGHTS)[densest] * OCC3D_GRID.voxel_size
    return centres.astype(np.float32)
