"""What a run is told: a preset, a seed and overrides, from Dagster's launchpad or from the command line.

The first run of a home leaves its choice there. Later runs that name no preset, such as a click on "Materialize" in the
UI, use it, so that they find what exists instead of building it a second time with other settings.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import dagster as dg
from pydantic import Field, model_validator

from pipeline.overrides import apply_overrides, check_overrides
from pipeline.presets import PRESET_NAMES, PipelineConfig, PresetName, build_preset
from storage.errors import ErrorKind, IntegrityError
from student.config import TrainingSetConfig, Variant

_FILE = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeSelection:
    """What the runs of one home use unless told otherwise, kept in ``<home>/run.json``.

    Attributes:
        preset: Name of the preset.
        seed: Of every random choice; None keeps the preset's.
        overrides: ``dotted.name=value`` changes of the preset.
        variant: The student that commands mean when they name none.
        train_scenes: Scenes to learn from.
        validation_scenes: Scenes held out.
    """

    preset: PresetName
    seed: int | None = None
    overrides: tuple[str, ...] = ()
    variant: Variant = "clip"
    train_scenes: tuple[str, ...] = ()
    validation_scenes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESET_NAMES:
            raise ValueError(f"preset {self.preset!r}, want one of {', '.join(PRESET_NAMES)}")

    def resolve(self, variant: Variant | None = None) -> PipelineConfig:
        """Return the complete configuration, for one student variant.

        Raises:
            ValueError: If an override does not apply.
        """
        base = build_preset(self.preset, variant=variant or self.variant, seed=self.seed)
        return apply_overrides(base, self.overrides)

    def scenes_to_learn_from(self) -> tuple[str, ...]:
        """Return the training scenes.

        Raises:
            ValueError: If none are chosen yet.
        """
        if not self.train_scenes:
            raise ValueError(
                "no scenes to learn from are chosen yet: name train_scenes, or run 'distillnerf run' first"
            )
        return self.train_scenes

    def with_scenes(self, train: Sequence[str], validation: Sequence[str]) -> Self:
        """Return the same with other scenes, where any are given."""
        if not train and not validation:
            return self
        return dataclasses.replace(self, train_scenes=tuple(train), validation_scenes=tuple(validation))

    def training_set(self, variant: Variant) -> TrainingSetConfig:
        """Return the training set of a variant: the kinds that it reads, of these scenes.

        Raises:
            ValueError: If there are no scenes to learn from.
        """
        config = self.resolve(variant)
        alone = not self.validation_scenes
        return TrainingSetConfig(
            train_scenes=self.scenes_to_learn_from(),
            validation_scenes=self.validation_scenes,
            kinds=config.student.data.kinds,
            allow_ungated=config.split.allow_ungated,
            on_failed_gate=config.split.on_failed_gate,
            held_out_stride=config.split.held_out_stride if alone else 0,
        )

    def save(self, home: Path) -> None:
        """Write into a home, atomically."""
        home.mkdir(parents=True, exist_ok=True)
        aside = home / f".{_FILE}.{os.getpid()}"
        aside.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        aside.replace(home / _FILE)

    @classmethod
    def load(cls, home: Path) -> Self | None:
        """Return what a home keeps, or None where no run was configured yet.

        Raises:
            IntegrityError: If the file is not what ``save`` wrote.
        """
        path = home / _FILE
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text())
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
            return cls(**fields)
        except (ValueError, TypeError, AttributeError) as error:
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), f"is no selection of a run: {error}") from error


class RunSelector(dg.Config):
    """Which configuration a materialisation uses. Fields of the stages are never declared a second time here."""

    preset: Literal["of_home", "demo", "tiny", "small", "paper"] = Field(
        default="of_home", description="Named configuration; 'of_home' is what the home's own runs use."
    )
    seed: int | None = Field(default=None, description="Of every random choice; empty keeps the preset's.")
    overrides: list[str] = Field(
        default_factory=list, description="Changes of single fields, each as dotted.name=value: nerf.num_steps=300"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_overrides(PipelineConfig, self.overrides)
        return self

    def selection(self, home: Path) -> HomeSelection:
        """Return the home's selection with this one's choices on top.

        Raises:
            ValueError: If no preset is named and the home has none of its own.
        """
        kept = HomeSelection.load(home)
        if self.preset == "of_home":
            if kept is None:
                raise ValueError(f"{home} keeps no configuration yet: name a preset, one of {', '.join(PRESET_NAMES)}")
            base = kept
        elif kept is None:
            base = HomeSelection(preset=cast("PresetName", self.preset))
        else:
            base = dataclasses.replace(kept, preset=cast("PresetName", self.preset), seed=None, overrides=())
        seed = base.seed if self.seed is None else self.seed
        return dataclasses.replace(base, seed=seed, overrides=(*base.overrides, *self.overrides))

    def resolve(self, home: Path, variant: Variant | None = None) -> PipelineConfig:
        """Return the complete configuration.

        Raises:
            ValueError: If no preset is known or an override does not apply.
        """
        return self.selection(home).resolve(variant)


def choose_split(
    scene_keys: list[str], config: PipelineConfig, held_out: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide scenes into those to learn from and those to be judged on.

    Args:
        scene_keys: All scenes of the run.
        config: Says how many to hold out where none are named.
        held_out: Keys to hold out.

    Raises:
        ValueError: If a held-out scene is not among the scenes, or nothing is left to learn from.
    """
    if unknown := sorted(set(held_out) - set(scene_keys)):
        raise ValueError(f"held-out scenes {unknown} are not among {sorted(scene_keys)}")
    count = min(config.split.held_out_scenes, len(scene_keys) - 1)
    validation = held_out or tuple(sorted(scene_keys)[len(scene_keys) - count :])
    train = tuple(key for key in sorted(scene_keys) if key not in validation)
    if not train:
        raise ValueError("every scene is held out: nothing is left to learn from")
    return train, validation
