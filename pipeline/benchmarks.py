"""Benchmarks by name, with one form for all results."""

import importlib
from collections.abc import Mapping
from typing import Any

from storage.digests import config_json
from storage.errors import EnvironmentMissingError, ErrorKind

BENCHMARKS: dict[str, str] = {
    "loader": "student.experiments.benchmarks.loader:bench_loader",
    "pooling": "student.experiments.benchmarks.pooling:bench_pooling",
    "sparse-conv": "student.experiments.benchmarks.sparse_conv:bench_sparse_conv",
    "spconv": "student.experiments.benchmarks.spconv:bench_spconv",
    "render": "student.experiments.benchmarks.render:bench_render",
    "student": "student.experiments.benchmarks.student:bench_student",
    "ingest": "storage.ingest.benchmark:bench_ingest",
    "raycast": "storage.procedural.benchmark:bench_raycast",
}
"""Function that runs each benchmark, as ``module:function``."""

RESULT_FIELDS = ("name", "ratio", "ours", "reference", "unit", "runs")


def run_benchmark(name: str) -> dict[str, Any]:
    """Run a benchmark and return its result; ``ratio`` is the reference's time over ours, or as the unit says.

    Raises:
        ValueError: If there is no such benchmark.
        EnvironmentMissingError: If the benchmark is not part of this installation.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r}, want one of {', '.join(BENCHMARKS)}")
    try:
        module, _, function = BENCHMARKS[name].partition(":")
        measure = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise EnvironmentMissingError(ErrorKind.ENVIRONMENT_MISSING, BENCHMARKS[name], str(error)) from error
    result: Mapping[str, Any] = config_json(measure())
    missing = [field for field in RESULT_FIELDS if field not in result]
    if missing:
        raise ValueError(f"benchmark {name!r} returned no {', '.join(missing)}")
    return dict(result)
