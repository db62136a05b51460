"""Checkpoints of the published architectures with random weights, to rehearse a preset where no hub can be reached.

Their features mean nothing. Their sizes, and so the time and memory that they take, are those of the published ones.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    BaseImageProcessor,
    CLIPConfig,
    CLIPModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    DPTImageProcessorPil,
    PreTrainedModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from storage.taxonomy import CITYSCAPES_LABELS
from teachers.config import FeatureBasisConfig, ImageTeachersConfig, WeightsConfig
from teachers.image.weights import DEMO_WEIGHTS

_VIT_WIDTHS = {"small": (384, 6), "base": (768, 12), "large": (1024, 16)}
"""Width and heads of DINOv2's encoders of twelve layers; "large" has 24."""
_TEXT_TOKENS = 49_408
_PROCESSORS: dict[str, BaseImageProcessor] = {
    "segformer": SegformerImageProcessorPil(),
    "depth_anything": DPTImageProcessorPil(
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
    ),
}
"""What scales images for the families of which the project ships no checkpoint, as published."""
_PROCESSOR_FILES = frozenset(
    {"preprocessor_config.json", "merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json"}
)


def write_stand_ins(teachers: ImageTeachersConfig, folder: Path) -> ImageTeachersConfig:
    """Write a checkpoint with random weights for each published one, and return the teachers that read these.

    Args:
        teachers: Teachers of a preset, whose sources are models on the hub.
        folder: Folder to write to; what is there is kept.

    Raises:
        ValueError: If the architecture of a source is not known here.
    """

    def stand_in(weights: WeightsConfig) -> WeightsConfig:
        target = folder / weights.source.rpartition("/")[2]
        if not target.is_dir():
            write_stand_in(weights.source, target)
        return replace(weights, source=str(target.resolve()))

    def basis(found: FeatureBasisConfig) -> FeatureBasisConfig:
        return replace(found, extractor=replace(found.extractor, weights=stand_in(found.extractor.weights)))

    return replace(
        teachers,
        sky=replace(teachers.sky, weights=stand_in(teachers.sky.weights)),
        depth_anything=replace(teachers.depth_anything, weights=stand_in(teachers.depth_anything.weights)),
        dinov2_basis=basis(teachers.dinov2_basis),
        clip_basis=basis(teachers.clip_basis),
    )


def write_stand_in(source: str, target: Path) -> None:
    """Write a checkpoint of the architecture of a model on the hub, with random weights, to a folder that is not there.

    Raises:
        ValueError: If the architecture is not known here.
    """
    torch.manual_seed(0)
    model = architecture(source)
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    # Images are scaled as for the published ones; words are split as the demo's are, for theirs come from the hub.
    processor = _PROCESSORS.get(model.config.model_type)
    if processor is not None:
        processor.save_pretrained(aside)
    else:
        for path in (DEMO_WEIGHTS / model.config.model_type).iterdir():
            if path.name in _PROCESSOR_FILES:
                shutil.copyfile(path, aside / path.name)
    (aside / "README.md").write_text(
        f"---\nlicense: cc0-1.0\n---\n\nThe architecture of {source}, with random weights.\n"
    )
    aside.rename(target)


def architecture(source: str) -> PreTrainedModel:
    """Return the architecture of a published checkpoint, by its id on the hub, with random weights.

    Raises:
        ValueError: If it is not known here.
    """
    name = source.rpartition("/")[2].lower()
    if name.startswith("segformer-b"):
        return SegformerForSemanticSegmentation(_segformer(name))
    if name.startswith("depth-anything"):
        return DepthAnythingForDepthEstimation(_depth_anything(name))
    if name.startswith("dinov2-"):
        return Dinov2Model(_dinov2(name.removeprefix("dinov2-")))
    if name.startswith("clip-vit-"):
        return CLIPModel(_clip(name.removeprefix("clip-vit-")))
    raise ValueError(f"{source}: no architecture of that name is known here")


def _segformer(name: str) -> SegformerConfig:
    depths, widths, decoder = {
        "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
        "b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
    }[name.split("-")[1]]
    return SegformerConfig(
        depths=list(depths),
        hidden_sizes=list(widths),
        decoder_hidden_size=decoder,
        id2label=dict(enumerate(CITYSCAPES_LABELS)),
        label2id={label: index for index, label in enumerate(CITYSCAPES_LABELS)},
    )


def _dinov2(size: str, layers: Sequence[int] | None = None) -> Dinov2Config:
    """Return DINOv2's encoder, or the one of Depth Anything, of which some layers are read."""
    width, heads = _VIT_WIDTHS[size]
    num_layers = 24 if size == "large" else 12
    return Dinov2Config(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=num_layers,
        image_size=518,
        patch_size=14,
        out_indices=None if layers is None else list(layers),  # pyright: ignore[reportCallIssue] - of the backbone
        reshape_hidden_states=layers is None,
    )


def _depth_anything(name: str) -> DepthAnythingConfig:
    size = next(size for size in _VIT_WIDTHS if size in name)
    necks = {"small": (48, 96, 192, 384), "base": (96, 192, 384, 768), "large": (256, 512, 1024, 1024)}[size]
    layers = (3, 6, 9, 12) if "-v2-" in name else (9, 10, 11, 12)
    return DepthAnythingConfig(
        backbone_config=_dinov2(size, layers),
        reassemble_hidden_size=_VIT_WIDTHS[size][0],
        neck_hidden_sizes=list(necks),
        fusion_hidden_size={"small": 64, "base": 128, "large": 256}[size],
    )


def _clip(name: str) -> CLIPConfig:
    size, patch, *resolution = name.split("-")
    is_large = size == "large"
    text_width, width = (768, 1024) if is_large else (512, 768)
    text = {
        "vocab_size": _TEXT_TOKENS,
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_attention_heads": text_width // 64,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        **_special_tokens(),
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
        "num_hidden_layers": 24 if is_large else 12,
        "patch_size": int(patch.removeprefix("patch")),
        "image_size": int(resolution[0]) if resolution else 224,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=text_width)


def _special_tokens() -> dict[str, int]:
    """Return the ids at which the demo's tokenizer begins and ends a text."""
    config = CLIPConfig.from_pretrained(DEMO_WEIGHTS / "clip").text_config
    return {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
