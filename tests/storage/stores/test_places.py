"""Array stores in a folder and in a bucket: the same is found, listed and read."""

import numpy as np
import pytest

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.stores import catalog
from storage.stores.provenance import Provenance
from storage.stores.verification import verify_version
from storage.stores.versioned import Home, StoreVersion, materialize_arrays, materialize_files, rebuild_catalog

KINDS, PARTITIONS = ("alpha", "beta"), ("tiny.a", "tiny.b")


def publish(home: Home, kind: str, partition: str, config: str = "1") -> StoreVersion:
    def write(group):  # noise of a size that Icechunk does not keep inside its manifest
        data = np.random.default_rng(0).normal(size=(400, 30))
        group.create_array("numbers", data=data, chunks=(100, 30))
        return {"sum": data.sum()}

    return materialize_arrays(home, Provenance(kind=kind, partition=partition, config_digest=config), write).version


@pytest.fixture
def published(any_home):
    """Two kinds of two partitions, one of them in two versions."""
    found = [publish(any_home, kind, partition) for kind in KINDS for partition in PARTITIONS]
    return [*found, publish(any_home, "alpha", "tiny.a", "2")]


def test_every_version_is_listed(any_home, published):
    files = materialize_files(any_home, Provenance(kind="report", partition="tiny.a"), lambda _: {}).version

    def listed(*asked):
        return sorted(map(str, any_home.versions(*asked)))

    assert listed() == sorted(map(str, [*published, files]))
    assert listed("alpha") == sorted(str(v) for v in published if v.kind == "alpha")
    assert listed(None, "tiny.a") == sorted(str(v) for v in (*published, files) if v.partition == "tiny.a")
    assert listed("beta", "tiny.b") == [str(published[3])]
    assert listed("gamma") == listed("beta", "tiny.c") == []


def test_a_version_is_reused_and_becomes_current_again(any_home, published):
    first, *_, second = published
    assert any_home.latest("alpha", "tiny.a") == second
    assert publish(any_home, "alpha", "tiny.a") == first
    assert any_home.latest("alpha", "tiny.a") == first


def test_rebuilding_the_catalogue_keeps_its_rows(any_home, published):
    def rows():
        return sorted(map(repr, catalog.versions(any_home.objects).to_pylist()))

    before = rows()
    assert rebuild_catalog(any_home) == len(before) == 5
    assert rows() == before


def test_every_byte_is_verified(any_home, published):
    assert [verify_version(any_home, v) for v in any_home.versions()] == [400 * 30 * 8] * 5


def test_nothing_there_is_nothing_listed(any_home):
    assert any_home.versions() == []
    assert rebuild_catalog(any_home) == 0


def test_looking_into_a_bucket_creates_nothing(bucket, tmp_path):
    home = Home(tmp_path / "home", store_url=f"s3://{bucket.name}")
    assert home.versions() == []
    assert home.find("alpha", "tiny.a", "0" * 64) is None
    assert list(bucket.objects.all()) == []


@pytest.mark.parametrize("end", ["", "/", "/runs", "/runs/"])
def test_what_is_not_ours_in_a_bucket_is_left_out(bucket, tmp_path, end):
    home = Home(tmp_path / "home", store_url=f"s3://{bucket.name}{end}")
    version = publish(home, "alpha", "tiny.a")
    prefix = "runs/" if "runs" in end else ""
    for key in ("read me.txt", "other things/of somebody/else", "alpha/notes.txt", "photos/summer/1.jpg", "a/b"):
        bucket.put_object(Key=prefix + key, Body=b"x")
    assert home.versions() == [version]
    assert home.url(version) == f"s3://{bucket.name}/{prefix}alpha/tiny.a"


def test_a_bucket_that_is_not_there_is_no_empty_home(bucket, tmp_path):
    home = Home(tmp_path / "home", store_url="s3://no-such-bucket/runs")
    with pytest.raises(MissingTargetError, match="no such bucket") as caught:
        home.versions()
    assert caught.value.key == "s3://no-such-bucket"


def test_a_lost_object_is_found(bucket, tmp_path):
    home = Home(tmp_path / "home", store_url=f"s3://{bucket.name}/runs")
    version = publish(home, "alpha", "tiny.a")
    next(iter(bucket.objects.filter(Prefix="runs/alpha/tiny.a/chunks/"))).delete()
    with pytest.raises(IntegrityError) as caught:
        verify_version(home, version)
    assert caught.value.kind == ErrorKind.STORE_CORRUPT


@pytest.mark.parametrize("url", ["", "bucket/prefix", "gs://bucket", "s3://", "s3:///prefix"])
def test_a_store_url_of_another_form_is_refused(url, tmp_path):
    with pytest.raises(ValueError, match="want s3://bucket/prefix"):
        Home(tmp_path, store_url=url)
