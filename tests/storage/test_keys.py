import pickle
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ErrorKind, SourceDataError
from storage.keys import SceneKey, check_name, sample_key

DATASETS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,12}", fullmatch=True)
SAFE = set(string.ascii_letters + string.digits + "_.-")
SCENES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(dataset=DATASETS, scene_name=SCENES)
def test_parse_undoes_format(dataset, scene_name):
    key = SceneKey(dataset, scene_name)
    assert SceneKey.parse(str(key)) == key


@given(first=st.tuples(DATASETS, SCENES), second=st.tuples(DATASETS, SCENES))
def test_different_keys_are_written_differently(first, second):
    assert (str(SceneKey(*first)) == str(SceneKey(*second))) == (first == second)


@given(text=st.text(max_size=20) | st.text(sorted(SAFE), max_size=20))
def test_any_text_is_a_safe_name_or_refused(text):
    if set(text) <= SAFE and text[:1] not in {"", ".", "-"}:
        assert check_name(text) == text
        assert Path("root", text).parent == Path("root")
    else:
        with pytest.raises(SourceDataError) as caught:
            check_name(text)
        assert caught.value.kind == ErrorKind.NAME_INVALID


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a/b", "a\\b", "-rf", ".git", "a b", "a\n", "ä", "a:b", "a%2fb", "a*", "\0"]
)
def test_reserved_names_are_refused(text):
    with pytest.raises(SourceDataError):
        check_name(text)


@pytest.mark.parametrize("text", ["scene-0916", ".scene", "nuscenes.", "", "nuscenes./x", "a b.c"])
def test_text_that_is_no_key_is_refused(text):
    with pytest.raises(SourceDataError):
        SceneKey.parse(text)


def test_dataset_holds_no_dot():
    with pytest.raises(SourceDataError, match="dataset"):
        SceneKey("nu.scenes", "scene")
    assert SceneKey.parse("nuscenes.a.b") == SceneKey("nuscenes", "a.b")


def test_keys_sort_hash_and_pickle():
    keys = [SceneKey("b", "a"), SceneKey("a", "b"), SceneKey("a", "a")]
    assert [str(k) for k in sorted(keys)] == ["a.a", "a.b", "b.a"]
    assert pickle.loads(pickle.dumps(set(keys))) == set(keys)


def test_sample_keys_sort_by_frame():
    key = SceneKey("nuscenes", "scene-0916")
    assert sample_key(key, 12) == "nuscenes.scene-0916/000012"
    assert sample_key(key, 9) < sample_key(key, 10)
