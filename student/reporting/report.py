"""Build one self-contained page from a stored evaluation: figures, pictures, training, gates, lineage.

The page embeds every image and forbids loading anything else, so it opens offline.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.kinds import Kind
from storage.plain_json import parse_json
from storage.previews.pages import page_template
from storage.previews.pictures import data_uri, depth_bar, encode_image, label_colour, unit_bar
from storage.progress import ProgressCallback
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files
from storage.taxonomy import CLASSES, SKY
from student.data.training_set import KIND as TRAINING_SET
from student.evaluation.results import IMITATIONS, Baseline, EvaluationResult, Figure, FrameRecord, Panel, Section
from student.evaluation.worst import ABS_REL, PSNR
from student.reporting import plots
from student.reporting.lineage import Ancestry, trace_lineage
from student.training.model_card import HISTORY_FILE

PAGE = "index.html"
DATA_FILES = ("templates/report.html.j2",)

_MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """Configuration of a report.

    Attributes:
        title: Heading of the page.
        maximum_panels: Largest number of camera views with pictures; the evaluation may have more.
        evaluation_digest: Digest of the evaluation; empty for the variant's current one.
    """

    title: str = "Student evaluation"
    maximum_panels: int = 12
    evaluation_digest: str = ""

    def __post_init__(self) -> None:
        """Reject a negative number of panels."""
        if self.maximum_panels < 0:
            raise ValueError(f"maximum_panels must not be negative, got {self.maximum_panels}")


def build_report(
    home: Home,
    variant: str,
    config: ReportConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Write the report of a variant's evaluation as one HTML file, or find the one already there.

    Args:
        home: Home of the evaluation and the report.
        variant: Partition of the evaluation.
        config: Configuration of the report.
        on_progress: Function called with a stage, the share done, and details.

    Returns:
        The ``report`` version (its folder holds ``index.html``); metrics carry the headline figures.

    Raises:
        MissingTargetError: If the variant was never evaluated.
        IntegrityError: If the evaluation has another schema.
    """
    evaluation = home.require(Kind.STUDENT_EVALUATION, variant, config.evaluation_digest or None)
    verdicts = verdicts_of(home, evaluation)
    provenance = Provenance(
        kind=Kind.REPORT,
        partition=variant,
        inputs=tuple(version.as_input for version in (evaluation, verdicts) if version is not None),
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, kind=Kind.REPORT),
        licence=home.provenance(evaluation).licence,
        config=config_json(config),
        packages=package_versions("jinja2", "matplotlib"),
    )

    def write(folder: Path) -> Mapping[str, Any]:
        page = render_report(home, evaluation, config)
        (folder / PAGE).write_text(page, encoding="utf-8")
        if on_progress is not None:
            on_progress("report", 1.0, {"bytes": len(page)})
        headline = EvaluationResult.from_json(home.metrics(evaluation)).headline()
        return {"page": PAGE, "bytes": len(page.encode()), "headline": headline}

    return materialize_files(home, provenance, write)


def verdicts_of(home: Home, evaluation: StoreVersion) -> StoreVersion | None:
    """Return what people said of the labels of an evaluation's checkpoint; None if nobody judged them."""
    version = home.latest(Kind.LABEL_VERDICTS, evaluation.partition)
    checkpoint = EvaluationResult.from_json(home.metrics(evaluation)).checkpoint_digest
    return version if version is not None and checkpoint in home.metrics(version)["checkpoints"] else None


def render_report(home: Home, evaluation: StoreVersion, config: ReportConfig) -> str:
    """Return the page of one evaluation."""
    result = EvaluationResult.from_json(home.metrics(evaluation))
    folder = home.open_files(evaluation)
    lineage = trace_lineage(home, evaluation.as_input)
    answers = _answers(result)
    return page_template("student.reporting", *DATA_FILES, filters={"quantity": _quantity, "verdict": _verdict}).render(
        title=config.title,
        result=result,
        evaluation_digest=evaluation.digest,
        answers=answers,
        summary=answer_of(result),
        absent=[
            f"{s.title.lower()} ({s.unavailable.removeprefix('not available: ')})"
            for s in result.sections
            if s.unavailable
        ],
        panels=[_panel_view(folder, panel) for panel in result.panels[: config.maximum_panels]],
        worst=[_worst_view(folder, record) for record in result.worst],
        depth_scale={
            "minimum": 2,
            "maximum": 80,
            "image": data_uri(encode_image(depth_bar(), quality=None), "image/png"),
        },
        heat_scale=data_uri(encode_image(unit_bar(name="inferno"), quality=None), "image/png"),
        legend=_legend(result),
        verdicts=None if (verdicts := verdicts_of(home, evaluation)) is None else home.metrics(verdicts),
        plots={section.name: _plots(section, result) for section in result.sections},
        training=_training(_ancestor(home, lineage, Kind.STUDENT_CHECKPOINT), home),
        settings=[(name, _setting(value)) for name, value in sorted(result.settings.items())],
        gates=lineage.gates,
        left_out=_left_out(home, lineage),
        masked=sorted(result.masked.items()),
        lineage=_lineage_view(lineage),
        timings=sorted(result.timings.items()),
    )


def _answers(result: EvaluationResult) -> list[dict[str, Any]]:
    """Return, for each section with figures, its first figure, the trivial predictor to beat, and the verdict."""
    found = []
    for section in result.sections:
        if section.figures:
            figure = section.figures[0]
            found.append(
                {"section": section, "figure": figure, "rival": figure.best_baseline, "outcome": outcome(figure)}
            )
    return found


def outcome(figure: Figure) -> Literal["better", "worse", "not told apart", "no rival"]:
    """Return how a figure stands to the trivial predictor that is hardest to beat.

    The two are not told apart if the interval, where there is one, holds both.
    """
    best = figure.best_baseline
    if best is None or best.value is None or figure.value is None:
        return "no rival"
    if figure.low is not None and figure.high is not None and figure.low <= best.value <= figure.high:
        return "not told apart"
    return "better" if figure.beats_baselines else "worse"


def answer_of(result: EvaluationResult) -> str:
    """Return the sentence that answers whether the student is any good; how well it imitates teachers is told apart."""
    answers = _answers(result)
    of_truth = [answer for answer in answers if answer["section"].name not in IMITATIONS]
    imitated = [answer for answer in answers if answer["section"].name in IMITATIONS]
    told = _verdicts(of_truth)
    if not told:
        return "No figure here stands beside a predictor that ignores the input."
    parts = [f"Better than every predictor that ignores the input in {told}"]
    if found := _verdicts(imitated):
        parts.append(f"As an imitation of its teachers, better in {found}")
    return ". ".join(parts) + "."


def _verdicts(answers: Sequence[Mapping[str, Any]]) -> str:
    """Return in how many sections the student is better, and which are not; empty if none is judged."""
    by_outcome: dict[str, list[str]] = {}
    for answer in answers:
        by_outcome.setdefault(answer["outcome"], []).append(answer["section"].title.lower())
    judged = sum(len(titles) for name, titles in by_outcome.items() if name != "no rival")
    if not judged:
        return ""
    parts = [f"{len(by_outcome.get('better', []))} of {judged} sections"]
    parts += [f"{name} in {', '.join(by_outcome[name])}" for name in ("worse", "not told apart") if name in by_outcome]
    parts += [f"beside no such predictor: {', '.join(by_outcome['no rival'])}"] if "no rival" in by_outcome else []
    return "; ".join(parts)


def _panel_view(folder: Path, panel: Panel) -> dict[str, Any]:
    rows = [
        {
            "title": title,
            "tiles": [
                {
                    "column": tile.column,
                    "caption": tile.caption,
                    "image": data_uri((folder / tile.path).read_bytes(), _MEDIA_TYPES[Path(tile.path).suffix])
                    if tile.path
                    else "",
                }
                for tile in tiles
            ],
        }
        for title, tiles in panel.rows
    ]
    columns = [tile.column for tile in panel.rows[0][1]] if panel.rows else []
    return {"scene": panel.scene, "frame": panel.frame, "camera": panel.camera, "columns": columns, "rows": rows}


def _worst_view(folder: Path, record: FrameRecord) -> dict[str, Any]:
    told = [
        text.format(value)
        for name, text in ((PSNR, "PSNR {:.1f} dB"), (ABS_REL, "AbsRel {:.3f}"))
        if (value := record.figures.get(name)) is not None
    ]
    picture = (folder / record.picture).read_bytes()
    image = data_uri(picture, _MEDIA_TYPES[Path(record.picture).suffix])
    return {"record": record, "told": ", ".join(told), "image": image}


def _plots(section: Section, result: EvaluationResult) -> list[dict[str, str]]:
    """Return the plots that belong under a section's table."""
    drawn = []
    curve = result.curves.get(section.name)
    if curve is not None and section.quality == "geometric":
        drawn.append(
            (plots.error_over_range(curve["edges"], curve["series"]), "Relative depth error against true range")
        )
    if curve is not None and section.quality == "calibration":
        drawn.append((plots.reliability_diagram(curve), "Reliability: on the diagonal, 70 % means 7 in 10"))
    for group in dict.fromkeys(f.group for f in section.figures if f.group.endswith("per class")):
        bars = [figure for figure in section.figures if figure.group == group]
        series: dict[str, list[float | None]] = {"student": [figure.value for figure in bars]}
        for label in dict.fromkeys(baseline.label for figure in bars for baseline in figure.baselines):
            series[label] = [next((b.value for b in f.baselines if b.label == label), None) for f in bars]
        names = [f"{figure.label} ({figure.count:,})" for figure in bars]
        drawn.append((plots.class_bars(names, series, quantity=group.split()[0]), f"{group}, and how many are true"))
    return [{"image": _svg_uri(svg), "caption": caption} for svg, caption in drawn]


def _left_out(home: Home, lineage: Ancestry) -> list[tuple[str, str]]:
    """Return the scenes that failed gates took out of the training set, with reasons."""
    version = _ancestor(home, lineage, TRAINING_SET)
    return [] if version is None else sorted(home.metrics(version).get("left_out", {}).items())


def _ancestor(home: Home, lineage: Ancestry, kind: str) -> StoreVersion | None:
    """Return a lineage's version of a kind, the nearest of several; None if the home no longer holds it."""
    version = next((node.version for node in lineage.nodes if node.version.kind == kind), None)
    return None if version is None else home.find(version.kind, version.partition, version.digest)


def _training(checkpoint: StoreVersion | None, home: Home) -> dict[str, Any]:
    """Return the start of a fit, its curves as a plot, and the last number of targets behind each loss term."""
    path = None if checkpoint is None else home.open_files(checkpoint) / HISTORY_FILE
    if checkpoint is None or path is None or not path.is_file():
        return {"plot": "", "counts": [], "start": None, "is_here": checkpoint is not None}
    history = parse_json(path.read_text())
    curves = training_series(history)
    last = history["history"][-1] if history["history"] else {}
    counts = [(name.removeprefix("count/"), value) for name, value in last.items() if name.startswith("count/")]
    return {
        "plot": _svg_uri(plots.training_curves(curves)) if curves else "",
        "counts": sorted(counts),
        "start": home.metrics(checkpoint).get("initial"),
        "is_here": True,
    }


def training_series(history: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return the logged losses and validation figures of a fit over steps, by name; None becomes a gap.

    Args:
        history: Content of a checkpoint's ``history.json``.
    """
    curves: dict[str, dict[str, list[float]]] = {}
    for records, prefix in ((history["history"], ""), (history["validations"], "held out: ")):
        for record in records:
            for name, value in record.items():
                if name in {"step", "elapsed_s", "learning_rate"} or name.startswith("count/"):
                    continue
                curve = curves.setdefault(prefix + name.removeprefix("loss/"), {"step": [], "value": []})
                curve["step"].append(float(record["step"]))
                curve["value"].append(math.nan if value is None else float(value))
    return curves


def _lineage_view(lineage: Ancestry) -> dict[str, Any]:
    return {
        "versions": [
            {
                "kind": node.version.kind,
                "partition": node.version.partition,
                "digest": node.version.digest,
                "seed": node.seed,
                "licence": node.licence,
                "wall_time": f"{node.wall_time_s:.1f} s" if node.is_present else "not in this home",
            }
            for node in lineage.nodes
        ],
        "num_raw_files": len(lineage.raw_files),
        "num_weights": len(lineage.weights),
        "weights": sorted(lineage.weights.items()),
        "packages": sorted(lineage.packages.items()),
        "licences": lineage.licences,
    }


def _legend(result: EvaluationResult) -> list[tuple[str, tuple[int, int, int]]]:
    if not any(
        tile.column == "semantics" and tile.path for p in result.panels for _, tiles in p.rows for tile in tiles
    ):
        return []
    coarse = [entry for entry in CLASSES if entry.class_id == entry.occ3d_index]
    return [(entry.name.replace("_", " "), label_colour(entry.class_id)) for entry in (*coarse, SKY)]


def _quantity(value: float | int | None, unit: str = "") -> str:
    """Write a number with its meaningful digits."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if value == 0:
        text = "0"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 10:
        text = f"{value:.2f}"
    elif abs(value) >= 0.001:
        text = f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}"
    else:
        text = f"{value:.2g}"
    return f"{text} {unit}" if unit else text


def _verdict(figure: Figure, baseline: Baseline) -> str:
    if figure.value is None or baseline.value is None or figure.value == baseline.value:
        return "soft"
    return "good" if (figure.value > baseline.value) == (figure.better == "higher") else "bad"


def _setting(value: object) -> str:
    text = json.dumps(value) if isinstance(value, Mapping | list) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _svg_uri(svg: str) -> str:
    return data_uri(svg.encode(), "image/svg+xml")
