"""Training set: a frozen list of the exact version of every store that a run reads, and of its samples.

Freezing refuses a scene whose geometry failed its audit. It refuses a store that is missing, that failed its quality
gate, whose gate judged other content, that physics contradicts, that was made from another version of the scene than
the images, that descends from a teacher of frames that are held out, or that holds the truth.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import zarr

from storage.audits.targets import check_physics
from storage.code import code_digest
from storage.config_json import config_from_json
from storage.digests import config_json, digest_of
from storage.errors import ErrorKind, MissingTargetError, ProvenanceMismatchError
from storage.kinds import KINDS, Kind, StoreForm, is_trainable, trainable_kinds
from storage.scenes.held_out import held_out_frames
from storage.stores.gate_record import GateRecord
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_arrays
from student.config import TrainingSetConfig
from student.data.lineage import check_consistent, check_held_out

KIND = Kind.TRAINING_SET

_FORMAT = "distillnerf.training_set/2"

_CHECKED_FRAMES = 4
"""Frames of each store that are looked at once more; that all are what the gate judged is known by their digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenScene:
    """One scene of a training set.

    Attributes:
        key: The scene.
        num_frames: Number of its frames.
        num_cameras: Number of its cameras.
        train_frames: Frames to learn from.
        validation_frames: Frames held out, as input and as target.
        stores: Exact version of each store to read, by kind; and of the audit of the scene, which nothing reads.
    """

    key: str
    num_frames: int
    num_cameras: int
    train_frames: tuple[int, ...]
    validation_frames: tuple[int, ...]
    stores: Mapping[str, StoreVersion]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenScenes:
    """Scenes that are read together, each with the exact version of every store.

    Attributes:
        scenes: The scenes.
    """

    scenes: tuple[FrozenScene, ...]

    @property
    def num_cameras(self) -> int:
        """Return the number of cameras of the largest rig."""
        return max(scene.num_cameras for scene in self.scenes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet(FrozenScenes):
    """A frozen training set; its train scenes come first.

    Attributes:
        version: The store it was read from.
        left_out: Reason why a requested scene was left out, by key.
    """

    version: StoreVersion
    left_out: Mapping[str, str]

    @property
    def num_train_samples(self) -> int:
        """Return the number of frames to learn from."""
        return sum(len(scene.train_frames) for scene in self.scenes)

    @property
    def num_validation_samples(self) -> int:
        """Return the number of held-out frames."""
        return sum(len(scene.validation_frames) for scene in self.scenes)


def freeze_training_set(home: Home, name: str, config: TrainingSetConfig) -> Materialized:
    """Return the training set of the current versions of all stores that ``config`` names, freezing it if need be.

    Snapshots are part of its digest. A teacher that was deleted and fitted again makes another training set, because
    its content differs even with the same provenance.

    Args:
        home: Home of the stores.
        name: Partition of the training set, usually the variant that will read it.
        config: Scenes, splits and kinds.

    Raises:
        MissingTargetError: If a store is missing, failed its gate, holds what no target may, or must not be
            learned from; its key is ``<kind>/<scene>``. Also if failed gates leave no train scene.
        ProvenanceMismatchError: If two stores descend from different versions of the same thing, or one from a teacher
            that was fitted to held-out frames of its scene.
        IntegrityError: If the frames or cameras of a store differ from its scene's, or its gate's verdict cannot be
            read or was of other content.
    """
    _refuse_forbidden(config.kinds)
    left_out = _left_out(home, config)
    wanted = (key for key in (*config.train_scenes, *config.validation_scenes) if key not in left_out)
    scenes = [_freeze_scene(home, key, config) for key in wanted]
    versions = [version for scene in scenes for version in scene.stores.values()]
    check_consistent(home, versions)
    for scene in scenes:
        if scene.train_frames:  # of a scene that is held out whole, the student learns nothing
            check_held_out(home, scene.stores.values(), scene.validation_frames)
    manifest = {"format": _FORMAT, "scenes": [config_json(scene) for scene in scenes], "left_out": left_out}
    inputs = tuple(version.as_input for version in versions)
    provenance = Provenance(
        kind=KIND,
        partition=name,
        inputs=inputs,
        config_digest=digest_of({"config": config, "manifest": manifest}),
        code_digest=code_digest(__name__, kind=KIND),
        licence=home.licence_of(inputs),
        config=config_json(config),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        group.attrs["manifest"] = manifest
        return {
            "scenes": len(scenes),
            "left_out": left_out,
            "stores": len(versions),
            "train_samples": sum(len(scene.train_frames) for scene in scenes),
            "validation_samples": sum(len(scene.validation_frames) for scene in scenes),
            "kinds": list(config.kinds),
            "ungated_kinds": list(config.allow_ungated),
        }

    return materialize_arrays(home, provenance, write)


def load_training_set(home: Home, name: str, digest: str | None = None) -> TrainingSet:
    """Read a frozen training set: the current one of this name, or the one with this digest if one is given.

    Raises:
        MissingTargetError: If there is no such training set.
        ProvenanceMismatchError: If it was written in another format.
        IntegrityError: If its manifest is damaged.
    """
    version = home.require(KIND, name, digest)
    manifest: Any = home.open_arrays(version).attrs["manifest"]
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ProvenanceMismatchError(ErrorKind.SCHEMA_UNKNOWN, str(version), f"manifest: want format {_FORMAT!r}")
    key = f"{version}: manifest.scenes"
    scenes = tuple(config_from_json(FrozenScene, scene, f"{key}[{i}]") for i, scene in enumerate(manifest["scenes"]))
    return TrainingSet(version=version, scenes=scenes, left_out=manifest["left_out"])


def _refuse_forbidden(kinds: Iterable[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: want some of {', '.join(trainable_kinds())}")
        if not is_trainable(kind):
            raise MissingTargetError(ErrorKind.TARGET_FORBIDDEN, kind, "is never a training target")


def _freeze_scene(home: Home, key: str, config: TrainingSetConfig) -> FrozenScene:
    stores = {}
    num_frames, num_cameras = 0, 0
    for kind in sorted(set(config.kinds), key=lambda kind: (kind != Kind.SCENE, kind)):
        version = home.require(kind, key)
        record = _gate_of(home, version)
        if kind not in config.allow_ungated:
            _require_gate(version, record)
        if record is not None:
            record.require_content(home.content_digest(version), _key_of(version))
        if version.form is not StoreForm.ARRAYS:
            raise MissingTargetError(ErrorKind.TARGET_MISSING, f"{kind}/{key}", "is no array store")
        frames, cameras = _count(home.open_arrays(version), kind)
        if kind == Kind.SCENE:
            num_frames, num_cameras = frames, cameras
        elif (frames, cameras) != (num_frames, num_cameras):
            raise ProvenanceMismatchError(
                ErrorKind.STORE_CORRUPT,
                f"{kind}/{key}",
                f"holds {frames} frames of {cameras} cameras, its scene {num_frames} of {num_cameras}",
            )
        if kind not in config.allow_ungated:
            _require_physics(home, version)
        stores[kind] = version
    audit = _audit_of(home, stores[Kind.SCENE], config)
    if audit is not None:
        stores[Kind.SCENE_AUDIT] = audit
    is_training = key in config.train_scenes
    stride = config.held_out_stride
    held_out = held_out_frames(num_frames, every=stride) if is_training else ()
    train = tuple(f for f in range(num_frames) if f not in held_out) if is_training else ()
    return FrozenScene(
        key=key,
        num_frames=num_frames,
        num_cameras=num_cameras,
        train_frames=train,
        validation_frames=tuple(f for f in range(num_frames) if f not in train),
        stores=stores,
    )


def _left_out(home: Home, config: TrainingSetConfig) -> dict[str, str]:
    """Return the reason why a train scene is taken out of the set, by key."""
    if config.on_failed_gate == "refuse":
        return {}
    left_out: dict[str, str] = {}
    refusal: MissingTargetError | None = None
    for key in config.train_scenes:
        for kind in sorted({*config.kinds, Kind.SCENE_AUDIT} - set(config.allow_ungated)):
            version = home.require(kind, key)
            try:
                _require_gate(version, _gate_of(home, version))
                _require_physics(home, version)
            except MissingTargetError as error:
                if error.kind not in (ErrorKind.TARGET_GATE_FAILED, ErrorKind.TARGET_UNSOUND):
                    raise  # it was never judged: that is an omission, no verdict
                left_out.setdefault(key, f"{kind} {error.message}")
                refusal = refusal or error
    if refusal is not None and len(left_out) == len(config.train_scenes):
        raise refusal
    return left_out


def _audit_of(home: Home, scene: StoreVersion, config: TrainingSetConfig) -> StoreVersion | None:
    """Return the audit of a scene; it must have passed, unless the configuration goes on without one that did."""
    if Kind.SCENE_AUDIT in config.allow_ungated:
        audit = home.latest(Kind.SCENE_AUDIT, scene.partition)
        return audit if audit is not None and scene.as_input in home.provenance(audit).inputs else None
    audit = home.require(Kind.SCENE_AUDIT, scene.partition)
    _require_gate(audit, _gate_of(home, audit))
    return audit


def _key_of(version: StoreVersion) -> str:
    return f"{version.kind}/{version.partition}"


def _gate_of(home: Home, version: StoreVersion) -> GateRecord | None:
    return GateRecord.of(home.metrics(version), _key_of(version))


def _require_gate(version: StoreVersion, record: GateRecord | None) -> None:
    key = _key_of(version)
    if record is not None:
        record.require_passed(key)
    elif KINDS[version.kind].is_gated:
        raise MissingTargetError(ErrorKind.TARGET_UNGATED, key, "no quality gate was run on it")


def _require_physics(home: Home, version: StoreVersion) -> None:
    for finding in check_physics(home, version, max_frames=_CHECKED_FRAMES):
        if finding.outcome == "failed":
            sign = ">=" if finding.wanted == "at_least" else "<="
            where = f" ({finding.where})" if finding.where else ""
            seen = f"{finding.name} is {finding.value:.4g}, want {sign} {finding.threshold:.4g}{where}"
            raise MissingTargetError(ErrorKind.TARGET_UNSOUND, _key_of(version), f"holds what no target may: {seen}")


def _count(group: zarr.Group, kind: str) -> tuple[int, int]:
    of_images = (name for name, spec in KINDS[kind].arrays.items() if spec.axes[:2] == ("frames", "cameras"))
    name = next(name for name in of_images if name in group)  # of an optional one, the store may have another instead
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array.shape[0], array.shape[1]
