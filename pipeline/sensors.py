"""Dagster sensors. All are stopped until somebody switches them on in the UI."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus  # not exported

from assets.checks import FAILED
from pipeline.alerts import Alert, AlertError, send_alert, told_failures
from pipeline.outcomes import read_failure
from pipeline.partitions import SCENES, scenes
from pipeline.resources import (
    ALERT_MAIL_VARIABLE,
    ALERT_WEBHOOK_VARIABLE,
    HomeResource,
    alert_channels_from_environment,
)
from storage.counted import counted
from storage.errors import SourceDataError, SourceMovedError
from storage.ingest.arrivals import arrivals
from storage.scenes.retired import retired_scenes


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "Adds a partition for every scene of every registered recording once it is whole: every file that its tables "
        "name is there, and of the size that it had at the tick before. Materialises nothing."
    ),
)
def registered_scenes(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
    """Add partitions for scenes of registered sources that lack one; scenes that still arrive wait."""
    opened = home.open()
    known = set(context.instance.get_dynamic_partitions(SCENES))
    before: dict[str, str] = json.loads(context.cursor or "{}")
    rejected: list[SourceDataError | SourceMovedError] = []
    found = list(arrivals(opened, passing_by={*known, *retired_scenes(opened)}, on_rejected=rejected.append))
    for error in rejected:
        context.log.warning(str(error))
    new = [one for one in found if one.key not in known and one.key not in retired_scenes(opened)]
    waiting = {one.key: one.waits_for for one in new if one.waits_for}
    waiting |= {
        one.key: "its files are watched until the next tick"
        for one in new
        if not one.waits_for and before.get(one.key) != one.sizes
    }
    added = sorted(one.key for one in new if one.key not in waiting)
    for key, reason in waiting.items():
        context.log.info(f"{key} waits: {reason}")
    cursor = json.dumps({one.key: one.sizes for one in new if one.key in waiting and one.sizes})
    if not added:
        said = "; ".join(f"{key} waits: {reason}" for key, reason in list(waiting.items())[:_MAX_NAMED])
        more = f"; and {len(waiting) - _MAX_NAMED} more" if len(waiting) > _MAX_NAMED else ""
        none = f"{counted(len(found), 'scene')} registered, none of them new"
        return dg.SensorResult(skip_reason=said + more if waiting else none, cursor=cursor)
    return dg.SensorResult(dynamic_partitions_requests=[scenes.build_add_request(added)], cursor=cursor)


_MAX_NAMED = 5
_MAX_KEPT = 500
NIGHTLY_SCHEDULES = ("nightly_evaluation", "nightly_new_scenes")


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "Sends an alert when a student became worse, when its checkpoint failed its gate, and when a nightly run "
        "failed: to DISTILLNERF_ALERT_WEBHOOK and DISTILLNERF_ALERT_MAIL. What happened before it was switched on is "
        "not sent."
    ),
)
def student_alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Send what has happened since the tick before; what could not be delivered is tried again at the next tick."""
    channels = alert_channels_from_environment()
    if not channels.are_named:
        return dg.SkipReason(f"nobody to tell: set {ALERT_WEBHOOK_VARIABLE} or {ALERT_MAIL_VARIABLE}")
    found = _happened(context.instance)
    if context.cursor is None:
        context.update_cursor(json.dumps(list(found)))
        return dg.SkipReason("alerts begin now")
    told: list[str] = json.loads(context.cursor)
    waiting = {name: alert for name, alert in found.items() if name not in told}
    for name, alert in waiting.items():
        try:
            send_alert(alert, channels)
        except AlertError as error:
            context.log.warning(str(error))
            continue
        told.append(name)
    context.update_cursor(json.dumps(told[-_MAX_KEPT:]))
    sent = len(set(waiting) & set(told))
    return dg.SkipReason(f"{sent} of {len(waiting)} alerts sent" if waiting else "nothing happened")


def _happened(instance: dg.DagsterInstance) -> dict[str, Alert]:
    """Return the alerts that the latest records give cause for, by a name that stays the same, oldest first."""
    storage = instance.event_log_storage
    key = dg.AssetCheckKey(dg.AssetKey("student_evaluation"), "no_regression")
    found: dict[str, Alert] = {}
    for record in reversed(storage.get_asset_check_execution_history(key, limit=_MAX_KEPT // 5)):
        event = None if record.event is None else record.event.dagster_event
        if record.status is not AssetCheckExecutionRecordStatus.FAILED or event is None:
            continue
        evaluated: Any = event.event_specific_data
        entry = evaluated.metadata.get(FAILED)
        found[f"check {record.id}"] = Alert(
            title=f"distillnerf: student {evaluated.partition or ''} failed its nightly check",
            lines=told_failures([] if entry is None else list(entry.value)),
            asset="student_evaluation",
            partition=evaluated.partition or "",
            run_id=record.run_id,
        )
    for schedule in NIGHTLY_SCHEDULES:
        failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], tags={"dagster/schedule_name": schedule})
        for run in reversed(instance.get_runs(filters=failed, limit=_MAX_KEPT // 5)):
            found[f"run {run.run_id}"] = Alert(
                title=f"distillnerf: {schedule} of student {run.tags.get('dagster/partition', '')} failed",
                lines=tuple(read_failure(event)["message"] for event in _failed_steps(instance, run.run_id)),
                partition=run.tags.get("dagster/partition", ""),
                run_id=run.run_id,
            )
    return found


def _failed_steps(instance: dg.DagsterInstance, run_id: str) -> Iterator[dg.DagsterEvent]:
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        if entry.dagster_event is not None:
            yield entry.dagster_event
