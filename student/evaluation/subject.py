"""The student under test with everything that it brings from its own training, wherever its scenes lie."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.digests import file_digest
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.kinds import Kind
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home, StoreVersion
from student.data.training_set import TrainingSet
from student.evaluation.caveats import sources_of_features
from student.evaluation.companions import COMPANIONS_FILE, Companions, EncoderFinder, words_of
from student.evaluation.evidence import EVIDENCE_FILE, StudentEvidence
from student.evaluation.operating_point import evaluation_of
from student.inference.checkpoint import BILL_OF_MATERIALS_FILE, MODEL_FILE
from student.inference.feature_bases import load_feature_bases
from student.inference.open_vocabulary import StoredFeatureBasis
from student.inference.predictor import Predictor
from student.inference.rigs import Rig, rigs_learned_from
from student.inference.vocabulary import ClipSpace, clip_space_of, training_set_of

_FOLDERS_BELOW_HOME = 4
"""``artifacts/<kind>/<partition>/<digest>``"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedScene:
    """A scene that a student learned from.

    Attributes:
        digest: Digest of its version.
        raw_files: SHA-256 of its raw files; None where a record does not say.
    """

    digest: str
    raw_files: frozenset[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A student to be judged on scenes outside its training set.

    Attributes:
        checkpoint: Version of the student; its home need not be that of the scenes.
        predictor: The student.
        evidence: What its own training frames say: threshold, calibration, temperature, trivial predictors. A packed
            student without a file of them brings its calibration alone.
        bases: Basis of each of its foundation features.
        space: CLIP space of its own features; None for a student without them.
        learned_from: Scenes that it learned from, by key.
        rigs: Rigs that it learned from.
        depth_weights: SHA-256 of the files of its depth model, by name; empty for a student without depth features.
        feature_weights: Where the weights behind its features came from, by source.
        licence: Terms of everything that it learned from.
        weights_digest: SHA-256 of its weights as read; a packed student's are rounded.
        evidence_digest: SHA-256 of the evidence.
    """

    checkpoint: InputVersion
    predictor: Predictor
    evidence: StudentEvidence
    bases: Mapping[str, StoredFeatureBasis]
    space: ClipSpace | None
    learned_from: Mapping[str, LearnedScene]
    rigs: tuple[Rig, ...]
    depth_weights: Mapping[str, str]
    feature_weights: Mapping[str, str]
    licence: str
    weights_digest: str
    evidence_digest: str

    @classmethod
    def of_home(
        cls,
        home: Home,
        checkpoint: StoreVersion,
        *,
        text_encoder: str = "",
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> "Subject":
        """Open a student from the home that it was trained in.

        Args:
            home: That home.
            checkpoint: The student.
            text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
            device: Device of the student.

        Raises:
            MissingTargetError: If the student was never evaluated on its own split, or a store of its training is gone.
        """
        training_set = training_set_of(home, checkpoint)
        predictor = Predictor.open(home, checkpoint.partition, checkpoint.digest, device=device)
        evaluation = evaluation_of(home, checkpoint, holding=EVIDENCE_FILE)
        if evaluation is None:
            raise MissingTargetError(
                ErrorKind.TARGET_MISSING,
                f"{Kind.STUDENT_EVALUATION}/{checkpoint.partition}",
                f"{checkpoint} has no evaluation on its own split that keeps what it chose there, threshold and "
                "calibration: run `distillnerf evaluate` without --scenes first",
            )
        has_words = "clip" in predictor.feature_sources
        depth = training_set.scenes[0].stores.get(Kind.DEPTH_ANYTHING_FEATURES)
        return cls(
            checkpoint=checkpoint.as_input,
            predictor=predictor,
            evidence=StudentEvidence.load(home.open_files(evaluation)),
            bases=load_feature_bases(home.open_files(checkpoint)),
            space=clip_space_of(home, training_set, text_encoder=text_encoder) if has_words else None,
            learned_from=_learned_from(home, training_set),
            rigs=rigs_learned_from(home, training_set),
            depth_weights={} if depth is None else dict(home.provenance(depth).weights_digests),
            feature_weights=sources_of_features(home, training_set.scenes[0]),
            licence=home.provenance(checkpoint).licence,
            weights_digest=file_digest(home.open_files(checkpoint) / MODEL_FILE),
            evidence_digest=file_digest(home.open_files(evaluation) / EVIDENCE_FILE),
        )


def open_subject(
    home: Home,
    checkpoint: str,
    variant: str,
    *,
    encoder_folder: EncoderFinder,
    text_encoder: str = "",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Subject:
    """Open a student with everything that it brings from its own training.

    Args:
        home: Home of the scenes.
        checkpoint: Folder of a checkpoint in any home, or of a packed student; empty for the current one of ``variant``
            in this home.
        variant: Student of this home if no folder is given.
        encoder_folder: Function that finds the CLIP checkpoint that a packed student names.
        text_encoder: Folder or hub id of the CLIP checkpoint of a student in a home; empty for the recorded one.
        device: Device of the student.

    Raises:
        MissingTargetError: If there is no such student, or it is of a home that has no evidence from its training.
        IntegrityError: If a file of it is damaged.
    """
    if not checkpoint:
        version = home.require(Kind.STUDENT_CHECKPOINT, variant)
        return Subject.of_home(home, version, text_encoder=text_encoder, device=device)
    folder = Path(checkpoint).expanduser().resolve()
    if (folder / COMPANIONS_FILE).is_file():
        return _packed(folder, encoder_folder, device)
    above = folder.parents
    if len(above) < _FOLDERS_BELOW_HOME or (above[1].name, above[2].name) != (Kind.STUDENT_CHECKPOINT, "artifacts"):
        raise MissingTargetError(
            ErrorKind.WEIGHTS_MISSING,
            str(folder),
            f"is neither a packed student (with {COMPANIONS_FILE}, see `distillnerf pack`) nor the folder of a "
            f"checkpoint in a home (HOME/artifacts/{Kind.STUDENT_CHECKPOINT}/<variant>/<digest>)",
        )
    origin = Home(above[_FOLDERS_BELOW_HOME - 1])
    version = origin.require(Kind.STUDENT_CHECKPOINT, folder.parent.name, folder.name)
    return Subject.of_home(origin, version, text_encoder=text_encoder, device=device)


def _packed(folder: Path, encoder_folder: EncoderFinder, device: Literal["auto", "cpu", "cuda"]) -> Subject:
    companions = Companions.load(folder)
    # A student that was taught for days on drives that nobody keeps, as the shipped one, brings its calibration alone.
    has_evidence = (folder / EVIDENCE_FILE).is_file()
    predictor = Predictor.from_folder(folder, device=device)
    bases = load_feature_bases(folder)
    has_words = "clip" in predictor.feature_sources
    return Subject(
        checkpoint=InputVersion(Kind.STUDENT_CHECKPOINT, companions.variant, companions.checkpoint),
        predictor=predictor,
        evidence=StudentEvidence.load(folder) if has_evidence else StudentEvidence.of_operating_point(companions.point),
        bases=bases,
        space=words_of(companions, bases, encoder_folder) if has_words else None,
        learned_from=_scenes_of_bill(folder / BILL_OF_MATERIALS_FILE),
        rigs=companions.rigs,
        depth_weights={} if companions.depth_anything is None else companions.depth_anything.digests,
        feature_weights={} if companions.clip is None else {"clip": companions.clip.source},
        licence=companions.licence,
        weights_digest=file_digest(folder / MODEL_FILE),
        evidence_digest=file_digest(folder / (EVIDENCE_FILE if has_evidence else COMPANIONS_FILE)),
    )


def _scenes_of_bill(path: Path) -> dict[str, LearnedScene]:
    """Return the scenes of a bill of materials, which does not say their raw files.

    Raises:
        MissingTargetError: If there is none: what a student learned from must be known before it is judged.
        IntegrityError: If it cannot be read.
    """
    if not path.is_file():
        raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(path), "no such file: what it learned from is unknown")
    try:
        bill: dict[str, Any] = json.loads(path.read_text())
        keys = {sample.rpartition("/")[0] for sample in bill["samples"]}
        stores = bill["stores"]
        return {key: LearnedScene(digest=stores[f"{Kind.SCENE}/{key}"]["digest"], raw_files=None) for key in keys}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), f"is no bill of materials: {error!r}") from error


def _learned_from(home: Home, training_set: TrainingSet) -> dict[str, LearnedScene]:
    learned = (scene for scene in training_set.scenes if scene.train_frames)
    return {
        scene.key: LearnedScene(
            digest=scene.stores[Kind.SCENE].digest,
            raw_files=frozenset(home.provenance(scene.stores[Kind.SCENE]).sources.values()),
        )
        for scene in learned
    }
