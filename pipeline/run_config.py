"""Configuration of a run: a preset, a seed and overrides, from Dagster's launchpad or from the command line.

A command line writes its complete selection into the Dagster configuration of each run, so that two commands on one
home cannot mix. The last command also saves its selection in the home. Runs without a preset use it, such as a click on
"Materialize" in the UI: they find what exists instead of building it again with other settings.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import dagster as dg
from pydantic import Field, model_validator

from pipeline.overrides import apply_overrides, check_overrides
from pipeline.presets import PRESET_NAMES, PipelineConfig, PresetName, build_preset
from pipeline.settled import settle
from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.plain_json import parse_json
from storage.stores.versioned import Home
from student.config import TrainingSetConfig, Variant
from student.presets.published import PUBLISHED_RUNS

_FILE = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeSelection:
    """Default configuration of the runs of one home, kept in ``<home>/run.json``.

    Attributes:
        preset: Name of the preset.
        seed: Seed of every random choice; None keeps the preset's own seeds.
        overrides: Changes of the preset, each ``dotted.name=value``.
        variant: Student of commands that name none. The default is taught everything that the paper distils, and CLIP
            features, so that it can be searched by words.
        train_scenes: Scenes to learn from.
        validation_scenes: Scenes held out.
        basis_scenes: Scenes that the feature bases are fitted on; see ``scenes_of_basis``.
        published: Published run whose student takes the place of the preset's; None keeps the preset's.
        checkpoint: Student that is judged on scenes outside its training set, see ``pipeline.subjects.open_subject``;
            empty for the home's own.
        evaluated_scenes: Those scenes; empty for all that it can read and did not learn from.
    """

    preset: PresetName
    seed: int | None = None
    overrides: tuple[str, ...] = ()
    variant: Variant = "clip"
    train_scenes: tuple[str, ...] = ()
    validation_scenes: tuple[str, ...] = ()
    basis_scenes: tuple[str, ...] = ()
    published: str | None = None
    checkpoint: str = ""
    evaluated_scenes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESET_NAMES:
            raise ValueError(f"preset {self.preset!r}, want one of {', '.join(PRESET_NAMES)}")
        if self.published not in (None, *PUBLISHED_RUNS):
            raise ValueError(f"published run {self.published!r}, want one of {', '.join(PUBLISHED_RUNS)}")
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant {self.variant!r}, want one of {', '.join(get_args(Variant))}")
        for key in self.scenes:
            SceneKey.parse(key)

    @classmethod
    def on_top_of(
        cls,
        kept: Self | None,
        *,
        preset: PresetName | None = None,
        seed: int | None = None,
        overrides: Iterable[str] = (),
        variant: Variant | None = None,
        published: str | None = None,
    ) -> Self:
        """Return the selection of a run: the one that its home keeps, with the given choices on top.

        The home's seed, overrides and published run are kept if ``preset`` is None or the home's own. Another preset
        replaces them by its own. Variant and scenes stay in both cases.

        Args:
            kept: Selection that the home keeps, or None.
            preset: Preset; None takes the home's.
            seed: Seed; None takes the home's, or else the preset's own seeds.
            overrides: Overrides, applied after those that the home keeps.
            variant: Student variant; None takes the home's.
            published: Published run; None takes the home's.

        Raises:
            ValueError: If neither names a preset.
        """
        if kept is None:
            if preset is None:
                raise ValueError(f"no configuration is kept yet: name a preset, one of {', '.join(PRESET_NAMES)}")
            kept = cls(preset=preset)
        elif preset not in (None, kept.preset):
            kept = dataclasses.replace(kept, preset=preset, seed=None, overrides=(), published=None)
        return dataclasses.replace(
            kept,
            seed=kept.seed if seed is None else seed,
            overrides=_without_repetition((*kept.overrides, *overrides)),
            variant=variant or kept.variant,
            published=published or kept.published,
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields of a selector that uses exactly this selection."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | {"is_complete": True}

    def resolve(self, variant: Variant | None = None) -> PipelineConfig:
        """Return the complete configuration, for one student variant.

        Raises:
            ValueError: If an override does not apply, or contradicts the split.
        """
        return settle(self.choices(variant), holds_out_frames=self.holds_out_frames)

    def choices(self, variant: Variant | None = None) -> PipelineConfig:
        """Return what was chosen: the configuration with everything left open that follows from the rest.

        Raises:
            ValueError: If an override does not apply.
        """
        base = build_preset(self.preset, variant=variant or self.variant, seed=self.seed, published=self.published)
        return apply_overrides(base, self.overrides)

    @property
    def holds_out_frames(self) -> bool | None:
        """Return whether frames are held out because no whole scene is; None before scenes are chosen."""
        return not self.validation_scenes if self.scenes else None

    @property
    def scenes(self) -> tuple[str, ...]:
        """Return all scenes."""
        return (*self.train_scenes, *self.validation_scenes)

    @property
    def recorded_scenes(self) -> tuple[str, ...]:
        """Return the scenes that were not generated: those of another data set than the procedural one."""
        return self._recorded(self.scenes)

    @property
    def evaluated_recordings(self) -> tuple[str, ...]:
        """Return those of the scenes outside a student's training that were not generated."""
        return self._recorded(self.evaluated_scenes)

    def _recorded(self, scene_keys: tuple[str, ...]) -> tuple[str, ...]:
        generated = self.choices().procedural.dataset
        return tuple(key for key in scene_keys if SceneKey.parse(key).dataset != generated)

    @property
    def scenes_of_basis(self) -> tuple[str, ...]:
        """Return the scenes that feature bases are fitted on: those kept, as long as all of them are learned from.

        Every feature of every scene is made with a basis, so that a basis does not follow each new training scene.
        """
        is_kept = self.basis_scenes and set(self.basis_scenes) <= set(self.train_scenes)
        return self.basis_scenes if is_kept else self.train_scenes

    @property
    def scenes_with_field(self) -> tuple[str, ...]:
        """Return the scenes that are given a field: all, or none if the student learns nothing that fields render."""
        return self.scenes if self.resolve().student.data.reads_field else ()

    @property
    def judged_scenes_with_field(self) -> tuple[str, ...]:
        """Return those of them with frames that a student is judged on."""
        judged = self.validation_scenes or self.train_scenes
        return tuple(key for key in self.scenes_with_field if key in judged)

    @property
    def scenes_with_field_features(self) -> tuple[str, ...]:
        """Return the scenes whose field's features the student learns from: all, or none."""
        learns = Kind.TEACHER_FEATURES in self.resolve().student.data.kinds
        return self.scenes if learns else ()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return the students that runs of this selection use."""
        return (self.variant,)

    def with_split(self, train: Sequence[str], validation: Sequence[str], *, follow_basis: bool = False) -> Self:
        """Return this selection with another split; feature bases stay unless they are to follow, or cannot stay.

        Args:
            train: Scenes to learn from.
            validation: Scenes held out.
            follow_basis: Whether feature bases are fitted anew on the scenes to learn from.
        """
        kept = () if follow_basis else self.scenes_of_basis
        split = dataclasses.replace(
            self, train_scenes=tuple(train), validation_scenes=tuple(validation), basis_scenes=kept
        )
        return split if not kept else dataclasses.replace(split, basis_scenes=split.scenes_of_basis)

    def scenes_to_learn_from(self) -> tuple[str, ...]:
        """Return the training scenes.

        Raises:
            ValueError: If none are chosen yet.
        """
        if not self.train_scenes:
            raise ValueError(
                "no scenes to learn from are chosen yet, and feature bases and students are made of them; 'distillnerf "
                "run' chooses them, or --train-scenes of 'distillnerf train', or train_scenes in a run's configuration"
            )
        return self.train_scenes

    def with_scenes(self, train: Sequence[str], validation: Sequence[str]) -> Self:
        """Return this selection with other scenes, if any are given."""
        if not train and not validation:
            return self
        return self.with_split(train, validation)

    def training_set(self, variant: Variant) -> TrainingSetConfig:
        """Return the training set of a variant: the kinds that it reads, of these scenes.

        Raises:
            ValueError: If there are no scenes to learn from.
        """
        config = self.resolve(variant)
        return TrainingSetConfig(
            train_scenes=self.scenes_to_learn_from(),
            validation_scenes=self.validation_scenes,
            kinds=config.student.data.kinds,
            allow_ungated=config.split.allow_ungated,
            on_failed_gate=config.split.on_failed_gate,
            held_out_stride=config.nerf.holdout_every if self.holds_out_frames else 0,
        )

    def save(self, home: Path) -> None:
        """Write the selection into a home, atomically."""
        Home(home).objects.write(_FILE, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, home: Path) -> Self | None:
        """Return the selection that a home keeps; None before its first run.

        Raises:
            IntegrityError: If the file was not written by ``save``.
        """
        objects = Home(home).objects
        key = f"{objects.url}/{_FILE}"
        try:
            stored = objects.read(_FILE)
        except FileNotFoundError:
            return None
        try:
            raw: dict[str, Any] = parse_json(stored.decode())
            defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
            return config_from_json(cls, {**defaults, **raw}, key)
        except (ValueError, TypeError, IntegrityError) as error:
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"is no selection of a run: {error}") from error


def _without_repetition(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return overrides without repetitions; the last one of a field counts."""
    return tuple(reversed(dict.fromkeys(reversed(overrides))))


PLACES = re.compile(
    r".*\.weights\.source|student\.fit\.initial|.*\.lpips_weights|.*\.text_encoder|(weak_labels|evaluation)\.classes"
)
"""Fields of the configuration that name a file, a folder or a model of the hub."""

_OF_THIS_HOME = re.compile(r"student_checkpoint/[A-Za-z0-9_-]+@[0-9a-f]+")


def _places(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any dataclass
    """Yield the fields of a configuration that are set to a place, not to a name that this package knows as "demo"."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _places(value, f"{name}.")
        elif PLACES.fullmatch(name) and (isinstance(value, Path) or _is_place(value or "")):
            yield name, str(value)


def _is_place(value: str) -> bool:
    return value.startswith(("~", ".")) or "/" in value or "\\" in value


def _refuse_places(asked: HomeSelection, kept: HomeSelection | None) -> None:
    """Refuse a selection that sets a field to a place which neither its preset nor its home sets it to.

    Raises:
        ValueError: If there is one; the message names it.
    """
    allowed = set(_places(dataclasses.replace(asked, overrides=()).choices()))
    allowed |= set() if kept is None else set(_places(kept.choices()))
    for name, value in _places(asked.choices()):
        if (name, value) not in allowed:
            raise ValueError(
                f"{name}={value} names a file or a model of the hub, which a launched run may not: give it to a "
                f"command on this home (distillnerf run --set ...), which keeps it in {_FILE}"
            )


class RunSelector(dg.Config):
    """Choice of the configuration of a materialisation. The fields of the stages are declared by the stages alone."""

    preset: Literal["of_home", PresetName] = Field(
        default="of_home",
        description=(
            "Named configuration; 'of_home' is what the home keeps. Naming the preset that the home keeps keeps the "
            "home's seed and overrides; naming another one starts afresh."
        ),
    )
    seed: int | None = Field(
        default=None, description="Of every random choice; empty keeps the home's or the preset's."
    )
    overrides: list[str] = Field(
        default_factory=list,
        description="Changes of single fields, each as dotted.name=value: nerf.num_steps=300. They follow the home's.",
    )
    variant: Literal["of_home", Variant] = Field(
        default="of_home", description="The student that overrides are meant for, where the partition is none."
    )
    published: str | None = Field(
        default=None,
        description="Published run whose student takes the place of the preset's, such as 'nuscenes-224x400'.",
    )
    is_complete: bool = Field(
        default=False,
        description="Whether this says everything and nothing that the home keeps is added, as the command line does.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_overrides(PipelineConfig, self.overrides)
        if self.is_complete and self.preset == "of_home":
            raise ValueError(f"a complete configuration names its preset, one of {', '.join(PRESET_NAMES)}")
        return self

    def selection(self, home: Path, *, by_command: bool = False) -> HomeSelection:
        """Return the home's selection with these choices on top, or these alone if they are complete.

        Args:
            home: Folder of the home.
            by_command: Whether a command of this machine asks. Whoever else asks, such as a page in a browser, cannot
                name files or models of the hub: only those that the home keeps in its ``run.json``.

        Raises:
            ValueError: If neither this selector nor the home names a preset, or a place is named that must not be.
        """
        kept = HomeSelection.load(home)
        asked = HomeSelection.on_top_of(
            None if self.is_complete else kept,
            preset=None if self.preset == "of_home" else self.preset,
            seed=self.seed,
            overrides=self.overrides,
            variant=None if self.variant == "of_home" else self.variant,
            published=self.published,
        )
        if self.overrides and not by_command:
            _refuse_places(asked, kept)
        return asked

    def resolve(self, home: Path, variant: Variant | None = None, *, by_command: bool = False) -> PipelineConfig:
        """Return the complete configuration; see ``selection``.

        Raises:
            ValueError: If no preset is known, an override does not apply, or a place is named that must not be.
        """
        return self.selection(home, by_command=by_command).resolve(variant)


class TrainingSceneSelector(RunSelector):
    """Choice of training scenes, in addition to the configuration."""

    train_scenes: list[str] = Field(
        default_factory=list, description="Scenes to learn from; empty takes those that the home keeps."
    )

    def selection(self, home: Path, *, by_command: bool = False) -> HomeSelection:
        """Return the selection with these scenes, if any are given.

        Raises:
            ValueError: If neither this selector nor the home names a preset.
        """
        return super().selection(home, by_command=by_command).with_scenes(self.train_scenes, ())


class FeatureBasisSelector(TrainingSceneSelector):
    """Choice of the scenes of a feature basis, in addition to the configuration."""

    basis_scenes: list[str] = Field(
        default_factory=list,
        description="Scenes of the basis; empty takes those that the home keeps, as long as they are learned from.",
    )

    def selection(self, home: Path, *, by_command: bool = False) -> HomeSelection:
        """Return the selection with these scenes, if any are given.

        Raises:
            ValueError: If neither this selector nor the home names a preset.
        """
        selection = super().selection(home, by_command=by_command)
        return dataclasses.replace(selection, basis_scenes=tuple(self.basis_scenes) or selection.basis_scenes)


class TrainingSetSelector(TrainingSceneSelector):
    """Choice of the scenes of a training set, in addition to the configuration."""

    validation_scenes: list[str] = Field(default_factory=list, description="Scenes held out, likewise.")

    def selection(self, home: Path, *, by_command: bool = False) -> HomeSelection:
        """Return the selection with these scenes, if any are given.

        Raises:
            ValueError: If neither this selector nor the home names a preset.
        """
        return RunSelector.selection(self, home, by_command=by_command).with_scenes(
            self.train_scenes, self.validation_scenes
        )


class TransferSelector(RunSelector):
    """Choice of a student and of scenes outside its training set, in addition to the configuration."""

    checkpoint: str = Field(
        default="",
        description=(
            "The student: student_checkpoint/<variant>@<digest>, the folder of a checkpoint in another home, or a "
            "packed student's folder or hub id. Empty is the current one of the partition."
        ),
    )
    evaluated_scenes: list[str] = Field(
        default_factory=list,
        description="Scenes to score; empty takes all of the home that it can read and did not learn from.",
    )

    def selection(self, home: Path, *, by_command: bool = False) -> HomeSelection:
        """Return the selection with this student and these scenes.

        Raises:
            ValueError: If neither this selector nor the home names a preset, or a launched run names a folder.
        """
        if not by_command and _is_place(self.checkpoint) and not _OF_THIS_HOME.fullmatch(self.checkpoint):
            raise ValueError(
                f"checkpoint {self.checkpoint!r} is none of this home, which a launched run may not name: want "
                "student_checkpoint/<variant>@<digest>, or use distillnerf evaluate"
            )
        return dataclasses.replace(
            super().selection(home, by_command=by_command),
            checkpoint=self.checkpoint,
            evaluated_scenes=tuple(self.evaluated_scenes),
        )


class WeakLabelSelector(RunSelector):
    """Choice of the student that labels a scene, in addition to the configuration."""

    variant: Literal["of_home", "clip", "clip_dinov2", "clip_without_field"] = Field(
        default="of_home", description="The student; it must render CLIP features to know classes by their names."
    )


def choose_split(
    scene_keys: list[str], config: PipelineConfig, held_out: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide scenes into those to learn from and those held out.

    Args:
        scene_keys: All scenes of the run.
        config: Number of scenes to hold out if none are named.
        held_out: Keys to hold out.

    Raises:
        ValueError: If a held-out scene is not among the scenes, or all scenes are held out.
    """
    if unknown := sorted(set(held_out) - set(scene_keys)):
        raise ValueError(f"held-out scenes {unknown} are not among {sorted(scene_keys)}")
    count = min(config.split.held_out_scenes, len(scene_keys) - 1)
    validation = held_out or tuple(sorted(scene_keys)[len(scene_keys) - count :])
    train = tuple(key for key in sorted(scene_keys) if key not in validation)
    if not train:
        raise ValueError("every scene is held out: nothing is left to learn from")
    return train, validation
