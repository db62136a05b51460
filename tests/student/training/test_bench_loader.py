"""The benchmark's two layouts give the same sample; how fast is for the benchmark to say."""

from typing import Any

import pytest

from storage.stores.content_record import CheckedStore
from student.experiments.benchmarks import loader


def test_both_layouts_give_the_same_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_SIZE", (128, 228))  # no resize, so no difference between two resize filters
    monkeypatch.setattr(loader, "_NUM_POINTS", 500)
    record = loader.bench_loader(runs=5)
    assert record.details["max_difference"] == 0.0
    assert record.ratio > 0
    assert {"name", "ratio", "ours", "reference", "unit", "runs"} <= set(record.to_json())


def test_reading_without_checks_gives_the_same_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_SIZE", (128, 228))
    monkeypatch.setattr(loader, "_NUM_POINTS", 500)
    checked = CheckedStore.get
    asked: list[str] = []

    async def get(self: CheckedStore, key: str, *given: Any, **named: Any) -> Any:
        asked.append(key)
        return await checked(self, key, *given, **named)

    monkeypatch.setattr(CheckedStore, "get", get)
    record = loader.bench_checks(runs=5)
    assert record.details["max_difference"] == 0.0
    chunks = [key for key in asked if "/c/" in key and key.startswith("termination_depth")]
    assert len(chunks) / len(set(chunks)) < 2 * (5 + 2)  # only one of the two readers asks
