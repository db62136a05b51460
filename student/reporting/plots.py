"""Draw the report's plots as stand-alone SVG, deterministically and without a display."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

STUDENT_COLOUR = "#1f6feb"
_CURVE_COLOURS = (STUDENT_COLOUR, "#cf222e", "#8250df")
BASELINE_COLOUR = "#9aa4b2"
TEACHER_COLOUR = "#d97706"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, selectable
    "svg.hashsalt": "distillnerf",  # element ids, and so the file, do not change from run to run
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8b949e",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ee",
    "legend.frameon": False,
}
"""Settings that every plot is drawn with."""


def training_curves(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Draw one panel per quantity over training steps.

    Args:
        curves: ``{"step": [...], "value": [...]}`` of each quantity. Values that are not finite are gaps.
    """
    columns = min(3, max(1, len(curves)))
    rows = -(-len(curves) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 2.3 * rows), layout="constrained")
        axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for axis, (name, curve) in zip(axes, curves.items(), strict=False):
            steps, values = np.asarray(curve["step"], float), np.asarray(curve["value"], float)
            axis.plot(steps, values, color=STUDENT_COLOUR, linewidth=0.8, alpha=0.35)
            axis.plot(steps, _smoothed(values), color=STUDENT_COLOUR, linewidth=1.6)
            axis.set_title(name, fontsize=9, loc="left")
            positive = values[np.isfinite(values)]
            if positive.size and positive.min() > 0 and positive.max() > 20 * positive.min():
                axis.set_yscale("log")
            axis.set_xlabel("step")
        for axis in axes[len(curves) :]:
            axis.set_visible(False)
        return as_svg(figure)


def reliability_diagram(series: Mapping[str, Mapping[str, Sequence[float | int | None]]]) -> str:
    """Draw stated probability against observed frequency, and the number of samples per bin.

    Args:
        series: ``{"confidence": [...], "frequency": [...], "count": [...]}`` per bin of "raw" and "calibrated"; None in
            an empty bin.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
        top.plot([0, 1], [0, 1], color="#8b949e", linestyle="--", linewidth=1, label="perfect")
        for label, colour in (("raw", BASELINE_COLOUR), ("calibrated", STUDENT_COLOUR)):
            bins = series[label]
            confidence, frequency, count = (_numbers(bins[key]) for key in ("confidence", "frequency", "count"))
            top.plot(confidence, frequency, marker="o", markersize=4, color=colour, label=label)
            centre = (np.arange(len(count)) + 0.5) / len(count)
            bottom.step(centre, count, where="mid", color=colour)
        top.set(ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1))
        top.legend(loc="upper left")
        bottom.set(xlabel="stated probability of being occupied", ylabel="voxels")
        bottom.set_yscale("symlog", linthresh=1.0)
        bottom.set_ylim(bottom=0)
        bottom.yaxis.set_major_locator(SymmetricalLogLocator(base=100.0, linthresh=1.0))
        return as_svg(figure)


def error_over_range(edges: Sequence[float], series: Mapping[str, Sequence[float | int | None]]) -> str:
    """Draw relative depth error in bins of true range, one line per label.

    Args:
        edges: Bin edges, metres.
        series: Mean relative error per bin, by label, with "student" among them; None in an empty bin.
    """
    centre = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2
    rivals = sorted(label for label in series if label != "student")
    colours = _colours(("student", *rivals))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        axis = figure.subplots()
        for label in ("student", *rivals):
            axis.plot(centre, _numbers(series[label]), marker="o", markersize=4, color=colours[label], label=label)
        axis.set(xlabel="true range (m)", ylabel="mean |error| / range", xlim=(0, edges[-1]))
        axis.set_ylim(bottom=0)
        axis.legend(loc="best")
        return as_svg(figure)


def class_bars(names: Sequence[str], series: Mapping[str, Sequence[float | int | None]], *, quantity: str) -> str:
    """Draw one group of horizontal bars per class; a class without a value is marked as such.

    Args:
        names: Classes, top to bottom.
        series: Values per class, by label; the first label is the student.
        quantity: Name of the horizontal axis.
    """
    height = 0.8 / max(1, len(series))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 0.28 * len(names) + 1.0), layout="constrained")
        axis = figure.subplots()
        axis.grid(visible=False, axis="y")
        position = np.arange(len(names))
        colours = _colours(tuple(series))
        for index, (label, values) in enumerate(series.items()):
            numbers = _numbers(values)
            offset = (index - (len(series) - 1) / 2) * height
            axis.barh(position + offset, np.nan_to_num(numbers), height=height, color=colours[label], label=label)
            if index == 0:
                _mark_undefined(axis, position, numbers)
        axis.set_yticks(position, [name.replace("_", " ") for name in names])
        axis.invert_yaxis()
        axis.set(xlabel=quantity)
        axis.set_xlim(left=0)
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=len(series))  # above, where it covers no bar
        return as_svg(figure)


def ablation_plot(found: Mapping[str, Sequence[Mapping[str, float]]], figures: Sequence[str]) -> str:
    """Draw one panel per figure: a dot for each seed of each variant, and a line through their means.

    Args:
        found: Figures by name of each seed of each variant, in the order of the axis; missing figures are left out.
        figures: Names of the panels.
    """
    columns = min(3, len(figures))
    rows = -(-len(figures) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * columns, 2.3 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axis, name in zip(axes, figures, strict=False):  # the last row may have axes to spare
            values = [np.array([run[name] for run in runs if name in run]) for runs in found.values()]
            for place, of_seed in enumerate(values):
                axis.plot(np.full(len(of_seed), place), of_seed, "o", markersize=4, color=STUDENT_COLOUR, alpha=0.6)
            axis.plot([v.mean() if len(v) else np.nan for v in values], color=STUDENT_COLOUR, linewidth=1.2)
            axis.set_title(name, fontsize=9, loc="left")
            axis.set_xticks(range(len(found)), [v.replace("_", "\n") for v in found], fontsize=7)
            axis.margins(x=0.15, y=0.15)
        for axis in axes[len(figures) :]:
            axis.set_visible(False)
        return as_svg(figure)


def few_shot_plot(rows: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> str:
    """Draw one panel per figure: a curve over the number of labelled scenes for each start, and the prior in grey.

    Args:
        rows: Trained heads; each has "start", "scenes", "figures" by name, and "beside" by predictor and name.
        figures: Names of the panels.
    """
    starts = list(dict.fromkeys(row["start"] for row in rows))
    colours = {start: _CURVE_COLOURS[place % len(_CURVE_COLOURS)] for place, start in enumerate(starts)}
    shots = sorted({row["scenes"] for row in rows})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(figures), 2.9), layout="constrained")
        for axis, name in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures, strict=True):
            for start, colour in colours.items():
                of_start = [row for row in rows if row["start"] == start]
                by_shots = [_numbers([r["figures"][name] for r in of_start if r["scenes"] == shot]) for shot in shots]
                axis.plot(shots, [v.mean() if len(v) else np.nan for v in by_shots], "o-", color=colour, label=start)
            for beside in sorted({label for row in rows for label in row["beside"]}):
                values = {row["scenes"]: row["beside"].get(beside, {}).get(name) for row in rows}
                axis.plot(shots, _numbers([values.get(s) for s in shots]), ":", linewidth=1, label=beside)
            axis.set(xscale="log", xlabel="labelled scenes")
            axis.set_xticks(shots, [str(shot) for shot in shots])
            axis.minorticks_off()
            axis.set_title(name, fontsize=9, loc="left")
        figure.axes[0].legend(fontsize=7)
        return as_svg(figure)


def _mark_undefined(axis: Axes, position: np.ndarray, numbers: np.ndarray) -> None:
    for place in position[~np.isfinite(numbers)]:
        style: dict[str, Any] = {"va": "center", "fontsize": 7, "color": "#8b949e"}
        axis.annotate("undefined", (0.0, place), (4, 0), textcoords="offset points", **style)


def _colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each label: the student, which is the first, and any teacher have the same in every plot."""
    student, *rivals = labels
    others = iter((BASELINE_COLOUR, "#6e40c9", "#2da44e"))
    told = {name: TEACHER_COLOUR if "teacher" in name else next(others, BASELINE_COLOUR) for name in rivals}
    return {student: STUDENT_COLOUR, **told}


def _numbers(values: Sequence[float | int | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return a running mean over a twentieth of the curve; gaps are skipped."""
    width = max(1, len(values) // 20)
    kernel = np.ones(width)
    is_finite = np.isfinite(values)
    total = np.convolve(np.where(is_finite, values, 0.0), kernel)[: len(values)]
    count = np.convolve(is_finite.astype(float), kernel)[: len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def as_svg(figure: Figure) -> str:
    """Return a drawing as SVG, equal for equal drawings."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
