"""Which evaluations compare, and when a student became worse."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, StoreVersion, materialize_files
from student.evaluation.history import changes_since, evaluation_history
from student.evaluation.results import EvaluationResult, Figure, Section
from student.reporting.trend import trend_jpeg, trend_page

ABS_REL = "depth_lidar.abs_rel"
Ends = tuple[float, float] | None


def figure(value: float | None, ends: Ends, resampled: str) -> Figure:
    low, high = ends or (None, None)
    return Figure(
        name="abs_rel",
        label="AbsRel",
        value=value,
        definition="Mean of the relative error.",
        better="lower",
        low=low,
        high=high,
        resampled=resampled,
    )


def evaluated(
    home: Home,
    value: float | None,
    ends: Ends = None,
    *,
    passed: bool = True,
    resampled: str = "scene",
    scenes: tuple[str, ...] = ("a.one",),
    config: str = "fixed",
) -> StoreVersion:
    """A new checkpoint, and its evaluation; each is made a minute after the one before."""
    number = len(home.versions("student_checkpoint", "depth"))
    quality = {"quality": {"passed": passed, "checks": {"loss": {"value": 1, "threshold": 2, "passed": passed}}}}
    checkpoint = materialize_files(
        home, Provenance(kind="student_checkpoint", partition="depth", seed=number), lambda folder: quality
    ).version
    result = EvaluationResult(
        variant="depth",
        checkpoint_digest=checkpoint.digest,
        scenes=scenes,
        num_frames=3,
        sections=(
            Section(
                name="depth_lidar",
                title="Depth",
                quality="geometric",
                reference="LiDAR",
                figures=(figure(value, ends, resampled),),
            ),
        ),
    )
    provenance = Provenance(
        kind="student_evaluation",
        partition="depth",
        inputs=(checkpoint.as_input,),
        config_digest=config,
        created_at=f"2026-11-01T03:{number:02d}:00+00:00",
    )
    return materialize_files(home, provenance, lambda folder: result.to_json()).version


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the times that the test gives: real ones would all be of one second."""

    def finished(self: Provenance, wall_time_s: float) -> Provenance:
        return dataclasses.replace(self, wall_time_s=wall_time_s)

    monkeypatch.setattr(Provenance, "finished", finished)


def judged(home: Home, version: StoreVersion) -> Any:
    (change,) = changes_since(evaluation_history(home, "depth"), version)
    return change


@pytest.mark.parametrize(
    ("now", "ends", "resampled", "change"),
    [
        (1.07, (0.9, 1.2), "scene", "worse"),
        (0.40, (0.36, 0.44), "scene", "kept"),
        (0.46, (0.43, 0.5), "scene", "worse"),
        (0.20, (0.15, 0.24), "scene", "better"),
        (0.36, (0.3, 0.42), "scene", "kept"),
        (0.38, (0.379, 0.381), "frame", "kept"),  # too narrow an interval, and within the margin
        (0.50, (0.49, 0.51), "frame", "worse"),
        (0.38, None, "none", "kept"),
        (0.50, None, "none", "worse"),
        (0.20, None, "none", "better"),
        (None, None, "none", "lost"),
    ],
)
def test_a_figure_is_worse_beyond_the_interval(
    tmp_path: Path, now: float | None, ends: Ends, resampled: str, change: str
) -> None:
    home = Home(tmp_path)
    before = evaluated(home, 0.36, (0.3, 0.42) if resampled == "scene" else (0.359, 0.361), resampled=resampled)
    assert judged(home, before).change == "first"
    found = judged(home, evaluated(home, now, ends, resampled=resampled))
    assert (found.name, found.change) == (ABS_REL, change)
    assert found.before.value == 0.36


def test_a_student_cannot_become_worse_a_little_every_night(tmp_path: Path) -> None:
    home = Home(tmp_path)
    values = [0.36, 0.40, 0.44, 0.48]
    changes = [judged(home, evaluated(home, value, (value - 0.05, value + 0.05))).change for value in values]
    assert changes == ["first", "kept", "kept", "worse"]


def test_other_scenes_other_settings_and_failed_checkpoints_are_no_measure(tmp_path: Path) -> None:
    home = Home(tmp_path)
    evaluated(home, 0.1, (0.09, 0.11), scenes=("a.one", "a.two"))
    evaluated(home, 0.1, (0.09, 0.11), config="paper")
    evaluated(home, 0.1, (0.09, 0.11), passed=False)
    newest = evaluated(home, 0.36, (0.3, 0.42))
    assert judged(home, newest).change == "first"
    assert [record.gate_passed for record in evaluation_history(home, "depth")] == [True, True, False, True]


def test_the_trend_is_a_picture_and_a_page_that_names_what_became_worse(tmp_path: Path) -> None:
    home = Home(tmp_path)
    evaluated(home, 0.36, (0.3, 0.42))
    newest = evaluated(home, 1.07, (0.9, 1.2), passed=False)
    assert trend_jpeg(home, newest)[:2] == b"\xff\xd8"
    page = trend_page({"depth": evaluation_history(home, "depth")}, {"depth": newest})
    assert f"<td>{ABS_REL}</td>" in page
    assert "1.07" in page
    assert '<td class="bad">worse</td>' in page
    assert "failed its own gate" in page
    assert "No student was evaluated yet." in trend_page({}, {})
