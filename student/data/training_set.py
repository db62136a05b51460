"""Training set: a frozen list of the exact version of every store that a run reads, and of its samples.

Freezing refuses a scene whose geometry failed its audit. It refuses a store that is missing, that failed its quality
gate, whose gate judged other content, that physics contradicts, that was made from another version of the scene than
the images, that descends from a teacher of frames that are held out, or that holds the truth.
"""

import logging
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import zarr

from storage.audits.targets import check_physics
from storage.code import code_digest
from storage.config_json import config_from_json
from storage.digests import config_json, digest_of
from storage.errors import ErrorKind, MissingTargetError, PipelineError, ProvenanceMismatchError
from storage.kinds import KINDS, Kind, StoreForm, is_trainable, trainable_kinds
from storage.progress import ProgressCallback
from storage.scenes.held_out import held_out_frames
from storage.scenes.store import SceneReader
from storage.stores.gate_record import GateRecord
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_arrays
from student.config import TrainingSetConfig
from student.data.lineage import check_consistent, check_held_out

KIND = Kind.TRAINING_SET

_FORMAT = "distillnerf.training_set/2"

_CHECKED_FRAMES = 4
"""Frames of each store that are looked at once more; that all are what the gate judged is known by their digest."""

logger = logging.getLogger(__name__)


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


def freeze_training_set(
    home: Home, name: str, config: TrainingSetConfig, on_progress: ProgressCallback | None = None
) -> Materialized:
    """Return the training set of the current versions of all stores that ``config`` names, freezing it if need be.

    Snapshots are part of its digest. A teacher that was deleted and fitted again makes another training set, because
    its content differs even with the same provenance.

    Args:
        home: Home of the stores.
        name: Partition of the training set, usually the variant that will read it.
        config: Scenes, splits and kinds.
        on_progress: Called with stage, share done and figures after each scene.

    Raises:
        MissingTargetError: If a store is missing, failed its gate, holds what no target may, or must not be
            learned from; its key is ``<kind>/<scene>``. Also if failed gates leave no train scene.
        ProvenanceMismatchError: If two stores descend from different versions of the same thing, or one from a teacher
            that was fitted to held-out frames of its scene.
        IntegrityError: If the frames or cameras of a store differ from its scene's, or its gate's verdict cannot be
            read or was of other content.
    """
    _refuse_forbidden(config.kinds)
    code = code_digest(__name__, kind=KIND)
    scenes, left_out = _freeze_scenes(home, config, _seen_to_be_sound(home, name, code), on_progress)
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
        code_digest=code,
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


def _seen_to_be_sound(home: Home, name: str, code: str) -> set[tuple[StoreVersion, StoreVersion]]:
    """Return the stores of the current training set that physics did not contradict, each with its scene.

    The same code need not look at the same content again: a home of hundreds of scenes has thousands of stores.
    """
    version = home.latest(KIND, name)
    if version is None:
        return set()
    try:
        provenance = home.provenance(version)
        if provenance.code_digest != code:
            return set()
        frozen = load_training_set(home, name, version.digest)
        config = config_from_json(TrainingSetConfig, provenance.config, str(version))
    except PipelineError as error:
        logger.warning("%s cannot be read, so every target is looked at once more: %s", version, error)
        return set()
    return {
        (scene.stores[Kind.SCENE], store)
        for scene in frozen.scenes
        for kind, store in scene.stores.items()
        if kind not in config.allow_ungated
    }


def _freeze_scenes(
    home: Home,
    config: TrainingSetConfig,
    sound: Container[tuple[StoreVersion, StoreVersion]],
    on_progress: ProgressCallback | None,
) -> tuple[list[FrozenScene], dict[str, str]]:
    """Return the scenes, and by key why a train scene was taken out of the set."""
    scenes: list[FrozenScene] = []
    left_out: dict[str, str] = {}
    refusal: MissingTargetError | None = None
    keys = (*config.train_scenes, *config.validation_scenes)
    for number, key in enumerate(keys, start=1):
        versions = {kind: home.require(kind, key) for kind in (Kind.SCENE, *sorted({*config.kinds} - {Kind.SCENE}))}
        audit = _audit_of(home, versions[Kind.SCENE], config)
        try:
            scene = _judge(home, versions, audit, config, sound)
        except MissingTargetError as error:
            was_judged = error.kind in (ErrorKind.TARGET_GATE_FAILED, ErrorKind.TARGET_UNSOUND)
            if config.on_failed_gate == "refuse" or key not in config.train_scenes or not was_judged:
                raise
            left_out[key] = f"{error.key.partition('/')[0]} {error.message}"
            refusal = refusal or error
        else:
            scenes.append(_freeze_scene(scene, key, config, versions, audit))
        if on_progress is not None:
            on_progress("scenes", number / len(keys), {"scene": number, "left_out": len(left_out)})
    if refusal is not None and len(left_out) == len(config.train_scenes):
        raise refusal
    return scenes, left_out


def _judge(
    home: Home,
    versions: Mapping[str, StoreVersion],
    audit: StoreVersion | None,
    config: TrainingSetConfig,
    sound: Container[tuple[StoreVersion, StoreVersion]],
) -> SceneReader:
    """Return the scene; refuse what failed its gate, is not what the gate saw, does not fit it, or cannot be."""
    for version in versions.values():
        if version.form is not StoreForm.ARRAYS:
            raise MissingTargetError(ErrorKind.TARGET_MISSING, _key_of(version), "is no array store")
    judged = {kind: version for kind, version in versions.items() if kind not in config.allow_ungated}
    if audit is not None and Kind.SCENE_AUDIT not in config.allow_ungated:
        judged[Kind.SCENE_AUDIT] = audit
    for version in judged.values():
        _require_gate(version, _gate_of(home, version))
    scene = SceneReader(home.open_arrays(versions[Kind.SCENE]), versions[Kind.SCENE])
    for kind, version in versions.items():
        record = _gate_of(home, version)
        if record is not None:
            record.require_content(home.content_digest(version), _key_of(version))
        frames, cameras = _count(home.open_arrays(version), kind)
        if (frames, cameras) != (scene.num_frames, scene.num_cameras):
            raise ProvenanceMismatchError(
                ErrorKind.STORE_CORRUPT,
                _key_of(version),
                f"holds {frames} frames of {cameras} cameras, its scene {scene.num_frames} of {scene.num_cameras}",
            )
    for version in judged.values():
        if (versions[Kind.SCENE], version) not in sound:
            _require_physics(home, version, scene)
    return scene


def _freeze_scene(
    scene: SceneReader,
    key: str,
    config: TrainingSetConfig,
    versions: Mapping[str, StoreVersion],
    audit: StoreVersion | None,
) -> FrozenScene:
    num_frames = scene.num_frames
    is_training = key in config.train_scenes
    stride = config.held_out_stride
    held_out = held_out_frames(num_frames, every=stride) if is_training else ()
    train = tuple(f for f in range(num_frames) if f not in held_out) if is_training else ()
    return FrozenScene(
        key=key,
        num_frames=num_frames,
        num_cameras=scene.num_cameras,
        train_frames=train,
        validation_frames=tuple(f for f in range(num_frames) if f not in train),
        stores={**versions, **({} if audit is None else {Kind.SCENE_AUDIT: audit})},
    )


def _audit_of(home: Home, scene: StoreVersion, config: TrainingSetConfig) -> StoreVersion | None:
    """Return the audit of a scene; None if there is none and the configuration goes on without."""
    if Kind.SCENE_AUDIT in config.allow_ungated:
        audit = home.latest(Kind.SCENE_AUDIT, scene.partition)
        return audit if audit is not None and scene.as_input in home.provenance(audit).inputs else None
    return home.require(Kind.SCENE_AUDIT, scene.partition)


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


def _require_physics(home: Home, version: StoreVersion, scene: SceneReader) -> None:
    for finding in check_physics(home, version, scene=scene, max_frames=_CHECKED_FRAMES):
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
