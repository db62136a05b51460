"""Score frames with settled evidence, paint some of them, and keep the worst: what every evaluation has in common."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from storage.progress import ProgressCallback
from storage.stores.versioned import Home
from student.data.evenly_spaced import evenly_spaced
from student.evaluation.caveats import CLOSED_VOCABULARY, DEMO_SOURCE
from student.evaluation.config import EvaluationConfig
from student.evaluation.evaluator import Evaluator
from student.evaluation.evidence import StudentEvidence
from student.evaluation.frames import EvaluationFrames, paper_frame
from student.evaluation.lateral import LateralTruth
from student.evaluation.panels import Painter, Words, cameras_around
from student.evaluation.protocol import of_the_paper, perceptual_of
from student.evaluation.results import EvaluationResult, Panel, Section
from student.evaluation.sections.semantics import WITHOUT_LABELS
from student.evaluation.word_sets import WordSet, own_classes, unseen_words
from student.evaluation.worst import WorstFrames
from student.inference.class_list import load_class_list
from student.inference.predictor import Predictor
from student.inference.prompts import query_prompts
from student.inference.vocabulary import ClipSpace, Vocabulary

_OF_WORDS = ("semantic_occupancy", "text_query")


class Scoring:
    """One pass over the frames that are scored.

    Args:
        home: Home of the scenes.
        frames: Scenes to score; each gives the frames that it holds out.
        predictor: The student.
        space: CLIP space of its features; None for a student without them.
        config: Configuration of the evaluation.
        vocabulary: Occ3D classes and sky in that space.
        evidence: What its own training frames say.
        learned_from: Where the weights behind its features came from, by source.
        on_progress: Function called after every frame.
        share_before: Share of the whole work that was done before, in [0, 1].
    """

    def __init__(
        self,
        home: Home,
        frames: Sequence[EvaluationFrames],
        predictor: Predictor,
        space: ClipSpace | None,
        config: EvaluationConfig,
        *,
        vocabulary: Vocabulary | None,
        evidence: StudentEvidence,
        learned_from: Mapping[str, str],
        on_progress: ProgressCallback | None,
        share_before: float = 0.0,
    ) -> None:
        self.home, self.config, self.space = home, config, space
        self._frames, self._on_progress, self._share_before = frames, on_progress, share_before
        self._plan = [(of, frame) for of in frames for frame in frames_to_score(of, config)]
        self._evaluator = Evaluator(
            predictor,
            config,
            vocabulary,
            evidence,
            voxel_references={found for of in frames if (found := of.scene.voxel_reference) is not None},
            name_references={found for of in frames if (found := of.names_reference) is not None},
            clip_temperature=None if space is None else space.encoder.temperature,
            perceptual=perceptual_of(config.lpips_weights),
            has_teacher_voxels=all(frame in of.frames_of_teacher for of, frame in self._plan),
            word_sets=() if space is None else words_of_evaluation(space, config, learned_from),
        )
        self._done = 0

    @property
    def num_frames(self) -> int:
        """Return the number of frames to score."""
        return len(self._plan)

    def result(
        self,
        folder: Path,
        *,
        variant: str,
        checkpoint_digest: str,
        scored_on: str,
        notes: Sequence[str] = (),
        timings: Mapping[str, float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> EvaluationResult:
        """Score everything, write the pictures to ``folder`` and return the result.

        Args:
            folder: Folder of the evaluation.
            variant: The student's variant.
            checkpoint_digest: Digest of the student.
            scored_on: What is scored and how it was held out.
            notes: What a reader must know before believing a figure.
            timings: Seconds of earlier stages.
            settings: Further settings to record.
        """
        started = time.perf_counter()
        evaluator = self._evaluator
        painter = Painter(folder=folder, width=self.config.panel_width, words=self._words())
        panels: list[Panel] = []
        worst = WorstFrames(width=2 * self.config.panel_width)
        for frames in self._frames:
            panels += self._score_scene(frames, painter, worst)
        sections = evaluator.sections()
        if CLOSED_VOCABULARY in notes:
            sections = tuple(replace(s, note=_closed(s)) if s.name in _OF_WORDS else s for s in sections)
        if self.config.protocol == "paper":
            sections = tuple(of_the_paper(section) for section in sections)
        before = dict(timings or {})
        return EvaluationResult(
            variant=variant,
            checkpoint_digest=checkpoint_digest,
            scenes=tuple(dict.fromkeys(frames.key for frames, _ in self._plan)),
            num_frames=len(self._plan),
            scored_on=scored_on,
            notes=tuple(notes),
            sections=sections,
            panels=tuple(panels),
            worst=worst.write(folder),
            curves=evaluator.scores.curves(),
            settings={"protocol": self.config.protocol, **evaluator.settings(), **(settings or {})},
            masked=evaluator.masked,
            timings={
                **before,
                **evaluator.timings,
                "the student's answers": evaluator.predictor.seconds,
                "total": sum(before.values()) + time.perf_counter() - started,
            },
        )

    def _score_scene(self, frames: EvaluationFrames, painter: Painter, worst: WorstFrames) -> list[Panel]:
        scene = frames.scene.frozen
        chosen = [frame for of, frame in self._plan if of is frames]
        with_pictures = set(evenly_spaced(chosen, self.config.panel_frames))
        moved = set(evenly_spaced(chosen, self.config.max_lateral_frames))
        lateral = None
        if frames.scene.truth is not None and moved:
            lateral = LateralTruth.open(self.home, frames.stores.reader, frames.key)
        panels = []
        for frame in chosen:
            scored = self._evaluator.score(
                frames,
                frame,
                is_paper_frame=frame == paper_frame(scene),
                lateral=lateral if frame in moved else None,
            )
            worst.offer(frames.key, frame, frames.camera_names, scored)
            if frame in with_pictures:
                reader = frames.stores.reader
                rig = np.stack([reader.camera_to_ego(camera) for camera in range(scene.num_cameras)])
                panels += [
                    painter.paint(frames, frame, camera, batch=scored.batch, views=scored.views, truth=scored.truth)
                    for camera in cameras_around(rig, self.config.panel_cameras)
                ]
                if scored.voxels is not None:
                    panels.append(painter.paint_from_above(frames, frame, scored.voxels))
            self._tell({"scene": frames.key, "frame": frame})
        return panels

    def _words(self) -> Words | None:
        evaluator = self._evaluator
        if self.space is None or evaluator.vocabulary is None or evaluator.temperature is None:
            return None
        prompts = query_prompts(self.config.query, template=self.config.prompt_template)
        return Words(
            classes=evaluator.vocabulary,
            query=Vocabulary.of(self.space, prompts),
            temperature=evaluator.temperature,
        )

    def _tell(self, details: Mapping[str, Any]) -> None:
        self._done += 1
        if self._on_progress is not None:
            share = self._share_before + (1 - self._share_before) * self._done / len(self._plan)
            self._on_progress("held-out frames", share, details)


def with_class_list(determining: EvaluationConfig, classes: str) -> object:
    """Return what determines the figures: the configuration, and the content of the own classes if there are any.

    Raises:
        SourceDataError: If the list of classes is missing or damaged.
    """
    if not classes:
        return determining
    found = load_class_list(classes)
    return {"evaluation": determining, "class_list": {"name": found.name, "digest": found.digest}}


def words_of_evaluation(
    space: ClipSpace, config: EvaluationConfig, learned_from: Mapping[str, str]
) -> tuple[WordSet, ...]:
    """Return the further words of an evaluation: own classes, and for the demo's CLIP words of none of its captions.

    Args:
        space: CLIP space of the student's features.
        config: Configuration of the evaluation.
        learned_from: Where the weights behind its features came from, by source. Nobody knows which words a published
            CLIP never saw.

    Raises:
        SourceDataError: If the list of classes is missing or damaged.
    """
    own = (own_classes(space, load_class_list(config.classes)),) if config.classes else ()
    is_demo = learned_from.get("clip") == DEMO_SOURCE
    return (*own, *((unseen_words(space, config.prompt_template),) if is_demo else ()))


def _closed(section: Section) -> str:
    return f"{section.note.removeprefix(WITHOUT_LABELS).strip()} {CLOSED_VOCABULARY}".strip()


def frames_to_score(frames: EvaluationFrames, config: EvaluationConfig) -> list[int]:
    """Return the frames of a scene that are scored: some of those held out, and the paper's one."""
    held_out = frames.scene.frozen.validation_frames
    if not held_out:
        return []
    if config.protocol == "paper":
        return [paper_frame(frames.scene.frozen)]
    chosen = set(evenly_spaced(held_out, config.max_frames_per_scene))
    return sorted(chosen | {paper_frame(frames.scene.frozen)})
