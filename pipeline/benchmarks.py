"""Benchmarks by name, with one form for all results."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from storage.digests import config_json
from storage.errors import EnvironmentMissingError, ErrorKind

BENCHMARKS: dict[str, str] = {
    "loader": "student.experiments.benchmarks.loader:bench_loader",
    "checks": "student.experiments.benchmarks.loader:bench_checks",
    "pooling": "student.experiments.benchmarks.pooling:bench_pooling",
    "sparse-conv": "student.experiments.benchmarks.sparse_conv:bench_sparse_conv",
    "spconv": "student.experiments.benchmarks.spconv:bench_spconv",
    "render": "student.experiments.benchmarks.render:bench_render",
    "student": "student.experiments.benchmarks.student:bench_student",
    "features": "teachers.image.benchmark:bench_features",
    "teacher": "pipeline.teacher_benchmark:bench_teacher",
    "find": "student.experiments.benchmarks.find:bench_find",
    "ingest": "storage.ingest.benchmark:bench_ingest",
    "catalog": "storage.stores.benchmark:bench_catalog",
    "raycast": "storage.procedural.benchmark:bench_raycast",
}
"""Function that runs each benchmark, as ``module:function``."""

RESULT_FIELDS = ("name", "ratio", "ours", "reference", "unit", "runs")


def run_benchmark(name: str, *, quick: bool = False) -> dict[str, Any]:
    """Run a benchmark and return its result; ``ratio`` is the reference's time over ours, or as the unit says.

    Args:
        name: Name of the benchmark.
        quick: Run its few seconds' version, whose figures mean nothing.

    Raises:
        ValueError: If there is no such benchmark, or it has no quick version.
        EnvironmentMissingError: If the benchmark is not part of this installation.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r}, want one of {', '.join(BENCHMARKS)}")
    try:
        module, _, function = BENCHMARKS[name].partition(":")
        measure = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise EnvironmentMissingError(ErrorKind.ENVIRONMENT_MISSING, BENCHMARKS[name], str(error)) from error
    if quick and "quick" not in inspect.signature(measure).parameters:
        raise ValueError(f"benchmark {name!r} has no quick version")
    result: Mapping[str, Any] = config_json(measure(quick=True) if quick else measure())
    missing = [field for field in RESULT_FIELDS if field not in result]
    if missing:
        raise ValueError(f"benchmark {name!r} returned no {', '.join(missing)}")
    return dict(result)
