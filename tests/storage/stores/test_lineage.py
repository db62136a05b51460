from storage.stores.lineage import LineageNode, tree, walk
from storage.stores.provenance import InputVersion

A, B, C, D = (InputVersion("scene", name, "0" * 64) for name in "abcd")
MADE_FROM = {D: (C, B), C: (A,), B: (A,)}


def inputs_of(item: InputVersion) -> tuple[InputVersion, ...]:
    return MADE_FROM.get(item, ())


def test_each_version_is_reached_once_nearest_first():
    assert list(walk([D], inputs_of)) == [(0, D), (1, B), (1, C), (2, A)]
    assert list(walk([C, B, C], inputs_of)) == [(0, B), (0, C), (1, A)]


def test_a_walk_asks_only_about_what_it_has_given():
    """Whoever walks may look a version up first and answer with what it found."""
    given = set()

    def asked(item: InputVersion) -> tuple[InputVersion, ...]:
        assert item in given
        return inputs_of(item)

    for _, item in walk([D], asked):
        given.add(item)
    assert given == {A, B, C, D}


def test_a_walk_ends_where_versions_are_made_from_each_other():
    assert [item for _, item in walk([A], {A: [B], B: [A]}.__getitem__)] == [A, B]


def test_what_was_used_twice_is_one_node():
    found = tree(D, inputs_of)
    leaf = LineageNode(A, ())
    assert found == LineageNode(D, (LineageNode(B, (leaf,)), LineageNode(C, (leaf,))))
    assert found.inputs[0].inputs[0] is found.inputs[1].inputs[0]
