"""Use of a student on a scene: it is opened with its words and thresholds, and reads frame by frame."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from storage.errors import ErrorKind, MissingTargetError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.stores.versioned import Home, StoreVersion
from student.data.sample import TrainingBatch
from student.data.training_set import FrozenScenes, TrainingSet
from student.evaluation.frames import EvaluationFrames, evaluation_scenes, whole_scene
from student.evaluation.occupancy_cuts import FrameCuts
from student.evaluation.operating_point import OperatingPoint, operating_point_of
from student.evaluation.sections.occupancy import is_above_ground
from student.inference.observed_voxels import VoxelSight
from student.inference.predictor import Predictor, RenderedViews, VoxelAnswer
from student.inference.vocabulary import ClipSpace, clip_space_of, training_set_of
from student.model.types import TargetCameras
from student.model.voxel_field import VoxelField


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelReading:
    """What a student says of the Occ3D grid, flat.

    Attributes:
        is_observed: True for voxels that some camera sees. The others are unknown, which differs from free.
        is_occupied: Observed voxels that count as occupied.
        occupancy: Raw probability of each voxel; 0 where no camera looks.
        cuts: Raw probabilities from which the frame's voxels count as occupied.
        in_view: Voxels where some camera looks, whatever may hide them, by flat index, ascending.
        answer: All that was said of them.
    """

    is_observed: Bool[np.ndarray, " voxels"]
    is_occupied: Bool[np.ndarray, " voxels"]
    occupancy: Float[np.ndarray, " voxels"]
    cuts: FrameCuts
    in_view: Int64[np.ndarray, " in_view"]
    answer: VoxelAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameReading:
    """Output of a student for one frame.

    Attributes:
        batch: Inputs, and every camera of the frame as target.
        field: The voxel field, in the ego frame of the reference time.
        views: Rendered views of the cameras.
        voxels: What it says of the Occ3D grid.
    """

    batch: TrainingBatch
    field: VoxelField
    views: RenderedViews
    voxels: VoxelReading


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedStudent:
    """Student with everything that turns its output into answers.

    Attributes:
        home: Home that it was opened from.
        predictor: The student.
        checkpoint: Version of the student.
        training_set: Training set of the student.
        space: CLIP space of its features.
        point: Threshold, calibration and temperature.
    """

    home: Home
    predictor: Predictor
    checkpoint: StoreVersion
    training_set: TrainingSet
    space: ClipSpace
    point: OperatingPoint

    @classmethod
    def open(
        cls,
        home: Home,
        variant: str,
        *,
        checkpoint_digest: str = "",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        text_encoder: str = "",
        default_threshold: float = 0.5,
    ) -> "DeployedStudent":
        """Open the current checkpoint of a variant, or the one with this digest.

        Raises:
            MissingTargetError: If the checkpoint or its text encoder is missing, or it renders no CLIP features.
        """
        checkpoint = home.require(Kind.STUDENT_CHECKPOINT, variant, checkpoint_digest or None)
        predictor = Predictor.open(home, variant, checkpoint.digest, device=device)
        if "clip" not in predictor.feature_sources:
            raise MissingTargetError(
                ErrorKind.TARGET_MISSING, str(checkpoint), "renders no CLIP features: words need variant clip"
            )
        training_set = training_set_of(home, checkpoint)
        space = clip_space_of(home, training_set, text_encoder=text_encoder)
        point = operating_point_of(
            home, checkpoint, clip_temperature=space.encoder.temperature, default_threshold=default_threshold
        )
        return cls(
            home=home, predictor=predictor, checkpoint=checkpoint, training_set=training_set, space=space, point=point
        )

    @property
    def input_kinds(self) -> tuple[str, ...]:
        """Return the kinds of store that the student reads of a scene."""
        has_depth_features = self.predictor.config.data.depth_anything
        return (Kind.SCENE, Kind.INPUT_IMAGES, *((Kind.DEPTH_ANYTHING_FEATURES,) if has_depth_features else ()))

    def frames(self, scene_key: SceneKey | str) -> EvaluationFrames:
        """Open any ingested scene, in its current version.

        Raises:
            MissingTargetError: If a store that the student reads was never materialised for it.
            ProvenanceMismatchError: If its stores were made from different versions of the scene.
        """
        alone = FrozenScenes(scenes=(whole_scene(self.home, str(scene_key), self.input_kinds),))
        return EvaluationFrames(self.home, alone, evaluation_scenes(self.home, alone)[0], self.predictor.config.data)

    def read(self, frames: EvaluationFrames, frame: int, *, samples_per_axis: int = 2) -> FrameReading:
        """Lift one frame and read its voxels and views.

        Raises:
            ValueError: If the scene has no such frame.
        """
        if not 0 <= frame < frames.scene.frozen.num_frames:
            raise ValueError(f"{frames.key} has frames 0 to {frames.scene.frozen.num_frames - 1}, not {frame}")
        batch = frames.camera_views(frame)
        field = self.predictor.encode(batch.inputs)
        views = self.predictor.render(field, batch.cameras)
        voxels = read_voxels(self.predictor, self.point, field, batch.cameras, views, samples_per_axis=samples_per_axis)
        return FrameReading(batch=batch, field=field, views=views, voxels=voxels)

    def clip_features(
        self, reading: FrameReading, voxels: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n channels"]:
        """Return the reduced CLIP features of some voxels in view of the Occ3D grid, given by flat index."""
        rows = np.searchsorted(reading.voxels.in_view, voxels)
        return self.predictor.voxel_features(reading.field, "clip", reading.voxels.answer, rows)


def read_voxels(
    predictor: Predictor,
    point: OperatingPoint,
    field: VoxelField,
    cameras: TargetCameras,
    views: RenderedViews,
    *,
    samples_per_axis: int = 2,
) -> VoxelReading:
    """Ask a field for the voxels of its frame, and decide which are observed and which occupied.

    A voxel is observed before the depth that its pixel renders, and wherever a camera sees it past the voxels that
    count as occupied. Depth alone would lose half of the road: a metre of error is an arm's length of height there, and
    a few voxels of distance.

    Args:
        predictor: The student.
        point: Where it is cut.
        field: Field of one frame.
        cameras: Cameras of the frame, all present.
        views: What they show, rendered from the field.
        samples_per_axis: Points per voxel and axis that the field is asked at.
    """
    sight = VoxelSight(OCC3D_GRID, cameras, views.is_seen)
    in_view = np.flatnonzero(sight.in_view)
    answer = predictor.occupancy(field, in_view, samples_per_axis=samples_per_axis)
    occupancy = np.zeros(OCC3D_GRID.num_voxels)
    occupancy[in_view] = answer.probability
    before = sight.before(views.termination_depth)
    cuts = point.cuts(occupancy, before)
    is_occupied = np.zeros(OCC3D_GRID.num_voxels, bool)
    is_occupied[in_view] = cuts.is_occupied(answer.probability, is_above_ground(in_view))
    is_observed = sight.observed(before, is_occupied)
    return VoxelReading(
        is_observed=is_observed,
        is_occupied=is_occupied & is_observed,
        occupancy=occupancy,
        cuts=cuts,
        in_view=in_view,
        answer=answer,
    )
