"""Read and write a dense image tower: a second image encoder of a CLIP checkpoint, made for places of an image.

A CLIP's own image tower gives one embedding per image; what MaskCLIP reads out of it for each patch is a by-product. A
checkpoint whose folder holds ``dense_tower.safetensors`` has been given a decoder on ImageNet features, trained against
the same texts. The features are EfficientNet-Lite0's, which this project ships once: the file holds the decoder alone,
and ``dense_tower.json`` states its sizes and the digest of the encoder it was trained on.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BitImageProcessorPil

from storage.errors import ErrorKind, IntegrityError
from storage.plain_json import parse_json
from storage.stores.integrity import machine_faults, reading_weights
from teachers.config import WeightsConfig
from teachers.image.lite import DenseTower, LiteConfig
from teachers.image.weights import TeacherModel, WeightsFolder, load_processor, resolve_weights

WEIGHTS, SETTINGS = "dense_tower.safetensors", "dense_tower.json"
_TRUNK = "trunk."
_MODEL_FILE = "model.safetensors"
_ENCODER_FILE = f"{TeacherModel.LITE.value}/{_MODEL_FILE}"
_SIZES = ("widths", "context_layers", "context_heads", "projection_dim")
_LARGEST_SIZE = 4096


def has_dense_tower(weights: WeightsFolder) -> bool:
    """Return whether a checkpoint brings a dense image tower."""
    return (weights.path / WEIGHTS).is_file()


def save_dense_tower(folder: Path, tower: DenseTower) -> None:
    """Write a tower's decoder, in half precision, and its sizes."""
    encoder = _encoder_weights()
    decoder = {name: value.half().contiguous() for name, value in tower.state_dict().items() if _is_decoder(name)}
    save_file(decoder, folder / WEIGHTS)
    settings = {name: getattr(tower.config, name) for name in _SIZES}
    settings["encoder_sha256"] = encoder.digests[_ENCODER_FILE]
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def remove_dense_tower(folder: Path) -> None:
    """Take the tower, if there is one, out of a checkpoint, which is then read as any CLIP is."""
    for name in (WEIGHTS, SETTINGS):
        (folder / name).unlink(missing_ok=True)


def load_dense_tower(
    weights: WeightsFolder, *, device: torch.device, dtype: torch.dtype
) -> tuple[DenseTower, BitImageProcessorPil]:
    """Return a checkpoint's tower and what scales images for it.

    Raises:
        IntegrityError: If a file cannot be read, its sizes are not those of the weights, or it was trained on another
            encoder.
    """
    encoder = _encoder_weights()
    path = weights.path / SETTINGS
    try:
        with machine_faults(str(path)):
            settings = parse_json(path.read_text())
        tower = DenseTower(LiteConfig(**_checked({name: settings[name] for name in _SIZES})))
        wanted = str(settings["encoder_sha256"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"states no dense tower: {error}") from error
    if (seen := encoder.digests[_ENCODER_FILE]) != wanted:
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID, str(path), f"was trained on the encoder {wanted}, this project has {seen}"
        )
    file = weights.path / WEIGHTS
    try:
        with reading_weights(file):
            decoder = load_file(file)
        own = {name for name in tower.state_dict() if _is_decoder(name)}
        if lacking := sorted(own - set(decoder)):
            raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(file), f"lacks {len(lacking)}, such as {lacking[0]!r}")
        if unknown := sorted(set(decoder) - own):
            message = f"has {len(unknown)} that no tower has, such as {unknown[0]!r}"
            raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(file), message)
        with reading_weights(encoder.path / _MODEL_FILE):
            trunk = {n: v for n, v in load_file(encoder.path / _MODEL_FILE).items() if not _is_decoder(n)}
        # Both in one, so that nothing is left as it was drawn and nothing is passed over.
        tower.load_state_dict(trunk | decoder)
    except (RuntimeError, SafetensorError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(file), f"cannot be loaded: {error}") from error
    nn.Module.to(tower, device=device, dtype=dtype).eval().requires_grad_(False)
    return tower, load_processor(BitImageProcessorPil, encoder)


def _checked(sizes: dict[str, Any]) -> dict[str, Any]:
    """Refuse sizes that no decoder has, before memory is asked for them."""
    for name, value in sizes.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(number, int) and 0 < number <= _LARGEST_SIZE for number in numbers):
            raise ValueError(f"{name} {value}: want whole numbers from 1 to {_LARGEST_SIZE}")
    return sizes


def _is_decoder(name: str) -> bool:
    return not name.startswith(_TRUNK)


def _encoder_weights() -> WeightsFolder:
    return resolve_weights(WeightsConfig(), TeacherModel.LITE)
