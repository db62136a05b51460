"""Fields at rest and fits under way, as safetensors with JSON beside or inside: nothing here needs unpickling."""

import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from storage.config_json import config_from_json
from storage.digests import config_json
from storage.errors import ErrorKind, IntegrityError, OutOfCapacityError
from storage.plain_json import parse_json
from storage.stores.integrity import reading_weights
from teachers.nerf.config import NerfConfig
from teachers.nerf.scene_rays import SceneBounds

logger = logging.getLogger(__name__)

_SEALED, _UNSEALED = "sealed_description", "description"
"""Entry of the description with the SHA-256 of the content before it; in files of before, without one."""

FIELD_SCHEMA = "distillnerf.driving-field/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDescription:
    """What the tensors of a field mean.

    Attributes:
        config: Configuration of its fit.
        bounds: The scene's box.
        num_cameras: Number of cameras of the scene.
        num_frames: Number of frames of the scene, held-out ones included.
        fitted_frames: Frames that the field was fitted to, in either phase.
        pose_corrections: Per frame, the 4x4 matrix, row by row, that its recorded poses were multiplied by from the
            left for the fit.
    """

    config: NerfConfig
    bounds: SceneBounds
    num_cameras: int
    num_frames: int
    fitted_frames: tuple[int, ...]
    pose_corrections: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Everything that a resumed fit needs to continue as if it had not stopped.

    Attributes:
        step: The last finished step.
        model: The model's tensors.
        optimizers: Per optimizer and parameter number, Adam's tensors.
        random_states: Generator states, by name.
        counters: Integers of the sampler's schedule.
        history: Rows reported so far: step, PSNR of training rays, rays per second.
        judgement: What the field was found to be on frames held out; None before.
        data: Tensors of the data manager.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizers: Mapping[str, Mapping[int, Mapping[str, Tensor]]]
    random_states: Mapping[str, Tensor]
    counters: Mapping[str, int]
    history: Sequence[Mapping[str, float]] = ()
    judgement: Mapping[str, Any] | None = None
    data: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The part of a training state that is no tensor."""

    step: int
    counters: Mapping[str, int]
    history: tuple[Mapping[str, float], ...]
    judgement: Mapping[str, Any] | None


def save_description(path: Path, description: FieldDescription, details: Mapping[str, object]) -> None:
    """Write what a field means as JSON, with details for people."""
    content = {
        "schema": FIELD_SCHEMA,
        **asdict(description),
        "metres_per_unit": description.bounds.metres_per_unit,
        **details,
    }
    path.write_text(json.dumps(content, indent=2, sort_keys=True))


def load_description(path: Path) -> FieldDescription:
    """Read back what ``save_description`` wrote.

    A configuration that lacks a field is refused, though the field has a default: it may have had another when the
    field was fitted.

    Raises:
        IntegrityError: If the file is no JSON, of an unknown schema, or a field is missing, unknown or of another type.
    """
    try:
        raw = parse_json(path.read_text())
    except ValueError as error:
        raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"is not JSON: {error}") from error
    seen = raw.get("schema") if isinstance(raw, Mapping) else None
    if seen != FIELD_SCHEMA:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), f"schema {seen!r}, want {FIELD_SCHEMA!r}")
    names = {f.name for f in fields(FieldDescription)}
    return config_from_json(FieldDescription, {n: v for n, v in raw.items() if n in names}, str(path))


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, object], *, before: Path | None = None
) -> None:
    """Write tensors, a JSON description and the SHA-256 of both into one safetensors file, atomically.

    Args:
        path: The file.
        tensors: What to write.
        description: JSON values to write with it.
        before: Place to which a file that is there already is moved; None replaces it.

    Raises:
        OutOfCapacityError: If the disk is full or the file larger than allowed; what was at ``path`` stays.
    """
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    written = json.dumps(description, sort_keys=True)
    try:
        # One entry, because the order of several is not the same in every process: equal fields are equal bytes.
        save_file(plain, aside, metadata={_SEALED: f"{_content_digest(plain, written)} {written}"})
        if before is not None and path.is_file():
            os.replace(path, before)
        os.replace(aside, path)
    except (SafetensorError, OSError) as error:
        if not _means_disk_full(error):
            raise
        size = sum(t.numel() * t.element_size() for t in plain.values())
        free = shutil.disk_usage(path.parent).free
        message = f"no room for {size} bytes, {free} are free; free some and run again: what was written before stays"
        raise OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, str(path), message) from error
    finally:
        aside.unlink(missing_ok=True)


def _means_disk_full(error: SafetensorError | OSError) -> bool:
    """Return whether an error of a write says that nothing more can be written; safetensors tells it in words only."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in codes or any(f"os error {code})" in str(error) for code in codes)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Read back what ``save_tensors`` wrote.

    Raises:
        IntegrityError: If the file is not a whole safetensors file with a description, or its content is not what was
            written.
    """
    try:
        with reading_weights(path), safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
        (name, sealed), *others = metadata.items()
        wanted, _, written = sealed.partition(" ") if name == _SEALED else ("", "", sealed)
        description = parse_json(written)
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"not a checkpoint of ours: {error}") from error
    if others or name not in (_SEALED, _UNSEALED):
        raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"has metadata {sorted(metadata)}, want {_SEALED!r}")
    seen = _content_digest(tensors, written)
    if name == _SEALED and seen != wanted:
        raise IntegrityError(ErrorKind.DIGEST_MISMATCH, str(path), f"its content has SHA-256 {seen}, want {wanted}")
    return tensors, description


def _content_digest(tensors: Mapping[str, Tensor], description: str) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in the order of names, and of the description."""
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_training_state(path: Path, state: TrainingState) -> None:
    """Write a fit under way, atomically; the one before stays beside it."""
    tensors = {f"model/{name}": t for name, t in state.model.items()}
    for optimizer, parameters in state.optimizers.items():
        for number, values in parameters.items():
            tensors |= {f"optimizer/{optimizer}/{number}/{name}": torch.as_tensor(t) for name, t in values.items()}
    tensors |= {f"random/{name}": t for name, t in state.random_states.items()}
    tensors |= {f"data/{name}": t for name, t in state.data.items()}
    place = _Place(step=state.step, counters=state.counters, history=tuple(state.history), judgement=state.judgement)
    save_tensors(path, tensors, config_json(place), before=_before(path))


def load_training_state(path: Path) -> TrainingState | None:
    """Read back what ``save_training_state`` wrote: the last state, or the one before if it was damaged since.

    Returns:
        The state; None where none was written.

    Raises:
        IntegrityError: If there are states, but none that is whole.
    """
    damaged: IntegrityError | None = None
    for file in (path, _before(path)):
        if file.is_file():
            try:
                return _read_training_state(file)
            except IntegrityError as error:
                logger.warning("state cannot be read: %s", error)
                damaged = damaged or error
    if damaged is not None:
        raise damaged
    return None


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def _read_training_state(path: Path) -> TrainingState:
    tensors, description = load_tensors(path)
    plain: dict[str, dict[str, Tensor]] = {"model": {}, "random": {}, "data": {}}
    optimizers: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        part, _, rest = key.partition("/")
        if part in plain:
            plain[part][rest] = tensor
        else:
            optimizer, number, name = rest.split("/")
            optimizers.setdefault(optimizer, {}).setdefault(int(number), {})[name] = tensor
    place = config_from_json(_Place, description, str(path))
    return TrainingState(
        step=place.step,
        model=plain["model"],
        optimizers=optimizers,
        random_states=plain["random"],
        counters=place.counters,
        history=place.history,
        judgement=place.judgement,
        data=plain["data"],
    )
