"""``distillnerf audit``: check a scene's calibration against its sensors."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import HomeCommand

_MARKS = {"passed": "[green]✓[/green]", "failed": "[red]✗[/red]", "undecided": "[yellow]?[/yellow]"}


@dataclass(frozen=True, kw_only=True)
class Audit(HomeCommand):
    """Check the geometry of an ingested scene: cameras against LiDAR, sweeps against poses. Returns 1 if it fails.

    A check for which the scene shows too little is undecided, not failed.

    Attributes:
        scene: Key of the scene, such as nuscenes.scene-0916.
        picture: JPEG file to write, with the LiDAR drawn over every camera.
        json: Print JSON.
    """

    scene: Annotated[str, tyro.conf.Positional]
    picture: Path | None = None
    json: bool = False

    def run(self, console: Console) -> int:
        """Measure, and print what fails."""
        from storage.audits.stored_versions import audit_calibration
        from storage.previews.thumbnails import calibration_jpeg

        home = self.open_home(must_exist=True)
        version = home.require("scene", self.scene)
        findings = audit_calibration(home, version)
        if self.picture is not None:
            self.picture.write_bytes(calibration_jpeg(home, version))
        if self.json:
            rows = [asdict(finding) | {"outcome": finding.outcome} for finding in findings]
            sys.stdout.write(json.dumps(rows) + "\n")
        else:
            table = Table("figure", "value", "wanted", "where", "", title=escape(self.scene), title_justify="left")
            for finding in findings:
                wanted = f"{'≥' if finding.wanted == 'at_least' else '≤'} {finding.threshold:g}"
                table.add_row(
                    finding.name, f"{finding.value:.4g}", wanted, escape(finding.where), _MARKS[finding.outcome]
                )
            console.print(table)
        return 1 if any(finding.outcome == "failed" for finding in findings) else 0
