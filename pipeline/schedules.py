"""Schedules. All are stopped until somebody switches them on in the UI."""

from collections.abc import Iterator

import dagster as dg

from pipeline.jobs import evaluate, evaluate_new_scenes
from pipeline.partitions import variants
from pipeline.resources import HomeResource
from storage.kinds import Kind
from storage.stores.versioned import Home
from student.data.training_set import load_training_set


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
    checkpoints = _students(home.open())
    if not checkpoints:
        yield dg.SkipReason("no student has a checkpoint yet")
    for variant in checkpoints:
        yield dg.RunRequest(run_key=f"{variant}:{context.scheduled_execution_time:%Y-%m-%d}", partition_key=variant)


@dg.schedule(
    job=evaluate_new_scenes,
    cron_schedule="30 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "Score every student on the scenes that came into the home after its training, at half past three in the "
        "morning. Scenes that were scored before cost a look-up."
    ),
)
def nightly_new_scenes(
    context: dg.ScheduleEvaluationContext, home: HomeResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request one run for each variant with a checkpoint whose training set lacks some scene of the home."""
    opened, asked = home.open(), False
    for variant in _students(opened):
        scenes = new_scenes(opened, variant)
        if scenes:
            asked = True
            yield dg.RunRequest(
                run_key=f"{variant}:new scenes:{context.scheduled_execution_time:%Y-%m-%d}",
                partition_key=variant,
                run_config={"ops": {"transfer_evaluation": {"config": {"evaluated_scenes": scenes}}}},
            )
    if not asked:
        yield dg.SkipReason("every scene of this home is in the training set of every student, or has no input images")


def new_scenes(home: Home, variant: str) -> list[str]:
    """Return the scenes of a home that a student's training set does not know, with images to read, in order."""
    inputs = home.provenance(home.require(Kind.STUDENT_CHECKPOINT, variant)).inputs
    frozen = next((item for item in inputs if item.kind == Kind.TRAINING_SET), None)
    if frozen is None:
        return []
    known = {scene.key for scene in load_training_set(home, frozen.partition, frozen.digest).scenes}
    return sorted({version.partition for version in home.versions(Kind.INPUT_IMAGES)} - known)


def _students(home: Home) -> list[str]:
    known = set(variants.get_partition_keys())
    return sorted(known & {version.partition for version in home.versions(Kind.STUDENT_CHECKPOINT)})
