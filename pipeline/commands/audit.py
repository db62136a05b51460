"""``distillnerf audit``: check a scene's geometry against its sensors."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import HomeCommand

if TYPE_CHECKING:
    from storage.audits.finding import Finding

_MARKS = {"passed": "[green]✓[/green]", "failed": "[red]✗[/red]", "undecided": "[yellow]?[/yellow]"}


@dataclass(frozen=True, kw_only=True)
class Audit(HomeCommand):
    """Check the geometry of an ingested scene: axes, boxes, cameras against LiDAR, sweeps against poses.

    Returns 1 if it fails. A check for which the scene shows too little is undecided, not failed; if nothing can be
    decided, the audit fails.

    Attributes:
        scene: Key of the scene, such as nuscenes.scene-0916.
        picture: JPEG file to write: one camera at full resolution with its LiDAR, before and after the change of the
            calibration that fits best.
        json: Print JSON.
    """

    scene: Annotated[str, tyro.conf.Positional]
    picture: Path | None = None
    json: bool = False

    def run(self, console: Console) -> int:
        """Measure, and print what fails."""
        from storage.audits.calibration import calibration_frames, fit_rig
        from storage.audits.calibration_picture import calibration_picture, suspect_of
        from storage.audits.stored_versions import audit_calibration
        from storage.scenes.store import SceneReader

        home = self.open_home(must_exist=True)
        version = home.require("scene", self.scene)
        reader = SceneReader(home.open_arrays(version), version)
        fit = fit_rig(reader, calibration_frames(reader))
        rows = as_rows(audit_calibration(home, version, fit))
        if self.picture is not None:
            self.picture.write_bytes(calibration_picture(reader, suspect_of(fit)))
        if self.json:
            sys.stdout.write(json.dumps(rows) + "\n")
        else:
            console.print(table_of(self.scene, rows))
        return 1 if any(row["outcome"] == "failed" for row in rows) else 0


def as_rows(findings: "Iterable[Finding]") -> list[dict[str, Any]]:
    """Return findings as JSON values: name, value (null where undefined), what was wanted, where, outcome."""
    return [
        {
            "name": f.name,
            "value": f.value if math.isfinite(f.value) else None,
            "wanted": f"{'≥' if f.wanted == 'at_least' else '≤'} {f.threshold:g}",
            "where": f.where,
            "outcome": f.outcome,
        }
        for f in findings
    ]


def table_of(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows of ``as_rows`` as a table that fits 80 columns."""
    table = Table(
        "",
        "check",
        "value",
        "wanted",
        "where",
        title=escape(title),
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.columns[1].no_wrap = True
    for row in rows:
        value = row["value"]
        shown = "?" if value is None else value if isinstance(value, str) else f"{value:.3g}"
        table.add_row(_MARKS[row["outcome"]], row["name"], escape(shown), row["wanted"], escape(row["where"]))
    return table
