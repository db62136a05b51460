"""Find pretrained weights, identify every file by its digest, and load them completely.

A checkpoint is a folder: ``config.json``, ``*.safetensors`` and processor or tokenizer files. Pickled weights are never
read. A checkpoint that lacks a parameter is refused, because transformers would fill it at random.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from storage.digests import file_digest
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.plain_json import parse_json
from storage.stores.integrity import machine_faults, reading_weights
from teachers.config import WeightsConfig
from teachers.image.detectron_config import read_detectron_config

logger = logging.getLogger(__name__)

DEMO_WEIGHTS = Path(__file__).resolve().parent / "demo_weights"
CONVERSION_FILE = "conversion.json"
"""Record, beside weights that were converted from a pickle, of what they were made from; states their SHA-256."""

_READ_PATTERNS = ("*.json", "*.yaml", "*.safetensors", "*.txt", "README.md")

_LAYERS = re.compile(r"layers|blocks|depths")
"""Names, in configurations of transformers, of numbers of layers."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

Model = TypeVar("Model", bound=PreTrainedModel)
Processor = TypeVar("Processor", bound=BaseImageProcessor)


class TeacherModel(StrEnum):
    """Image teachers; each value is the model type that ``config.json`` must state.

    PointRend is no transformers model; its folder holds detectron2's ``config.yaml`` instead.
    """

    SKY = "segformer"
    SKY_MASK2FORMER = "mask2former"
    SKY_ONEFORMER = "oneformer"
    SKY_POINTREND = "pointrend"
    LITE = "efficientnet_lite0"
    DEPTH_ANYTHING = "depth_anything"
    DINOV2 = "dinov2"
    DINOV2_REGISTERS = "dinov2_with_registers"
    DINOV3 = "dinov3_vit"
    RADIO = "radio"
    CLIP = "clip"
    SIGLIP = "siglip"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFolder:
    """A checkpoint on this machine.

    Attributes:
        path: The folder.
        model: Family of the model, as its ``config.json`` states it.
        source: Source that was asked for.
        digests: SHA-256 of each file that is read, by ``<model type>/<name>``.
        licence: Licence that the model card states, or ``"unknown"``.
    """

    path: Path
    model: TeacherModel
    source: str
    digests: dict[str, str]
    licence: str

    @property
    def digest(self) -> str:
        """Return one SHA-256 for the whole checkpoint."""
        return hashlib.sha256(json.dumps(sorted(self.digests.items())).encode()).hexdigest()


def resolve_weights(config: WeightsConfig, *families: TeacherModel) -> WeightsFolder:
    """Return the folder of a checkpoint, downloading it if the source is a model on the hub.

    Args:
        config: Where it comes from.
        families: Families that will do; the first is the one that this project ships.

    Raises:
        MissingTargetError: If the folder, or a file that the checkpoint needs, is missing or cannot be downloaded.
        IntegrityError: If the checkpoint is of another architecture, or a weights file cannot be read.
    """
    if config.source == "demo":
        path = DEMO_WEIGHTS / families[0].value
    elif Path(config.source).expanduser().is_dir():
        path = Path(config.source).expanduser().resolve()
    else:
        path = _download(config)
    with machine_faults(str(path)):
        _check_stated_digests(path)
        model, bases = _check_files(path, families)
    files = sorted(
        {file for pattern in _READ_PATTERNS for file in path.glob(pattern) if file.name != "README.md"} | bases
    )
    return WeightsFolder(
        path=path,
        model=model,
        source=config.source,
        digests={f"{model.value}/{file.relative_to(path).as_posix()}": file_digest(file) for file in files},
        licence=_licence(path / "README.md"),
    )


def clip_folder(source: str, revision: str | None) -> Path:
    """Return the folder of a CLIP checkpoint on this machine, see :func:`resolve_weights`."""
    return resolve_weights(WeightsConfig(source=source, revision=revision), TeacherModel.CLIP, TeacherModel.SIGLIP).path


def load_model(model_class: type[Model], weights: WeightsFolder, *, device: torch.device, dtype: torch.dtype) -> Model:
    """Load a model for inference with ``from_pretrained``.

    Raises:
        IntegrityError: If a parameter is missing from the weights or has another shape than the config says.
    """
    model: Any
    info: Any
    try:
        with without_progress_bars(), machine_faults(str(weights.path)):
            model, info = model_class.from_pretrained(  # type: ignore[misc, reportGeneralTypeIssues]  # a pair, since loading info is asked for
                weights.path, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(weights.path), f"cannot be loaded: {error}") from error
    wrong = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
    if wrong:
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID,
            str(weights.path),
            f"{len(wrong)} parameters of {model_class.__name__} are missing or misshapen, the first is {wrong[0]!r}",
        )
    if info["unexpected_keys"]:
        logger.info("%s: %d parameters are not used", weights.path, len(info["unexpected_keys"]))
    return model.to(device).eval().requires_grad_(False)


def load_processor(processor_class: type[Processor], weights: WeightsFolder) -> Processor:
    """Return what scales images for a model, from the checkpoint's ``preprocessor_config.json``.

    Raises:
        MissingTargetError: If the checkpoint has no such file; nobody could know how its images are to be scaled.
        IntegrityError: If it cannot be read.
    """
    file = weights.path / "preprocessor_config.json"
    if not file.is_file():
        raise MissingTargetError(
            ErrorKind.WEIGHTS_MISSING, str(file), "a checkpoint needs it: it says how the model's images are scaled"
        )
    try:
        with machine_faults(str(file)):
            return processor_class.from_pretrained(weights.path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(file), f"cannot be read: {error}") from error


def load_tokenizer(tokenizer_class: Any, weights: WeightsFolder) -> PreTrainedTokenizerBase:  # noqa: ANN401 - a class of transformers, or its chooser
    """Return a checkpoint's tokenizer.

    Raises:
        IntegrityError: If it is missing or cannot be read.
    """
    try:
        with machine_faults(str(weights.path)):
            return tokenizer_class.from_pretrained(weights.path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID, str(weights.path), f"its tokenizer cannot be loaded: {error}"
        ) from error


def square_patch_size(value: object, weights: WeightsFolder) -> int:
    """Return a config's patch size in pixels, which transformers states as a number or a pair.

    Raises:
        IntegrityError: If patches are not square.
    """
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID, str(weights.path / "config.json"), f"patch_size {value}: want square patches"
        )
    return side


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' loading bars, because the pipeline reports its own progress."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _download(config: WeightsConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with machine_faults(config.source):
            folder = snapshot_download(config.source, revision=config.revision, allow_patterns=list(_READ_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingTargetError(
            ErrorKind.WEIGHTS_MISSING,
            config.source,
            f"is no folder, and no model that the hub gave ({type(error).__name__}): want 'demo', a folder or a hub id",
        ) from error
    return Path(folder)


def _check_files(path: Path, families: tuple[TeacherModel, ...]) -> tuple[TeacherModel, set[Path]]:
    """Check what a checkpoint needs; return its family, and files that its configuration names."""
    if not path.is_dir():
        raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(path), "no such folder")
    is_pointrend = families == (TeacherModel.SKY_POINTREND,)
    config_file = path / ("config.yaml" if is_pointrend else "config.json")
    if not config_file.is_file():
        raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(config_file), "a checkpoint needs it")
    if is_pointrend:
        named = {Path(os.path.normpath(file)) for file in read_detectron_config(config_file).files}
    else:
        named = set[Path]()
    tensors = sorted(path.glob("*.safetensors"))
    if not tensors:
        raise MissingTargetError(
            ErrorKind.WEIGHTS_MISSING,
            str(path),
            "holds no *.safetensors; pickled weights are never read. Of a model on the hub a conversion often waits on "
            "a pull request: name it as revision, such as refs/pr/2",
        )
    num_tensors = 0
    for file in tensors:
        try:
            with reading_weights(file), safe_open(file, framework="numpy") as opened:
                num_tensors += len(opened.keys())
        except SafetensorError as error:
            raise IntegrityError(
                ErrorKind.WEIGHTS_INVALID,
                str(file),
                f"is no safetensors file: {error}; its SHA-256 is {file_digest(file)}",
            ) from error
    return families[0] if is_pointrend else _check_config(config_file, families, num_tensors), named


def _check_config(config_file: Path, families: tuple[TeacherModel, ...], num_tensors: int) -> TeacherModel:
    """Return the family, if the architecture is wanted and has no more layers than the weights have tensors."""
    try:
        config = parse_json(config_file.read_text())
        model_type = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(config_file), f"is no JSON object: {error}") from error
    if model_type not in {family.value for family in families}:
        wanted = " or ".join(repr(family.value) for family in families)
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(config_file), f"model_type {model_type!r}, want {wanted}")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name, value in part.items():
            claimed = value if isinstance(value, list) else [value]
            if _LAYERS.search(name) and sum(n for n in claimed if isinstance(n, int)) > num_tensors:
                message = f"{name} {value}: want no more than the {num_tensors} tensors of its weights"
                raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(config_file), message)
    return TeacherModel(model_type)


def _check_stated_digests(path: Path) -> None:
    """Compare files with the SHA-256 that is stated for them: by a conversion's record, or by the hub's cache.

    The cache names a large file by its digest; the checkpoint's folder links to it.

    Raises:
        IntegrityError: If a file has another.
    """
    stated: dict[Path, tuple[str, str]] = {}
    for file in path.glob("*.safetensors"):
        blob = file.resolve().name
        if file.is_symlink() and _SHA256.fullmatch(blob):
            stated[file] = blob, "the hub"
    record = path / CONVERSION_FILE
    if record.is_file():
        try:
            stated[path / "model.safetensors"] = str(parse_json(record.read_text())["model_sha256"]), record.name
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(record), f"states no model_sha256: {error}") from error
    for file, (wanted, who) in stated.items():
        if file.is_file() and (seen := file_digest(file)) != wanted:
            raise IntegrityError(
                ErrorKind.WEIGHTS_INVALID,
                str(file),
                f"SHA-256 {seen}, want {wanted} as {who} states; it was cut off or changed: fetch or convert it again",
            )


def _licence(card: Path) -> str:
    if card.is_file():
        for line in card.read_text(encoding="utf-8").splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() in {"license", "licence"}:
                return value.strip().strip("'\"")
    return "unknown"
