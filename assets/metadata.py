"""Metadata of a materialised version for the UI: a picture, its figures, its gate, and its place."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import dagster as dg

from storage.errors import IntegrityError
from storage.kinds import Kind
from storage.plain_markdown import plain_markdown
from storage.previews.thumbnails import thumbnail_jpeg
from storage.stores import catalog
from storage.stores.gate_record import QUALITY, GateCheck, GateRecord
from storage.stores.versioned import Home, Materialized, StoreVersion

_MAX_TABLE_ROWS = 60
_MAX_TARGET_ROWS = 200
_OPENED = {Kind.TRAINING_SET, Kind.STUDENT_CHECKPOINT, Kind.STUDENT_EVALUATION, Kind.TRANSFER_EVALUATION}
"""Kinds whose own inputs are listed too."""
_GATE_MARKS = {True: "✓", False: "✗", None: "none"}
_MAX_JSON_CHARACTERS = 4000


def describe(home: Home, materialized: Materialized) -> dict[str, Any]:
    """Return Dagster metadata of a version.

    Numbers are entries of their own, so that the UI draws their trend; nested figures are one JSON entry each.
    """
    version, provenance = materialized.version, home.provenance(materialized.version)
    described: dict[str, Any] = {
        "store": dg.MetadataValue.path(home.url(version)),
        "snapshot": version.snapshot_id,
        "digest": version.digest,
        "reused": materialized.reused,
        "wall_time_s": provenance.wall_time_s,
        "licence": provenance.licence,
        "inputs": dg.MetadataValue.json([f"{i.kind}/{i.partition}@{i.digest[:12]}" for i in provenance.inputs]),
    }
    described |= _preview(home, materialized)
    described |= _gate_table(GateRecord.of(materialized.metrics, str(version)))
    described |= _trend(home, version)
    described |= _targets(home, version)
    return described | dict(_figures(materialized.metrics))


def _figures(metrics: Mapping[str, Any], prefix: str = "figure/") -> Iterator[tuple[str, Any]]:
    """Yield stored figures: numbers, words and members of a flat group one by one, longer values as JSON."""
    for name, value in metrics.items():
        if name == QUALITY or value is None:
            continue
        if isinstance(value, Mapping) and all(isinstance(v, int | float | str | None) for v in value.values()):
            yield from _figures(value, f"{prefix}{name}.")
        elif isinstance(value, list | Mapping):
            if len(json.dumps(value)) <= _MAX_JSON_CHARACTERS:  # a whole evaluation is read in the report, not here
                yield f"{prefix}{name}", dg.MetadataValue.json(value)
        else:
            yield f"{prefix}{name}", value


def _preview(home: Home, materialized: Materialized) -> dict[str, Any]:
    try:
        picture = thumbnail_jpeg(home, materialized.version)
    except IntegrityError as error:  # the version is published and its reader will refuse it: say so, do not fail here
        return {"preview": f"cannot be drawn: {error}"}
    if picture is None:
        return {}
    return {"preview": dg.MetadataValue.md(embed(picture, materialized.version.kind))}


def _gate_table(record: GateRecord | None) -> dict[str, Any]:
    if record is None:
        return {}
    rows = [
        table_row(check.name, spell(check.value), spell(check.threshold), check.where, _mark(check), check.hint)
        for check in record.checks[:_MAX_TABLE_ROWS]
    ]
    table = "\n".join(["| check | value | wanted | where | passed | what to do |", "|---|---|---|---|---|---|", *rows])
    return {"quality_gate": dg.MetadataValue.md(table), "gate_passed": record.passed}


def _trend(home: Home, version: StoreVersion) -> dict[str, Any]:
    """Return the picture of the history that an evaluation on held-out frames goes on."""
    if version.kind != Kind.STUDENT_EVALUATION:
        return {}
    from student.reporting.trend import trend_jpeg  # it imports matplotlib

    return {"trend": dg.MetadataValue.md(embed(trend_jpeg(home, version), "chief figures over time"))}


def _targets(home: Home, version: StoreVersion) -> dict[str, Any]:
    """Return the tables of every version that a student, or its evaluation, was directly made from."""
    if version.kind not in _OPENED - {Kind.TRAINING_SET}:
        return {}
    found, pending = dict.fromkeys((version.as_input,)), [version.as_input]
    for item in pending:  # it grows
        if item.kind in _OPENED:
            owner = home.find(item.kind, item.partition, item.digest)
            new = [] if owner is None else [i for i in home.provenance(owner).inputs if i not in found]
            found.update(dict.fromkeys(new))
            pending += new
    gates = {row["digest"]: row["gate_passed"] for row in catalog.versions(home.objects).to_pylist()}
    shown = [item for item in found if item != version.as_input]
    by_kind: dict[str, list[bool | None]] = {}
    for item in shown:
        by_kind.setdefault(item.kind, []).append(gates.get(item.digest))
    summary = [f"| {kind} | {len(of)} | {_count(of, True)} | {_count(of, False)} |" for kind, of in by_kind.items()]
    shown.sort(key=lambda item: (gates.get(item.digest) is not False, item))  # failed ones first
    rows = [
        f"| [{item.kind}]({asset_page(item.kind, item.partition)}) | {item.partition} | `{item.digest[:12]}` "
        f"| {_GATE_MARKS[gates.get(item.digest)]} |"
        for item in shown[:_MAX_TARGET_ROWS]
    ]
    rest = len(shown) - len(rows)
    more = f"\n\n{rest} more: `distillnerf lineage {version.kind}/{version.partition} --html PAGE`" if rest else ""
    table = "\n".join(["| target | partition | version | gate |", "|---|---|---|---|", *rows])
    counts = "\n".join(["| kind | versions | passed | failed |", "|---|---|---|---|", *summary])
    return {"training_targets": dg.MetadataValue.md(f"{counts}\n\n{table}{more}")}


def _count(gates: list[bool | None], outcome: bool) -> str:
    """Return how many gates had an outcome; a hyphen where no version has a gate, as that is no failure to pass."""
    return str(gates.count(outcome)) if any(gate is not None for gate in gates) else "-"


def asset_page(asset: str, partition: str) -> str:
    """Return the path of a partition's page in the Dagster UI."""
    return f"/assets/{quote(asset)}?view=partitions&partition={quote(partition)}"


def _mark(check: GateCheck) -> str:
    return f"? {check.undecided}" if check.undecided else "✓" if check.passed else "✗"


def table_row(*cells: str) -> str:
    """Return a row of a Markdown table that shows texts of other people, such as file names, as they are."""
    return f"| {' | '.join(map(plain_markdown, cells))} |"


def embed(jpeg: bytes, title: str) -> str:
    """Return Markdown with an embedded JPEG."""
    return f"![{plain_markdown(title)}](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"


def spell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a figure for people: four significant digits, or a hyphen if it is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
