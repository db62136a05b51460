"""What a student needs beside its weights, as one record: its depth model, its words, its thresholds, its rigs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.kinds import Kind
from storage.plain_json import parse_json
from storage.stores.versioned import Home, StoreVersion
from student.data.training_set import TrainingSet
from student.evaluation.operating_point import OperatingPoint, operating_point_of
from student.inference.open_vocabulary import StoredFeatureBasis, TextEncoder
from student.inference.rigs import Rig, rigs_learned_from
from student.inference.vocabulary import ClipSpace, clip_features_in, clip_space_of, training_set_of

COMPANIONS_FILE = "companions.json"
EncoderFinder = Callable[[str, str | None], Path]
"""Function that finds the CLIP checkpoint of a source and a revision on this machine."""
_FORMAT, _FORMAT_1 = "distillnerf.companions/2", "distillnerf.companions/1"
_WORDLESS = 1.0
"""Temperature of a student without words, which nothing reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A foundation model that the student was trained beside.

    Attributes:
        config: Configuration that its features were made with; empty where only its words are used.
        source: "demo", a hub id, or the folder that it was in.
        revision: Revision on the hub, or None.
        digests: SHA-256 of each of its files, by name.
    """

    config: dict[str, Any]
    source: str
    revision: str | None
    digests: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """Everything beside weights, configuration and feature bases.

    Attributes:
        variant: What the student was taught.
        checkpoint: Digest of its version.
        training_set: Digest of its training set.
        licence: Terms of everything that it learned from.
        depth_anything: Its depth model; None for a student without depth features.
        clip: The model of its words; None for a student that renders no CLIP features.
        operating_point: Threshold, calibration and temperature, with the digest of the evaluation that chose them.
        rigs: Cameras of each rig that it learned from.
    """

    variant: str
    checkpoint: str
    training_set: str
    licence: str
    depth_anything: ModelRecord | None
    clip: ModelRecord | None
    operating_point: dict[str, Any]
    rigs: tuple[Rig, ...]

    @property
    def point(self) -> OperatingPoint:
        """Return threshold, calibration and temperature."""
        return OperatingPoint.from_json(self.operating_point)

    def save(self, folder: Path) -> None:
        """Write the record into a student's folder."""
        content = {"format": _FORMAT, **asdict(self)}
        (folder / COMPANIONS_FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Companions":
        """Read the record from a student's folder.

        Raises:
            MissingTargetError: If there is none: a plain checkpoint has to be packed first.
            IntegrityError: If it is damaged or of another format.
        """
        path = folder / COMPANIONS_FILE
        if not path.is_file():
            raise MissingTargetError(
                ErrorKind.WEIGHTS_MISSING, str(path), "no such file: pack the student with `distillnerf pack`"
            )
        try:
            content = parse_json(path.read_text())
        except ValueError as error:
            raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"is not JSON: {error}") from error
        if isinstance(content, dict) and content.get("format") == _FORMAT_1:
            content = _upgraded(content)
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), f"want format {_FORMAT!r}")
        return config_from_json(cls, content, str(path))


def words_of(
    companions: Companions, bases: Mapping[str, StoredFeatureBasis], encoder_folder: EncoderFinder
) -> ClipSpace:
    """Open the text encoder and the basis of a student that travels.

    Args:
        companions: Companions of the student.
        bases: Basis of each of its features.
        encoder_folder: Function that finds the recorded CLIP checkpoint on this machine.

    Raises:
        MissingTargetError: If the student renders no CLIP features, or the encoder is not to be had.
        ProvenanceMismatchError: If the encoder differs from the one that made the features.
    """
    record = companions.clip
    if record is None or "clip" not in bases:
        raise MissingTargetError(
            ErrorKind.TARGET_MISSING, companions.variant, "renders no CLIP features: words need variant clip"
        )
    digests = {name.partition("/")[2]: digest for name, digest in record.digests.items()}
    encoder = TextEncoder(str(encoder_folder(record.source, record.revision)), expected_digests=digests)
    return ClipSpace(encoder=encoder, basis=bases["clip"], weights_source=record.source)


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of the first format in the present one; it did not say how large the images were."""
    rigs = [[{**camera, "image_size": None} for camera in rig] for rig in content["rigs"]]
    return {**content, "format": _FORMAT, "rigs": rigs}


def companions_of(home: Home, checkpoint: StoreVersion) -> Companions:
    """Gather the companions of a checkpoint from the home that it was trained in.

    Raises:
        MissingTargetError: If its training set, or a store in it, is gone.
        IntegrityError: If the text encoder differs from the one that made the features.
    """
    frozen = training_set_of(home, checkpoint)
    kinds = frozen.scenes[0].stores
    temperature, clip = _WORDLESS, None
    if Kind.CLIP_FEATURES in kinds or Kind.TEACHER_FEATURES in kinds:
        temperature = clip_space_of(home, frozen).encoder.temperature
        clip = _record(home, _clip_features(home, frozen))
    depth = kinds.get(Kind.DEPTH_ANYTHING_FEATURES)
    return Companions(
        variant=checkpoint.partition,
        checkpoint=checkpoint.digest,
        training_set=frozen.version.digest,
        licence=home.provenance(checkpoint).licence,
        depth_anything=None if depth is None else _record(home, depth),
        clip=clip,
        operating_point=operating_point_of(home, checkpoint, clip_temperature=temperature).to_json(),
        rigs=rigs_learned_from(home, frozen),
    )


def _clip_features(home: Home, frozen: TrainingSet) -> StoreVersion:
    stores = frozen.scenes[0].stores
    found = stores.get(Kind.CLIP_FEATURES)
    return clip_features_in(home, stores[Kind.TEACHER_FEATURES]) if found is None else found


def _record(home: Home, features: StoreVersion) -> ModelRecord:
    provenance = home.provenance(features)
    config = dict(provenance.config)
    weights: Mapping[str, Any] = config.get("weights", {})
    if "source" not in weights:
        raise MissingTargetError(ErrorKind.TARGET_MISSING, str(features), "its provenance names no weights")
    return ModelRecord(
        config=config,
        source=str(weights["source"]),
        revision=weights.get("revision"),
        digests=dict(provenance.weights_digests),
    )
