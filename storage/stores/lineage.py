"""Walk along "was made from": the one walk, whatever tells what a version was made from, or what was made from it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from storage.stores.provenance import InputVersion

Neighbours = Callable[[InputVersion], Iterable[InputVersion]]
"""What a version was made from, or, for the other way, what was made from it."""


@dataclass(frozen=True, slots=True)
class LineageNode:
    """One version, raw file or weights file, and what it was made from.

    Attributes:
        version: What it is; for a file, ``partition`` is its path and ``digest`` its SHA-256.
        inputs: What it was made from.
    """

    version: InputVersion
    inputs: tuple["LineageNode", ...]


def walk(starts: Iterable[InputVersion], neighbours: Neighbours) -> Iterator[tuple[int, InputVersion]]:
    """Yield each version that can be reached once, with its distance in steps: breadth first, from the starts on.

    Neighbours are asked for once, after their version was yielded, and are taken in ascending order.
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
    """Return everything that ``root`` was made from, each version as one node however often it was used."""
    known: dict[InputVersion, LineageNode] = {}

    def node(item: InputVersion) -> LineageNode:
        if item not in known:
            known[item] = LineageNode(item, tuple(node(i) for i in sorted(inputs_of(item))))
        return known[item]

    return node(root)
