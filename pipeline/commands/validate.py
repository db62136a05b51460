"""``distillnerf validate``: every check of an ingest and of the audit of a scene, without keeping anything."""

import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from rich.console import Console

from pipeline.commands.audit import as_rows, table_of
from pipeline.commands.options import ConfiguredCommand
from pipeline.presets import PresetName
from storage.audits.scene_facts import scene_facts
from storage.audits.stored_versions import audit_calibration
from storage.counted import counted
from storage.errors import SourceDataError
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import expand_splits, list_scenes, register_source, usual_source
from storage.ingest.source_config import SourceFormat
from storage.keys import SceneKey
from storage.stores.versioned import Home


@dataclass(frozen=True, kw_only=True)
class Validate(ConfiguredCommand):
    """Check a recording as an ingest and an audit would, and print a table for each scene. Returns 1 if any fails.

    Each scene is ingested into a folder that is deleted, so that what passes here is what an ingest takes.

    Attributes:
        format: Format of the recording.
        root: Folder of the recording.
        version: Release inside the folder (nuScenes).
        scenes: Names of the scenes wanted; by default all.
        link_roots: Further folders that links inside the root may lead into.
        scratch: Folder for the passing copy, about as large as one scene; by default the system's.
        json: Print JSON.
    """

    default_preset: ClassVar[PresetName | None] = "tiny"
    format: Annotated[SourceFormat, tyro.conf.Positional]
    root: Annotated[Path, tyro.conf.Positional]
    version: str | None = None
    scenes: tuple[str, ...] = ()
    link_roots: tuple[Path, ...] = ()
    scratch: Path | None = None
    json: bool = False

    def run(self, console: Console) -> int:
        """Check the scenes one by one."""
        given = {} if self.version is None else {"version": self.version}
        source = dataclasses.replace(usual_source(self.format, self.root), link_roots=self.link_roots, **given)
        config = self.selection(None).resolve().ingest
        refused: list[SourceDataError] = []
        keys = list_scenes(source, on_rejected=refused.append)
        wanted = expand_splits(source, self.scenes) or [key.scene_name for key in keys]
        reports: list[dict[str, Any]] = []

        def report(scene: str, checks: list[dict[str, Any]]) -> None:
            reports.append({"scene": scene, "checks": checks})
            if not self.json:
                console.print(table_of(scene, checks))

        for error in refused if not self.scenes else ():
            report(error.key, [_refused(error)])
        for name in wanted:
            with tempfile.TemporaryDirectory(prefix="distillnerf-validate-", dir=self.scratch) as folder:
                home = Home(Path(folder))
                register_source(home, source)
                report(f"{source.dataset}.{name}", _check(home, source.dataset, name, config))
        if self.json:
            sys.stdout.write(json.dumps(reports) + "\n")
        failed = [r["scene"] for r in reports if any(check["outcome"] == "failed" for check in r["checks"])]
        if not self.json:
            verdict = f"[red]{len(failed)} failed[/red]" if failed else "[green]none failed[/green]"
            console.print(f"{counted(len(reports), 'scene')}, {verdict}; nothing was kept")
        return 1 if failed else 0


def _check(home: Home, dataset: str, scene_name: str, config: IngestConfig) -> list[dict[str, Any]]:
    """Return a row for each check of one scene; after a refusal there is nothing more to look at."""
    try:
        version = ingest_scene(home, SceneKey(dataset, scene_name), config).version
    except SourceDataError as error:
        return [_refused(error)]
    metrics = home.metrics(version)
    where = f"{metrics['images']} images decode, {metrics['lidar_points']} returns, {metrics['boxes']} boxes"
    taken = {"name": "ingest", "value": "taken", "wanted": "taken", "where": where, "outcome": "passed"}
    return [taken, *as_rows([*scene_facts(home, version), *audit_calibration(home, version)])]


def _refused(error: SourceDataError) -> dict[str, Any]:
    where = f"{error.key}: {error.message}"
    return {"name": "ingest", "value": str(error.kind), "wanted": "taken", "where": where, "outcome": "failed"}
