"""Score a student on held-out frames, one by one, against every available reference."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8

from storage.geometry.resize import resize_nearest
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, OCC3D_UNNAMED, SKY_ID, VOID_ID
from student.data.sample import TrainingBatch
from student.evaluation.baselines import PRIOR_PER_VOXEL
from student.evaluation.config import EvaluationConfig
from student.evaluation.evidence import StudentEvidence, above_horizon
from student.evaluation.forward_time import TimedStudent
from student.evaluation.frames import (
    EvaluationFrames,
    EvaluationTruth,
    NameReference,
    VoxelReference,
    VoxelTruth,
    channels_last,
    lidar_places,
    select_views,
    swept_voxels,
    valid_of,
    view_images,
)
from student.evaluation.from_above import VoxelsOfFrame
from student.evaluation.lateral import LateralTruth
from student.evaluation.occupancy_cuts import FrameCuts, best_cuts
from student.evaluation.occupancy_rays import OWN_PLACE, OccupancyRays, RayCounts, RayHits, places_along
from student.evaluation.recorded_truth import NamedPoints
from student.evaluation.results import Section
from student.evaluation.sections.all_sections import AllSections
from student.evaluation.sections.images import ImageScores, Perceptual
from student.evaluation.sections.occupancy import DENSITY_ALONE, TEACHER_DENSITY, is_above_ground
from student.evaluation.sections.queries import QueryScores
from student.evaluation.sections.voxels import score_classes, score_occupancy
from student.evaluation.surfaces import Surfaces, by_material, by_reflectance, by_texture, intensity_in_images
from student.evaluation.word_sets import TrueNames, WordSet, occ3d_names
from student.inference.observed_voxels import VoxelSight
from student.inference.occupancy import occupancy_probability
from student.inference.predictor import Predictor, RenderedViews
from student.inference.vocabulary import Vocabulary, best_voxel_class
from student.model.voxel_field import VoxelField


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredFrame:
    """Inputs and rendered views of a scored frame, from which pictures are made.

    Attributes:
        batch: Inputs, and every camera of the frame as target.
        views: Views of the same cameras, rendered by the student.
        truth: The true world; None for a recording.
        voxels: What is said of the frame's voxels; None where nothing judges them.
    """

    batch: TrainingBatch
    views: RenderedViews
    truth: EvaluationTruth | None
    voxels: VoxelsOfFrame | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _VoxelReading:
    """What the student says of the voxels of the Occ3D grid.

    Attributes:
        probability: Raw probability of occupancy; NaN where it was not asked.
        cuts: Where its probabilities are cut in this frame.
        is_occupied: Voxels that it calls occupied, of those that it was asked about.
        words: Nearest class of voxels that it or the truth calls occupied; 17 elsewhere.
        is_dense: Voxels that its density alone would call occupied; None for a student whose occupancy is its density.
    """

    probability: Float32[np.ndarray, " voxels"]
    cuts: FrameCuts
    is_occupied: Bool[np.ndarray, " voxels"]
    words: UInt8[np.ndarray, " voxels"]
    is_dense: Bool[np.ndarray, " voxels"] | None


class Evaluator:
    """Scores the held-out frames of one evaluation in every section.

    Args:
        predictor: The student.
        config: Configuration of the evaluation.
        vocabulary: Occ3D classes and sky; None for a student without CLIP features.
        evidence: Evidence from the student's own training frames.
        voxel_references: Origins of the true voxels of the scenes.
        name_references: Origins of the true classes of pixels and points of the scenes.
        clip_temperature: Temperature that CLIP was trained with; used if no truth allows fitting one.
        perceptual: Perceptual distance of images; None to leave it out.
        word_sets: Further words by which pixels and points are asked for.
        has_teacher_voxels: Whether the fields of all scenes were asked for the voxels of all frames that are scored.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: EvaluationConfig,
        vocabulary: Vocabulary | None,
        evidence: StudentEvidence,
        *,
        voxel_references: Iterable[VoxelReference],
        name_references: Iterable[NameReference],
        clip_temperature: float | None,
        perceptual: Perceptual | None = None,
        word_sets: Sequence[WordSet] = (),
        has_teacher_voxels: bool = False,
    ) -> None:
        self.predictor, self.config, self.evidence = TimedStudent(predictor), config, evidence
        self.vocabulary = vocabulary
        self.occupancy_fit = evidence.occupancy
        fitted = evidence.temperature
        self.temperature = clip_temperature if fitted is None else fitted
        self.temperature_source = "CLIP checkpoint" if fitted is None else "fitted on training frames"
        self._has_teacher_voxels = has_teacher_voxels
        self.masked: dict[str, int] = {}
        self.timings: dict[str, float] = {}
        names = () if self.vocabulary is None else self.vocabulary.prompts.names
        self.scores = AllSections(
            config,
            class_names=names,
            occupancy_fit=self.occupancy_fit,
            voxel_references=voxel_references,
            name_references=name_references,
            perceptual=perceptual,
            word_sets=word_sets,
        )
        self._asked: tuple[tuple[Vocabulary, TrueNames, QueryScores], ...] = ()
        if vocabulary is not None:
            further = zip(word_sets, self.scores.of_word_sets, strict=True)
            self._asked = (
                (vocabulary, occ3d_names(), self.scores.queries),
                *((words.vocabulary, words.truth, scores) for words, scores in further),
            )
        self._seconds_ahead: list[float] = []

    def score(
        self, frames: EvaluationFrames, frame: int, *, is_paper_frame: bool, lateral: LateralTruth | None
    ) -> ScoredFrame:
        """Score one held-out frame against every available reference.

        Args:
            frames: Frames of the scene.
            frame: Index of the frame.
            is_paper_frame: True if the paper's protocol scores the frame too.
            lateral: Renderer of the true world at moved poses; None leaves those views out.
        """
        batch = frames.camera_views(frame)
        with self._timed("encode"):
            field = self.predictor.encode(batch.inputs)
        with self._timed("render"):
            views = self.predictor.render(field, batch.cameras)
        truth = frames.truth(frame)
        with self._timed("score views"):
            self._score_images(
                self.scores.reconstruction, frames.key, views, view_images(batch), None, is_paper_frame, valid_of(batch)
            )
            self._score_depth(frames, frame, views, batch, truth, is_paper_frame)
            self._score_features(frames.key, views, batch, is_paper_frame)
        with self._timed("other poses"):
            self._score_other_poses(frames, frame, field, batch, is_paper_frame, lateral)
        self._score_sky(frames, frame, views, batch, truth)
        with self._timed("words"):
            for vocabulary, names, scores in self._asked:
                labels = frames.pixel_labels(frame, names)
                if labels is not None:
                    self._score_queries(scores, vocabulary, views, batch, labels)
                named = None if truth is not None else frames.recorded.points(frame, names.of_category)
                if named is not None:
                    self._score_points(scores, vocabulary, field, named)
        true_voxels, voxels = frames.voxel_truth(frame), None
        if true_voxels is not None:
            with self._timed("voxels"):
                voxels = self._score_voxels(frames, frame, field, true_voxels, batch, views)
        return ScoredFrame(batch=batch, views=views, truth=truth, voxels=voxels)

    def _score_images(
        self,
        scores: ImageScores,
        scene: str,
        views: RenderedViews,
        reference: Float32[np.ndarray, "views height width 3"],
        still: Float32[np.ndarray, "views height width 3"] | None,
        is_paper_frame: bool,
        is_valid: Bool[np.ndarray, "views _ _"] | None = None,
    ) -> None:
        """Score images.

        Args:
            scores: Scores to add to.
            scene: Scene key.
            views: Rendered views.
            reference: Images that should be seen.
            still: Images of the input cameras, as a baseline, if the views are other ones.
            is_paper_frame: True if the paper's protocol scores the frame too.
            is_valid: True for reference pixels that show the world and not the vehicle itself; None if all do.
        """
        if views.image is None:
            return
        predicted = resized(views.image, reference.shape[1:3])
        baselines = {} if still is None else {"repeating the input": resized(still, reference.shape[1:3])}
        mean = self.evidence.mean_image(reference.shape)
        if mean is not None:
            baselines["mean training image"] = mean
        shown = _on_grid(is_valid, *reference.shape[1:3])
        scores.add(scene, predicted, reference, baselines=baselines, is_paper_frame=is_paper_frame, is_valid=shown)

    def _score_depth(
        self,
        frames: EvaluationFrames,
        frame: int,
        views: RenderedViews,
        batch: TrainingBatch,
        truth: EvaluationTruth | None,
        is_paper_frame: bool,
    ) -> None:
        lidar, teacher = (getattr(batch.view_targets, name)[0].numpy() for name in ("lidar_depth", "teacher_depth"))
        trivial = self.evidence.depths(batch.cameras)
        rival, of_lidar = {"the scene teacher": teacher}, "the scene teacher"
        if frames.fitted_by_teacher is not None:
            # It has seen the very returns that it is measured with.
            of_lidar += ", fitted to these returns" if frame in frames.fitted_by_teacher else ", not fitted to these"
        size = (lidar.shape[1], lidar.shape[2])
        looks = by_texture(view_images(batch), size)
        lit: Surfaces = {}
        if np.isfinite(lidar).any():
            reader, sweep = frames.stores.reader, frames.recorded.sweep(frame)
            lit = by_reflectance(intensity_in_images(reader, frame, sweep, size=size))
        made_of = {} if truth is None or truth.surface is None else by_material(truth.surface)
        references = [
            (self.scores.depth_lidar, lidar, {of_lidar: teacher}, {**made_of, **looks, **lit}),
            (self.scores.depth_teacher, teacher, {}, {}),
        ]
        if truth is not None:
            references.append((self.scores.depth_truth, truth.termination_depth, rival, {**made_of, **looks}))
        for scores, reference, partial, surfaces in references:
            reason = f"{scores.name}: pixels without a reference"
            self.masked[reason] = self.masked.get(reason, 0) + int(np.sum(~np.isfinite(reference)))
            scores.add(
                frames.key,
                views.termination_depth,
                reference,
                baselines=trivial,
                partial=partial,
                is_paper_frame=is_paper_frame,
                surfaces=surfaces,
            )

    def _score_sky(
        self,
        frames: EvaluationFrames,
        frame: int,
        views: RenderedViews,
        batch: TrainingBatch,
        truth: EvaluationTruth | None,
    ) -> None:
        rivals = {"everything above the horizon": above_horizon(batch.cameras)}
        if frames.config.sky_masks:
            rivals["the sky teacher"] = batch.view_targets.is_sky[0].numpy()
        sky = 1.0 - views.opacity
        if truth is None:
            found = frames.recorded.sky(frame)
            lidar = resize_nearest(batch.view_targets.lidar_depth[0].numpy(), *sky.shape[1:], axis=1)
            self.scores.sky.add_returns(frames.key, sky, np.isfinite(lidar), rivals=rivals)
        else:
            found = truth.semantics == SKY_ID, truth.semantics != VOID_ID
        if found is not None:
            self.scores.sky.add(frames.key, sky, found[0], is_seen=found[1], rivals=rivals)

    def _score_features(self, scene: str, views: RenderedViews, batch: TrainingBatch, is_paper_frame: bool) -> None:
        for source, rendered in views.features.items():
            if source not in batch.view_targets.features:
                continue
            reference = batch.view_targets.features[source][0].permute(0, 2, 3, 1).numpy()
            height, width = reference.shape[1:3]
            predicted = resize_nearest(rendered, height, width, axis=1)
            mean = self.evidence.mean_feature(source)
            shown = _on_grid(valid_of(batch), height, width)
            self.scores.features.add(
                scene,
                source,
                predicted,
                reference,
                mean_feature=mean,
                is_valid=shown,
                is_paper_frame=is_paper_frame,
            )

    def _score_other_poses(
        self,
        frames: EvaluationFrames,
        frame: int,
        field: VoxelField,
        batch: TrainingBatch,
        is_paper_frame: bool,
        lateral: LateralTruth | None,
    ) -> None:
        own = channels_last(batch.inputs.images[0, : frames.scene.frozen.num_cameras])
        if frame + 1 < frames.scene.frozen.num_frames:
            ahead = frames.camera_views(frame, target_frame=frame + 1)
            self._seconds_ahead.append(frames.seconds_between(frame, frame + 1))
            views = self.predictor.render(field, ahead.cameras)
            self._score_images(
                self.scores.next_frame, frames.key, views, view_images(ahead), own, is_paper_frame, valid_of(ahead)
            )
        if frames.has_virtual_views:
            shifted = frames.virtual_views(frame)
            views = self.predictor.render(
                field, select_views(shifted.cameras, slice(shifted.view_targets.num_real, None))
            )
            reference = channels_last(shifted.view_targets.virtual_image[0])
            still = own.repeat(len(reference) // len(own), axis=0)
            is_valid = shifted.view_targets.virtual_is_valid[0].numpy()
            self._score_images(
                self.scores.lateral_teacher, frames.key, views, reference, still, is_paper_frame, is_valid
            )
        if lateral is not None:
            self._score_lateral(frames.key, frame, field, batch, is_paper_frame, lateral)

    def _score_lateral(
        self,
        scene: str,
        frame: int,
        field: VoxelField,
        batch: TrainingBatch,
        is_paper_frame: bool,
        lateral: LateralTruth,
    ) -> None:
        """Score all moved views of a frame as one sample, because they see the same place."""
        moved = [lateral.views(frame, batch.cameras, shift) for shift in self.config.lateral_shifts]
        views = [self.predictor.render(field, cameras).image for cameras, _ in moved]
        images = [image for image in views if image is not None]
        if not images:
            return
        reference = np.concatenate([seen for _, seen in moved])
        own = channels_last(batch.inputs.images[0, : len(moved[0][1])])
        still = np.concatenate([resized(own, reference.shape[1:3])] * len(moved))
        self.scores.lateral_truth.add(
            scene,
            np.concatenate(images),
            reference,
            baselines={"repeating the input": still},
            is_paper_frame=is_paper_frame,
        )

    def _score_voxels(
        self,
        frames: EvaluationFrames,
        frame: int,
        field: VoxelField,
        truth: VoxelTruth,
        batch: TrainingBatch,
        views: RenderedViews,
    ) -> VoxelsOfFrame | None:
        if self.scores.occupancy is None or self.occupancy_fit is None:
            return None
        labels = truth.labels.reshape(-1)
        visible, hidden = np.flatnonzero(truth.is_visible), np.flatnonzero(truth.is_hidden)
        generator = np.random.default_rng((self.config.seed, self.scores.occupancy.num_frames + 1))
        hidden = generator.permutation(hidden)[: self.config.max_voxels_per_frame]
        rays = OccupancyRays(OCC3D_GRID, places_along(lidar_places(frames, frame), frame, OCC3D_GRID))
        # What is occupied is decided by what the student itself sees, not by what the truth calls visible.
        sight = VoxelSight(OCC3D_GRID, batch.cameras, views.is_seen)
        before = sight.before(views.termination_depth)
        said = self._read_voxels(field, (visible, hidden, rays.voxels), labels, sight.in_view, np.flatnonzero(before))
        is_observed = sight.observed(before, said.is_occupied & sight.in_view)
        seen = self._seen_otherwise(frames, frame)
        teacher = seen.get(TEACHER_DENSITY)
        if said.is_dense is not None:
            seen[DENSITY_ALONE] = said.is_dense
        score_occupancy(
            self.scores.occupancy,
            frames.key,
            visible,
            labels[visible],
            said.probability[visible],
            others=self._occupied_by_others(visible, seen),
            cuts=said.cuts,
            is_observed=is_observed[visible],
        )
        if len(hidden):
            self.scores.occupancy.add_hidden(
                said.probability[hidden],
                labels[hidden] != OCC3D_FREE,
                baselines=self._occupied_by_others(hidden, seen),
                cuts=said.cuts,
            )
        self._score_rays(rays, said, truth, seen)
        if self.vocabulary is not None:
            prior = self.evidence.prior
            score_classes(
                self.scores.semantics,
                frames.key,
                labels[visible],
                said.words[visible],
                is_occupied=said.is_occupied[visible],
                has_all_names=truth.has_all_names,
                others=self._named_by_prior(visible),
                words_of_others={} if prior.is_empty else {PRIOR_PER_VOXEL: prior.name(visible)},
            )
        return VoxelsOfFrame(
            labels=labels,
            is_visible=truth.is_visible.reshape(-1),
            is_occupied=said.is_occupied,
            is_observed=is_observed,
            teacher=teacher,
        )

    def _read_voxels(
        self,
        field: VoxelField,
        wanted: tuple[Int64[np.ndarray, " _"], ...],
        truth: UInt8[np.ndarray, " voxels"],
        in_view: Bool[np.ndarray, " voxels"],
        observed: Int64[np.ndarray, " observed"],
    ) -> "_VoxelReading":
        """Read the student's voxels once, whatever they are scored for."""
        assert self.occupancy_fit is not None
        is_wanted = np.zeros(OCC3D_GRID.num_voxels, bool)
        for voxels in wanted:
            is_wanted[voxels] = True
        read = np.flatnonzero(is_wanted | in_view)
        said = self.predictor.occupancy(field, read, samples_per_axis=self.config.voxel_samples_per_axis)
        probability = np.full(OCC3D_GRID.num_voxels, np.nan, np.float32)
        probability[read] = said.probability
        is_dense: np.ndarray | None = None
        if self.evidence.density is not None:
            is_dense = np.zeros(OCC3D_GRID.num_voxels, bool)
            raw = np.zeros(OCC3D_GRID.num_voxels)
            raw[read] = occupancy_probability(said.density, OCC3D_GRID.voxel_size)
            of_density = best_cuts(raw[observed], is_above_ground(observed), self.evidence.density.calibration)
            is_dense[read] = of_density.is_occupied(raw[read], is_above_ground(read))
        cuts = best_cuts(probability[observed], is_above_ground(observed), self.occupancy_fit.calibration)
        is_occupied = np.zeros(OCC3D_GRID.num_voxels, bool)
        is_occupied[read] = cuts.is_occupied(probability[read], is_above_ground(read))
        words = np.full(OCC3D_GRID.num_voxels, OCC3D_FREE, np.uint8)
        if self.vocabulary is not None:
            # No score asks for the name of what is free in both, or of what only hides others.
            has_name = said.has_features & (is_occupied[read] | (truth[read] < OCC3D_FREE))
            named = np.flatnonzero(has_name & is_wanted[read])
            clip = self.predictor.voxel_features(field, "clip", said, named)
            words[read[named]] = best_voxel_class(self.vocabulary.cosine(clip))
        return _VoxelReading(
            probability=probability, cuts=cuts, is_occupied=is_occupied, words=words, is_dense=is_dense
        )

    def _seen_otherwise(self, frames: EvaluationFrames, frame: int) -> dict[str, Bool[np.ndarray, " voxels"]]:
        """Return the voxels that others than a student hold for occupied at a frame, who saw the frame itself."""
        found = {}
        swept = swept_voxels(frames, frame)
        if swept is not None:
            found["one LiDAR sweep"] = swept
        if self._has_teacher_voxels:
            found[TEACHER_DENSITY] = frames.held_opaque(frame)
        return found

    def _score_rays(
        self,
        rays: OccupancyRays,
        said: "_VoxelReading",
        truth: VoxelTruth,
        seen: Mapping[str, Bool[np.ndarray, " voxels"]],
    ) -> None:
        """Cast rays through the reference and through what the student and trivial predictors say."""
        occupancy = self.scores.occupancy
        if occupancy is None:
            return
        known = (truth.is_visible | truth.is_hidden).reshape(-1)
        met = rays.cast(np.where(known, truth.labels.reshape(-1), np.uint8(OCC3D_UNKNOWN)))
        voxels = rays.voxels

        def hits(labels: UInt8[np.ndarray, " n"]) -> RayHits:
            grid = np.full(len(known), OCC3D_FREE, np.uint8)
            grid[voxels] = labels
            return rays.cast(grid)

        others = self._occupied_by_others(voxels, seen)
        del others["all occupied"]  # whose rays all end where they begin
        occupied = {"": said.is_occupied[voxels], **others}
        something = {of: np.where(yes, np.uint8(OCC3D_UNNAMED), np.uint8(OCC3D_FREE)) for of, yes in occupied.items()}
        ended = {of: hits(grid) for of, grid in something.items()}
        occupancy.add_rays(
            {of: RayCounts.of(found, met, num_classes=1) for of, found in ended.items()},
            own_place={
                of: RayCounts.of(found[OWN_PLACE], met[OWN_PLACE], num_classes=1) for of, found in ended.items()
            },
        )
        if self.vocabulary is None:
            return
        if not truth.has_all_names:
            met = replace(met, is_known=met.is_known & (met.label != OCC3D_UNNAMED))
        named = np.where(said.is_occupied[voxels], said.words[voxels], np.uint8(OCC3D_FREE))
        by_class = {"": named, **self._named_by_prior(voxels)}
        self.scores.semantics.add_rays(
            {of: RayCounts.of(hits(grid), met, num_classes=OCC3D_FREE) for of, grid in by_class.items()}
        )

    def _occupied_by_others(
        self, voxels: Int64[np.ndarray, " n"], seen: Mapping[str, Bool[np.ndarray, " voxels"]]
    ) -> dict[str, Bool[np.ndarray, " n"]]:
        """Return the occupancy of voxels by predictors that are no student."""
        prior = self.evidence.prior
        return {
            "all occupied": np.ones(len(voxels), dtype=bool),
            **({} if prior.is_empty else {PRIOR_PER_VOXEL: prior.occupied_share(voxels) > 0.5}),
            **{of: everywhere[voxels] for of, everywhere in seen.items()},
        }

    def _named_by_prior(self, voxels: Int64[np.ndarray, " n"]) -> dict[str, UInt8[np.ndarray, " n"]]:
        """Return the label of each voxel that training frames had most often; empty if none were counted."""
        return {} if self.evidence.prior.is_empty else {PRIOR_PER_VOXEL: self.evidence.prior.label(voxels)}

    def _score_queries(
        self,
        scores: QueryScores,
        vocabulary: Vocabulary,
        views: RenderedViews,
        batch: TrainingBatch,
        labels: UInt8[np.ndarray, "views _ _"],
    ) -> None:
        if self.temperature is None:
            return
        teacher = batch.view_targets.features.get("clip")
        height, width = labels.shape[1:]
        student = vocabulary.probability(views.features["clip"], self.temperature)
        if teacher is None:
            rival = np.full_like(student, np.nan)
        else:
            maps = teacher[0].permute(0, 2, 3, 1).numpy()
            rival = vocabulary.probability(resize_nearest(maps, height, width, axis=1), self.temperature)
        scores.add(
            student.reshape(-1, student.shape[-1]), labels.reshape(-1), teacher=rival.reshape(-1, rival.shape[-1])
        )

    def _score_points(self, scores: QueryScores, vocabulary: Vocabulary, field: VoxelField, named: NamedPoints) -> None:
        """Score words at LiDAR returns in space, whether a camera sees them or not."""
        if self.temperature is None:
            return
        generator = np.random.default_rng((self.config.seed, scores.num_frames))
        kept = generator.permutation(len(named.points))[: self.config.max_pixels_per_frame]
        clip = self.predictor.point_features(field, "clip", named.points[kept])
        probability = vocabulary.probability(clip, self.temperature)
        scores.add_points(probability, named.labels[kept], is_seen=named.is_seen[kept])

    def sections(self) -> tuple[Section, ...]:
        """Return every section in reading order; call this after the last frame."""
        if self._seconds_ahead:
            mean = float(np.mean(self._seconds_ahead))
            self.scores.next_frame.note += f" The next frame is {mean:.2f} s ahead on average."
        return self.scores.sections()

    def settings(self) -> dict[str, Any]:
        """Return the threshold, calibration, temperature and template that were chosen before scoring."""
        settings: dict[str, Any] = {"voxel_size_m": OCC3D_GRID.voxel_size}
        if self.occupancy_fit is not None:
            settings["occupancy"] = self.occupancy_fit.to_json()
        if self.vocabulary is not None:
            settings["prompt_template"] = self.vocabulary.prompts.template
            settings["temperature"] = self.temperature
            settings["temperature_source"] = self.temperature_source
        return settings

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - started


def _on_grid(
    is_valid: Bool[np.ndarray, "views _ _"] | None, height: int, width: int
) -> Bool[np.ndarray, "views height width"] | None:
    return None if is_valid is None else resize_nearest(is_valid, height, width, axis=1)


def resized(
    images: Float32[np.ndarray, "views height width channels"], size: tuple[int, ...]
) -> Float32[np.ndarray, "views new_height new_width channels"]:
    """Return images resampled with antialiasing to (height, width), not clamped."""
    if images.shape[1:3] == size:
        return images
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return channels_last(torch.nn.functional.interpolate(tensor, size=list(size), mode="bilinear", antialias=True))
