"""The plan of a run: what work costs by what a home has built, and what it leaves out."""

from pathlib import Path

import pytest

from pipeline.presets import build_preset
from pipeline.pricing import OVERHEAD, Price, Workload, measure_rates, price_run, wall_hours
from pipeline.run_config import HomeSelection
from storage.digests import config_json
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, StoreVersion, materialize_files
from student.config import Variant
from teachers.nerf.task import KIND_OF

SCENE = "a.one"


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with one build each of scene, field, student and evaluation, that took 10, 100, 200 and 60 seconds."""
    home, config = Home(tmp_path), HomeSelection(preset="demo").resolve("depth")
    seconds = {"scene": 10.0, "nerf_teacher": 100.0, "student_checkpoint": 200.0, "student_evaluation": 60.0}
    own = Provenance.finished
    monkeypatch.setattr(Provenance, "finished", lambda self, _: own(self, seconds.get(self.kind, 1.0)))

    def build(kind: str, partition: str, settings: object, *inputs: StoreVersion) -> StoreVersion:
        provenance = Provenance(
            kind=kind,
            partition=partition,
            inputs=tuple(version.as_input for version in inputs),
            config={} if settings is None else config_json(settings),
        )
        return materialize_files(home, provenance, lambda folder: {"frames": 4, "cameras": 6}).version

    build("scene", SCENE, None)
    build("nerf_teacher", SCENE, config.nerf)
    checkpoint = build("student_checkpoint", "depth", config.student)
    build("student_evaluation", "depth", config.evaluation, checkpoint, build("input_images", SCENE, None))
    return home


def hours(home: Home, workload: Workload, *overrides: str) -> dict[str, float | None]:
    config = HomeSelection(preset="demo", overrides=overrides).resolve("depth")
    return {price.kind: price.hours for price in price_run(config, workload, measured_in=home)}


def test_each_stage_grows_with_its_own_amount_of_work(measured: Home) -> None:
    small, large = Workload(scenes=1, frames=4, cameras=6), Workload(scenes=20, frames=40, cameras=6, held_out=3)
    one = hours(measured, small)
    assert one["scene"] == pytest.approx(10 / 3600)
    assert one["nerf_teacher"] == pytest.approx(100 / 3600)
    assert one["student_checkpoint"] == pytest.approx(200 / 3600)
    assert one["student_evaluation"] == pytest.approx(60 / 3600)
    many = hours(measured, large)
    assert many["scene"] == pytest.approx(20 * 10 * 10 / 3600), "frames"
    assert many["nerf_teacher"] == pytest.approx(20 * 100 / 3600), "a fit has as many steps, whatever the scene"
    assert many["student_checkpoint"] == pytest.approx(200 / 3600), "as has a student"
    assert many["student_evaluation"] == pytest.approx(10 * 3 * 60 / 3600), "frames and scenes held out"
    steps = build_preset("demo", variant="depth").nerf.num_steps
    assert hours(measured, small, f"nerf.num_steps={3 * steps}")["nerf_teacher"] == pytest.approx(300 / 3600)
    assert hours(measured, small, "nerf.pixel_rays=1024", "nerf.lidar_rays=3072")["nerf_teacher"] == pytest.approx(
        100 / 3600
    )


def test_what_was_never_built_is_unknown_and_every_kind_is_there(measured: Home) -> None:
    found = hours(measured, Workload(scenes=2, frames=4, cameras=6))
    assert {"nerf_teacher", "feature_field", "student_checkpoint", "student_evaluation", "report"} <= set(found)
    assert found["virtual_views"] is None
    assert OVERHEAD not in found, "no command has run on this home"
    assert measure_rates(measured)["nerf_teacher"].builds == 1
    assert set(hours(None, Workload(scenes=2, frames=4, cameras=6)).values()) == {None}  # type: ignore[arg-type]


def test_no_field_is_priced_for_a_student_that_learns_from_none() -> None:
    def kinds(variant: Variant) -> set[str]:
        config = HomeSelection(preset="demo").resolve(variant)
        return {price.kind for price in price_run(config, Workload(scenes=2, frames=4, cameras=6))}

    assert kinds("clip") - kinds("clip_without_field") == {*KIND_OF.values()}


def test_workers_share_the_scenes_and_the_student_is_alone() -> None:
    prices = [
        Price(kind="scene", stored_bytes=1, hours=6.0),
        Price(kind="student_checkpoint", stored_bytes=None, hours=3.0, is_shared=False),
        Price(kind="report", stored_bytes=None),
    ]
    assert [wall_hours(prices, workers) for workers in (1, 2, 8)] == [9.0, 6.0, 3.75]
    assert wall_hours(prices[2:], 2) is None


@pytest.mark.parametrize("wrong", [{"scenes": 0}, {"frames": 0}, {"cameras": -1}])
def test_a_count_is_at_least_one(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="want at least 1"):
        Workload(**({"scenes": 1, "frames": 1, "cameras": 1} | wrong))
