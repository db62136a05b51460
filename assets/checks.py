"""Asset checks: stored versions are read back and judged, per partition.

The builder of a version measured its gates and stored them with it; audits are measured here from the arrays.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import dagster as dg

from assets.metadata import embed, spell, table_row
from pipeline.alerts import told_failures
from pipeline.partitions import PARTITIONS, scenes
from pipeline.resources import HomeResource
from storage.audits.finding import Outcome
from storage.errors import PipelineError
from storage.kinds import KINDS, trainable_kinds
from storage.stores.versioned import Home, StoreVersion

if TYPE_CHECKING:
    from student.evaluation.results import Figure


class Verdict(NamedTuple):
    """One line of a check, for people."""

    name: str
    value: str
    wanted: str
    where: str
    outcome: Outcome
    hint: str = ""


FAILED = "failed"
"""Metadata of a check that failed: each failure with its partition, value, what was wanted, and where."""

WHY = "why"
"""Metadata of a check that failed: the same as one text. The UI shows a long table or JSON only after a click."""


class Judged(NamedTuple):
    """Outcome of a check of one partition: whether it passed, its table for people, its failures for programs."""

    passed: bool
    table: dg.MetadataValue
    failed: list[dict[str, str]]


Judge = Callable[[Home, StoreVersion], Sequence[Verdict] | None]
"""Function that judges one version; it returns None if there is nothing to judge."""

GATED = {spec.name: PARTITIONS[spec.partitioned_by] for spec in KINDS.values() if spec.is_gated}
"""Assets whose builder measures a quality gate, and their partitions."""


def read_gate(home: Home, version: StoreVersion) -> list[Verdict] | None:
    """Return the stored outcome of a version's quality gate, or None."""
    record = home.gate(version)
    if record is None:
        return None
    verdicts = [
        Verdict(
            check.name,
            spell(check.value),
            spell(check.threshold),
            check.undecided or check.where,
            "undecided" if check.undecided else "passed" if check.passed else "failed",
            check.hint,
        )
        for check in record.checks
    ]
    if not record.passed and not any(check.failed for check in record.checks):
        verdicts.append(Verdict("verdict", "not passed", "passed", "", "failed"))
    content = home.content_digest(version)
    if record.content and content != record.content:
        hint = "The gate judged something else: build it again."
        verdicts.append(Verdict("content", content[:12], record.content[:12], "", "failed", hint))
    return verdicts


def measure_anew(what: Literal["sky", "depth", "physics"]) -> Judge:
    """Return the judge that audits the arrays of a version."""

    def judge(home: Home, version: StoreVersion) -> list[Verdict]:
        from storage.audits.targets import audit_depth, audit_sky, check_physics  # they import SciPy

        audits = {"sky": audit_sky, "depth": audit_depth, "physics": check_physics}
        return [
            Verdict(f.name, spell(f.value), f"{_SIGNS[f.wanted]} {spell(f.threshold)}", f.where, f.outcome)
            for f in audits[what](home, version)
        ]

    return judge


def judge_history(home: Home, version: StoreVersion) -> list[Verdict]:
    """Return whether an evaluation became worse than the best comparable one, and whether its checkpoint is sound."""
    from student.evaluation.history import changes_since, evaluation_history

    records = evaluation_history(home, version.partition)
    current = next(record for record in records if record.digest == version.digest)
    gate: Outcome = "failed" if current.gate_passed is False else "passed"
    verdicts = [Verdict("checkpoint_gate", gate, "passed", current.result.checkpoint_digest[:12], gate)]
    for one in changes_since(records, version):
        outcome: Outcome = "failed" if one.change in ("worse", "lost") else "passed"
        wanted = "" if one.before is None else f"not worse than {_with_interval(one.before)}"
        hint = f"{one.change}; the best was checkpoint {one.checkpoint[:12]}" if one.checkpoint else one.change
        verdicts.append(
            Verdict(one.name, "-" if one.now is None else _with_interval(one.now), wanted, "", outcome, hint)
        )
    return verdicts


def _with_interval(figure: "Figure") -> str:
    interval = "" if figure.low is None or figure.high is None else f" [{spell(figure.low)}, {spell(figure.high)}]"
    return f"{spell(figure.value)}{interval}"


_SIGNS = {"at_least": "≥", "at_most": "≤"}
_MARKS: dict[Outcome, str] = {"passed": "✓", "failed": "✗", "undecided": "?"}

Draw = Callable[[Home, StoreVersion], bytes]
"""Function that draws one version as a JPEG, for people."""


def _trend(home: Home, version: StoreVersion) -> bytes:
    from student.reporting.trend import trend_jpeg  # it imports matplotlib

    return trend_jpeg(home, version)


PICTURES: dict[tuple[str, str], Draw] = {
    ("student_evaluation", "no_regression"): _trend,
}
"""Pictures of the outcome of a check, by asset and check."""

AUDITS: tuple[tuple[str, str, Judge, str], ...] = (
    (
        "sky_mask",
        "sky_is_above",
        measure_anew("sky"),
        "Not everywhere, hardly any in the lowest quarter, not where beams ended.",
    ),
    (
        "teacher_depth",
        "depth_is_sound",
        measure_anew("depth"),
        "Positive or NaN, much defined, opacity in [0, 1], at the distances that the beams met.",
    ),
    (
        "input_images",
        "images_are_recorded",
        measure_anew("physics"),
        "The recorded images, at the rays of their cameras.",
    ),
    ("virtual_views", "depth_is_sound", measure_anew("depth"), "The same for views the car never had."),
    *(
        (kind, "features_are_sound", measure_anew("physics"), "Finite, and of the image that they stand beside.")
        for kind in trainable_kinds()
        if KINDS[kind].picture == "features"
    ),
)
"""Audits: asset, check, judge and description of each."""


def define_check(
    asset: str,
    name: str,
    judge: Judge,
    partitions: dg.PartitionsDefinition,
    description: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
) -> Any:  # noqa: ANN401
    """Return an asset check that judges the current version of each partition of the run."""

    @dg.asset_check(asset=str(asset), name=name, partitions_def=partitions, description=description)
    def check(context: dg.AssetCheckExecutionContext, home: HomeResource) -> dg.AssetCheckResult:
        opened, of_run = home.open(), context.op_execution_context
        judged: dict[str, Judged] = {
            key: _judge_partition(opened, asset, key, judge, PICTURES.get((asset, name)))
            for key in of_run.partition_keys
            if opened.latest(asset, key) is not None  # a partition that failed has its own error
        }
        if of_run.has_partition_key_range:
            for event in _one_event_each(asset, name, judged, severity):
                of_run.log_event(event)  # type: ignore[arg-type]  # taken, but not declared by Dagster
        passed = all(one.passed for one in judged.values())
        metadata = {key: one.table for key, one in judged.items()} or {"note": "nothing was materialised"}
        failed = [failure for one in judged.values() for failure in one.failed]
        metadata |= _reasons(failed)
        return dg.AssetCheckResult(passed=passed, severity=severity, metadata=metadata)

    return check


def _judge_partition(home: Home, kind: str, partition: str, judge: Judge, draw: Draw | None) -> Judged:
    try:
        version = home.require(kind, partition)
        verdicts = judge(home, version)
        picture = "" if draw is None else "\n\n" + embed(draw(home, version), f"{kind} {partition}")
    except PipelineError as error:  # lost or damaged: that is the outcome of the check, not trouble of the check
        failure = {
            "partition": partition,
            "name": str(error.kind),
            "value": error.message,
            "wanted": "",
            "where": error.key,
        }
        return Judged(False, dg.MetadataValue.text(str(error)), [failure])
    if verdicts is None:
        return Judged(True, dg.MetadataValue.text("no gate was measured"), [])
    rows = [table_row(v.name, v.value, v.wanted, v.where, _MARKS[v.outcome], v.hint) for v in verdicts]
    table = "\n".join(
        ["| figure | value | wanted | where | outcome | what to do |", "|---|---|---|---|---|---|", *rows]
    )
    failed = [
        {"partition": partition, "name": v.name, "value": v.value, "wanted": v.wanted, "where": v.where}
        for v in verdicts
        if v.outcome == "failed"
    ]
    return Judged(not failed, dg.MetadataValue.md(table + picture), failed)


def _reasons(failed: list[dict[str, str]]) -> dict[str, dg.MetadataValue]:
    if not failed:
        return {}
    return {WHY: dg.MetadataValue.text("; ".join(told_failures(failed))), FAILED: dg.MetadataValue.json(failed)}


def _one_event_each(
    asset: str, name: str, judged: dict[str, Judged], severity: dg.AssetCheckSeverity
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield one outcome per partition of a run over several, since the check's own result covers them all at once."""
    for key, one in judged.items():
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(str(asset)),
            check_name=name,
            passed=one.passed,
            metadata={key: one.table} | _reasons(one.failed),
            severity=severity,
            partition=key,
        )


ALL_CHECKS: tuple[Any, ...] = (
    *(
        define_check(asset, "quality_gate", read_gate, partitions, "What its builder measured; training sets need it.")
        for asset, partitions in GATED.items()
    ),
    *(define_check(asset, name, judge, scenes, description) for asset, name, judge, description in AUDITS),
    define_check(
        "student_evaluation",
        "no_regression",
        judge_history,
        PARTITIONS["variant"],
        "No chief figure is beyond the interval of the best comparable evaluation, and the checkpoint passed its gate.",
        dg.AssetCheckSeverity.ERROR,
    ),
)
"""Every asset check."""
