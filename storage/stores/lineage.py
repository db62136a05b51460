"""Walk from versions to their inputs or dependents, whichever function lists these."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from storage.stores.provenance import InputVersion

Neighbours = Callable[[InputVersion], Iterable[InputVersion]]
"""Function that lists the direct inputs of a version, or its direct dependents."""


@dataclass(frozen=True, slots=True)
class LineageNode:
    """One version, raw file or weights file, with its inputs.

    Attributes:
        version: Its identity; for a file, ``partition`` is the path and ``digest`` the SHA-256.
        inputs: Nodes that it was directly made from.
    """

    version: InputVersion
    inputs: tuple["LineageNode", ...]


def walk(starts: Iterable[InputVersion], neighbours: Neighbours) -> Iterator[tuple[int, InputVersion]]:
    """Yield each reachable version once, with its distance from the starts in steps, breadth first.

    Neighbours of a version are listed once, after it was yielded, and are visited in ascending order.
    """
    reached = {start: 0 for start in sorted(set(starts))}
    pending = list(reached)
    for item in pending:  # it grows
        yield reached[item], item
        for neighbour in sorted(neighbours(item)):
            if neighbour not in reached:
                reached[neighbour] = reached[item] + 1
                pending.append(neighbour)


def tree(root: InputVersion, inputs_of: Neighbours) -> LineageNode:
    """Return ``root`` with all its direct and indirect inputs; a version that was used twice is one node."""
    known: dict[InputVersion, LineageNode] = {}

    def node(item: InputVersion) -> LineageNode:
        if item not in known:
            known[item] = LineageNode(item, tuple(node(i) for i in sorted(inputs_of(item))))
        return known[item]

    return node(root)
