"""``docs/store-format.md`` is written from the registry of kinds; ``--regenerate-golden`` writes it again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.kinds import KINDS, ArraySpec, Kind, KindSpec

ASSET_KEYS = Path(__file__).parent / "pipeline" / "golden" / "asset_keys.json"
RECORDINGS = "procedural_recordings"
"""The one asset that makes raw files and no stored version."""

_TITLE = """\
# What is stored

This page is written from `storage/kinds.py` by `make golden`; edit that file, not this page.

A version of form `arrays` is a commit of the Icechunk repository `stores/<kind>/<partition>` of a home: a Zarr group.
A version of form `files` is the folder `artifacts/<kind>/<partition>/<digest>`. Provenance and figures lie with each
version: in the metadata of the commit, or in `provenance.json` and `metrics.json`.

What a version of arrays must hold is recorded beside its objects, in `records/<digest>.<snapshot>.json` of its
repository: a line with the SHA-256 of the rest, then JSON with size and SHA-256 of its snapshot and manifests, the size
of its chunk objects, and for each array the grid of its chunks and, in C order, 16 hexadecimal digits for each chunk:
its size and its checksum, both as 32-bit integers, little end first. The checksum is the CRC32C that ends the chunk.
The branches `main` and `current` name snapshots; `files.json` has size and SHA-256 of each file. A version without a
record has schema version 1 and can be read; `distillnerf catalog verify` names it.

Equal names of axes have equal lengths within one version. An axis that is a number has that length. `<camera>` stands
for the name of each camera. Frames are the reference instants of the scene. Depth is the distance along a unit ray, not
the camera's z. Transforms are named `a_to_b` and map coordinates; their translations are metres.
"""


def render() -> str:
    """Return the page."""
    return "\n".join([_TITLE, *_overview(), *(line for spec in KINDS.values() for line in _section(spec))])


def _overview() -> Iterator[str]:
    yield "| kind | form | one partition is | quality gate | a student may learn from it |"
    yield "|---|---|---|---|---|"
    for spec in KINDS.values():
        marks = [str(spec.form), f"one {_words(spec.partitioned_by)}", _yes(spec.is_gated), _yes(spec.is_trainable)]
        yield f"| [`{spec.name}`](#{spec.name}) | {' | '.join(marks)} |"
    yield ""


def _section(spec: KindSpec) -> Iterator[str]:
    yield f"## {spec.name}"
    yield ""
    yield spec.holds
    yield ""
    if not spec.arrays:
        return
    yield "| array | dtype | axes | unit | undefined |"
    yield "|---|---|---|---|---|"
    for name, array in spec.arrays.items():
        yield f"| `{name}`{' (may be absent)' if array.optional else ''} | {_cells(array)} |"
    yield ""


def _cells(array: ArraySpec) -> str:
    axes = " x ".join(f"`{axis}`" if "<" in axis else axis for axis in array.axes)
    return " | ".join([array.dtype, axes, array.unit or "-", array.undefined or "-"])


def _words(name: str) -> str:
    return "student variant" if name == "variant" else name.replace("_", " ")


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "-"


def test_the_page_says_what_the_registry_says(repository_root: Path, request: pytest.FixtureRequest) -> None:
    page = repository_root / "docs" / "store-format.md"
    rendered = render().rstrip("\n") + "\n"
    if request.config.getoption("--regenerate-golden"):
        page.write_text(rendered)
    assert page.read_text() == rendered


def test_every_kind_is_described_on_the_page() -> None:
    lines = render().splitlines()
    for spec in KINDS.values():
        assert spec.holds in lines
        assert f"## {spec.name}" in lines
        assert all(any(line.startswith(f"| `{name}`") for line in lines) for name in spec.arrays)


def test_every_asset_is_a_kind_and_every_kind_has_an_asset() -> None:
    assets = set(json.loads(ASSET_KEYS.read_text())["assets"])
    assert assets - {RECORDINGS} == set(Kind)


def test_the_gated_kinds_are_those_whose_gate_is_an_asset_check() -> None:
    checks = json.loads(ASSET_KEYS.read_text())["checks"]
    assert {check.partition(":")[0] for check in checks if check.endswith(":quality_gate")} == {
        spec.name for spec in KINDS.values() if spec.is_gated
    }
