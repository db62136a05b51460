"""Kill every part of a service during a backfill, and see whether everything is made all the same.

``python -m pipeline.service.survival HOME --scenes 100 --kills 10`` generates four small drives, registers them under
as many names as are needed, serves the home, backfills ``scene`` and ``input_images`` of all scenes, and kills run
workers, code server, daemon and web server in turn, without a warning to any. Nothing else is done to help.
"""

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import tyro

from pipeline.instance import open_instance
from pipeline.liveness import process_of
from pipeline.partitions import add_scene_partitions
from pipeline.run_config import HomeSelection
from storage.ingest.source import list_scenes, register_source
from storage.ingest.source_config import SourceConfig
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.stores.versioned import Home

KINDS = ("scene", "input_images")
_DRIVES = 4
_SERVERS = {"code server": "code_server", "daemon": "daemon", "web server": "web_server"}
_RUN_WORKER = "run worker"
_LAUNCH = """mutation ($assets: [AssetKeyInput!], $keys: [String!]) {
  launchPartitionBackfill(backfillParams: {assetSelection: $assets, partitionNames: $keys}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""


@dataclass(frozen=True, kw_only=True)
class Survival:
    """What a backfill under fire came to.

    Attributes:
        scenes: Scenes that were asked for.
        made: Scenes of which every kind has its version.
        duplicates: Versions beyond one for each scene and kind.
        kills: Processes that were killed, by what they were.
        runs: Runs of the backfill, tries again included.
        failed_runs: Those that failed.
        longest_notice_s: Longest time from the kill of a run worker to the end of its run in Dagster, seconds.
        held_slots: Pool slots that are still held at the end.
        backfill: Status of the backfill at the end.
        seconds: Time from the launch of the backfill to its end.
    """

    scenes: int
    made: int
    duplicates: int
    kills: dict[str, int]
    runs: int
    failed_runs: int
    longest_notice_s: float
    held_slots: int
    backfill: str
    seconds: float

    def is_proof(self, kills: int) -> bool:
        """Return whether everything was killed so often, and every scene was made once with nothing left to do."""
        is_whole = self.made == self.scenes and not self.duplicates and not self.held_slots
        were_killed = all(count == kills for count in self.kills.values())
        return is_whole and were_killed and self.backfill == "COMPLETED_SUCCESS"


def survive(home: Home, keys: Sequence[str], *, kills: int, pause_s: float, patience_s: float) -> Survival:
    """Backfill scenes of a home while its service is being killed, and return what came of it.

    Args:
        home: Home that knows the scenes.
        keys: Scenes.
        kills: How often each of run worker, code server, daemon and web server is killed.
        pause_s: Time between two kills, seconds.
        patience_s: Longest time that the backfill may take, seconds.
    """
    killed: dict[str, int] = dict.fromkeys((_RUN_WORKER, *_SERVERS), 0)
    killed_at: dict[str, float] = {}
    with service(home) as (process, address), open_instance(home.root) as instance:
        began = time.monotonic()
        backfill = launch_backfill(address, KINDS, keys)
        turns = itertools.cycle(killed)
        next_kill, turn = began + pause_s, next(turns)
        while time.monotonic() - began < patience_s:
            found = instance.get_backfill(backfill)
            if found is not None and found.status.value.startswith(("COMPLETED", "FAILED", "CANCELED")):
                break
            is_time = time.monotonic() >= next_kill and killed[turn] < kills  # in turn: all are killed as often
            if is_time and _kill(turn, process, instance, killed_at):
                killed[turn] += 1
                turn, next_kill = next(turns), time.monotonic() + pause_s
            time.sleep(0.2)
        seconds = time.monotonic() - began
        return _judge(home, instance, backfill, keys, killed, killed_at, seconds)


@contextmanager
def service(home: Home) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve a home in a process of its own, and yield that and the address of its web server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "pipeline.cli", "ui", "--home", str(home.root)]
    with (home.root / "service.log").open("wb") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=600)


def launch_backfill(address: str, assets: Sequence[str], keys: Sequence[str]) -> str:
    """Launch a backfill as the UI does, as soon as the web server answers, and return its id.

    Raises:
        RuntimeError: If Dagster refuses it.
    """
    asked = {"query": _LAUNCH, "variables": {"assets": [{"path": [name]} for name in assets], "keys": list(keys)}}
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 600  # a busy machine takes minutes to import everything
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                said = json.load(answer)["data"]["launchPartitionBackfill"]
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
            continue
        if said["__typename"] != "LaunchBackfillSuccess":
            raise RuntimeError(f"the backfill was refused: {said}")
        return said["backfillId"]


def _kill(
    what: str, supervisor: subprocess.Popen[bytes], instance: dg.DagsterInstance, killed_at: dict[str, float]
) -> bool:
    """Kill one process of a kind, if there is one; return whether there was."""
    if what == _RUN_WORKER:
        for run in instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            worker = process_of(run)
            if worker is not None and run.run_id not in killed_at:
                worker.kill()
                killed_at[run.run_id] = time.time()
                return True
        return False
    module = f"pipeline.service.{_SERVERS[what]}"
    with contextlib.suppress(psutil.Error):  # it ended by itself, or waits to be seen as ended
        for child in psutil.Process(supervisor.pid).children():
            if module in child.cmdline():
                child.kill()
                return True
    return False


def _judge(
    home: Home,
    instance: dg.DagsterInstance,
    backfill: str,
    keys: Sequence[str],
    killed: dict[str, int],
    killed_at: dict[str, float],
    seconds: float,
) -> Survival:
    versions = {kind: [v.partition for v in home.versions(kind)] for kind in KINDS}
    records = instance.get_run_records(filters=dg.RunsFilter(tags={"dagster/backfill": backfill}))
    shot = instance.get_run_records(filters=dg.RunsFilter(run_ids=list(killed_at))) if killed_at else []
    notices = [(record.end_time or float("inf")) - killed_at[record.dagster_run.run_id] for record in shot]
    pools = instance.event_log_storage.get_pool_limits()
    slots = [instance.event_log_storage.get_concurrency_info(pool.name).claimed_slots for pool in pools]
    found = instance.get_backfill(backfill)
    return Survival(
        scenes=len(keys),
        made=sum(all(key in versions[kind] for kind in KINDS) for key in keys),
        duplicates=sum(len(made) - len(set(made)) for made in versions.values()),
        kills=killed,
        runs=len(records),
        failed_runs=sum(record.dagster_run.status is dg.DagsterRunStatus.FAILURE for record in records),
        longest_notice_s=round(max(notices, default=0.0), 1),
        held_slots=sum(len(held) for held in slots),
        backfill="none" if found is None else found.status.value,
        seconds=round(seconds, 1),
    )


def prepare(home: Home, num_scenes: int) -> list[str]:
    """Make small drives and register them under as many names as are needed; return the keys of the scenes."""
    config = ProceduralConfig(
        num_scenes=min(_DRIVES, num_scenes), frames_per_scene=1, image_height=32, image_width=64, antialias=False
    )
    root = home.root / "recordings" / config.dataset
    generate_dataset(home, root, config)
    keys: list[str] = []
    for index in range(-(-num_scenes // config.num_scenes)):
        source = SourceConfig(dataset=f"drives{index}", root=root, version=config.version, licence="CC0-1.0")
        register_source(home, source)
        keys += [str(key) for key in list_scenes(source)]
    keys = keys[:num_scenes]
    overrides = ("input_images.height=16", "input_images.width=32")
    HomeSelection(preset="demo", overrides=overrides, train_scenes=(keys[0],)).save(home.root)
    with open_instance(home.root) as instance:
        add_scene_partitions(instance, keys)
    return keys


@dataclass(frozen=True, kw_only=True)
class SurvivalArguments:
    """Arguments of the command.

    Attributes:
        home: Folder of the home, which is made.
        scenes: Number of scenes.
        kills: How often each part is killed.
        pause_s: Time between two kills, seconds.
        patience_s: Longest time that everything may take, seconds.
    """

    home: tyro.conf.Positional[Path]
    scenes: int = 100
    kills: int = 10
    pause_s: float = 15.0
    patience_s: float = 3600.0


def main() -> int:
    """Run it, write ``survival.json`` into the home, and return 1 unless it was killed so often and all is well."""
    arguments: Any = tyro.cli(SurvivalArguments)
    home = Home(arguments.home.absolute())
    outcome = survive(
        home,
        prepare(home, arguments.scenes),
        kills=arguments.kills,
        pause_s=arguments.pause_s,
        patience_s=arguments.patience_s,
    )
    text = json.dumps(asdict(outcome), indent=2) + "\n"
    (home.root / "survival.json").write_text(text)
    sys.stdout.write(text)
    return 0 if outcome.is_proof(arguments.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
