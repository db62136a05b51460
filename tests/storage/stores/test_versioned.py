import errno
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.errors import ErrorKind, IntegrityError, MissingTargetError, OutOfCapacityError, SourceDataError
from storage.kinds import StoreForm
from storage.stores import versioned
from storage.stores.integrity import reading
from storage.stores.provenance import Provenance
from storage.stores.repository import ArrayRepository
from storage.stores.versioned import Home, StoreVersion, materialize_arrays, materialize_files

KIND, PARTITION = "example", "tiny.a"


def provenance(config: str = "1", *, kind: str = KIND, partition: str = PARTITION) -> Provenance:
    return Provenance(kind=kind, partition=partition, config_digest=config)


def write_numbers(value: float):
    """A writer of one small chunked array, and of its sum as a metric."""

    def write(group: zarr.Group) -> dict:
        data = np.full((4, 3), value)
        group.create_array("numbers", data=data, chunks=(2, 3))
        return {"sum": data.sum(), "undefined": float("nan"), "nested": {"shape": data.shape}}

    return write


def write_file(text: str):
    def write(folder: Path) -> dict:
        (folder / "inner").mkdir()
        (folder / "inner" / "text.txt").write_text(text)
        return {"length": len(text)}

    return write


def numbers(home: Home, version: StoreVersion) -> np.ndarray:
    return np.asarray(home.open_arrays(version)["numbers"][...])


# --- arrays --------------------------------------------------------------------------------------------------------


def test_arrays_round_trip(home):
    made = materialize_arrays(home, provenance(), write_numbers(2.0))
    assert made.version == home.require(KIND, PARTITION)
    assert made.version.digest == provenance().digest
    np.testing.assert_array_equal(numbers(home, made.version), np.full((4, 3), 2.0))
    # An undefined metric is null, and what comes back is what was stored.
    assert made.metrics == {"sum": 24.0, "undefined": None, "nested": {"shape": [4, 3]}} == home.metrics(made.version)
    stored = home.provenance(made.version)
    assert stored.digest == provenance().digest
    assert stored.created_at
    assert stored.wall_time_s > 0


def test_the_same_provenance_is_not_built_twice(home):
    first = materialize_arrays(home, provenance(), write_numbers(2.0))

    def never(group):
        raise AssertionError("built again")

    second = materialize_arrays(Home(home.root), provenance(), never)
    assert (second.reused, second.version, second.metrics) == (True, first.version, first.metrics)


def test_old_versions_stay_and_current_follows_what_was_asked_for(home):
    first = materialize_arrays(home, provenance("1"), write_numbers(1.0)).version
    second = materialize_arrays(home, provenance("2"), write_numbers(2.0)).version
    assert home.latest(KIND, PARTITION) == second
    # Going back to the first configuration makes the first version current again, without building.
    assert materialize_arrays(home, provenance("1"), write_numbers(9.0)).reused
    assert home.latest(KIND, PARTITION) == first
    assert numbers(home, first)[0, 0] == 1.0
    assert numbers(home, second)[0, 0] == 2.0
    assert {v.digest for v in home.versions(KIND)} == {first.digest, second.digest}


def test_a_new_version_holds_nothing_of_the_old_one(home):
    def write_two(group):
        group.create_array("other", data=np.ones(2))
        group.attrs["left"] = "over"
        return write_numbers(1.0)(group)

    materialize_arrays(home, provenance("1"), write_two)
    second = materialize_arrays(home, provenance("2"), write_numbers(2.0)).version
    group = home.open_arrays(second)
    assert "other" not in group
    assert "left" not in group.attrs


class Killed(BaseException):
    """What a signal looks like from inside: not an ``Exception``."""


@pytest.mark.parametrize("error", [RuntimeError, Killed, KeyboardInterrupt])
def test_a_crash_while_writing_publishes_nothing(home, error):
    before = materialize_arrays(home, provenance("1"), write_numbers(1.0)).version

    def crash(group):
        write_numbers(5.0)(group)
        raise error

    with pytest.raises(error):
        materialize_arrays(home, provenance("2"), crash)
    assert home.versions() == [before]
    assert home.latest(KIND, PARTITION) == before
    assert numbers(home, before)[0, 0] == 1.0
    assert not materialize_arrays(home, provenance("2"), write_numbers(2.0)).reused


def stored_bytes(home):
    return sum(path.stat().st_size for path in (home.root / "stores").rglob("*") if path.is_file())


def write_much(group):
    group.create_array("numbers", data=np.random.default_rng(0).random((100, 1000)), chunks=(10, 1000))
    return {}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_failed_write_leaves_nothing_on_the_disk(home, is_first):
    if not is_first:
        materialize_arrays(home, provenance("1"), write_numbers(1.0))
    before = stored_bytes(home)

    def fail(group):
        write_much(group)
        raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            materialize_arrays(home, provenance("2"), fail)
    assert stored_bytes(home) < before + 10_000
    assert materialize_arrays(home, provenance("3"), write_numbers(3.0)).version in home.versions()


def test_what_a_killed_writer_left_is_gone_after_the_next_write(home, monkeypatch):
    first = materialize_arrays(home, provenance("1"), write_numbers(1.0)).version
    before = stored_bytes(home)

    def killed(group):
        write_much(group)
        raise Killed

    with monkeypatch.context() as patch:  # a process that dies cleans up nothing
        for name in ("collect", "_drop"):
            patch.setattr(ArrayRepository, name, lambda *_, **__: None)
        with pytest.raises(Killed):
            materialize_arrays(home, provenance("2"), killed)
    assert stored_bytes(home) > before + 500_000
    second = materialize_arrays(home, provenance("2"), write_numbers(2.0)).version
    assert stored_bytes(home) < before + 20_000
    assert [numbers(home, v)[0, 0] for v in (first, second)] == [1.0, 2.0]


def test_a_crash_before_the_pointer_moved_is_mended_by_asking_again(home, monkeypatch):
    def crash(*_):
        raise Killed

    monkeypatch.setattr(Home, "point_current", crash)
    with pytest.raises(Killed):
        materialize_arrays(home, provenance(), write_numbers(1.0))
    monkeypatch.undo()
    assert home.latest(KIND, PARTITION) is None
    made = materialize_arrays(home, provenance(), write_numbers(9.0))
    assert made.reused
    assert home.latest(KIND, PARTITION) == made.version


def test_a_chunk_left_out_is_refused(home):
    def write(group):
        array = group.create_array("numbers", shape=(4, 3), chunks=(2, 3), dtype="f8")
        array[:2] = 1.0
        return {}

    with pytest.raises(IntegrityError, match="1 of 2 chunks"):
        materialize_arrays(home, provenance(), write)
    assert home.versions() == []


def test_chunks_of_zeros_count_as_written(home):
    """Zero is also the fill value; a store of zeros must be told from a store that lost its chunks."""
    version = materialize_arrays(home, provenance(), write_numbers(0.0)).version
    assert home.open_arrays(version)["numbers"].nchunks_initialized == 2


def test_versions_cannot_be_written(home):
    version = materialize_arrays(home, provenance(), write_numbers(1.0)).version
    group = home.open_arrays(version)
    with pytest.raises(Exception, match=r"read.?only"):
        group["numbers"][...] = 5.0


def test_a_version_stays_open_while_another_is_written(home):
    first = materialize_arrays(home, provenance("1"), write_numbers(1.0)).version
    array = home.open_arrays(first)["numbers"]
    materialize_arrays(home, provenance("2"), write_numbers(2.0))
    assert (np.asarray(array[...]) == 1.0).all()


def test_threads_that_ask_for_the_same_build_it_once(home):
    built, made = [], []

    def write(group):
        built.append(threading.get_ident())
        return write_numbers(1.0)(group)

    threads = [
        threading.Thread(target=lambda: made.append(materialize_arrays(home, provenance(), write))) for _ in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(built) == 1
    assert sorted(m.reused for m in made) == [False, True, True]


def test_unknown_schema_version_is_refused(home, monkeypatch):
    monkeypatch.setattr(versioned, "SCHEMA_VERSION", 999)
    version = materialize_arrays(home, provenance(), write_numbers(1.0)).version
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="999") as caught:
        home.open_arrays(version)
    assert caught.value.kind == ErrorKind.SCHEMA_UNKNOWN


@pytest.mark.parametrize("lost", ["snapshots", "manifests", "chunks", "refs"])
def test_a_repository_that_lost_a_part_is_never_read_as_if_whole(home, lost):
    def write(group):  # noise of a size that Icechunk does not keep inside its manifest
        group.create_array("numbers", data=np.random.default_rng(0).normal(size=(400, 30)), chunks=(100, 30))
        return {}

    version = materialize_arrays(home, provenance(), write).version
    for path in (home.root / "stores" / KIND / PARTITION / lost).rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(IntegrityError) as caught, reading("numbers"):
        numbers(home, version)
    assert caught.value.kind == ErrorKind.STORE_CORRUPT
    # Asking for it again mends names, and builds again what is lost.
    again = materialize_arrays(home, provenance(), write)
    assert again.reused == (lost == "refs")
    assert home.latest(KIND, PARTITION) == again.version
    assert numbers(home, again.version).shape == (400, 30)


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_round_trip(home):
    made = materialize_files(home, provenance(), write_file("hello"))
    folder = home.open_files(made.version, verify=True)
    assert (folder / "inner" / "text.txt").read_text() == "hello"
    assert made.version == home.latest(KIND, PARTITION)
    assert (made.version.form, made.metrics) == (StoreForm.FILES, {"length": 5})
    assert home.provenance(made.version).digest == provenance().digest
    assert materialize_files(home, provenance(), write_file("never")).reused


@pytest.mark.parametrize("error", [RuntimeError, Killed])
def test_a_crash_while_writing_files_leaves_nothing(home, error):
    before = materialize_files(home, provenance("1"), write_file("one")).version

    def crash(folder):
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(error):
        materialize_files(home, provenance("2"), crash)
    assert home.versions() == [before]
    assert home.latest(KIND, PARTITION) == before
    assert [p.name for p in home.root.rglob("half")] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "None bytes"),
        (lambda path: path.write_text("longer than before"), "18 bytes"),
    ],
)
def test_a_file_that_changed_size_is_found_on_opening(home, change, message):
    version = materialize_files(home, provenance(), write_file("hello")).version
    change(home.open_files(version) / "inner" / "text.txt")
    with pytest.raises(IntegrityError, match=message):
        home.open_files(version)


def test_a_file_that_changed_a_bit_is_found_on_verifying(home):
    version = materialize_files(home, provenance(), write_file("hello")).version
    (home.open_files(version) / "inner" / "text.txt").write_text("jello")
    with pytest.raises(IntegrityError, match="SHA-256") as caught:
        home.open_files(version, verify=True)
    assert caught.value.kind == ErrorKind.DIGEST_MISMATCH


# --- finding -------------------------------------------------------------------------------------------------------


def test_what_was_never_made_is_missing(home):
    assert home.find(KIND, PARTITION, "0" * 64) is None
    assert home.latest(KIND, PARTITION) is None
    assert home.versions() == []
    with pytest.raises(MissingTargetError, match="never materialised"):
        home.require(KIND, PARTITION)
    materialize_arrays(home, provenance(), write_numbers(1.0))
    with pytest.raises(MissingTargetError, match="000000000000"):
        home.require(KIND, PARTITION, "0" * 64)


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (f"stores/{KIND}/{PARTITION}", "was made and is lost"),
        (f"stores/{KIND}/{PARTITION}/records", "was made and is lost"),
        (f"stores/{KIND}/{PARTITION}/refs/branch.current", "lost which of them is in use"),
    ],
    ids=["store", "record", "pointer"],
)
def test_what_was_lost_is_not_said_to_have_never_been(home, lost, told):
    materialize_arrays(home, provenance(), write_numbers(1.0))
    shutil.rmtree(home.root / lost)
    with pytest.raises(MissingTargetError, match=told):
        home.require(KIND, PARTITION)
    materialize_arrays(home, provenance(), write_numbers(1.0))
    np.testing.assert_array_equal(numbers(home, home.require(KIND, PARTITION)), np.full((4, 3), 1.0))


def test_looking_creates_nothing(home):
    home.find(KIND, PARTITION, "0" * 64)
    home.versions()
    assert not home.root.exists()


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden"])
def test_names_that_leave_the_home_are_refused(home, name):
    for asked in ({"kind": name}, {"partition": name}):
        with pytest.raises(SourceDataError):
            materialize_arrays(home, provenance(**asked), write_numbers(1.0))
        with pytest.raises(SourceDataError):
            materialize_files(home, provenance(**asked), write_file("x"))


def test_metrics_are_strict_json(home):
    made = materialize_files(home, provenance(), lambda _: {"a": np.float32(0.5), "b": np.arange(2), "c": np.inf})
    text = (home.open_files(made.version) / "metrics.json").read_text()
    assert json.loads(text) == {"a": 0.5, "b": [0, 1], "c": None}


def test_a_full_disk_is_named_before_anything_is_worked_on(home, monkeypatch):
    def full(self: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutOfCapacityError) as caught:
        home.work_folder("numbers", "a")
    assert caught.value.key == "numbers/a"
