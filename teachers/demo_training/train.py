"""Train, measure and write the shipped checkpoints: ``python -m teachers.demo_training.train --out FOLDER``.

Renders are cached, every random draw is seeded, and each model is written as soon as it is trained.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from transformers import CLIPImageProcessorPil

from teachers.config import DepthAnythingConfig, PatchFeatureConfig, SkyConfig, WeightsConfig
from teachers.demo_training import architectures, held_out
from teachers.demo_training.cards import save_checkpoint, write_card
from teachers.demo_training.loop import progress_bar
from teachers.demo_training.renders import HELD_OUT, TRAINING, RenderSet, RenderSetConfig, load_render_set
from teachers.demo_training.train_clip import train_clip
from teachers.demo_training.train_dinov2 import dinov2_processor, train_dinov2
from teachers.demo_training.train_lite import lite_processor, train_lite
from teachers.demo_training.train_tower import train_tower
from teachers.image.clip import ClipFeatures
from teachers.image.dense_tower import remove_dense_tower, save_dense_tower
from teachers.image.depth_anything import DepthAnything
from teachers.image.dinov2 import Dinov2Features
from teachers.image.sky import SkySegmenter
from teachers.image.weights import DEMO_WEIGHTS

_REMEMBERED_STRIDE = 4
"""Stride of the training views whose patches are searched for neighbours: every fourth."""

ModelName = Literal["dinov2", "clip", "dense_tower", "efficientnet_lite0"]
_FOLDER_OF = {"dense_tower": "clip"}
"""Folder of a model's checkpoint, where it is not named like the model: the tower is a part of CLIP's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of the training.

    Attributes:
        out: Folder that gets one checkpoint folder per model.
        cache: Folder for rendered images.
        models: Models to train, in this order.
        seed: Seed of initial weights and of every random draw.
        effort: Factor of each model's usual number of steps.
        threads: Number of CPU threads.
    """

    out: Path
    cache: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "distillnerf-demo-training")
    models: tuple[ModelName, ...] = get_args(ModelName)
    seed: int = 0
    effort: float = 1.0
    threads: int = 2

    def __post_init__(self) -> None:
        if self.effort <= 0 or self.threads < 1:
            raise ValueError(f"effort {self.effort} and threads {self.threads}: want positive")


def main(config: TrainConfig) -> None:
    """Train, measure and write each model."""
    torch.set_num_threads(config.threads)
    training, held = (_render(render_config, config.cache) for render_config in (TRAINING, HELD_OUT))
    for name in config.models:
        _TRAINERS[name](config, training)
        folder = config.out / _FOLDER_OF.get(name, name)
        figures = _FIGURES[name](folder, training, held)
        settings = {"seed": config.seed, "effort": config.effort}
        write_card(folder, name=name, figures=figures, training=TRAINING, held_out=HELD_OUT, settings=settings)
        sys.stdout.write(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()) + "\n")


def _render(config: RenderSetConfig, cache: Path) -> RenderSet:
    with progress_bar() as bar:
        task = bar.add_task(f"rendering {config.name}", total=100)
        return load_render_set(config, cache, lambda share: bar.update(task, completed=100 * share))


def _steps(config: TrainConfig, usual: int) -> dict[str, int]:
    return {"seed": config.seed, "steps": max(2, round(usual * config.effort))}


def _train_dinov2(config: TrainConfig, training: RenderSet) -> None:
    from teachers.demo_training.train_dinov2 import STEPS

    save_checkpoint(config.out / "dinov2", train_dinov2(training, **_steps(config, STEPS)), dinov2_processor())


def _train_clip(config: TrainConfig, training: RenderSet) -> None:
    from teachers.demo_training.train_clip import STEPS

    model, tokenizer = train_clip(training, **_steps(config, STEPS))
    remove_dense_tower(config.out / "clip")  # one that is there was trained against other texts
    save_checkpoint(config.out / "clip", model, CLIPImageProcessorPil(), tokenizer)


def _train_tower(config: TrainConfig, training: RenderSet) -> None:
    """Give the CLIP that was trained before, or else the shipped one, a tower."""
    from teachers.demo_training.train_tower import STEPS

    folder = config.out / "clip"
    if not folder.is_dir():
        shutil.copytree(DEMO_WEIGHTS / "clip", folder)
    save_dense_tower(folder, train_tower(_clip(folder), training, **_steps(config, STEPS)))


def _train_lite(config: TrainConfig, training: RenderSet) -> None:
    from teachers.demo_training.train_lite import STEPS

    save_checkpoint(config.out / "efficientnet_lite0", train_lite(training, **_steps(config, STEPS)), lite_processor())


def _dinov2_figures(folder: Path, training: RenderSet, held: RenderSet) -> held_out.Figures:
    trained = Dinov2Features.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(folder))))
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        save_checkpoint(Path(scratch), architectures.dinov2(), dinov2_processor())
        untrained = Dinov2Features.from_config(PatchFeatureConfig(weights=WeightsConfig(source=scratch)))
    return held_out.dinov2_figures(trained, untrained, training.chosen(slice(None, None, _REMEMBERED_STRIDE)), held)


def _lite_figures(folder: Path, _: RenderSet, held: RenderSet) -> held_out.Figures:
    weights = WeightsConfig(source=str(folder))
    sky = SkySegmenter.from_config(SkyConfig(weights=weights, height=112, width=200))
    depth = DepthAnything.from_config(DepthAnythingConfig(weights=weights, grid_height=112, grid_width=196))
    return {**held_out.sky_figures(sky, held), **held_out.depth_figures(depth, held)}


def _clip_figures(folder: Path, _: RenderSet, held: RenderSet) -> held_out.Figures:
    return held_out.clip_figures(_clip(folder), held)


def _clip(folder: Path) -> ClipFeatures:
    return ClipFeatures.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(folder))))


_TRAINERS: dict[str, Callable[[TrainConfig, RenderSet], Any]] = {
    "dinov2": _train_dinov2,
    "clip": _train_clip,
    "dense_tower": _train_tower,
    "efficientnet_lite0": _train_lite,
}
_FIGURES: dict[str, Callable[[Path, RenderSet, RenderSet], held_out.Figures]] = {
    "dinov2": _dinov2_figures,
    "clip": _clip_figures,
    "dense_tower": _clip_figures,
    "efficientnet_lite0": _lite_figures,
}


if __name__ == "__main__":
    main(tyro.cli(TrainConfig))
