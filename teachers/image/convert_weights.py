"""Turn published checkpoints into folders that ``teachers.image.weights`` reads: safetensors and JSON.

A checkpoint as its authors publish it is a pickle. It is read without running it, its tensors are named and checked,
and what came from where is kept beside them.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file
from torch import Tensor
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    PretrainedConfig,
)

from storage.digests import file_digest
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.stores.integrity import machine_fault
from teachers.image.detectron_config import read_detectron_config
from teachers.image.plain_pickle import read_pickled_arrays
from teachers.image.weights import CONVERSION_FILE, without_progress_bars

DepthAnythingRelease = Literal["v1", "v2"]

_FROM_CONFIG = ("pixel_mean", "pixel_std")
"""Buffers that detectron2 saved before 2021 and makes from its configuration since; strict loading refuses them."""

_LAST_BLOCKS: Mapping[DepthAnythingRelease, Mapping[int, tuple[int, ...]]] = {
    "v1": {12: (9, 10, 11, 12), 24: (21, 22, 23, 24)},
    "v2": {12: (3, 6, 9, 12), 24: (5, 12, 18, 24)},
}
"""Blocks of the backbone that the head reads, counted from 1, by number of blocks. Tensors do not tell them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A folder that was written.

    Attributes:
        folder: The folder.
        num_tensors: Tensors in it.
        dropped: Names of tensors of the source that it lacks.
        source_sha256: SHA-256 of the source.
    """

    folder: Path
    num_tensors: int
    dropped: tuple[str, ...]
    source_sha256: str


def convert_pointrend(source: Path, target: Path, *, config: Path, config_root: Path | None = None) -> Converted:
    """Convert PointRend's published pickle and configuration.

    Args:
        source: ``model_final_<id>.pkl`` of detectron2's model zoo.
        target: Folder to write, which must not exist.
        config: The model's YAML configuration.
        config_root: Folder that holds all files that it inherits from; its own folder by default.

    Raises:
        MissingTargetError: If a file is missing.
        IntegrityError: If a file is damaged, or holds anything but arrays and plain values.
        ValueError: If the target exists.
    """
    arrays = read_pickled_arrays(source, "model")
    read = read_detectron_config(config, root=config_root)
    kept = {name: array for name, array in arrays.items() if name not in _FROM_CONFIG}

    def write(folder: Path) -> None:
        (folder / "config.yaml").write_text(yaml.safe_dump(read.values, sort_keys=True))

    return _publish(
        "pointrend",
        source,
        target,
        kept,
        write,
        dropped=sorted(set(arrays) - set(kept)),
        details={"config_sha256": {file.name: file_digest(file) for file in read.files}},
    )


def convert_depth_anything(source: Path, target: Path, *, release: DepthAnythingRelease) -> Converted:
    """Convert a published checkpoint of Depth Anything to the names of transformers.

    Args:
        source: ``depth_anything_vit{s,b,l}14.pth`` or ``depth_anything_v2_vit{s,b,l}.pth``.
        target: Folder to write, which must not exist.
        release: Release of the model; they differ in the blocks that the head reads, which no tensor tells.

    Raises:
        MissingTargetError: If the file is missing.
        IntegrityError: If it is damaged, holds anything but tensors, or is of another architecture.
        ValueError: If the target exists.
    """
    named = _official_tensors(source)
    try:
        config = _depth_anything_config(named, release)
        tensors = {new: value for name, tensor in named.items() for new, value in _renamed(name, tensor)}
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(source), f"is no Depth Anything: {error}") from error

    def write(folder: Path) -> None:
        config.save_pretrained(folder)
        DPTImageProcessorPil(
            size={"height": 518, "width": 518},
            keep_aspect_ratio=True,
            ensure_multiple_of=14,
            resample=3,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ).save_pretrained(folder)
        _check_loads(folder, source)

    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return _publish("depth_anything", source, target, arrays, write, dropped=[], details={"release": release})


def _check_loads(folder: Path, source: Path) -> None:
    """Refuse a source of which the model that its configuration describes lacks a tensor, or does not use one."""
    told: Any
    with without_progress_bars():
        _, told = DepthAnythingForDepthEstimation.from_pretrained(  # type: ignore[misc, reportGeneralTypeIssues]  # a pair
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    wrong = {str(name) for keys in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in told[keys]}
    if wrong:
        message = f"{len(wrong)} tensors are missing, unknown or misshapen, the first is {min(wrong)!r}"
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(source), message)


def _official_tensors(source: Path) -> dict[str, Tensor]:
    if not source.is_file():
        raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(source), "no such file")
    try:
        stored = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file fails with any class
        # What a file claims in memory is its own fault.
        fault = None if isinstance(error, MemoryError) else machine_fault(str(source), error)
        if fault is not None:
            raise fault from error
        message = f"is no file of tensors: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(source), message) from error
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(source), "want a mapping of names to tensors")
    size = sum(value.numel() * value.element_size() for value in stored.values())
    if size > (held := source.stat().st_size):
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(source), f"claims {size} bytes of tensors, has {held}")
    return {str(name): value.float() for name, value in stored.items()}


def _depth_anything_config(named: Mapping[str, Tensor], release: DepthAnythingRelease) -> PretrainedConfig:
    width = named["pretrained.cls_token"].shape[-1]
    num_blocks = 1 + max(int(n.split(".")[2]) for n in named if n.startswith("pretrained.blocks."))
    num_patches = named["pretrained.pos_embed"].shape[1] - 1
    patch_size = named["pretrained.patch_embed.proj.weight"].shape[-1]
    last = _LAST_BLOCKS[release].get(num_blocks)
    if last is None:
        raise ValueError(f"its backbone has {num_blocks} blocks, want {' or '.join(map(str, _LAST_BLOCKS[release]))}")
    return DepthAnythingConfig(
        backbone_config=Dinov2Config(
            hidden_size=width,
            num_hidden_layers=num_blocks,
            num_attention_heads=width // 64,
            image_size=patch_size * round(num_patches**0.5),
            patch_size=patch_size,
            out_indices=list(last),  # pyright: ignore[reportCallIssue]  # of its base class
            apply_layernorm=True,
            reshape_hidden_states=False,
        ),
        patch_size=patch_size,
        reassemble_hidden_size=width,
        neck_hidden_sizes=[named[f"depth_head.projects.{i}.weight"].shape[0] for i in range(4)],
        fusion_hidden_size=named["depth_head.scratch.output_conv1.weight"].shape[1],
        head_hidden_size=named["depth_head.scratch.output_conv2.0.weight"].shape[0],
    )


_BLOCK_PARTS = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_EMBEDDINGS = {
    "cls_token": "cls_token",
    "mask_token": "mask_token",
    "pos_embed": "position_embeddings",
    "patch_embed.proj.weight": "patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "patch_embeddings.projection.bias",
}
_HEAD = (
    (r"projects\.(\d)", lambda m: f"neck.reassemble_stage.layers.{m[1]}.projection"),
    (r"resize_layers\.(\d)", lambda m: f"neck.reassemble_stage.layers.{m[1]}.resize"),
    (r"scratch\.layer(\d)_rn", lambda m: f"neck.convs.{int(m[1]) - 1}"),
    (r"scratch\.refinenet(\d)\.out_conv", lambda m: f"neck.fusion_stage.layers.{4 - int(m[1])}.projection"),
    (
        r"scratch\.refinenet(\d)\.resConfUnit(\d)\.conv(\d)",
        lambda m: f"neck.fusion_stage.layers.{4 - int(m[1])}.residual_layer{m[2]}.convolution{m[3]}",
    ),
    (r"scratch\.output_conv1", lambda _: "head.conv1"),
    (r"scratch\.output_conv2\.0", lambda _: "head.conv2"),
    (r"scratch\.output_conv2\.2", lambda _: "head.conv3"),
)  # fusion runs from the coarsest map, and counts from it


def _renamed(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return a tensor of the authors' model under the names that transformers gives it."""
    part, _, rest = name.partition(".")
    if part == "pretrained":
        if rest in _EMBEDDINGS:
            return [(f"backbone.embeddings.{_EMBEDDINGS[rest]}", tensor)]
        if rest.startswith("norm."):
            return [(f"backbone.layernorm.{rest.removeprefix('norm.')}", tensor)]
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", rest):
            at, of_block = f"backbone.encoder.layer.{match[1]}", match[2]
            if of_block in {"attn.qkv.weight", "attn.qkv.bias"}:
                parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
                kind = of_block.rsplit(".", 1)[1]
                return [(f"{at}.attention.attention.{which}.{kind}", value) for which, value in parts]
            for old, new in _BLOCK_PARTS.items():
                of_block = of_block.replace(old, new)
            return [(f"{at}.{of_block}", tensor)]
    if part == "depth_head" and (match := re.fullmatch(r"(.+)\.(weight|bias)", rest)):
        for pattern, new_name in _HEAD:
            if found := re.fullmatch(pattern, match[1]):
                return [(f"{new_name(found)}.{match[2]}", tensor)]
    raise ValueError(f"it has a tensor {name!r}")


def _publish(
    family: str,
    source: Path,
    target: Path,
    arrays: Mapping[str, np.ndarray],
    write: Callable[[Path], None],
    *,
    dropped: list[str],
    details: Mapping[str, Any],
) -> Converted:
    """Write a folder aside and give it its name when it is whole."""
    if target.exists():
        raise ValueError(f"{target} exists: name a folder that does not")
    digest = file_digest(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        native = {n: np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for n, a in arrays.items()}
        save_file(native, aside / "model.safetensors", metadata={"format": "pt"})
        write(aside)
        record = {
            "format": "distillnerf.converted-weights/1",
            "family": family,
            "source": source.name,
            "source_sha256": digest,
            "dropped": dropped,
            "tensors": len(native),
            "model_sha256": file_digest(aside / "model.safetensors"),
            **details,
        }
        (aside / CONVERSION_FILE).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Converted(folder=target, num_tensors=len(native), dropped=tuple(dropped), source_sha256=digest)
