"""The outcome of a Dagster run, as plain JSON values."""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg


def read_outcome(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Return success, materialisations, check results and failures of a run.

    Each materialisation has its asset, partition, digest, whether it existed already, and the seconds of its step in
    this run; several assets of one step share its seconds.
    """
    return {"succeeded": result.success, "run_id": result.run_id, **read_events(result.all_events)}


def read_events(events: Iterable[dg.DagsterEvent]) -> dict[str, Any]:
    """Return the materialisations, check results and failures that events report; see ``read_outcome``."""
    events = list(events)
    seconds = {
        event.step_key: event.event_specific_data.duration_ms / 1000  # type: ignore[union-attr]
        for event in events
        if event.is_step_success
    }
    materializations: dict[tuple[str, str], dict[str, Any]] = {}
    checks: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            found = event.step_materialization_data.materialization
            entry = _materialization(found)
            entry["step_s"] = seconds.get(event.step_key or "", 0.0)
            materializations[entry["asset"], entry["partition"]] = entry  # the last one of a partition counts
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluated: Any = event.event_specific_data
            checks.append(
                {
                    "asset": evaluated.asset_key.to_user_string(),
                    "check": evaluated.check_name,
                    "partition": evaluated.partition,
                    "passed": evaluated.passed,
                    "failed": _failures_of(evaluated),
                }
            )
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            failures.append(read_failure(event))
    return {"materializations": list(materializations.values()), "checks": checks, "failures": failures}


def _materialization(found: dg.AssetMaterialization) -> dict[str, Any]:
    def value(name: str) -> Any:  # noqa: ANN401 - any metadata value
        entry = found.metadata.get(name)
        return None if entry is None else entry.value

    return {
        "asset": found.asset_key.to_user_string(),
        "partition": found.partition or "",
        "digest": value("digest"),
        "reused": value("reused"),
        "store": value("store"),
        "gate_passed": value("gate_passed"),
    }


def _failures_of(evaluated: Any) -> list[dict[str, str]]:  # noqa: ANN401 - a check's evaluation
    """Return what failed in a check, with value and reason: see ``assets.checks.FAILED``."""
    entry = evaluated.metadata.get("failed")
    return [] if entry is None else list(entry.value)


def read_failure(event: dg.DagsterEvent) -> dict[str, Any]:
    """Return the error of a failed step: the typed one that an asset raised, or else Dagster's own.

    ``by_partition`` holds the message of each failed partition, if the step was to make several.
    """
    data: Any = event.event_specific_data
    own: Mapping[str, Any] = {}
    description = data.error.message.strip() if data.error else ""
    if data.user_failure_data is not None:
        own = {name: entry.value for name, entry in data.user_failure_data.metadata.items()}
        description = data.user_failure_data.description or description
    elif data.error is not None and data.error.cause is not None:
        description = data.error.cause.message.strip()
    return {
        "asset": event.step_key,
        "error": own.get("error", data.error.cls_name if data.error else ""),
        "error_kind": own.get("error_kind", ""),
        "key": own.get("key", ""),
        "message": description,
        "advice": own.get("advice", ""),
        "by_partition": dict(own.get("by_partition") or {}),
    }
