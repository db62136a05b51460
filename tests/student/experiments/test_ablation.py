"""An ablation compares runs that differ in one part only, and says no more than its seeds allow."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from storage.stores.places import STORE_URL_VARIABLE
from storage.stores.versioned import Home
from student.experiments import ablation
from student.experiments.ablation import CLAIMS, FIGURES, Ablation, Spread, summarise, verdict
from student.reporting.plots import ablation_plot

CLAIM = CLAIMS[0]  # lower is better


def test_a_spread_is_students_interval() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread.mean == 2.0
    assert spread.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert math.isnan(Spread.of([1.0]).half_width)
    assert math.isnan(Spread.of([]).mean)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([-0.10, -0.11, -0.12], "confirmed"),
        ([0.10, 0.11, 0.12], "contradicted"),
        ([-0.10, 0.11, -0.12], "not decided"),
        ([-0.10], "one seed says nothing"),
        ([], "one seed says nothing"),
    ],
)
def test_a_verdict_needs_more_than_scatter(changes: list[float], expected: str) -> None:
    assert verdict(CLAIM, Spread.of(changes)) == expected
    upwards = replace(CLAIM, better="higher")
    swapped = {"confirmed": "contradicted", "contradicted": "confirmed"}
    assert verdict(upwards, Spread.of(changes)) == swapped.get(expected, expected)


def test_seeds_are_paired() -> None:
    """Runs that scatter by much more than a part is worth still show it, if each seed does."""
    scatter = (0.2, 0.5, 0.9)
    without = [{CLAIM.figure: value} for value in scatter]
    with_it = [{CLAIM.figure: value - gain} for value, gain in zip(scatter, (0.010, 0.011, 0.012), strict=True)]
    record = summarise({CLAIM.without: without, CLAIM.variant: with_it})
    (claim,) = record["claims"]  # type: ignore[misc] # the other claims' variants were not run
    assert claim["verdict"] == "confirmed"
    assert claim["change"]["mean"] == pytest.approx(-0.011)
    assert record["figures"][CLAIM.without]["lateral_truth.psnr"]["values"] == ()  # type: ignore[index]


def test_runs_differ_in_variant_and_seed_alone() -> None:
    command = Ablation(home=Path("anywhere"), steps=7)
    first, other = command._config("depth", 0), command._config("depth", 1)
    assert first.fit.max_steps == 7
    assert replace(other, fit=replace(other.fit, seed=0)) == first
    without = command._config("no_distillation", 0)
    assert without.data.teacher_depth is False
    assert replace(without, data=first.data, losses=first.losses) == first


def test_the_picture_names_every_figure() -> None:
    picture = ablation_plot({"depth": [{FIGURES[0]: 20.0}], "depth_contracted": []}, FIGURES)
    assert all(name in picture for name in FIGURES)


def test_targets_are_read_where_the_store_url_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = []

    def stop(home: Home, *_: object, **__: object) -> None:
        opened.append(home.store_url)
        raise InterruptedError

    monkeypatch.setattr(ablation, "fit_student", stop)
    monkeypatch.setenv(STORE_URL_VARIABLE, "s3://stores/all")
    for command in (Ablation(home=tmp_path), Ablation(home=tmp_path, store_url="s3://stores/mine")):
        with pytest.raises(InterruptedError):
            command.run()
    assert opened == ["s3://stores/all", "s3://stores/mine"]
