"""The record of a version finds what checksums of single chunks cannot: what is lost, and what stands elsewhere."""

from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

from storage.digests import bytes_digest
from storage.errors import ErrorKind, IntegrityError
from storage.stores.codecs import COMPRESSED, VERBATIM
from storage.stores.content_record import ArraySeals, ContentRecord, RecordingStore, arrays_of, is_sealed, seal_of
from storage.stores.integrity import reading
from storage.stores.provenance import Provenance
from storage.stores.verification import verify_home, verify_version
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_arrays

KIND, PARTITION = "example", "tiny.a"
RANDOM = np.random.default_rng(3)


def publish(home: Home, config: str = "1", partition: str = PARTITION) -> Materialized:
    """Two arrays whose chunks are all of one size, as those of images can be."""

    def write(group: zarr.Group) -> dict:
        random = np.random.default_rng([ord(config), ord(partition[-1])])
        for name in ("left", "inner/right"):
            data = random.integers(0, 255, (6, 4000), np.uint8)
            group.create_array(name, data=data, chunks=(1, 4000), compressors=VERBATIM)
        group.create_array("scalar", data=np.float64(0.0), compressors=COMPRESSED)
        return {"quality": {"passed": True}}

    return materialize_arrays(home, Provenance(kind=KIND, partition=partition, config_digest=config), write)


def content(home: Home, version: StoreVersion) -> list:
    group = home.open_arrays(version)
    with reading(str(version)):
        arrays = {name: group[name][...].tobytes() for name in ("left", "inner/right", "scalar")}
    return [sorted(group.attrs.asdict().items()), home.metrics(version), home.provenance(version), arrays]


def store(home: Home, partition: str = PARTITION) -> Path:
    return home.root / "stores" / KIND / partition


def findings(home: Home) -> set[str]:
    return {found.finding for found in verify_home(home)} - {"whole"}


@pytest.mark.parametrize("folder", ["manifests", "snapshots", "records"])
def test_no_bit_of_metadata_can_change_unnoticed(home: Home, folder: str) -> None:
    version = publish(home).version
    whole = content(home, version)
    paths = [p for p in (store(home) / folder).iterdir() if not p.name.startswith("1CECHNK")]
    for trial in range(40):
        path = paths[trial % len(paths)]
        kept = path.read_bytes()
        changed = bytearray(kept)
        changed[RANDOM.integers(len(kept))] ^= 1 << int(RANDOM.integers(8))
        path.write_bytes(changed)
        with pytest.raises(IntegrityError):
            content(home, version)
        path.write_bytes(kept)
    assert content(home, version) == whole


@pytest.mark.parametrize("folder", ["chunks", "manifests"])
def test_objects_cannot_change_places(home: Home, folder: str) -> None:
    version = publish(home).version
    by_size: dict[int, list[Path]] = {}
    for path in (store(home) / folder).iterdir():
        by_size.setdefault(path.stat().st_size, []).append(path)
    alike = max(by_size.values(), key=len)
    first, second = (alike if len(alike) > 1 else [path for paths in by_size.values() for path in paths])[:2]
    contents = second.read_bytes(), first.read_bytes()
    for path, swapped in zip((first, second), contents, strict=True):
        path.write_bytes(swapped)
    with pytest.raises(IntegrityError) as caught:
        content(home, version)
    assert caught.value.kind is ErrorKind.STORE_CORRUPT
    with pytest.raises(IntegrityError):
        verify_version(home, version)
    assert "damaged" in findings(home)
    assert folder == "manifests" or len(alike) > 1


@pytest.mark.parametrize("remake", [False, True])
def test_a_manifest_that_names_no_chunk_is_not_read_as_fill_value(home: Home, remake: bool) -> None:
    """Even where the record's checksums of the manifest are made to fit, the seals of chunks do not."""
    version = publish(home).version
    (empty,) = publish_empty(home)
    manifests = [m for m in (store(home) / "manifests").iterdir() if m.stat().st_size > empty.stat().st_size]
    for manifest in manifests:
        manifest.write_bytes(empty.read_bytes())
    if remake:
        path = next((store(home) / "records").glob(f"{version.digest}.*"))
        record = ContentRecord.from_bytes(path.read_bytes(), "x")
        new = {n: (len(c := (store(home) / n).read_bytes()), bytes_digest(c)) for n in record.objects}
        path.write_bytes(replace(record, objects=new).to_bytes())
    with pytest.raises(IntegrityError):
        content(home, version)


def publish_empty(home: Home) -> list[Path]:
    before = set((store(home) / "manifests").iterdir())

    def write(group: zarr.Group) -> dict:
        group.create_array("left", data=np.zeros(1, np.uint8), compressors=VERBATIM)
        return {}

    materialize_arrays(home, Provenance(kind=KIND, partition=PARTITION, config_digest="empty"), write)
    return [path for path in (store(home) / "manifests").iterdir() if path not in before]


def test_a_lost_chunk_is_not_there_already(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    version = publish(home).version
    whole = content(home, version)
    next((store(home) / "chunks").iterdir()).unlink()
    again = publish(home)
    assert not again.reused
    assert "set aside and built again" in caplog.text
    assert content(home, again.version)[-1] == whole[-1]
    assert publish(home).reused
    assert findings(home) == set()


def test_a_record_belongs_to_its_version(home: Home) -> None:
    versions = [publish(home, config).version for config in "12"]
    first, second = (next((store(home) / "records").glob(f"{v.digest}.*")) for v in versions)
    first.write_bytes(second.read_bytes())
    with pytest.raises(IntegrityError, match="its record is that of"):
        home.open_arrays(versions[0])


def test_a_lost_record_is_noticed(home: Home) -> None:
    version = publish(home).version
    next((store(home) / "records").iterdir()).unlink()
    with pytest.raises(IntegrityError, match="record of its content is lost"):
        home.open_arrays(version)
    assert findings(home) == {"store at fault", "lost"}
    assert not publish(home).reused
    assert content(home, home.require(KIND, PARTITION))


def test_a_store_in_the_place_of_another_is_noticed(home: Home) -> None:
    for partition in ("tiny.a", "tiny.b"):
        publish(home, partition=partition)
    store(home, "tiny.a").rename(home.root / "kept")
    store(home, "tiny.b").rename(store(home, "tiny.a"))
    (home.root / "kept").rename(store(home, "tiny.b"))
    assert "damaged" in findings(home)
    with pytest.raises(IntegrityError):
        home.open_arrays(home.require(KIND, "tiny.a"))


def test_a_record_survives_being_written(home: Home) -> None:
    record = ContentRecord(
        kind="a",
        partition="b",
        digest="c",
        snapshot_id="d",
        objects={"snapshots/d": (3, "e")},
        chunk_objects={"X": 9},
        arrays={"x": ArraySeals((2, 1), np.array([(5, 6), (7, 2**32 - 1)], [("bytes", "<u4"), ("checksum", "<u4")]))},
    )
    again = ContentRecord.from_bytes(record.to_bytes(), "key")
    assert [again.seal_at(f"x/c/{place}") for place in ("0/0", "1/0")] == [(5, 6), (7, 2**32 - 1)]
    assert [again.seal_at(key) for key in ("x/c/2/0", "x/c/0", "y/c/0/0", "x/zarr.json", "zarr.json")] == [None] * 5
    assert (again.objects, again.chunk_objects) == (record.objects, record.chunk_objects)
    with pytest.raises(IntegrityError, match="damaged"):
        ContentRecord.from_bytes(
            record.to_bytes().replace(b'"bytes"', b'"bytez"').replace(b"snapshots", b"snapshotz"), ""
        )


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 600])
@pytest.mark.parametrize("with_checksum", [True, False])
def test_a_seal_fits_its_chunk_alone(size: int, with_checksum: bool) -> None:
    def chunk() -> np.ndarray:
        body = RANDOM.bytes(size)
        return np.frombuffer(
            body + (google_crc32c.value(body).to_bytes(4, "little") if with_checksum else b""), np.uint8
        )

    stored, other = chunk(), chunk()
    assert is_sealed(stored, seal_of(stored))
    if stored.tobytes() != other.tobytes():
        assert not is_sealed(other, seal_of(stored))
    assert not is_sealed(np.append(stored, np.uint8(1)), seal_of(stored))


def test_seals_follow_what_is_rewritten_and_deleted() -> None:
    recording = RecordingStore(zarr.storage.MemoryStore())
    group = zarr.open_group(recording, mode="w")
    array = group.create_array("x", shape=(4,), chunks=(2,), dtype="u1", compressors=VERBATIM, fill_value=0)
    array[...] = [1, 2, 3, 4]
    assert not recording.has_rewritten
    before = arrays_of(group, recording.seals, "key")["x"].seals.copy()
    array[:2] = 9
    assert recording.has_rewritten
    after = arrays_of(group, recording.seals, "key")["x"].seals
    assert (before["checksum"] != after["checksum"]).tolist() == [True, False]
    del group["x"]
    assert recording.seals == {}
    group.create_array("y", shape=(4,), chunks=(2,), dtype="u1", compressors=VERBATIM)
    with pytest.raises(IntegrityError, match="0 of 2 chunks"):
        arrays_of(group, recording.seals, "key")


def test_versions_of_the_earlier_schema_are_read_and_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    version = earlier_version(home, monkeypatch)
    assert home.find(KIND, PARTITION, version.digest) == home.latest(KIND, PARTITION) == version
    assert verify_version(home, version) > 0
    assert findings(home) == {"without record"}
    assert publish(home).reused  # read whole once, and recorded
    assert findings(home) == set()


def test_an_earlier_version_that_lost_a_chunk_is_built_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier_version(home, monkeypatch)
    next((store(home) / "chunks").iterdir()).unlink()
    assert not publish(home).reused
    assert len(home.versions()) == 1
    assert findings(home) == set()


def earlier_version(home: Home, monkeypatch: pytest.MonkeyPatch) -> StoreVersion:
    """Publish a version as earlier releases did, without a record."""
    with monkeypatch.context() as patch:
        patch.setattr("storage.stores.versioned.SCHEMA_VERSION", 1)
        version = publish(home).version
    for record in (store(home) / "records").iterdir():
        record.unlink()
    assert home.metrics(version)["quality"]["passed"] is True
    return version
