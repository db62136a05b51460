import numpy as np
import pyarrow as pa
import pytest

from storage.stores.lineage import EdgeGraph, LineageNode, walk
from storage.stores.provenance import InputVersion

A, B, C, D = (InputVersion("scene", name, digest * 64) for name, digest in zip("abcd", "3201", strict=True))


def graph(*edges: tuple[InputVersion, InputVersion]) -> EdgeGraph:
    def table(side: int) -> pa.Table:
        columns = {name: [getattr(edge[side], name) for edge in edges] for name in ("kind", "partition", "digest")}
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})

    return EdgeGraph(table(0), table(1))


DIAMOND = ((D, C), (D, B), (C, A), (B, A), (D, C))


def number(of: EdgeGraph, version: InputVersion) -> int:
    (found,) = of.find(version.kind, version.partition, version.digest)
    return int(found)


def test_each_version_is_reached_once_nearest_first():
    edges = graph(*DIAMOND)
    steps = edges.walk(np.array([number(edges, D)]))
    assert [edges.versions(step) for step in steps] == [[D], [B, C], [A]]
    steps = edges.walk(np.array([number(edges, C), number(edges, B), number(edges, C)]))
    assert [edges.versions(step) for step in steps] == [[B, C], [A]]


def test_a_walk_ends_where_versions_are_made_from_each_other():
    edges = graph((A, B), (B, A))
    assert [edges.versions(step) for step in edges.walk(edges.find("scene", "a"))] == [[A], [B]]


def inputs_of(item: InputVersion) -> list[InputVersion]:
    return [end for start, end in DIAMOND if start == item]


def test_a_walk_one_by_one_is_the_same():
    assert list(walk([D], inputs_of)) == [(0, D), (1, B), (1, C), (2, A)]
    assert list(walk([C, B, C], inputs_of)) == [(0, B), (0, C), (1, A)]
    assert [item for _, item in walk([A], {A: [B], B: [A]}.__getitem__)] == [A, B]


def test_a_walk_asks_only_about_what_it_has_given():
    """Whoever walks may look a version up first and answer with what it found."""
    given = set()

    def asked(item: InputVersion) -> tuple[InputVersion, ...]:
        assert item in given
        return inputs_of(item)

    for _, item in walk([D], asked):
        given.add(item)
    assert given == {A, B, C, D}


def test_what_was_used_twice_is_one_node():
    edges = graph(*DIAMOND)
    found = edges.tree(number(edges, D))
    leaf = LineageNode(A, ())
    assert found == LineageNode(D, (LineageNode(B, (leaf,)), LineageNode(C, (leaf,))))
    assert found.inputs[0].inputs[0] is found.inputs[1].inputs[0]


def test_versions_are_found_by_all_their_names():
    twins = [InputVersion("depth", "a", "0" * 64), InputVersion("depth", "a", "1" * 64), InputVersion("sky", "a", "2")]
    edges = graph(*((twin, A) for twin in twins))
    assert edges.versions(edges.find("depth", "a")) == twins[:2]
    assert edges.versions(edges.find("depth", "a", "1" * 64)) == [twins[1]]
    for unknown in (("depth", "b"), ("height", "a"), ("depth", "a", "2"), ("depth", "a", "9")):
        assert edges.find(*unknown).size == 0


def test_no_edges_lead_nowhere():
    assert graph().find("scene", "a").size == 0
    assert graph().walk(np.array([], np.int64)) == []


@pytest.mark.parametrize("seed", range(5))
def test_walks_agree_with_steps_taken_one_by_one(seed: int):
    random = np.random.default_rng(seed)
    nodes = [InputVersion(f"k{i % 3}", f"p{i % 5}", f"{i:064}") for i in range(30)]
    pairs = [(nodes[max(a, b)], nodes[min(a, b)]) for a, b in random.integers(0, 30, (60, 2)) if a != b]
    edges = graph(*pairs)
    start = pairs[0][0]
    expected, front = [], {start}
    reached = set(front)
    while front:
        expected.append(sorted(front))
        front = {end for begin, end in pairs if begin in front} - reached
        reached |= front
    steps = edges.walk(np.array([number(edges, start)]))
    assert [edges.versions(step) for step in steps] == expected

    def below(node: LineageNode) -> set[InputVersion]:
        return {node.version}.union(*(below(item) for item in node.inputs))

    assert below(edges.tree(number(edges, start))) == reached
