"""The lineage of a version by kinds: the number of versions of each, their inputs and gates; and a page of it all."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from storage.kinds import KINDS
from storage.previews.pages import page_template
from storage.stores import catalog
from storage.stores.catalog import FILE_KINDS
from storage.stores.lineage import LineageNode
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home

GateState = Literal["passed", "failed", "none"]

_COLUMN, _ROW, _WIDTH, _HEIGHT = 210, 62, 180, 44
"""Distance and size of the boxes of the graph, pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """One version of a lineage.

    Attributes:
        version: Its identity; for a file, path and SHA-256.
        gate: Outcome of its gate.
        facts: When it was made, on what, under which licence; empty for a file.
        inputs: What it was directly made from, files included.
    """

    version: InputVersion
    gate: GateState
    facts: Mapping[str, str]
    inputs: tuple[InputVersion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindGroup:
    """All versions of one kind in a lineage.

    Attributes:
        kind: The kind, or that of files.
        ancestors: Its versions, by partition.
        gates: Number of versions by outcome of their gate.
        made_from: Kinds of their direct inputs, with the number of edges.
        depth: Number of steps from the root, counted along the longest way.
    """

    kind: str
    ancestors: tuple[Ancestor, ...]
    gates: Counter[GateState]
    made_from: Counter[str]
    depth: int

    @property
    def failed(self) -> list[str]:
        """Return the partitions of versions that failed their gate."""
        return [one.version.partition for one in self.ancestors if one.gate == "failed"]


def summarise(home: Home, root: LineageNode) -> list[KindGroup]:
    """Return the versions and files of a lineage by kind: the root's first, then nearer ones before farther ones."""
    rows = {row["digest"]: row for row in catalog.versions(home.objects).drop_columns(["metrics"]).to_pylist()}
    nodes: dict[InputVersion, LineageNode] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if node.version not in nodes:
            nodes[node.version] = node
            pending += node.inputs
    members: dict[str, list[Ancestor]] = {}
    for version in sorted(nodes):
        ancestor = _ancestor(nodes[version], rows.get(version.digest))
        members.setdefault(version.kind, []).append(ancestor)
    made_from = {kind: Counter(i.kind for one in of for i in one.inputs) for kind, of in members.items()}
    depth = _depths(root.version.kind, made_from)
    groups = [
        KindGroup(
            kind=kind,
            ancestors=tuple(of),
            gates=Counter(one.gate for one in of),
            made_from=made_from[kind],
            depth=depth[kind],
        )
        for kind, of in members.items()
    ]
    return sorted(groups, key=lambda group: (group.depth, group.kind))


def lineage_page(root: LineageNode, groups: list[KindGroup]) -> str:
    """Return one self-contained page: a graph of the kinds, and every version and file with its digest.

    Everything that comes from a home is escaped.
    """
    return page_template("pipeline", "templates/lineage.html.j2").render(
        root=root.version, groups=groups, graph=_drawn(groups), holds={name: spec.holds for name, spec in KINDS.items()}
    )


def _ancestor(node: LineageNode, row: Mapping[str, Any] | None) -> Ancestor:
    gate: GateState = "none"
    facts: dict[str, str] = {}
    if row is not None:
        gate = "none" if row["gate_passed"] is None else "passed" if row["gate_passed"] else "failed"
        seconds = f"{row['wall_time_s']:.1f} s on {row['device']}"
        facts = {"made": row["created_at"], "in": seconds, "licence": row["licence"], "snapshot": row["snapshot_id"]}
    inputs = tuple(child.version for child in node.inputs)
    return Ancestor(version=node.version, gate=gate, facts=facts, inputs=inputs)


def _depths(root: str, made_from: Mapping[str, Counter[str]]) -> dict[str, int]:
    """Return the longest way from the root to each kind; a kind that leads back to itself counts once."""
    depth: dict[str, int] = {}

    def visit(kind: str, steps: int, on_way: frozenset[str]) -> None:
        if kind in on_way or depth.get(kind, -1) >= steps:
            return
        depth[kind] = steps
        for parent in made_from.get(kind, ()):
            visit(parent, steps + 1, on_way | {kind})

    visit(root, 0, frozenset())
    return depth


def _drawn(groups: list[KindGroup]) -> dict[str, Any]:
    """Return boxes and lines of the graph, pixels; files stand at the left, the root at the right."""
    last = max(group.depth for group in groups)
    column_of = {group.kind: 0 if group.kind in FILE_KINDS else last - group.depth for group in groups}
    rows: Counter[int] = Counter()
    boxes: dict[str, dict[str, Any]] = {}
    for group in groups:
        column = column_of[group.kind]
        boxes[group.kind] = {
            "kind": group.kind,
            "x": column * _COLUMN,
            "y": rows[column] * _ROW,
            "count": len(group.ancestors),
            "failed": group.gates["failed"],
        }
        rows[column] += 1
    lines = [
        {
            "x1": boxes[parent]["x"] + _WIDTH,
            "y1": boxes[parent]["y"] + _HEIGHT / 2,
            "x2": boxes[group.kind]["x"],
            "y2": boxes[group.kind]["y"] + _HEIGHT / 2,
            "from": parent,
            "to": group.kind,
            "edges": count,
        }
        for group in groups
        for parent, count in group.made_from.items()
        if parent != group.kind
    ]
    size = {"width": last * _COLUMN + _WIDTH, "height": (max(rows.values()) - 1) * _ROW + _HEIGHT}
    return {"boxes": list(boxes.values()), "lines": lines, "box_width": _WIDTH, "box_height": _HEIGHT, **size}
