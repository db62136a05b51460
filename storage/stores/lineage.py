"""Walk from versions to their inputs or dependents, one by one or over hundreds of thousands of edges at once.

In a graph of all edges, versions and files are numbered in ascending order of kind, partition and digest, and edges
are a sorted array of numbers. Only what a walk reaches becomes an object.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from storage.freed_memory import without_garbage_collection
from storage.stores.provenance import InputVersion

Neighbours = Callable[[InputVersion], Iterable[InputVersion]]
"""Function that lists the direct inputs of a version, or its direct dependents."""

_NAMES = ("kind", "partition", "digest")


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


class EdgeGraph:
    """Edges between versions, in one direction.

    Args:
        starts: Start of each edge; columns ``kind``, ``partition`` and ``digest``.
        ends: End of each edge, in the same columns and order.
    """

    def __init__(self, starts: pa.Table, ends: pa.Table) -> None:
        self._words = {}
        key = np.zeros(2 * starts.num_rows, np.int64)
        for name in _NAMES:
            both = pa.chunked_array([*starts[name].chunks, *ends[name].chunks], pa.string()).combine_chunks()
            encoded = both.dictionary_encode()
            order = pc.call_function("sort_indices", [encoded.dictionary]).to_numpy()
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            self._words[name] = encoded.dictionary.take(order)
            key = key * max(1, len(order)) + rank[encoded.indices.to_numpy(zero_copy_only=False)]
        self._keys, numbers = np.unique(key, return_inverse=True)
        count = max(1, len(self._keys))
        edges = np.unique(numbers[: starts.num_rows] * count + numbers[starts.num_rows :])
        self._ends = edges % count
        self._first = np.searchsorted(edges // count, np.arange(len(self._keys) + 1))

    def find(self, kind: str, partition: str, digest: str | None = None) -> Int64[np.ndarray, " n"]:
        """Return the numbers of what has this kind and partition and, if given, this digest."""
        wanted = np.ones(len(self._keys), bool)
        for name, value in zip(_NAMES, (kind, partition, digest), strict=True):
            if value is not None:
                wanted &= self._codes(name, self._keys) == pc.index(self._words[name], value).as_py()
        return np.flatnonzero(wanted)

    def versions(self, numbers: Int64[np.ndarray, " n"]) -> list[InputVersion]:
        """Return what has these numbers."""
        keys = self._keys[numbers]
        columns = (self._words[name].take(pa.array(self._codes(name, keys))).to_pylist() for name in _NAMES)
        return [InputVersion(*names) for names in zip(*columns, strict=True)]

    def walk(self, starts: Int64[np.ndarray, " n"]) -> list[Int64[np.ndarray, " m"]]:
        """Return what can be reached in 0, 1, 2 ... steps and no fewer, each ascending."""
        is_reached = np.zeros(len(self._keys), bool)
        found, front = [], np.unique(starts)
        while len(front):
            is_reached[front] = True
            found.append(front)
            first, last = self._first[front], self._first[front + 1]
            places = np.repeat(first - np.cumsum(last - first) + (last - first), last - first)
            following = np.unique(self._ends[places + np.arange(len(places))])
            front = following[~is_reached[following]]
        return found

    def tree(self, root: int) -> LineageNode:
        """Return one start with all that it leads to; what is reached twice is one node.

        The edges must lead nowhere back, as those between versions do: a digest covers the digests of its inputs.
        """
        with without_garbage_collection():
            return self._tree(root)

    def _tree(self, root: int) -> LineageNode:
        reached = np.concatenate(self.walk(np.array([root])))
        versions = dict(zip(reached.tolist(), self.versions(reached), strict=True))
        ends = {
            number: self._ends[self._first[number] : self._first[number + 1]].tolist()
            for number in reached[self._first[reached + 1] > self._first[reached]].tolist()
        }
        made = {number: LineageNode(version, ()) for number, version in versions.items() if number not in ends}
        pending = [root]
        while pending:
            number = pending[-1]
            missing = [] if number in made else [end for end in ends[number] if end not in made]
            if missing:
                pending += missing
                continue
            pending.pop()
            if number not in made:
                made[number] = LineageNode(versions[number], tuple(made[end] for end in ends[number]))
        return made[root]

    def _codes(self, name: str, keys: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        below = 1
        for other in reversed(_NAMES):
            size = max(1, len(self._words[other]))
            if other == name:
                return keys // below % size
            below *= size
        raise AssertionError(name)
