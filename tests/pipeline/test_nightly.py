"""A student that was worsened on purpose is caught: by the asset check, on the console, and by whoever is told."""

from pathlib import Path

import pytest
from rich.console import Console

from assets.checks import judge_history
from pipeline.alerts import Alert
from pipeline.commands import nightly
from pipeline.run_config import HomeSelection
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, StoreVersion, materialize_files
from student.evaluation.results import EvaluationResult, Figure, Section


def evaluated(home: Home, day: int, abs_rel: float, *, passed: bool = True) -> StoreVersion:
    """A checkpoint of a day and its evaluation."""
    quality = {"quality": {"passed": passed, "checks": {"loss": {"value": 1, "threshold": 2, "passed": passed}}}}
    checkpoint = materialize_files(
        home, Provenance(kind="student_checkpoint", partition="depth", seed=day), lambda folder: quality
    ).version
    figure = Figure(
        name="abs_rel",
        label="AbsRel",
        value=abs_rel,
        definition="Mean of the relative error.",
        better="lower",
        low=abs_rel - 0.05,
        high=abs_rel + 0.05,
        resampled="scene",
    )
    depth = Section(name="depth_lidar", title="Depth", quality="geometric", reference="LiDAR", figures=(figure,))
    result = EvaluationResult(
        variant="depth", checkpoint_digest=checkpoint.digest, scenes=("a.one",), num_frames=3, sections=(depth,)
    )
    provenance = Provenance(kind="student_evaluation", partition="depth", inputs=(checkpoint.as_input,), seed=day)
    return materialize_files(home, provenance, lambda folder: result.to_json()).version


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    days = iter(range(1, 28))
    own = Provenance.finished

    def finished(self: Provenance, wall_time_s: float) -> Provenance:
        stamped = own(self, wall_time_s)
        object.__setattr__(stamped, "created_at", f"2026-11-{next(days):02d}T03:00:00+00:00")
        return stamped

    monkeypatch.setattr(Provenance, "finished", finished)
    HomeSelection(preset="demo").save(tmp_path)
    return Home(tmp_path)


def test_the_check_fails_on_a_worse_student_and_on_a_failed_checkpoint(home: Home) -> None:
    first = evaluated(home, 1, 0.36)
    assert {v.name: v.outcome for v in judge_history(home, first)} == {
        "checkpoint_gate": "passed",
        "depth_lidar.abs_rel": "passed",
    }
    worse = {v.name: v for v in judge_history(home, evaluated(home, 2, 1.07))}
    assert worse["depth_lidar.abs_rel"].outcome == "failed"
    assert worse["depth_lidar.abs_rel"].wanted == "not worse than 0.36 [0.31, 0.41]"
    assert worse["checkpoint_gate"].outcome == "passed"
    unsound = {v.name: v.outcome for v in judge_history(home, evaluated(home, 3, 0.36, passed=False))}
    assert unsound == {"checkpoint_gate": "failed", "depth_lidar.abs_rel": "passed"}


def test_the_command_says_so_writes_the_page_and_tells_whoever_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Alert] = []
    monkeypatch.setenv("DISTILLNERF_ALERT_WEBHOOK", "http://127.0.0.1:9/")
    monkeypatch.setattr(nightly, "send_alert", lambda alert, channels: sent.append(alert))
    command = nightly.Nightly(home=home.root, only_judge=True)
    evaluated(home, 1, 0.36)
    assert command.run(Console(width=200)) == 0
    assert "✓ depth: 1 figures hold" in capsys.readouterr().out
    evaluated(home, 2, 1.07)
    assert command.run(Console(width=200)) == 1
    said = capsys.readouterr().out
    assert "✗ depth: depth_lidar.abs_rel is 1.07 [1.02, 1.12], want not worse than 0.36" in said
    (alert,) = sent
    assert alert.title == "distillnerf: student depth failed its nightly check"
    assert alert.lines == ("depth_lidar.abs_rel is 1.07 [1.02, 1.12], wanted not worse than 0.36 [0.31, 0.41]",)
    assert '<td class="bad">worse</td>' in (home.root / "report" / "trend.html").read_text()
