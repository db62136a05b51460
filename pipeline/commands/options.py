"""Base classes of the commands, and the flags that they share."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import tyro
from rich.console import Console

from pipeline.overrides import apply_overrides, differences
from pipeline.presets import PipelineConfig, PresetName
from pipeline.resources import home_from_environment, is_home_named
from pipeline.run_config import HomeSelection
from storage.ingest.known_digests import VERIFY_RAW_VARIABLE
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home
from student.config import Variant
from student.presets.published import PUBLISHED_RUNS


@dataclass(frozen=True, kw_only=True)
class Command:
    """Base of all commands.

    Attributes:
        debug: Show the traceback of an error instead of one line.
    """

    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False

    def run(self, console: Console) -> int:
        """Run the command, and return the exit code."""
        raise NotImplementedError


ActionT = TypeVar("ActionT", bound=Command)


@dataclass(frozen=True, kw_only=True)
class CommandGroup(Generic[ActionT]):
    """Base of commands that only gather others, each of which is an action.

    Attributes:
        action: What to do.
    """

    action: ActionT

    def run(self, console: Console) -> int:
        """Run the command that was chosen, and return its exit code."""
        return self.action.run(console)


@dataclass(frozen=True, kw_only=True)
class HomeCommand(Command):
    """Base of commands that work on a home.

    Attributes:
        home: Folder of everything that runs write, or s3://bucket/prefix; by default DISTILLNERF_HOME.
    """

    home: str | None = None

    def open_home(self, *, must_exist: bool = False) -> Home:
        """Return the home.

        Raises:
            ValueError: If no home is named, or it must exist and is missing.
        """
        home = Home(home_from_environment(self.home), store_url=store_url_from_environment())
        if must_exist and not home.exists():
            raise ValueError(f"no home at {home.address}: 'distillnerf run' or 'distillnerf demo' makes one")
        return home

    def named_home(self, *, must_exist: bool = False) -> Home | None:
        """Return the home that the command or the environment names, or None."""
        return self.open_home(must_exist=must_exist) if is_home_named(self.home) else None


@dataclass(frozen=True, kw_only=True)
class ConfiguredCommand(HomeCommand):
    """Base of commands that run stages; every field of the configuration is also a flag of these commands.

    Attributes:
        preset: Named configuration; by default the home's own. Another one discards the home's seed, overrides
            and published run.
        seed: Seed of every random choice; by default the home's, or else the preset's own seeds.
        variant: Student variant, which names what it is taught; by default the home's own.
        published: Published run whose student takes the place of the preset's, by data set and image size.
        set: Changes of single fields as dotted.name=value, as in Dagster. Each field is also a flag: --nerf.num-steps
            300.
    """

    preset: PresetName | None = None
    seed: int | None = None
    variant: Variant | None = None
    published: Literal[PUBLISHED_RUNS] | None = None  # pyright: ignore[reportInvalidTypeForm]
    set: tuple[str, ...] = ()

    default_preset: ClassVar[PresetName | None] = None

    def base_config(self) -> PipelineConfig:
        """Return what this command would choose without configuration flags; what follows from it is left open.

        Raises:
            ValueError: If no preset is known, or a change does not apply.
        """
        return self.selection(self.named_home()).choices()

    def selection(self, home: Home | None) -> HomeSelection:
        """Return the selection to run: the one that the home keeps, if any, with this command's choices on top.

        Raises:
            ValueError: If no preset is known, or a change does not apply.
        """
        kept = None if home is None else HomeSelection.load(home.root)
        selection = HomeSelection.on_top_of(
            kept,
            preset=self.preset or (None if kept else self.default_preset),
            seed=self.seed,
            overrides=self.set,
            variant=self.variant,
            published=self.published,
        )
        selection.resolve()
        return selection


@dataclass(frozen=True, kw_only=True)
class SceneCommand(ConfiguredCommand):
    """Base of commands that make scenes, among other things.

    Attributes:
        verify_raw: Hash every raw file again. By default one that nothing has touched since it was hashed is not read,
            as its size, times and inode tell.
    """

    verify_raw: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables that the command's workers get in addition."""
        return {VERIFY_RAW_VARIABLE: "1"} if self.verify_raw else {}


def flags_to_overrides(base: PipelineConfig, flags: list[str], program: str) -> list[str]:
    """Return the overrides that the configuration flags describe.

    Args:
        base: Configuration that they change.
        flags: Flags that the command itself does not define, such as ``--nerf.num-steps 300``.
        program: Name of the command, for its usage message.

    Raises:
        SystemExit: If a flag is unknown or its value has the wrong type; the code is 2.
    """
    parsed: Any = tyro.cli(
        type(base),
        args=_with_values(base, flags),
        default=base,
        prog=program,
        description="Fields of the configuration.",
        config=(tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed),
    )
    overrides = list(differences(base, parsed))
    apply_overrides(base, overrides)
    return overrides


def _with_values(base: PipelineConfig, flags: list[str]) -> list[str]:
    """Return the flags with ``True`` after each one that names a boolean field and has no value."""
    complete: list[str] = []
    for index, flag in enumerate(flags):
        complete.append(flag)
        is_last = index + 1 == len(flags) or flags[index + 1].startswith("--")
        if flag.startswith("--") and is_last and isinstance(_field(base, flag), bool):
            complete.append("True")
    return complete


def _field(config: Any, flag: str) -> Any:  # noqa: ANN401 - any value
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        config = getattr(config, name, None)
    return config
