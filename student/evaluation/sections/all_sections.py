"""Scores of all sections of one evaluation, in reading order."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from student.evaluation.config import EvaluationConfig
from student.evaluation.frames import NameReference, VoxelReference
from student.evaluation.results import NO_GROUND_TRUTH, Section
from student.evaluation.sections.depth import DepthReference
from student.evaluation.sections.images import FeatureScores, ImageScores, Perceptual
from student.evaluation.sections.occupancy import (
    BY_CUTS,
    OccupancyFit,
    OccupancySample,
    OccupancyScores,
    occupancy_sections,
)
from student.evaluation.sections.queries import QueryScores
from student.evaluation.sections.semantics import SemanticScores
from student.evaluation.sections.sky import SkyScores
from student.evaluation.word_sets import WordSet

_NO_IMAGES = "not available: this variant renders no images"
_NO_CLIP = "not available: this variant renders no CLIP features"
_NO_NEXT_FRAME = "not available: no scored frame has a next one"
_NO_FEATURES = "not available: this variant renders no foundation features"
_NO_STORED_FEATURES = "not available: no features of these scenes in the student's basis"
VOXEL_REFERENCES: dict[VoxelReference, str] = {
    "exact": "the true voxels of the procedural world",
    "occ3d": "Occ3D labels that came with the recording",
    "lidar": "the beams of the recording's own LiDAR, which know surfaces and the space before them alone",
}
_NAMES: dict[NameReference, str] = {
    "exact": "the true semantics of the procedural world",
    "points": "LiDAR returns with a label of their own",
    "boxes": "LiDAR returns in the recording's boxes; those outside are of none of the boxed classes",
}


class AllSections:
    """Empty scores for one evaluation, to be fed by an evaluator.

    Args:
        config: Configuration of the evaluation.
        class_names: Names of the pixel classes that words tell apart; empty for a student without CLIP features.
        occupancy_fit: Threshold and calibration from training frames; None without truth.
        voxel_references: Origins of the true voxels.
        name_references: Origins of the true classes of pixels and points.
        perceptual: Perceptual distance of images; None to leave it out.
        word_sets: Further words by which pixels and points are asked for.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        *,
        class_names: tuple[str, ...],
        occupancy_fit: OccupancyFit | None,
        voxel_references: Iterable[VoxelReference],
        name_references: Iterable[NameReference],
        perceptual: Perceptual | None = None,
        word_sets: Sequence[WordSet] = (),
    ) -> None:
        seed = config.seed
        self._voxel_reference = (
            " and ".join(VOXEL_REFERENCES[name] for name in sorted(set(voxel_references))) or "true voxels"
        )
        names = set(name_references)
        named_by = " and ".join(_NAMES[name] for name in sorted(names)) or "true classes"
        self._knows_words = bool(class_names)
        self.reconstruction = ImageScores(
            name="reconstruction",
            title="Reconstruction",
            reference="the input images",
            note="The cameras of frame t rendered from the field that frame t was lifted into.",
            unavailable=_NO_IMAGES,
            seed=seed,
            perceptual=perceptual,
        )
        self.next_frame = ImageScores(
            name="next_frame",
            title="Novel view, next frame",
            reference="the images of the next frame",
            note="Frame t is lifted, the cameras of frame t+1 are rendered; what moved in between counts as error.",
            unavailable=_NO_IMAGES,
            seed=seed,
            perceptual=perceptual,
        )
        self.lateral_truth = ImageScores(
            name="lateral_truth",
            title="Novel view, moved sideways and up",
            reference="the procedural world rendered at poses the car never had",
            note=f"Each camera moved by {config.lateral_shift_m} m to the left, to the right and up.",
            unavailable=NO_GROUND_TRUTH,
            seed=seed,
        )
        self.lateral_teacher = ImageScores(
            name="lateral_teacher",
            title="Imitation of the teacher's virtual views",
            reference="the scene teacher's renders, which are no truth",
            note="Tells how well the teacher is imitated where no camera ever was, not whether either is right.",
            unavailable="not available: the teacher rendered no virtual views of these scenes",
            seed=seed,
        )
        self.depth_lidar = DepthReference(
            name="depth_lidar",
            title="Depth against LiDAR",
            reference="the LiDAR returns of the frame, by range",
            unavailable="not available: no LiDAR",
            seed=seed,
        )
        self.depth_truth = DepthReference(
            name="depth_truth",
            title="Depth against the true world",
            reference="the procedural world's exact depth",
            unavailable=NO_GROUND_TRUTH,
            seed=seed,
        )
        self.depth_teacher = DepthReference(
            name="depth_teacher",
            title="Depth against the teacher",
            reference="the scene teacher's depth, which is no truth",
            unavailable="not available: no teacher depth of these scenes",
            seed=seed,
        )
        sky = "the true sky of the procedural world" if "exact" in names else "panoptic labels of the recording"
        self.sky = SkyScores(reference=sky, seed=seed)
        self.features = FeatureScores(seed=seed)
        self.semantics = SemanticScores(seed=seed)
        self.queries = QueryScores(
            names=class_names, max_pixels_per_frame=config.max_pixels_per_frame, reference=named_by, seed=seed
        )
        self.of_word_sets = tuple(
            QueryScores(
                names=words.vocabulary.prompts.names,
                max_pixels_per_frame=config.max_pixels_per_frame,
                reference=named_by,
                seed=seed,
                name=words.name,
                title=words.title,
                note=words.note,
            )
            for words in word_sets
        )
        self.occupancy: OccupancyScores | None = None
        if occupancy_fit is not None:
            # Another seed than the training sample's: the same share of another set of frames.
            sample = OccupancySample(max_per_frame=config.max_voxels_per_frame, seed=seed + 1)
            self.occupancy = OccupancyScores(fit=occupancy_fit, sample=sample, seed=seed)

    def sections(self) -> tuple[Section, ...]:
        """Return every section in reading order."""
        no_words = NO_GROUND_TRUTH if self._knows_words else _NO_CLIP
        reconstruction, next_frame = self.reconstruction.section(), self.next_frame.section()
        if reconstruction.figures and next_frame.unavailable:
            next_frame = replace(next_frame, unavailable=_NO_NEXT_FRAME)
        return (
            reconstruction,
            next_frame,
            self.lateral_truth.section(),
            self.lateral_teacher.section(),
            self.depth_lidar.section(),
            self.depth_truth.section(),
            self.depth_teacher.section(),
            self.sky.section(),
            *occupancy_sections(self.occupancy, reference=self._voxel_reference, decided_by=BY_CUTS),
            self.semantics.section(unavailable=no_words, reference=self._voxel_reference),
            self.queries.section(unavailable=no_words),
            *(scores.section(unavailable=no_words) for scores in self.of_word_sets),
            self.features.section(unavailable=_NO_STORED_FEATURES if self._knows_words else _NO_FEATURES),
        )

    def curves(self) -> dict[str, Any]:
        """Return the series that the report plots, by section."""
        found = {scores.name: scores.curve() for scores in (self.depth_lidar, self.depth_truth, self.depth_teacher)}
        found["calibration"] = None if self.occupancy is None else self.occupancy.calibration_curve()
        return {name: curve for name, curve in found.items() if curve is not None}
