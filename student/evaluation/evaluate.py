"""Evaluate a checkpoint on held-out frames: images, depth, occupancy, calibration, and answers to words.

Geometric, occupancy, semantic and image quality are scored apart, each beside trivial predictors and with the protocol
in its definition. A section without ground truth says so.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.code import code_digest
from storage.counted import counted
from storage.digests import config_digest, config_json
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_files
from student.data.evenly_spaced import evenly_spaced
from student.evaluation.caveats import caveats, caveats_of_words, sources_of_features
from student.evaluation.config import EvaluationConfig
from student.evaluation.frames import EvaluationFrames, evaluation_scenes
from student.evaluation.protocol import frames_class, notes_of, perceptual_digests
from student.evaluation.scoring import Scoring, frames_to_score, with_class_list
from student.evaluation.training_evidence import TrainingEvidence
from student.inference.predictor import Predictor
from student.inference.vocabulary import clip_space_of, occ3d_vocabulary, training_set_of

KIND = Kind.STUDENT_EVALUATION


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
        config_digest=config_digest(with_class_list(determining, config.classes)),
        code_digest=code_digest(__name__, kind=KIND),
        seed=config.seed,
        weights_digests={
            **({} if space is None else {"text_encoder": space.encoder.digest}),
            **perceptual_digests(config.lpips_weights),
        },
        licence=home.licence_of(inputs),
        config=config_json(determining),
        packages=package_versions("numpy", "scipy", "torch", "transformers", "matplotlib"),
    )

    def write(folder: Path) -> Mapping[str, Any]:
        started = time.perf_counter()
        frames = [
            EvaluationFrames(home, training_set, scene, predictor.config.data, frames_class(config.protocol))
            for scene in scenes
        ]
        vocabulary = None if space is None else occ3d_vocabulary(space, config.prompt_template)
        learned = [(of, frame) for of in frames for frame in _training_frames(of, config)]
        gathered = TrainingEvidence(predictor=predictor, config=config, vocabulary=vocabulary)
        total = len(learned) + sum(len(frames_to_score(of, config)) for of in frames)
        for number, (of, frame) in enumerate(learned, start=1):
            gathered.add(of, frame)
            if on_progress is not None:
                on_progress("training frames", number / total, {"scene": of.key, "frame": frame})
        evidence = gathered.settle()
        evidence.save(folder)
        scoring = Scoring(
            home,
            frames,
            predictor,
            space,
            config,
            vocabulary=vocabulary,
            evidence=evidence,
            on_progress=on_progress,
            learned_from=sources_of_features(home, training_set.scenes[0]),
            share_before=len(learned) / total,
        )
        sources = sources_of_features(home, training_set.scenes[0])
        return scoring.result(
            folder,
            variant=variant,
            checkpoint_digest=checkpoint.digest,
            scored_on=_scored_on(frames, config),
            notes=(
                *notes_of(config.protocol),
                *caveats(sources, evidence),
                *caveats_of_words(home, [str(scene.key) for scene in training_set.scenes], sources.get("clip", "")),
            ),
            timings={"training frames": time.perf_counter() - started},
        ).to_json()

    return materialize_files(home, provenance, write)


def _training_frames(frames: EvaluationFrames, config: EvaluationConfig) -> tuple[int, ...]:
    return evenly_spaced(frames.scene.frozen.train_frames, config.num_training_frames)


def _scored_on(frames: Sequence[EvaluationFrames], config: EvaluationConfig) -> str:
    """Say what is scored, and whether the student learned from other frames of the same scenes."""
    said = []
    for learned in (False, True):
        of = [f for f in frames if bool(f.scene.frozen.train_frames) == learned]
        keys = [f.key for f in of if f.scene.frozen.validation_frames]
        if not keys:
            continue
        count = sum(len(frames_to_score(f, config)) for f in of)
        scenes = counted(len(keys), "scene")
        if learned:
            said.append(
                f"{count} held-out frames of {scenes} whose other frames it learned from ({', '.join(keys)}), "
                "which says nothing of a scene that it never saw"
            )
        else:
            said.append(f"{count} frames of {scenes} held out whole ({', '.join(keys)})")
    return "; ".join(said) + "."
