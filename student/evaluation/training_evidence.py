"""Gather evidence from training frames: baselines, threshold, calibration and temperature.

Every tunable value is chosen here, before the first held-out frame is read.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

from storage.geometry.voxel_grid import OCC3D_GRID
from storage.taxonomy import OCC3D_FREE
from student.evaluation.baselines import RunningMean, VoxelPrior
from student.evaluation.config import EvaluationConfig
from student.evaluation.evidence import StudentEvidence
from student.evaluation.frames import EvaluationFrames, VoxelTruth, view_images
from student.evaluation.sections.occupancy import OccupancySample, is_above_ground
from student.inference.occupancy import occupancy_probability
from student.inference.open_vocabulary import fit_softmax_temperature
from student.inference.predictor import Predictor
from student.inference.vocabulary import Vocabulary
from student.model.voxel_field import VoxelField

_MAX_TEMPERATURE_PIXELS = 20_000


@dataclass(slots=True, kw_only=True)
class TrainingEvidence:
    """Statistics of training frames, which settle into :class:`~student.evaluation.evidence.StudentEvidence`.

    Attributes:
        predictor: The student.
        config: Configuration of the evaluation.
        vocabulary: Occ3D classes and sky; None for a student without CLIP features.
        prior: Counts of each label in each voxel.
    """

    predictor: Predictor
    config: EvaluationConfig
    vocabulary: Vocabulary | None
    prior: VoxelPrior = field(default_factory=lambda: VoxelPrior(grid=OCC3D_GRID))
    _images: dict[tuple[int, ...], RunningMean] = field(default_factory=dict)
    _features: dict[str, RunningMean] = field(default_factory=dict)
    _returns: list[np.ndarray] = field(default_factory=list)
    _cosines: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _frames: dict[str, list[int]] = field(default_factory=dict)
    _voxels: OccupancySample = field(init=False)
    _dense: OccupancySample = field(init=False)

    def __post_init__(self) -> None:
        """Start with zero voxels."""
        most, seed = self.config.max_voxels_per_frame, self.config.seed
        self._voxels = OccupancySample(max_per_frame=most, seed=seed)
        self._dense = OccupancySample(max_per_frame=most, seed=seed)

    def add(self, frames: EvaluationFrames, frame: int) -> None:
        """Add one training frame.

        Raises:
            ValueError: If the frame is held out: nothing may be chosen on what is scored.
        """
        if frame not in frames.scene.frozen.train_frames:
            raise ValueError(f"frame {frame} of {frames.key} is held out, want one that the student learned from")
        self._frames.setdefault(frames.key, []).append(frame)
        batch = frames.camera_views(frame)
        images = view_images(batch)
        self._images.setdefault(images.shape, RunningMean()).add(images)
        for source, maps in batch.view_targets.features.items():
            self._features.setdefault(source, RunningMean()).add(maps[0].mean(dim=(0, 2, 3)).numpy())
        lidar = batch.view_targets.lidar_depth.numpy()
        self._returns.append(lidar[np.isfinite(lidar)])
        voxels = frames.voxel_truth(frame)
        labels = None if self.vocabulary is None else frames.pixel_labels(frame)
        if labels is None and voxels is None:
            return
        field = self.predictor.encode(batch.inputs)
        if voxels is not None:
            self._add_voxels(field, voxels)
        if self.vocabulary is not None and labels is not None:
            views = self.predictor.render(field, batch.cameras)
            self._add_cosines(self.vocabulary, views.features["clip"], labels)

    def _add_voxels(self, field: VoxelField, truth: VoxelTruth) -> None:
        visible = np.flatnonzero(truth.is_visible)
        labels = truth.labels.reshape(-1)[visible]
        self.prior.add(visible, labels)
        said = self.predictor.occupancy(field, visible, samples_per_axis=self.config.voxel_samples_per_axis)
        is_occupied, is_above = labels != OCC3D_FREE, is_above_ground(visible)
        self._voxels.add(said.probability, is_occupied, is_above)
        if self.predictor.model.occupancy_head is not None:
            self._dense.add(occupancy_probability(said.density, OCC3D_GRID.voxel_size), is_occupied, is_above)

    def _add_cosines(
        self,
        vocabulary: Vocabulary,
        clip: Float32[np.ndarray, "views height width channels"],
        truth: UInt8[np.ndarray, "views height width"],
    ) -> None:
        labels = truth.reshape(-1)
        known = np.flatnonzero(labels < vocabulary.num_classes)
        kept = np.random.default_rng((self.config.seed, len(self._cosines))).permutation(known)[
            :_MAX_TEMPERATURE_PIXELS
        ]
        self._cosines.append((vocabulary.cosine(clip.reshape(-1, clip.shape[-1])[kept]), labels[kept]))

    def settle(self) -> StudentEvidence:
        """Choose every tunable value, and return it with the trivial predictors."""
        returns = np.concatenate([np.zeros(0, np.float32), *self._returns])
        images = (mean.value for mean in self._images.values())
        features = ((source, mean.value) for source, mean in self._features.items())
        return StudentEvidence(
            occupancy=self._voxels.fit(self.config.calibration),
            density=self._dense.fit(self.config.calibration),
            temperature=self._temperature(),
            median_return=float(np.median(returns)) if returns.size else None,
            mean_images=tuple(image for image in images if image is not None),
            mean_features={source: mean for source, mean in features if mean is not None},
            prior=self.prior,
            frames={scene: tuple(frames) for scene, frames in self._frames.items()},
        )

    def _temperature(self) -> float | None:
        """Choose the softmax temperature of words; None if truth or CLIP features are missing."""
        if not self._cosines:
            return None
        cosines, labels = (np.concatenate(parts) for parts in zip(*self._cosines, strict=True))
        return fit_softmax_temperature(cosines, labels)
