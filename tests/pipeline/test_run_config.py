"""What a run is told, and what a home remembers of it."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import dagster as dg
import pytest
from dagster._core.execution.api import create_execution_plan
from pydantic import ValidationError

from pipeline.commands.options import ConfiguredCommand
from pipeline.definitions import build_definitions
from pipeline.presets import PRESET_NAMES, PresetName, build_preset
from pipeline.run_config import (
    PLACES,
    FeatureBasisSelector,
    HomeSelection,
    RunSelector,
    TrainingSceneSelector,
    TrainingSetSelector,
    TransferSelector,
    choose_split,
)
from storage.digests import canonical_json
from storage.errors import IntegrityError
from storage.stores.versioned import Home

GOLDEN = Path(__file__).parent / "golden" / "presets"


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_resolved_presets_are_the_golden_ones(name: PresetName, request: pytest.FixtureRequest) -> None:
    resolved = canonical_json(HomeSelection(preset=name).resolve()).replace(',"', ',\n"') + "\n"
    path = GOLDEN / f"{name}.json"
    if request.config.getoption("--regenerate-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(resolved)
    assert resolved == path.read_text()


def test_one_seed_reaches_every_stage() -> None:
    config = build_preset("demo", variant="clip", seed=41)
    assert config.nerf.seed == config.student.fit.seed == config.procedural.seed == config.evaluation.seed == 41
    assert config.image_teachers.clip_basis.seed == 41


def test_a_home_keeps_its_selection(tmp_path: Path) -> None:
    kept = HomeSelection(preset="tiny", seed=3, overrides=("nerf.num_steps=7",), train_scenes=("d.a",))
    kept.save(tmp_path)
    assert HomeSelection.load(tmp_path) == kept
    assert kept.resolve().nerf.num_steps == 7


def test_a_damaged_selection_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"preset": "enormous"}')
    with pytest.raises(IntegrityError, match="enormous"):
        HomeSelection.load(tmp_path)


def test_the_launchpad_takes_what_the_home_keeps(tmp_path: Path) -> None:
    HomeSelection(preset="tiny", seed=3, overrides=("nerf.num_steps=7",)).save(tmp_path)
    resolved = RunSelector(overrides=["nerf.pixel_rays=64"]).resolve(tmp_path)
    assert (resolved.nerf.num_steps, resolved.nerf.pixel_rays, resolved.nerf.seed) == (7, 64, 3)


def test_another_preset_drops_the_changes_made_to_the_first(tmp_path: Path) -> None:
    HomeSelection(preset="tiny", seed=3, overrides=("nerf.num_steps=7",), train_scenes=("d.a",)).save(tmp_path)
    selection = RunSelector(preset="demo").selection(tmp_path)
    assert (selection.preset, selection.seed, selection.overrides) == ("demo", None, ())
    assert selection.train_scenes == ("d.a",)


def cli_selection(home: Path, **asked: Any) -> HomeSelection:
    return ConfiguredCommand(home=home, **asked).selection(Home(home))


def launchpad_selection(home: Path, **asked: Any) -> HomeSelection:
    return RunSelector(**{"overrides" if k == "set" else k: v for k, v in asked.items()}).selection(home)


WAYS_IN = pytest.mark.parametrize("ask", [cli_selection, launchpad_selection])


@WAYS_IN
def test_naming_the_preset_of_the_home_keeps_its_seed_and_overrides(ask: Any, tmp_path: Path) -> None:
    kept = HomeSelection(preset="tiny", seed=3, overrides=("nerf.num_steps=7",), variant="depth")
    kept.save(tmp_path)
    assert ask(tmp_path, preset="tiny") == ask(tmp_path) == kept
    more = ask(tmp_path, preset="tiny", seed=4, set=["nerf.pixel_rays=64"])
    assert (more.seed, more.overrides) == (4, ("nerf.num_steps=7", "nerf.pixel_rays=64"))


@WAYS_IN
def test_naming_another_preset_starts_afresh(ask: Any, tmp_path: Path) -> None:
    HomeSelection(preset="tiny", seed=3, overrides=("nerf.num_steps=7",), train_scenes=("d.a",)).save(tmp_path)
    selection = ask(tmp_path, preset="demo", set=["nerf.pixel_rays=64"])
    assert (selection.seed, selection.overrides) == (None, ("nerf.pixel_rays=64",))
    assert selection.train_scenes == ("d.a",)


@WAYS_IN
def test_the_last_of_several_overrides_of_a_field_decides(ask: Any, tmp_path: Path) -> None:
    HomeSelection(preset="tiny", overrides=("nerf.num_steps=7", "nerf.num_steps=9")).save(tmp_path)
    selection = ask(tmp_path, set=["nerf.num_steps=7"])
    assert selection.overrides == ("nerf.num_steps=9", "nerf.num_steps=7")
    assert selection.resolve().nerf.num_steps == 7


def test_a_complete_configuration_takes_nothing_from_the_home(tmp_path: Path) -> None:
    given = HomeSelection(preset="tiny", variant="depth", train_scenes=("d.b",))
    fields = given.fields()
    HomeSelection(
        preset="tiny", seed=3, overrides=("nerf.num_steps=7",), train_scenes=("d.a",), validation_scenes=("d.c",)
    ).save(tmp_path)
    assert TrainingSetSelector(**fields).selection(tmp_path) == given
    with pytest.raises(ValidationError, match="names its preset"):
        RunSelector(is_complete=True)


def test_the_launchpad_of_a_basis_names_its_training_scenes(tmp_path: Path) -> None:
    HomeSelection(preset="tiny", train_scenes=("d.a",)).save(tmp_path)
    assert TrainingSceneSelector(train_scenes=["d.b"]).selection(tmp_path).train_scenes == ("d.b",)
    assert TrainingSceneSelector().selection(tmp_path).train_scenes == ("d.a",)


def test_a_home_without_a_selection_wants_a_preset(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a preset"):
        RunSelector().resolve(tmp_path)
    assert RunSelector(preset="demo").resolve(tmp_path) == HomeSelection(preset="demo").resolve()


@pytest.mark.parametrize("override", ["nerf.num_step=3", "nerf.num_steps=many", "nerf"])
def test_a_wrong_override_is_refused_before_anything_runs(override: str) -> None:
    with pytest.raises(ValidationError, match="override"):
        RunSelector(overrides=[override])


def test_a_wrong_preset_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValidationError):
        RunSelector(preset="enormous")  # type: ignore[arg-type]


def test_the_last_scenes_are_held_out_where_none_are_named() -> None:
    config = build_preset("demo", variant="clip")
    assert choose_split(["d.b", "d.a", "d.c"], config) == (("d.a", "d.b"), ("d.c",))
    assert choose_split(["d.a", "d.b"], config, ("d.a",)) == (("d.b",), ("d.a",))
    with pytest.raises(ValueError, match="not among"):
        choose_split(["d.a"], config, ("d.z",))
    with pytest.raises(ValueError, match="nothing is left"):
        choose_split(["d.a"], config, ("d.a",))


def test_a_single_scene_is_split_by_frames() -> None:
    config = build_preset("demo", variant="clip")
    train, validation = choose_split(["d.a"], config)
    selection = dataclasses.replace(HomeSelection(preset="demo"), train_scenes=train, validation_scenes=validation)
    frozen = selection.training_set("clip")
    assert (frozen.train_scenes, frozen.validation_scenes) == (("d.a",), ())
    assert frozen.held_out_stride == config.nerf.holdout_every >= 2
    two = dataclasses.replace(selection, train_scenes=("d.a",), validation_scenes=("d.b",))
    assert two.training_set("clip").held_out_stride == 0


@pytest.mark.parametrize(
    "change",
    [
        {"variant": "nonsense"},
        {"variant": "../../x"},
        {"train_scenes": ["../../x"]},
        {"validation_scenes": ["d.../../x"]},
        {"train_scenes": [3]},
        {"seed": "3"},
        {"preset": None},
        {"overrides": "nerf.num_steps=3"},
        {"newcomer": 1},
    ],
)
def test_a_kept_selection_that_no_command_wrote_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    HomeSelection(preset="tiny", train_scenes=("d.a",)).save(tmp_path)
    kept = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(kept | change))
    with pytest.raises(IntegrityError, match="is no selection of a run"):
        HomeSelection.load(tmp_path)


@pytest.mark.parametrize("content", ["", "3", "[]", "[" * 1_000_000])
def test_what_is_no_selection_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(IntegrityError, match="is no selection of a run"):
        HomeSelection.load(tmp_path)


def test_a_selection_kept_before_a_field_existed_has_its_default(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"preset": "tiny", "train_scenes": ["d.a"]}')
    assert HomeSelection.load(tmp_path) == HomeSelection(preset="tiny", train_scenes=("d.a",))


def test_feature_bases_stay_until_they_are_to_follow_or_cannot_stay() -> None:
    first = HomeSelection(preset="tiny").with_split(["d.a", "d.b"], ["d.c"])
    assert first.scenes_of_basis == ("d.a", "d.b")
    more = first.with_split(["d.a", "d.b", "d.e"], ["d.c"])
    assert more.scenes_of_basis == ("d.a", "d.b")
    assert more.with_split(more.train_scenes, ["d.c"], follow_basis=True).scenes_of_basis == ("d.a", "d.b", "d.e")
    assert first.with_split(["d.b", "d.e"], ["d.a"]).scenes_of_basis == ("d.b", "d.e"), "one of them is held out now"
    of_an_earlier_release = HomeSelection(preset="tiny", train_scenes=("d.a",))
    assert of_an_earlier_release.scenes_of_basis == ("d.a",)
    assert of_an_earlier_release.with_split(["d.a", "d.b"], []).scenes_of_basis == ("d.a",)


def test_a_basis_can_be_fitted_on_scenes_of_ones_own(tmp_path: Path) -> None:
    HomeSelection(preset="tiny").with_split(["d.a", "d.b"], []).save(tmp_path)
    assert FeatureBasisSelector().selection(tmp_path).scenes_of_basis == ("d.a", "d.b")
    assert FeatureBasisSelector(basis_scenes=["d.b"]).selection(tmp_path).scenes_of_basis == ("d.b",)


def _texts(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of all fields that can hold any text or path."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            yield from _texts(value, f"{prefix}{field.name}.")
        elif {str, Path} & {hint, *get_args(hint)}:
            yield prefix + field.name


NO_PLACES = {
    "procedural.dataset", "procedural.version", "ingest.cameras",
    "ingest.lidar", "virtual_views.view_names", "split.allow_ungated",
    "student.data.feature_sources", "evaluation.prompt_template", "evaluation.query",
    "evaluation.checkpoint_digest", "weak_labels.prompt_template", "weak_labels.checkpoint_digest",
}  # fmt: skip


def test_every_field_of_free_text_is_known_to_be_a_place_or_none() -> None:
    texts = {name for name in _texts(build_preset("demo", variant="clip")) if not name.endswith(".revision")}
    assert {name for name in texts if not PLACES.fullmatch(name)} == NO_PLACES
    assert len(texts - NO_PLACES) == 11


@pytest.mark.parametrize(
    "override",
    [
        "image_teachers.sky.weights.source=/tmp/weights",
        "image_teachers.clip_basis.extractor.weights.source=someone/model",
        "student.fit.initial=~/checkpoint",
        "student.losses.lpips_weights=./x",
        "evaluation.text_encoder=..",
        "weak_labels.classes=/etc/passwd",
        'image_teachers.sky.weights={"source": "/tmp/weights"}',
    ],
)
def test_a_launched_run_names_no_place_that_its_home_does_not_keep(tmp_path: Path, override: str) -> None:
    selector = RunSelector(preset="demo", overrides=[override])
    with pytest.raises(ValueError, match="names a file or a model of the hub"):
        selector.selection(tmp_path)
    assert override in selector.selection(tmp_path, by_command=True).overrides
    HomeSelection(preset="demo", overrides=(override,)).save(tmp_path)
    assert override in selector.selection(tmp_path).overrides


def test_a_launched_run_may_name_what_comes_with_the_package(tmp_path: Path) -> None:
    overrides = ["image_teachers.sky.weights.source=demo", "student.fit.initial=none", "evaluation.query=a car/van"]
    assert RunSelector(preset="demo", overrides=overrides).selection(tmp_path).overrides == tuple(overrides)


def test_a_launched_run_judges_students_of_its_own_home_alone(tmp_path: Path) -> None:
    own = "student_checkpoint/clip@0123abcd"
    assert TransferSelector(preset="demo", checkpoint=own).selection(tmp_path).checkpoint == own
    for elsewhere in ("/home/x/artifacts/student_checkpoint/clip/01", "someone/model", "student_checkpoint/../x@01"):
        with pytest.raises(ValueError, match=re.escape(elsewhere)):
            TransferSelector(preset="demo", checkpoint=elsewhere).selection(tmp_path)
        TransferSelector(preset="demo", checkpoint=elsewhere).selection(tmp_path, by_command=True)


@pytest.mark.parametrize(("resource", "field"), [("nerfstudio", "python"), ("home", "root"), ("home", "store_url")])
def test_no_resource_takes_run_configuration(resource: str, field: str) -> None:
    config = {"resources": {resource: {"config": {field: "/bin/sh"}}}}
    job = build_definitions().resolve_job_def("ingest")
    with pytest.raises(
        dg.DagsterInvalidConfigError, match=rf'unexpected config entry "{field}" at path root:resources'
    ):
        create_execution_plan(job, run_config=config)
