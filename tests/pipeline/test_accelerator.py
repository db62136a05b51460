"""The one script for an accelerator, on a processor: every part is measured, or says why it is not."""

import json
import sys
from pathlib import Path

import pytest

from pipeline import accelerator
from pipeline.accelerator import PARTS, AcceleratorReport, Part


def test_a_part_that_fails_or_takes_too_long_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = {
        "latency": "print('{\"ratio\": 2}')",
        "spconv": "raise SystemExit('no such package')",
        "step": "import time; time.sleep(60)",
        "step-bfloat16": "print('{}')",
    }
    monkeypatch.setattr(AcceleratorReport, "_command", lambda _, part, limit: [sys.executable, "-c", programs[part]])
    monkeypatch.setattr(AcceleratorReport, "_limit_s", lambda _, part: 1.5 if part == "step" else 20.0)
    parts: tuple[Part, ...] = ("latency", "spconv", "step", "step-bfloat16", "pretraining")
    report = AcceleratorReport(output=tmp_path / "found.json", parts=parts).run()
    told = report["parts"]
    assert json.loads((tmp_path / "found.json").read_text()) == report
    assert {name: part["status"] for name, part in told.items()} == {
        "latency": "measured",
        "spconv": "failed",
        "step": "too long",
        "step-bfloat16": "measured",
        "pretraining": "left out",
    }
    assert told["latency"]["figures"] == {"ratio": 2}
    assert told["spconv"]["error"] == "no such package"
    assert told["pretraining"]["error"] == "no --pretraining-home"


def test_time_that_is_over_leaves_parts_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accelerator, "_run", lambda command, limit: pytest.fail("nothing may start"))
    report = AcceleratorReport(output=tmp_path / "found.json", minutes=0.001).run()
    assert {part["status"] for part in report["parts"].values()} == {"left out"}


@pytest.mark.slow
@pytest.mark.nightly
def test_every_part_runs_on_a_processor(tmp_path: Path) -> None:
    parts = tuple(part for part in PARTS if part not in ("spconv", "pretraining"))
    report = AcceleratorReport(output=tmp_path / "found.json", toy=True, parts=parts, minutes=30).run()
    told = report["parts"]
    assert {part["status"] for part in told.values()} == {"measured"}, report
    assert told["step"]["figures"]["target_views"] == 18
    assert told["latency"]["figures"]["float32"]["total_seconds"] > 0
    assert told["teacher"]["figures"]["psnr_db"] > 3
