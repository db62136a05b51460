"""Student checkpoints as files: ``model.safetensors`` and ``config.json``, without pickles."""

import json
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage.config_json import config_from_json
from storage.digests import config_json
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.plain_json import parse_json
from storage.stores.integrity import machine_faults, reading_weights
from student.config import DataConfig, StudentConfig, Variant
from student.model.distillnerf import DistillNeRF

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
BILL_OF_MATERIALS_FILE = "bill_of_materials.json"
_FORMAT = "distillnerf.student/1"


def save_pretrained(
    folder: Path | str,
    model: DistillNeRF,
    config: StudentConfig,
    *,
    variant: str,
    precision: Literal["float32", "float16"] = "float32",
) -> None:
    """Write a student so that :func:`from_pretrained` can read it.

    Args:
        folder: Folder to write to, created if missing.
        model: The student.
        config: Run that fitted it.
        variant: Name of what it was taught.
        precision: Number format of the stored weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = {"float32": torch.float32, "float16": torch.float16}[precision]
    tensors = {name: _at_rest(value, dtype) for name, value in model.state_dict().items()}
    save_file(tensors, folder / MODEL_FILE, metadata={"format": "pt"})
    content = {"format": _FORMAT, "variant": variant, "student": config_json(config)}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def from_pretrained(folder: Path | str, *, device: torch.device | str = "cpu") -> tuple[DistillNeRF, StudentConfig]:
    """Read a student, ready for use: on ``device``, in float32, in evaluation mode.

    Raises:
        MissingTargetError: If the folder lacks one of the files.
        IntegrityError: If a file is damaged, of an unknown format, or the weights do not fit the configuration.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, MODEL_FILE):
        if not (folder / name).is_file():
            raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(folder / name), "no such file")
    path = folder / CONFIG_FILE
    config = config_from_json(StudentConfig, read_record(path, _FORMAT).get("student"), f"{path}.student")
    path = folder / MODEL_FILE
    try:
        with reading_weights(path):
            tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"cannot be read: {error}") from error
    with torch.device("meta"):  # sizes first: the configuration may ask for more than the file holds, or any machine
        wanted = DistillNeRF(config.model).state_dict()
    wrong = set(tensors) ^ set(wanted) or {n for n in wanted if tensors[n].shape != wanted[n].shape}
    if wrong:
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID, str(path), f"tensors {sorted(wrong)[:4]} are missing, unknown or misshapen"
        )
    model = DistillNeRF(config.model)
    model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in tensors.items()})
    return model.to(device).eval(), config


def student_of(folder: Path | str) -> tuple[Variant, DataConfig]:
    """Return the variant of a stored student and what its samples hold, without its weights.

    Raises:
        MissingTargetError: If the folder holds no student.
        IntegrityError: If its configuration is damaged, or names no variant.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(path), "no such file")
    record = read_record(path, _FORMAT)
    variant = record.get("variant")
    if variant not in get_args(Variant):
        message = f"is {variant!r}, want one of {', '.join(get_args(Variant))}"
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{path}.variant", message)
    return cast("Variant", variant), config_from_json(StudentConfig, record.get("student"), f"{path}.student").data


def read_record(path: Path, form: str) -> dict[str, Any]:
    """Return the JSON object of a file that names its own format.

    Raises:
        IntegrityError: If the file is not JSON, or of another format.
    """
    try:
        with machine_faults(str(path)):
            content = parse_json(path.read_text())
    except ValueError as error:
        raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), f"want format {form!r}")
    return content


def _at_rest(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
