"""Evaluate a checkpoint on held-out frames: images, depth, occupancy, calibration, and answers to words.

Geometric, occupancy, semantic and image quality are scored apart, each beside trivial predictors and with the protocol
in its definition. A section without ground truth says so.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.kinds import Kind
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_files
from student.data.training_set import TrainingSet
from student.evaluation.config import EvaluationConfig
from student.evaluation.evaluator import Evaluator
from student.evaluation.frames import (
    EvaluationFrames,
    EvaluationScene,
    evaluation_scenes,
    evenly_spaced,
    paper_frame,
)
from student.evaluation.lateral import LateralTruth
from student.evaluation.panels import Painter, Words
from student.evaluation.results import EvaluationResult, Panel
from student.evaluation.training_evidence import TrainingEvidence
from student.inference.predictor import Predictor
from student.inference.prompts import query_prompts
from student.inference.vocabulary import ClipSpace, Vocabulary, clip_space_of, occ3d_vocabulary, training_set_of

KIND = Kind.STUDENT_EVALUATION

ProgressCallback = Callable[[str, float, Mapping[str, Any]], None]
"""Function called with a stage, the share done in [0, 1], and running figures."""


def evaluate_checkpoint(
    home: Home, variant: str, config: EvaluationConfig, on_progress: ProgressCallback | None = None
) -> Materialized:
    """Return the evaluation of a variant's checkpoint, making it first if it does not exist.

    Args:
        home: Home of checkpoint, stores and evaluation.
        variant: Partition of the checkpoint.
        config: Configuration of the evaluation.
        on_progress: Function called after every frame.

    Returns:
        The ``student_evaluation`` version. Its metrics are an
        :class:`~student.evaluation.results.EvaluationResult` as JSON, with ``headline`` holding every main figure; its
        folder holds the pictures.

    Raises:
        MissingTargetError: If the checkpoint, its training set or one of its stores is missing.
        ProvenanceMismatchError: If a reference was made from another version of a scene.
        ValueError: If the training set has no held-out frame.
    """
    checkpoint = home.require(Kind.STUDENT_CHECKPOINT, variant, config.checkpoint_digest or None)
    training_set = training_set_of(home, checkpoint)
    if training_set.num_validation_samples == 0:
        raise ValueError(f"{training_set.version} holds no frame out: there is nothing to evaluate on")
    scenes = evaluation_scenes(home, training_set)
    predictor = Predictor.open(home, variant, checkpoint.digest, device=config.device)
    space = None
    if "clip" in predictor.feature_sources:
        space = clip_space_of(home, training_set, text_encoder=config.text_encoder)
    determining = config.determining()
    stores = {version for scene in scenes for version in scene.versions}
    inputs = (
        checkpoint.as_input,
        *sorted(stores),
        *(() if space is None else space.inputs),
    )
    provenance = Provenance(
        kind=KIND,
        partition=variant,
        inputs=inputs,
        config_digest=config_digest(determining),
        code_digest=code_digest(__name__, kind=KIND),
        seed=config.seed,
        weights_digests={} if space is None else {"text_encoder": space.encoder.digest},
        licence=home.licence_of(inputs),
        config=config_json(determining),
        packages=package_versions("numpy", "scipy", "torch", "transformers", "matplotlib"),
    )

    def write(folder: Path) -> Mapping[str, Any]:
        run = _Evaluation(home, training_set, scenes, predictor, space, config, on_progress)
        return run.result(folder, variant, checkpoint.digest).to_json()

    return materialize_files(home, provenance, write)


class _Evaluation:
    """One evaluation in this process."""

    def __init__(
        self,
        home: Home,
        training_set: TrainingSet,
        scenes: tuple[EvaluationScene, ...],
        predictor: Predictor,
        space: ClipSpace | None,
        config: EvaluationConfig,
        on_progress: ProgressCallback | None,
    ) -> None:
        self.home, self.config, self.predictor, self.space = home, config, predictor, space
        self._frames = [EvaluationFrames(home, training_set, scene, predictor.config.data) for scene in scenes]
        self._on_progress = on_progress
        self._plan = [(frames, frame) for frames in self._frames for frame in self._held_out(frames)]
        self._training = [
            (frames, frame)
            for frames in self._frames
            for frame in evenly_spaced(frames.scene.frozen.train_frames, config.num_training_frames)
        ]
        self._done = 0

    def _held_out(self, frames: EvaluationFrames) -> list[int]:
        held_out = frames.scene.frozen.validation_frames
        if not held_out:
            return []
        chosen = set(evenly_spaced(held_out, self.config.max_frames_per_scene))
        return sorted(chosen | {paper_frame(frames.scene.frozen)})

    def result(self, folder: Path, variant: str, checkpoint_digest: str) -> EvaluationResult:
        """Score everything, write the pictures to ``folder`` and return the result."""
        started = time.perf_counter()
        vocabulary = None if self.space is None else occ3d_vocabulary(self.space, self.config.prompt_template)
        evidence = TrainingEvidence(predictor=self.predictor, config=self.config, vocabulary=vocabulary)
        for frames, frame in self._training:
            evidence.add(frames, frame)
            self._tell("training frames", {"scene": frames.key, "frame": frame})
        learned = time.perf_counter()
        temperature = None if self.space is None else self.space.encoder.temperature
        evaluator = Evaluator(
            self.predictor,
            self.config,
            evidence,
            voxel_references={found for f in self._frames if (found := f.scene.voxel_reference) is not None},
            name_references={found for f in self._frames if (found := f.names_reference) is not None},
            clip_temperature=temperature,
        )
        painter = Painter(folder=folder, width=self.config.panel_width, words=self._words(evaluator))
        panels: list[Panel] = []
        for frames in self._frames:
            panels += self._score_scene(frames, evaluator, painter)
        sections = evaluator.sections()
        return EvaluationResult(
            variant=variant,
            checkpoint_digest=checkpoint_digest,
            scenes=tuple(dict.fromkeys(frames.key for frames, _ in self._plan)),
            num_frames=len(self._plan),
            sections=sections,
            panels=tuple(panels),
            curves=evaluator.scores.curves(),
            settings=evaluator.settings(),
            masked=evaluator.masked,
            timings={
                "training frames": learned - started,
                **evaluator.timings,
                "total": time.perf_counter() - started,
            },
        )

    def _score_scene(self, frames: EvaluationFrames, evaluator: Evaluator, painter: Painter) -> list[Panel]:
        scene = frames.scene.frozen
        chosen = [frame for of, frame in self._plan if of is frames]
        with_pictures = set(evenly_spaced(chosen, self.config.panel_frames))
        moved = set(evenly_spaced(chosen, self.config.max_lateral_frames))
        lateral = None
        if frames.scene.truth is not None and moved:
            lateral = LateralTruth.open(self.home, frames.stores.reader, frames.key)
        panels = []
        for frame in chosen:
            scored = evaluator.score(
                frames,
                frame,
                is_paper_frame=frame == paper_frame(scene),
                lateral=lateral if frame in moved else None,
            )
            if frame in with_pictures:
                panels += [
                    painter.paint(frames, frame, camera, batch=scored.batch, views=scored.views, truth=scored.truth)
                    for camera in evenly_spaced(range(scene.num_cameras), self.config.panel_cameras)
                ]
            self._tell("held-out frames", {"scene": frames.key, "frame": frame})
        return panels

    def _words(self, evaluator: Evaluator) -> Words | None:
        if self.space is None or evaluator.vocabulary is None or evaluator.temperature is None:
            return None
        prompts = query_prompts(self.config.query, template=self.config.prompt_template)
        return Words(
            classes=evaluator.vocabulary,
            query=Vocabulary.of(self.space, prompts),
            temperature=evaluator.temperature,
        )

    def _tell(self, stage: str, details: Mapping[str, Any]) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(stage, self._done / (len(self._training) + len(self._plan)), details)
