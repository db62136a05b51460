"""Two machines on one home in a bucket: two processes with folders of their own, and nothing else in common."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.run_config import HomeSelection
from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.stores.places import CACHE_VARIABLE
from storage.stores.versioned import Home

OWN = ("tiny.scene-0001", "tiny.scene-0002")
BOTH = "twin.scene-0001"
KINDS = ("scene", "input_images", "sky_mask")

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]


class Machine:
    """A machine, by the folder that it keeps for homes in buckets."""

    def __init__(self, disk: Path, address: str) -> None:
        self._environment = {**os.environ, CACHE_VARIABLE: str(disk), "OMP_NUM_THREADS": "1"}
        self._address = address

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command on the home."""
        command = [sys.executable, "-W", "ignore", "-m", "pipeline.cli", *arguments, "--home", self._address]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def call(self, *arguments: str) -> str:
        """Return what a command prints, and check that it succeeds."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said[-3000:]
        return said


def test_two_machines_teach_scenes_of_their_own_and_one_in_common(bucket: Any, recording: Any, tmp_path: Path) -> None:
    address = f"s3://{bucket.name}/team/home"
    home = Home(address)
    for dataset in ("tiny", "twin"):
        source = SourceConfig(dataset=dataset, root=recording.root, version="v1.0-mini", licence="CC0-1.0")
        register_source(home, source)
    sizes = ("input_images.height=8", "input_images.width=16")
    HomeSelection(preset="demo", overrides=sizes, train_scenes=OWN[:1], validation_scenes=OWN[1:]).save(home.root)
    machines = [Machine(tmp_path / f"disk-{name}", address) for name in ("one", "two")]
    asked = list(zip(machines, OWN, strict=True))
    for machine, own in asked:
        machine.call("scenes", "add", BOTH, own)
    at_once = [machine.start("backfill", *KINDS, "--scenes", BOTH, own) for machine, own in asked]
    said = [process.communicate(timeout=1200)[0] for process in at_once]
    assert [process.returncode for process in at_once] == [0, 0], said

    made = Counter((version.kind, version.partition) for version in home.versions())
    assert {partition: made[kind, partition] for kind in KINDS for partition in (BOTH, *OWN)} == dict.fromkeys(
        (BOTH, *OWN), 1
    )
    listed = [json.loads(machine.call("catalog", "list", "--json")) for machine in machines]
    assert len(listed[0]) == len(home.versions()) == sum(made.values())
    traced = [json.loads(machine.call("lineage", f"sky_mask/{BOTH}", "--json")) for machine in machines]
    # Each machine sees what the other made, and both see the same.
    for seen in (listed, traced):
        assert seen[0] == seen[1]
    for machine in machines:
        assert machine.call("catalog", "verify") == f"{len(listed[0])} versions, 0 damaged\n"
