import dataclasses
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digests import bytes_digest, canonical_json, config_digest, config_json, digest_of, file_digest
from storage.errors import IntegrityError
from storage.stores.provenance import InputVersion, Provenance, joined_licences, package_versions

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)

SCENE = InputVersion("scene", "tiny.a", "1" * 64)
BASIS = InputVersion("feature_basis", "clip", "2" * 64)
PROVENANCE = Provenance(
    kind="clip_features",
    partition="tiny.a",
    inputs=(SCENE, BASIS),
    config_digest="c" * 64,
    code_digest="d" * 64,
    seed=3,
    weights_digests={"clip": "e" * 64},
    sources={"samples/x.jpg": "f" * 64},
    calibration_digest="0" * 64,
    pose_source="ego_pose table",
    licence="CC0-1.0",
    config={"width": 4},
    packages={"numpy": "1.26.4"},
    device="cpu",
)
DETERMINING = {
    "kind": "dinov2_features",
    "partition": "tiny.b",
    "inputs": (SCENE,),
    "config_digest": "9" * 64,
    "code_digest": "9" * 64,
    "seed": None,
    "weights_digests": {"clip": "9" * 64},
    "sources": {"samples/x.jpg": "9" * 64},
    "calibration_digest": "9" * 64,
    "pose_source": "slam",
    "licence": "CC-BY-4.0",
}
DESCRIBING = {
    "config": {"width": 5},
    "packages": {},
    "device": "cuda",
    "created_at": "2026-01-01T00:00:00+00:00",
    "wall_time_s": 12.5,
}


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 4
    colour: Colour = Colour.RED
    path: Path = Path("a/b")
    inner: Inner = Inner()
    names: tuple[str, ...] = ("x", "y")


@dataclass(frozen=True, kw_only=True)
class Twin:
    width: int = 4
    colour: Colour = Colour.RED
    path: Path = Path("a/b")
    inner: Inner = Inner()
    names: tuple[str, ...] = ("x", "y")


# --- canonical JSON and digests ------------------------------------------------------------------------------------


@given(value=JSON)
def test_canonical_json_is_json_of_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@given(pairs=st.dictionaries(st.text(max_size=5), JSON, min_size=2, max_size=5))
def test_digest_ignores_the_order_of_keys(pairs):
    backwards = dict(reversed(pairs.items()))
    assert digest_of(backwards) == digest_of(pairs)


@given(first=JSON, second=JSON)
def test_equal_spelling_means_equal_value(first, second):
    if canonical_json(first) == canonical_json(second):
        assert first == second


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [1.0, float("-inf")]])
def test_numbers_that_are_not_finite_have_no_digest(bad):
    with pytest.raises(ValueError, match="JSON"):
        digest_of(bad)


def test_what_has_no_json_form_is_refused():
    with pytest.raises(TypeError):
        digest_of(object())


def test_sets_have_one_spelling():
    assert canonical_json({"b", "a", "c"}) == '["a","b","c"]'


def test_config_digest_sees_every_value_and_the_class():
    base = config_digest(Config())
    assert base == config_digest(Config())
    changed = [
        Config(width=5),
        Config(path=Path("a/c")),
        Config(inner=Inner(rate=0.25)),
        Config(names=("y", "x")),
        Twin(),
    ]
    digests = {config_digest(c) for c in changed}
    assert len(digests) == len(changed)
    assert base not in digests


def test_config_json_is_plain():
    assert config_json(Config()) == {
        "width": 4,
        "colour": "red",
        "path": "a/b",
        "inner": {"rate": 0.5},
        "names": ["x", "y"],
    }


@given(content=st.binary(max_size=300))
def test_file_digest_is_sha256(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(content)
    assert file_digest(path) == bytes_digest(content) == hashlib.sha256(content).hexdigest()


# --- provenance ----------------------------------------------------------------------------------------------------


def test_every_field_is_tried_below():
    fields = {f.name for f in dataclasses.fields(Provenance)}
    assert fields == set(DETERMINING) | set(DESCRIBING)


@pytest.mark.parametrize("field", DETERMINING)
def test_what_determines_the_content_changes_the_digest(field):
    changed = dataclasses.replace(PROVENANCE, **{field: DETERMINING[field]})
    assert changed.digest != PROVENANCE.digest


@pytest.mark.parametrize("field", DESCRIBING)
def test_what_describes_the_run_does_not(field):
    changed = dataclasses.replace(PROVENANCE, **{field: DESCRIBING[field]})
    assert changed != PROVENANCE
    assert changed.digest == PROVENANCE.digest


def test_order_of_inputs_and_files_does_not_matter():
    sources = {"a": "1", "b": "2"}
    first = dataclasses.replace(PROVENANCE, sources=sources)
    second = dataclasses.replace(
        PROVENANCE, sources=dict(reversed(sources.items())), inputs=tuple(reversed(PROVENANCE.inputs))
    )
    assert first.digest == second.digest


def test_moving_a_value_to_another_field_is_a_change():
    first = dataclasses.replace(PROVENANCE, config_digest="a", code_digest="b")
    second = dataclasses.replace(PROVENANCE, config_digest="b", code_digest="a")
    assert first.digest != second.digest


def test_json_round_trip():
    finished = PROVENANCE.finished(1.25)
    back = Provenance.from_json(finished.to_json())
    assert back == finished
    assert back.digest == PROVENANCE.digest
    assert back.created_at.endswith("+00:00")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw.pop("inputs"),
        lambda raw: raw.update(future_field=1),
        lambda raw: raw["inputs"][0].pop("digest"),
        lambda raw: raw.pop("kind"),
    ],
)
def test_json_of_another_schema_is_refused(spoil):
    raw = json.loads(PROVENANCE.to_json())
    spoil(raw)
    with pytest.raises(IntegrityError):
        Provenance.from_json(json.dumps(raw))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(IntegrityError):
        Provenance.from_json("{")


def test_package_versions_leave_out_what_is_absent():
    assert set(package_versions("numpy", "no-such-distribution-here")) == {"numpy"}


@pytest.mark.parametrize(
    ("licences", "joined"),
    [
        ([], ""),
        (["", ""], ""),
        (["B"], "B"),
        (["B", "", "A", "B"], "A AND B"),
        (["A AND C", "B", "C"], "A AND B AND C"),
        (["apache-2.0", "Apache-2.0", "MIT"], "Apache-2.0 AND MIT"),
        (["C; non-commercial", "unspecified"], "C; non-commercial AND unspecified"),
    ],
)
def test_licences_of_inputs_are_joined_once_and_in_one_order(licences, joined):
    assert joined_licences(licences) == joined
    assert joined_licences(reversed(licences)) == joined
    assert joined_licences([joined, *licences]) == joined
