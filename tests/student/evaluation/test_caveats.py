"""What stands beside an answer to words."""

import pytest

from storage.kinds import Kind
from storage.stores.versioned import Home
from student.evaluation.caveats import DEMO_SOURCE, WORDS_OF_RENDERS, caveats_of_words


@pytest.mark.parametrize(
    ("source", "has_truth", "expected"),
    [
        (DEMO_SOURCE, False, (WORDS_OF_RENDERS,)),
        (DEMO_SOURCE, True, ()),
        ("openai/clip-vit-base-patch16", False, ()),
        ("", False, ()),
    ],
)
def test_the_demo_clip_never_saw_a_photograph(tmp_path, monkeypatch, source, has_truth, expected):
    truths = {(Kind.SCENE_TRUTH, "street.drive")} if has_truth else set()
    monkeypatch.setattr(Home, "latest", lambda self, kind, key: "a version" if (kind, key) in truths else None)
    assert caveats_of_words(Home(tmp_path), ["street.drive"], source) == expected
