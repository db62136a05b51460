"""``summary.json``: the products, quality, time and resources of a run, for people and for programs."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pipeline.run import RunOutcome
from pipeline.run_config import HomeSelection
from storage.digests import config_json
from storage.stores.provenance import package_versions
from storage.stores.versioned import Home, StoreVersion

SCHEMA = "distillnerf.summary/1"

_PACKAGES = (
    "distillnerf-pipeline",
    "dagster",
    "torch",
    "transformers",
    "zarr",
    "icechunk",
    "numpy",
    "trimesh",
    "embreex",
)


def build_summary(
    home: Home,
    selection: HomeSelection,
    outcome: RunOutcome,
    *,
    command: str,
    wall_time_s: float,
    peak_memory_bytes: int,
    nerfstudio_version: str | None,
) -> dict[str, Any]:
    """Return the summary of a run as JSON values.

    Args:
        home: Home of the run.
        selection: Selection that it used.
        outcome: Outcome of its tasks.
        command: Command that started it.
        wall_time_s: Wall time of the whole command, seconds.
        peak_memory_bytes: Peak memory of the whole process tree, bytes.
        nerfstudio_version: Version in the second environment; None if unknown.
    """
    evaluation = home.latest("student_evaluation", selection.variant)
    figures = {} if evaluation is None else home.metrics(evaluation)
    report = report_page(home, selection.variant)
    return {
        "schema": SCHEMA,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "succeeded": outcome.succeeded,
        "failures": outcome.failures,
        "not_started": outcome.blocked,
        "selection": config_json(selection),
        "left_out": _left_out(home, selection.variant),
        "metrics": figures.get("headline", {}),
        "label_verdicts": _label_verdicts(home, selection.variant),
        "assets": _assets(home, outcome),
        "checks": [check for o in outcome.outcomes.values() for check in o["checks"]],
        "wall_time_s": round(wall_time_s, 2),
        "peak_memory_bytes": peak_memory_bytes,
        "store_bytes": {kind: size for kind, size in sorted(_sizes(home).items())},
        "report": None if report is None else str(report),
        "versions": {**package_versions(*_PACKAGES), "nerfstudio": nerfstudio_version},
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
    }


def report_page(home: Home, variant: str) -> Path | None:
    """Return the page of a variant's current report, or None."""
    version = home.latest("report", variant)
    if version is None:
        return None
    page = home.open_files(version) / "index.html"
    return page if page.is_file() else None


def _left_out(home: Home, variant: str) -> dict[str, str]:
    """Return the reasons for which scenes were left out of a variant's current training set, by scene key."""
    version = home.latest("training_set", variant)
    return {} if version is None else dict(home.metrics(version).get("left_out", {}))


def _label_verdicts(home: Home, variant: str) -> dict[str, Any]:
    """Return what people said of a student's labels, by class; nothing if nobody judged them."""
    version = home.latest("label_verdicts", variant)
    return {} if version is None else home.metrics(version)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write a summary, atomically."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    aside.replace(path)


def _assets(home: Home, outcome: RunOutcome) -> dict[str, Any]:
    """Return each asset's versions and two times: that of its original build, and that of this run."""
    assets: dict[str, Any] = {}
    for task in outcome.outcomes.values():
        for made in task["materializations"]:
            entry = assets.setdefault(made["asset"], {"build_s": 0.0, "this_run_s": 0.0, "partitions": {}})
            version = _version(home, made)
            partition: dict[str, Any] = {
                "digest": made["digest"],
                "reused": made["reused"],
                "gate_passed": made["gate_passed"],
                "run_id": task["run_id"],
            }
            if version is not None:
                provenance = home.provenance(version)
                partition |= {"snapshot": version.snapshot_id, "build_s": round(provenance.wall_time_s, 3)}
                partition["figures"] = _scalars(home.metrics(version))
                entry["build_s"] = round(entry["build_s"] + provenance.wall_time_s, 3)
            entry["this_run_s"] = round(entry["this_run_s"] + made["step_s"], 3)
            entry["partitions"][made["partition"]] = partition
    return assets


def _version(home: Home, made: Mapping[str, Any]) -> StoreVersion | None:
    digest = made["digest"]
    return None if digest is None else home.find(made["asset"], made["partition"], digest)


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float | str | bool)}


def _sizes(home: Home) -> dict[str, int]:
    """Return the bytes on disk of all versions of each kind."""
    sizes: dict[str, int] = {}
    for base in ("stores", "artifacts"):
        for kind in sorted((home.root / base).glob("*")):
            total = sum(path.stat().st_size for path in kind.rglob("*") if path.is_file())
            sizes[kind.name] = sizes.get(kind.name, 0) + total
    return sizes
