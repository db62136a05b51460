"""Schedules. All are stopped until somebody switches them on in the UI."""

from collections.abc import Iterator

import dagster as dg

from pipeline.jobs import evaluate
from pipeline.partitions import variants
from pipeline.resources import HomeResource


@dg.schedule(
    job=evaluate,
    cron_schedule="0 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Score every student that has a checkpoint, at three in the morning. Unchanged ones cost a look-up.",
)
def nightly_evaluation(
    context: dg.ScheduleEvaluationContext, home: HomeResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request one run for each variant with a checkpoint; checkpoints of ablations are no partitions."""
    known = set(variants.get_partition_keys())
    checkpoints = sorted(known & {v.partition for v in home.open().versions("student_checkpoint")})
    if not checkpoints:
        yield dg.SkipReason("no student has a checkpoint yet")
    for variant in checkpoints:
        yield dg.RunRequest(run_key=f"{variant}:{context.scheduled_execution_time:%Y-%m-%d}", partition_key=variant)
