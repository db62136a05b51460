"""The history of a student's chief figures as a picture for Dagster and as a page."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure as Drawing

from storage.previews.pages import page_template
from storage.stores.versioned import Home, StoreVersion
from student.evaluation.history import EvaluationRecord, FigureChange, changes_since, evaluation_history
from student.reporting.plots import BASELINE_COLOUR, STUDENT_COLOUR, STYLE, as_svg

DATA_FILES = ("templates/trend.html.j2",)
_WORSE_COLOUR = "#cf222e"
_PER_ROW = 3


def trend_jpeg(home: Home, evaluation: StoreVersion) -> bytes:
    """Return the picture of the history that an evaluation is the last one of."""
    records = evaluation_history(home, evaluation.partition)
    last = next(i for i, record in enumerate(records) if record.digest == evaluation.digest)
    comparable = [record for record in records[: last + 1] if record.compares_with(records[last])]
    with matplotlib.rc_context(STYLE):
        content = io.BytesIO()
        _draw(comparable, changes_since(records, evaluation)).savefig(content, format="jpg", dpi=110)
        return content.getvalue()


def trend_page(histories: Mapping[str, Sequence[EvaluationRecord]], current: Mapping[str, StoreVersion]) -> str:
    """Return one self-contained page with the history of every variant.

    Args:
        histories: Evaluations of each variant, oldest first.
        current: Its current evaluation.
    """
    students = []
    for variant, evaluation in current.items():
        records = histories[variant]
        newest = next(record for record in records if record.digest == evaluation.digest)
        comparable = [record for record in records if record.compares_with(newest)]
        changes = changes_since(records, evaluation)
        with matplotlib.rc_context(STYLE):
            plot = as_svg(_draw(comparable, changes))
        students.append(
            {
                "variant": variant,
                "newest": newest,
                "plot": plot,
                "changes": changes,
                "records": comparable[::-1],
                "others": len(records) - len(comparable),
            }
        )
    return page_template("student.reporting", *DATA_FILES).render(students=students)


def _draw(records: Sequence[EvaluationRecord], changes: Sequence[FigureChange]) -> Drawing:
    """Draw a panel for each figure: its values with intervals, and the best trivial predictor."""
    columns = min(_PER_ROW, max(1, len(changes)))
    rows = -(-len(changes) // columns) or 1
    drawing = Drawing(figsize=(3.6 * columns, 2.2 * rows), layout="constrained")
    axes = np.atleast_1d(drawing.subplots(rows, columns, squeeze=False)).ravel()
    for axis, change in zip(axes, changes, strict=False):  # the last row may have axes to spare
        found = [(record, figure) for record in records if (figure := record.figures().get(change.name)) is not None]
        at = [datetime.fromisoformat(record.made_at) for record, _ in found]
        values = np.array([figure.value for _, figure in found], float)
        low, high = (
            np.array([_or(getattr(figure, end), figure.value) for _, figure in found], float) for end in ("low", "high")
        )
        colour = _WORSE_COLOUR if change.change in ("worse", "lost") else STUDENT_COLOUR
        errors = np.maximum(0.0, np.stack([values - low, high - values]))  # rounding may leave an end inside
        axis.errorbar(at, values, yerr=errors, color=colour, marker="o", markersize=3, linewidth=1.2, elinewidth=0.8)
        trivial = [None if (best := figure.best_baseline) is None else best.value for _, figure in found]
        if any(value is not None for value in trivial):
            dashes: dict[str, Any] = {"linestyle": "--", "linewidth": 1, "marker": "_"}  # a lone point has no line
            axis.plot(at, [_or(value, np.nan) for value in trivial], color=BASELINE_COLOUR, **dashes)
        _date(axis, at)
        axis.set_title(f"{change.name}: {change.change}", fontsize=9, loc="left", color=colour)
    for axis in axes[len(changes) :]:
        axis.set_visible(False)
    return drawing


def _date(axis: Axes, at: Sequence[datetime]) -> None:
    """Let the axis span the evaluations, a day at least: matplotlib shows four years around a lone one."""
    if at:
        aside = max((at[-1] - at[0]) / 20, timedelta(hours=12))
        axis.set_xlim(at[0] - aside, at[-1] + aside)  # type: ignore[arg-type] # dates are fine
    locator = AutoDateLocator(minticks=2, maxticks=4)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axis.tick_params(axis="x", labelsize=7)
    axis.xaxis.get_offset_text().set_fontsize(7)


def _or(value: float | None, otherwise: float | None) -> float:
    chosen = otherwise if value is None else value
    return np.nan if chosen is None else chosen
