"""The benchmark's two layouts give the same sample; how fast is for the benchmark to say."""

import pytest

from student.experiments.benchmarks import loader


def test_both_layouts_give_the_same_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_SIZE", (128, 228))  # no resize, so no difference between two resize filters
    monkeypatch.setattr(loader, "_NUM_POINTS", 500)
    record = loader.bench_loader(runs=5)
    assert record.details["max_difference"] == 0.0
    assert record.ratio > 0
    assert {"name", "ratio", "ours", "reference", "unit", "runs"} <= set(record.to_json())
