"""A run as a list of tasks: the assets, partition, configuration and predecessors of each.

One task is one Dagster run. The order comes from Dagster's own asset graph, and the assets that share a run from their
tags. A run costs about half a second of bookkeeping, so assets that follow each other on one scene share one; assets
that can run side by side do not.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple, cast, get_args

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # not exported, but what Definitions resolve

from assets.declarations import READS, TASK_TAG, WORK_TAG, Work
from pipeline.partitions import add_scene_partitions, scenes
from pipeline.run_config import HomeSelection


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One Dagster run.

    Attributes:
        name: Unique name, for people.
        assets: Assets to materialise.
        partition: Partition of all these assets; None for unpartitioned ones.
        after: Names of the tasks that must have succeeded before.
        work: Kind of work, which names the resources that it keeps busy.
        config: Dagster configuration of the run; empty for the one that the home keeps.
    """

    name: str
    assets: tuple[str, ...]
    partition: str | None
    after: tuple[str, ...] = ()
    work: Work = "models"
    config: Mapping[str, Any] = field(default_factory=dict)


class _Node(NamedTuple):
    """One partition of one asset."""

    asset: dg.AssetKey
    partition: str | None


def plan_tasks(
    graph: AssetGraph,
    goals: Mapping[str, Iterable[str | None]],
    selection: HomeSelection,
    *,
    with_upstream: bool = True,
    is_there: Callable[[str, str | None], bool] = lambda *_: False,
) -> list[Task]:
    """Return the tasks that make some partitions of some assets, each after its predecessors.

    Args:
        graph: Dagster's graph of all assets.
        goals: Partitions wanted, by asset; None for an unpartitioned asset.
        selection: Scenes and configuration of the runs.
        with_upstream: Also make all upstream assets of the goals.
        is_there: Tells by asset and partition what is there already; that and what is upstream of it are not made.

    Raises:
        ValueError: If assets that share a run wait for each other through another run, or differ in their kind of work.
    """
    wanted = [_Node(dg.AssetKey(name), key) for name, keys in goals.items() for key in keys]
    with dg.DagsterInstance.ephemeral() as instance:
        of_scenes = [n.partition for n in wanted if n.partition and graph.get(n.asset).partitions_def == scenes]
        add_scene_partitions(instance, dict.fromkeys([*selection.scenes, *of_scenes]))
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            edges = _edges(graph, wanted, selection, is_there if with_upstream else lambda *_: True)
            return _group(graph, edges, selection)


def _edges(
    graph: AssetGraph,
    wanted: Iterable[_Node],
    selection: HomeSelection,
    is_there: Callable[[str, str | None], bool],
) -> dict[_Node, set[_Node]]:
    """Return the nodes to make, each with its predecessors: those wanted, and upstream of them what is not there."""
    edges: dict[_Node, set[_Node]] = {node: set() for node in wanted}
    waiting = list(edges)
    while waiting:
        node = waiting.pop()
        for parent in _parents(graph, node, selection):
            if parent not in edges and not is_there(parent.asset.to_user_string(), parent.partition):
                edges[parent] = set()
                waiting.append(parent)
            if parent in edges:
                edges[node].add(parent)
    return edges


def _parents(graph: AssetGraph, node: _Node, selection: HomeSelection) -> Iterable[_Node]:
    """Yield the inputs of one partition of an asset: those that Dagster maps it to and that the run reads."""
    read = {dep.asset_key: dep.metadata.get(READS) for dep in graph.get(node.asset).to_asset_spec().deps}
    for asset in graph.get(node.asset).parent_keys:
        if not graph.get(asset).is_executable:
            continue  # written by the step of another asset
        if read[asset] == "nothing":
            continue
        if not graph.get(asset).is_partitioned:
            yield _Node(asset, None)
            continue
        mapped = graph.get_parent_partition_keys_for_child(node.partition, asset, node.asset)
        keys = mapped.partitions_subset.get_partition_keys()
        field_name = read[asset]
        yield from (_Node(asset, key) for key in keys if field_name is None or key in getattr(selection, field_name))


def _group(graph: AssetGraph, edges: Mapping[_Node, set[_Node]], selection: HomeSelection) -> list[Task]:
    """Return one task for all assets of a partition that share a run, in executable order."""
    nodes: dict[str, list[_Node]] = {}
    after: dict[str, dict[str, None]] = {}
    position = {node: i for i, node in enumerate(_in_order(graph, edges))}
    for node in position:
        name = _name(graph, node)
        nodes.setdefault(name, []).append(node)
        before = (_name(graph, parent) for parent in sorted(edges[node], key=position.__getitem__))
        after.setdefault(name, {}).update(dict.fromkeys(other for other in before if other != name))
    rank = {name: i for i, name in enumerate(nodes)}
    sorter = TopologicalSorter(after)
    try:
        sorter.prepare()
    except CycleError as error:
        raise ValueError(f"assets that share a run wait for each other: {' after '.join(error.args[1])}") from error
    tasks: list[Task] = []
    while sorter.is_active():
        for name in sorted(sorter.get_ready(), key=rank.__getitem__):
            assets = tuple(node.asset.to_user_string() for node in nodes[name])
            tasks.append(
                Task(
                    name=name,
                    assets=assets,
                    partition=nodes[name][0].partition,
                    after=tuple(after[name]),
                    work=_work(graph, nodes[name]),
                    config=run_config(graph, assets, selection),
                )
            )
            sorter.done(name)
    return tasks


def _in_order(graph: AssetGraph, nodes: Collection[_Node]) -> list[_Node]:
    """Return nodes in the order of the asset graph, and nodes of one asset in the order of its partitions."""
    assets = [key for key in graph.toposorted_asset_keys if key in {node.asset for node in nodes}]
    partitions = {asset: graph.get(asset).partitions_def for asset in assets}
    keys = {asset: [None] if p is None else list(p.get_partition_keys()) for asset, p in partitions.items()}
    chosen = set(nodes)
    return [_Node(asset, key) for asset in assets for key in keys[asset] if _Node(asset, key) in chosen]


def _name(graph: AssetGraph, node: _Node) -> str:
    """Return the name of the task that makes a partition of an asset."""
    shared = graph.get(node.asset).tags.get(TASK_TAG, node.asset.path[-1]).replace("_", " ")
    return shared if node.partition is None else f"{shared} {node.partition}"


def _work(graph: AssetGraph, nodes: Iterable[_Node]) -> Work:
    """Return the kind of work of a task.

    Raises:
        ValueError: If its assets do not agree.
    """
    declared = {node.asset.path[-1]: graph.get(node.asset).tags.get(WORK_TAG, "models") for node in nodes}
    (work, *others) = sorted(set(declared.values()))
    if others or work not in get_args(Work):
        raise ValueError(f"tag {WORK_TAG} of assets that share a run: {declared}, want one of {get_args(Work)}")
    return cast("Work", work)


def run_config(graph: AssetGraph, assets: Iterable[str], selection: HomeSelection) -> dict[str, Any]:
    """Return the Dagster configuration of a run that uses exactly this selection.

    Args:
        graph: Dagster's graph of all assets.
        assets: Assets that the run materialises; each gets the fields of its own configuration.
        selection: Selection to run.
    """
    told, ops = selection.fields(), {}
    for asset in assets:
        op: Any = graph.get(dg.AssetKey(asset)).assets_def.node_def
        known = getattr(op.config_schema.config_type, "fields", None)
        if known:
            ops[op.name] = {"config": {name: value for name, value in told.items() if name in known}}
    return {"ops": ops}


def ready(tasks: Iterable[Task], finished: Mapping[str, bool], started: Iterable[str]) -> list[Task]:
    """Return the unstarted tasks whose predecessors all succeeded, in order."""
    begun = set(started)
    return [task for task in tasks if task.name not in begun and all(finished.get(name, False) for name in task.after)]


def blocked(tasks: Iterable[Task], finished: Mapping[str, bool]) -> list[Task]:
    """Return the tasks that can never start because a predecessor failed."""
    failed = {name for name, succeeded in finished.items() if not succeeded}
    stuck: list[Task] = []
    for task in tasks:  # in order: a task comes after its predecessors
        if task.name not in finished and failed & set(task.after):
            stuck.append(task)
            failed.add(task.name)
    return stuck
