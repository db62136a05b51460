"""Evidence that an evaluation takes from training frames: baselines, threshold, calibration and temperature.

Every tunable value is chosen here, before the first held-out frame is read.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from storage.geometry.rays import camera_rays
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.taxonomy import OCC3D_FREE
from student.evaluation.baselines import RunningMean, VoxelPrior, ground_plane_depth
from student.evaluation.config import EvaluationConfig
from student.evaluation.frames import EvaluationFrames, VoxelTruth, view_images
from student.evaluation.sections.occupancy import OccupancyFit, OccupancySample, is_above_ground
from student.inference.occupancy import occupancy_probability
from student.inference.open_vocabulary import fit_softmax_temperature
from student.inference.predictor import Predictor
from student.inference.vocabulary import Vocabulary
from student.model.types import TargetCameras
from student.model.voxel_field import VoxelField

_MAX_TEMPERATURE_PIXELS = 20_000


@dataclass(slots=True, kw_only=True)
class TrainingEvidence:
    """Statistics of training frames, which give baselines and tuned values.

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
    _voxels: OccupancySample = field(init=False)

    def __post_init__(self) -> None:
        """Start with zero voxels."""
        self._voxels = OccupancySample(max_per_frame=self.config.max_voxels_per_frame, seed=self.config.seed)

    def add(self, frames: EvaluationFrames, frame: int) -> None:
        """Add one training frame."""
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
        samples_per_axis = self.config.voxel_samples_per_axis
        density, _ = self.predictor.voxel_density(field, OCC3D_GRID, visible, samples_per_axis=samples_per_axis)
        probability = occupancy_probability(density, OCC3D_GRID.voxel_size)
        self._voxels.add(probability, labels != OCC3D_FREE, is_above_ground(visible))

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

    def fit_occupancy(self) -> OccupancyFit | None:
        """Choose threshold and calibration map; None unless the truth has both occupied and free voxels."""
        return self._voxels.fit(self.config.calibration)

    def fit_temperature(self) -> float | None:
        """Choose the softmax temperature of words; None if truth or CLIP features are missing."""
        if not self._cosines:
            return None
        cosines, labels = (np.concatenate(parts) for parts in zip(*self._cosines, strict=True))
        return fit_softmax_temperature(cosines, labels)

    def mean_image(self, shape: tuple[int, ...]) -> Float32[np.ndarray, "views height width 3"] | None:
        """Return each camera's mean training image; None if no training frame had this shape."""
        found = self._images.get(shape)
        return None if found is None else found.value

    def mean_feature(self, source: str) -> Float32[np.ndarray, " channels"] | None:
        """Return the mean training feature of a source; None if no training frame had one."""
        found = self._features.get(source)
        return None if found is None else found.value

    def depths(self, cameras: TargetCameras) -> dict[str, Float32[np.ndarray, "views height width"]]:
        """Return the depth of two baselines in these cameras, metres: flat ground, and the median training return.

        The result is empty if no training frame had a LiDAR return.
        """
        returns = np.concatenate([np.zeros(0, np.float32), *self._returns])
        if returns.size == 0:
            return {}
        median = float(np.median(returns))
        plane = np.stack([ground_plane_depth(*rays, elsewhere=median) for rays in _rays(cameras)]).astype(np.float32)
        return {"flat ground, else the median": plane, "median training return": np.full_like(plane, median)}


def above_horizon(cameras: TargetCameras) -> Bool[np.ndarray, "views height width"]:
    """Return True for rays that point upwards, which see the sky if the ground is flat."""
    return np.stack([directions[..., 2] > 0 for _, directions in _rays(cameras)])


def _rays(
    cameras: TargetCameras,
) -> list[tuple[Float[np.ndarray, "height width 3"], Float[np.ndarray, "height width 3"]]]:
    """Return origins and unit directions of every view's rays in the ego frame."""
    intrinsics, poses = cameras.intrinsics[0].double().numpy(), cameras.camera_to_reference_ego[0].double().numpy()
    fisheye = [None] * len(poses) if cameras.fisheye is None else cameras.fisheye[0].double().numpy()
    height, width = cameras.render_height, cameras.render_width
    return [
        camera_rays(matrix, pose, height=height, width=width, fisheye=lens)
        for matrix, pose, lens in zip(intrinsics, poses, fisheye, strict=True)
    ]
