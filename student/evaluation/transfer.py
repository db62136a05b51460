"""Judge a student on scenes outside its training set: new drives, another rig, another data set, zero-shot.

Threshold, calibration, temperature, feature basis and trivial predictors are those of its own training. Nothing is
fitted to the scenes that are scored. DistillNeRF calls this zero-shot transfer (DistillNeRF Tab. 3).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage.code import code_digest
from storage.counted import counted
from storage.digests import config_digest, config_json
from storage.errors import ErrorKind, MissingTargetError, ProvenanceMismatchError
from storage.kinds import FEATURE_SOURCES, Kind, features_kind
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.provenance import Provenance, joined_licences, package_versions
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files
from student.data.training_set import FrozenScene, FrozenScenes
from student.evaluation.caveats import caveats, caveats_of_words
from student.evaluation.config import EvaluationConfig
from student.evaluation.frames import EvaluationFrames, EvaluationScene, evaluation_scenes, whole_scene
from student.evaluation.protocol import frames_class, notes_of, perceptual_digests
from student.evaluation.results import EvaluationResult
from student.evaluation.scoring import Scoring, with_class_list
from student.evaluation.subject import Subject
from student.inference.feature_bases import same_basis
from student.inference.open_vocabulary import StoredFeatureBasis
from student.inference.rigs import rig_change, rig_of
from student.inference.vocabulary import occ3d_vocabulary

KIND = Kind.TRANSFER_EVALUATION

_SAME_RECORDING = 0.5
"""Share of a scene's raw files that another has too, above which both are one recording: all scenes share tables."""


_CHOSEN_BEFORE = (
    "Threshold, calibration, temperature and trivial predictors come from the student's own training scenes; nothing "
    "was fitted to the scenes scored here."
)
_CALIBRATION_ALONE = (
    "The student brings its calibration and no statistics of its training frames, so predictors drawn from those are "
    "missing; nothing was fitted to the scenes scored here."
)


def evaluate_elsewhere(
    home: Home,
    subject: Subject,
    scene_keys: Sequence[str],
    config: EvaluationConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Return the evaluation of a student on whole scenes that it never saw, making it first if it does not exist.

    Args:
        home: Home of the scenes and of the evaluation; the student may come from another.
        subject: The student.
        scene_keys: Scenes to score.
        config: Configuration of the evaluation.
        on_progress: Function called after every frame.

    Returns:
        The ``transfer_evaluation`` version, partition by the student's variant. Its metrics are an
        :class:`~student.evaluation.results.EvaluationResult` as JSON. Its inputs name the student and every scene's
        stores.

    Raises:
        MissingTargetError: If a scene lacks a store that the student reads, or is one that it learned from.
        ProvenanceMismatchError: If the depth features of a scene come from another model than the student's, or its
            stores descend from different versions.
        ValueError: If no scene is named, or one twice.
    """
    if not scene_keys or len(set(scene_keys)) != len(scene_keys):
        raise ValueError(f"scenes to evaluate on: {list(scene_keys)}, want at least one, each once")
    frozen = tuple(whole_scene(home, key, input_kinds(subject)) for key in scene_keys)
    for scene in frozen:
        check_unseen(home, subject, scene)
        check_depth_model(home, subject, scene)
    together = FrozenScenes(scenes=frozen)
    judged = tuple(_in_its_basis(home, subject, scene) for scene in evaluation_scenes(home, together))
    scenes = tuple(one.scene for one in judged)
    determining = config.determining()
    read = sorted({version for scene in scenes for version in scene.versions})
    space = subject.space
    provenance = Provenance(
        kind=KIND,
        partition=subject.checkpoint.partition,
        inputs=(subject.checkpoint, *read),
        config_digest=config_digest(with_class_list(determining, config.classes)),
        code_digest=code_digest(__name__, kind=KIND),
        seed=config.seed,
        weights_digests={
            "student": subject.weights_digest,
            "evidence": subject.evidence_digest,
            **perceptual_digests(config.lpips_weights),
            **({} if space is None else {"text_encoder": space.encoder.digest}),
        },
        licence=joined_licences((subject.licence, home.licence_of(read))),
        config=config_json(determining),
        packages=package_versions("numpy", "scipy", "torch", "transformers", "matplotlib"),
    )
    changes = [rig_change(subject.rigs, rig_of(_reader(home, scene))) for scene in frozen]
    notes = (
        _CHOSEN_BEFORE if subject.evidence.frames else _CALIBRATION_ALONE,
        *dict.fromkeys(change for change in changes if change),
        *dict.fromkeys(note for one in judged for note in one.notes),
        *notes_of(config.protocol),
        *caveats(subject.feature_weights, subject.evidence),
        *caveats_of_words(home, [str(scene.key) for scene in frozen], subject.feature_weights.get("clip", "")),
    )

    def write(folder: Path) -> Mapping[str, Any]:
        frames = [
            EvaluationFrames(home, together, scene, subject.predictor.config.data, frames_class(config.protocol))
            for scene in scenes
        ]
        scoring = Scoring(
            home,
            frames,
            subject.predictor,
            space,
            config,
            vocabulary=None if space is None else occ3d_vocabulary(space, config.prompt_template),
            evidence=subject.evidence,
            learned_from=subject.feature_weights,
            on_progress=on_progress,
        )
        result: EvaluationResult = scoring.result(
            folder,
            variant=subject.checkpoint.partition,
            checkpoint_digest=subject.checkpoint.digest,
            scored_on=_scored_on(scoring.num_frames, scene_keys),
            notes=notes,
        )
        return result.to_json()

    return materialize_files(home, provenance, write)


def input_kinds(subject: Subject) -> tuple[str, ...]:
    """Return the kinds of store that a student reads of a scene, beside the scene itself."""
    has_depth_features = subject.predictor.config.data.depth_anything
    return (Kind.INPUT_IMAGES, *((Kind.DEPTH_ANYTHING_FEATURES,) if has_depth_features else ()))


def check_unseen(home: Home, subject: Subject, scene: FrozenScene) -> None:
    """Check that a student did not learn from a scene, under this name or another.

    Raises:
        MissingTargetError: If it did, or if both have one name and nothing tells that their raw files differ.
    """
    own = frozenset(home.provenance(scene.stores[Kind.SCENE]).sources.values())
    for key, learned in subject.learned_from.items():
        files = learned.raw_files
        shared = 0 if files is None else len(own & files)
        is_same_recording = shared > _SAME_RECORDING * min(len(own), len(files or ()))
        if is_same_recording or (key == scene.key and (files is None or not own)):
            because = f"{shared} raw files are the same" if shared else "the names are the same"
            raise MissingTargetError(
                ErrorKind.TARGET_FORBIDDEN,
                f"{Kind.SCENE}/{scene.key}",
                f"the student learned from {key} ({because}): want scenes that it never saw; `distillnerf evaluate` "
                "without --scenes scores what its training held out",
            )


def unseen_scenes(home: Home, subject: Subject) -> tuple[str, ...]:
    """Return the scenes of a home that a student can read and did not learn from, in order."""
    ready = []
    for key in sorted({version.partition for version in home.versions(Kind.SCENE)}):
        if all(home.latest(kind, key) is not None for kind in (Kind.SCENE, *input_kinds(subject))):
            try:
                check_unseen(home, subject, whole_scene(home, key, input_kinds(subject)))
            except MissingTargetError:
                continue
            ready.append(key)
    return tuple(ready)


def check_depth_model(home: Home, subject: Subject, scene: FrozenScene) -> None:
    """Check that the depth features of a scene come from the model that a student was trained beside.

    Raises:
        ProvenanceMismatchError: If they do not.
    """
    version = scene.stores.get(Kind.DEPTH_ANYTHING_FEATURES)
    if version is None:
        return
    seen = dict(home.provenance(version).weights_digests)
    if seen != dict(subject.depth_weights):
        name = next(iter(sorted(set(seen) | set(subject.depth_weights))))
        wanted, here = (of.get(name, "no such file")[:12] for of in (subject.depth_weights, seen))
        raise ProvenanceMismatchError(
            ErrorKind.DIGEST_MISMATCH,
            str(version),
            f"made with {name} {here}, the student learned with {wanted}: want its own depth model "
            "(image_teachers.depth_anything.weights)",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A scene with the references that can be held against a student, and what was left out."""

    scene: EvaluationScene
    notes: tuple[str, ...]


def _in_its_basis(home: Home, subject: Subject, scene: EvaluationScene) -> _Judged:
    """Leave out features that another basis reduced: the student's mean something else."""
    stores, notes = dict(scene.frozen.stores), []
    for source in FEATURE_SOURCES:
        version = stores.get(features_kind(source))
        if version is None or source not in subject.predictor.feature_sources:
            continue
        own = subject.bases.get(source)
        if own is None or not same_basis(own, _basis(home, source, version)):
            del stores[features_kind(source)]
            because = (
                "the student brings no basis of its own to compare theirs with"
                if own is None
                else "another basis than the student's reduced them"
            )
            notes.append(f"The stored {source} features of these scenes are no reference: {because}.")
    left = replace(scene, frozen=replace(scene.frozen, stores=stores))
    return _Judged(scene=left, notes=tuple(notes))


def _basis(home: Home, source: str, features: StoreVersion) -> StoredFeatureBasis:
    digest = str(home.open_arrays(features).attrs["feature_basis_digest"])
    return StoredFeatureBasis.read(home.open_arrays(home.require(Kind.FEATURE_BASIS, source, digest)))


def _reader(home: Home, scene: FrozenScene) -> SceneReader:
    version = scene.stores[Kind.SCENE]
    return SceneReader(home.open_arrays(version), version)


def _scored_on(num_frames: int, keys: Iterable[str]) -> str:
    named = list(keys)
    scenes = counted(len(named), "scene")
    return f"{num_frames} frames of {scenes} outside the student's training set ({', '.join(named)})."
