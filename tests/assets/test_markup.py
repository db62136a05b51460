"""Markup in names of other people is shown in the UI and in the viewer, and does nothing there."""

from typing import cast

import dagster as dg

from assets.metadata import _gate_table, embed, table_row
from assets.partition_runs import _joined
from storage.stores.gate_record import GateRecord
from student.applications.viewer import describe_view
from student.evaluation.operating_point import OperatingPoint

NASTY = "<img src=x onerror=alert(1)> | [x](javascript:alert(1)) {process.exit()}"
SYNTAX = set("<>[]{}|")


def test_figures_of_a_gate() -> None:
    check = {"value": 1.0, "threshold": 2.0, "passed": False, "where": NASTY, "hint": NASTY}
    undecided = {"value": None, "threshold": 2.0, "passed": True, "undecided": NASTY}
    table = _gate_table(
        GateRecord.of({"quality": {"passed": False, "checks": {NASTY: check, "b": undecided}}}, "sky_mask/tiny.a")
    )["quality_gate"].value
    rows = table.splitlines()[2:]
    assert [row.count("|") for row in rows] == [7, 7]
    assert not (SYNTAX - {"|"}) & set(table)


def test_rows_of_a_check_and_the_title_of_a_picture() -> None:
    assert table_row(NASTY, "b").count("|") == 3
    assert not SYNTAX & set(embed(b"", NASTY).removeprefix("![").partition("](")[0])


def test_failures_of_a_batch() -> None:
    failed = _joined({"a": dg.Failure(f"{NASTY}: is no JPEG")}, 2).metadata["failed"].value
    assert not SYNTAX & set(cast("str", failed))


def test_what_stands_beside_a_view() -> None:
    point = OperatingPoint(
        threshold=0.5,
        threshold_above_ground=0.25,
        calibration=None,
        temperature=0.1,
        temperature_source="",
        evaluation=None,
    )
    text = describe_view(NASTY, NASTY, point, {NASTY: (1, 2, 3)})
    assert "occupied from 0.5 at the ground, from 0.25 above it" in text
    swatch = '<span style="color: rgb(1, 2, 3)">&#9632;</span>'
    assert swatch in text
    assert not SYNTAX & set(text.replace(swatch, ""))
