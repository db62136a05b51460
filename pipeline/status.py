"""State of every partition of every asset: done, stale, failed, running or missing, and why.

What was asked for last, what failed and what runs is read from Dagster's records, one query an asset. Whether a
version is out of date is decided by digests: the catalogue says what it was made from, and the digests of code are
compared with those of the code at hand. Settings are not compared: a version that was made with others stays until it
is asked for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import dagster as dg
import pyarrow as pa
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # not exported, but what Definitions resolve
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from assets.declarations import code_digests
from pipeline.outcomes import read_failure
from storage.kinds import KINDS
from storage.stores import catalog
from storage.stores.catalog import FILE_KINDS
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home

State = Literal["done", "stale", "failed", "running", "missing"]
"""State of one partition of one asset. A failed or running one may have an older version, which stays readable."""

STATES: tuple[State, ...] = get_args(State)

_UNDER_WAY = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """State of one partition of one asset.

    Attributes:
        asset: Name of the asset, which is also the kind.
        partition: Key of the partition.
        state: Its state.
        reason: Why it is stale, failed or running; empty otherwise.
        digest: Digest of the version that was asked for last; empty without one.
    """

    asset: str
    partition: str
    state: State
    reason: str = ""
    digest: str = ""


def executable_assets(graph: AssetGraph) -> list[str]:
    """Return the assets that Dagster makes partition by partition, upstream first."""
    names = [key.to_user_string() for key in graph.toposorted_asset_keys if graph.get(key).is_executable]
    return [name for name in names if name in KINDS]


def read_states(
    home: Home, instance: dg.DagsterInstance, graph: AssetGraph, *, assets: Iterable[str] | None = None
) -> list[PartitionState]:
    """Return the state of every partition of some assets, by default all, upstream assets first.

    Args:
        home: Home of the versions.
        instance: Dagster's instance of the home.
        graph: Graph of all assets.
        assets: Assets wanted.
    """
    wanted = executable_assets(graph) if assets is None else list(assets)
    return _States(home, instance, graph).of(wanted)


class _States:
    """Everything that states are decided by, read once."""

    def __init__(self, home: Home, instance: dg.DagsterInstance, graph: AssetGraph) -> None:
        self._home, self._instance, self._graph = home, instance, graph
        self._code_of: dict[str, str] = {}
        listed: dict[tuple[str, str], None] = {}
        for row in catalog.versions(home.objects).select(["kind", "partition", "digest", "code_digest"]).to_pylist():
            self._code_of[row["digest"]] = row["code_digest"]
            listed[row["kind"], row["partition"]] = None
        self._inputs: dict[str, list[InputVersion]] = {}
        edges = catalog.edges(home.objects)
        are_versions = [kind not in FILE_KINDS for kind in edges["input_kind"].to_pylist()]  # most edges are of files
        for row in edges.filter(pa.array(are_versions, pa.bool_())).to_pylist():
            made_from = InputVersion(row["input_kind"], row["input_partition"], row["input_digest"])
            self._inputs.setdefault(row["digest"], []).append(made_from)
        self._current = self._read_current(listed)
        self._code = {name: code_digests(graph, name) for name in executable_assets(graph)}
        self._reasons: dict[tuple[str, str], str] = {}

    def of(self, assets: Sequence[str]) -> list[PartitionState]:
        """Return the states of all partitions of some assets."""
        found = []
        runs: dict[str, _Run] = {}
        for name in assets:
            partitions_def = self._graph.get(dg.AssetKey(name)).partitions_def
            assert partitions_def is not None
            attempts = self._attempts(name)
            for key in partitions_def.get_partition_keys(dynamic_partitions_store=self._instance):
                digest = self._current.get((name, key), "")
                run_id = attempts.get(key)
                run = None if run_id is None else runs.setdefault(run_id, _Run(self._instance, run_id))
                state, reason = self._judge(name, key, digest) if run is None else run.state_of(self._step(name), key)
                if state == "missing" and digest:  # an attempt that was called off
                    state, reason = self._judge(name, key, digest)
                found.append(
                    PartitionState(asset=name, partition=key, state=state, reason=reason, digest=digest),
                )
        return found

    def _judge(self, kind: str, partition: str, digest: str) -> tuple[State, str]:
        if not digest:
            return "missing", ""
        reason = self._why_stale(kind, partition)
        return ("stale", reason) if reason else ("done", "")

    def _why_stale(self, kind: str, partition: str) -> str:
        """Return why the current version of a partition is out of date, or an empty text."""
        owner = (kind, partition)
        if owner in self._reasons:
            return self._reasons[owner]
        self._reasons[owner] = ""  # versions are made from older ones, so that no version is its own input
        digest = self._current[owner]
        code, known = self._code_of.get(digest), self._code.get(kind)
        if code is not None and known and code not in known:
            reason = "its code changed"
        else:
            reason = next(filter(None, (self._outdated(item) for item in self._inputs.get(digest, ()))), "")
        self._reasons[owner] = reason
        return reason

    def _outdated(self, made_from: InputVersion) -> str:
        owner = (made_from.kind, made_from.partition)
        current = self._current.get(owner)
        if current is None:
            return ""
        if current != made_from.digest:
            return f"{made_from.kind}/{made_from.partition} changed: {made_from.digest[:8]} to {current[:8]}"
        return f"{made_from.kind}/{made_from.partition} is stale" if self._why_stale(*owner) else ""

    def _read_current(self, listed: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the digest that was asked for last, of each partition that has a version."""
        current: dict[tuple[str, str], str] = {}
        for key in self._graph.get_all_asset_keys():
            tags = self._instance.event_log_storage.get_latest_tags_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
            )
            name = key.to_user_string()
            current |= {(name, partition): of[DATA_VERSION_TAG] for partition, of in tags.items()}
        for owner in listed:  # made by a program, without Dagster
            if owner not in current and (version := self._home.latest(*owner)) is not None:
                current[owner] = version.digest
        return current

    def _attempts(self, asset: str) -> Mapping[str, str]:
        """Return the run of each partition whose last attempt made no version."""
        storage = self._instance.event_log_storage
        found = storage.get_latest_asset_partition_materialization_attempts_without_materializations(dg.AssetKey(asset))
        return {partition: run_id for partition, (run_id, _) in found.items()}

    def _step(self, asset: str) -> str:
        node: Any = self._graph.get(dg.AssetKey(asset))
        return node.assets_def.node_def.name


class _Run:
    """A Dagster run that made no version of some partition: it goes on, or it failed."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self._instance, self._id = instance, run_id
        run = instance.get_run_by_id(run_id)
        self._status = None if run is None else run.status
        self._failures: dict[str, dict[str, Any]] | None = None

    def state_of(self, step: str, partition: str) -> tuple[State, str]:
        """Return the state of a partition that a step of this run was to make."""
        if self._status in _UNDER_WAY:
            return "running", f"run {self._id[:8]}"
        if self._status is not dg.DagsterRunStatus.FAILURE:
            return "missing", ""
        failures = self._read_failures()
        own = failures.get(step)
        if own is not None:
            return "failed", own["by_partition"].get(partition, own["message"])
        first = next(iter(failures.values()), None)
        if first is None:
            return "failed", f"run {self._id[:8]} ended without reporting"
        return "failed", f"not started, because {first['asset']} failed"

    def _read_failures(self) -> dict[str, dict[str, Any]]:
        if self._failures is None:
            entries = self._instance.all_logs(self._id, of_type=dg.DagsterEventType.STEP_FAILURE)
            events = [entry.dagster_event for entry in entries]
            self._failures = {event.step_key or "": read_failure(event) for event in events if event is not None}
        return self._failures


def count_states(states: Iterable[PartitionState]) -> dict[str, Counter[State]]:
    """Return how many partitions of each asset are in which state, assets in order."""
    counts: dict[str, Counter[State]] = {}
    for one in states:
        counts.setdefault(one.asset, Counter())[one.state] += 1
    return counts
