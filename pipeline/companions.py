"""What a student needs beside its weights, as one record: its depth model, its words, its thresholds, its rigs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.kinds import Kind
from storage.plain_json import parse_json
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home, StoreVersion
from student.data.training_set import TrainingSet
from student.evaluation.operating_point import OperatingPoint, operating_point_of
from student.inference.vocabulary import clip_features_in, clip_space_of, training_set_of

COMPANIONS_FILE = "companions.json"
_FORMAT = "distillnerf.companions/1"
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
class CameraRecord:
    """A camera that the student learned from.

    Attributes:
        name: Its name.
        height_m: Height of its centre above the ego origin, metres.
        horizontal_field_deg: Angle between its leftmost and rightmost ray; None for a fisheye.
        is_fisheye: Whether it has a fisheye lens.
    """

    name: str
    height_m: float
    horizontal_field_deg: float | None
    is_fisheye: bool


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
    rigs: tuple[tuple[CameraRecord, ...], ...]

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
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), f"want format {_FORMAT!r}")
        return config_from_json(cls, content, str(path))


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
        rigs=_rigs(home, frozen),
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


def _rigs(home: Home, frozen: TrainingSet) -> tuple[tuple[CameraRecord, ...], ...]:
    """Return the cameras of each distinct rig, in order of the scenes."""
    found: dict[str, tuple[CameraRecord, ...]] = {}
    for scene in frozen.scenes:
        version = scene.stores[Kind.SCENE]
        calibration = home.provenance(version).calibration_digest
        if scene.train_frames and calibration not in found:
            found[calibration] = _cameras(SceneReader(home.open_arrays(version), version))
    return tuple(found.values())


def _cameras(scene: SceneReader) -> tuple[CameraRecord, ...]:
    cameras = []
    for index, name in enumerate(scene.camera_names):
        is_fisheye = bool(np.isfinite(scene.fisheye(index)).all())
        intrinsics, (_, width) = scene.intrinsics(index), scene.image_size(index)
        ends = (np.array([0.0, width]) - intrinsics[0, 2]) / intrinsics[0, 0]
        field = float(np.degrees(np.diff(np.arctan(ends))[0]))
        height = float(scene.camera_to_ego(index)[2, 3])
        cameras.append(
            CameraRecord(
                name=name,
                height_m=height,
                horizontal_field_deg=None if is_fisheye else field,
                is_fisheye=is_fisheye,
            )
        )
    return tuple(cameras)
