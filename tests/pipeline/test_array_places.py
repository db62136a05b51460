"""The commands on a home in a folder, or in a bucket."""

import json

import numpy as np
import pytest

from pipeline import cli
from pipeline.commands.references import find_version
from storage.errors import MissingTargetError
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, StoreVersion, materialize_arrays


def publish(home: Home, kind: str, partition: str, config: str = "1") -> StoreVersion:
    def write(group):
        group.create_array("numbers", data=np.random.default_rng(0).normal(size=(400, 30)), chunks=(100, 30))
        return {}

    return materialize_arrays(home, Provenance(kind=kind, partition=partition, config_digest=config), write).version


@pytest.fixture
def published(any_home):
    """Two kinds of two partitions."""
    return [publish(any_home, kind, partition) for kind in ("alpha", "beta") for partition in ("tiny.a", "tiny.b")]


def call(capsys, home: Home, *arguments: str) -> tuple[int, str]:
    code = cli.main(["catalog", *arguments, "--home", home.address])
    return code, capsys.readouterr().out


def test_rebuild_keeps_every_row(any_home, published, capsys):
    assert call(capsys, any_home, "rebuild") == (0, "4 versions\n")
    _, listed = call(capsys, any_home, "list", "--json")
    assert {row["digest"] for row in json.loads(listed)} == {version.digest for version in published}


def test_verify_reads_every_version(any_home, published, capsys, request):
    assert call(capsys, any_home, "verify") == (0, "4 versions, 0 damaged\n")
    assert call(capsys, any_home, "verify", "--kind", "beta") == (0, "2 versions, 0 damaged\n")
    if any_home.objects.is_local:
        next((any_home.root / "stores" / "beta" / "tiny.a" / "chunks").iterdir()).unlink()
    else:
        chunks = request.getfixturevalue("bucket").objects.filter(Prefix="runs/one/stores/beta/tiny.a/chunks/")
        next(iter(chunks)).delete()
    code, out = call(capsys, any_home, "verify")
    assert code == 1
    assert f"damaged {published[2]}" in out
    assert out.endswith("4 versions, 1 damaged\n")


def test_a_version_is_found_by_the_first_digits_of_its_digest(any_home, published):
    first = published[0]
    second = publish(any_home, "alpha", "tiny.a", "2")
    for version in (first, second):
        assert find_version(any_home, f"alpha/tiny.a@{version.digest[:12]}") == version
    with pytest.raises(MissingTargetError, match="0 versions begin so"):
        find_version(any_home, "alpha/tiny.a@000000000000")
