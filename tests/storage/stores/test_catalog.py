import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import ErrorKind, MissingTargetError, SourceDataError
from storage.stores import catalog
from storage.stores.catalog import RAW_FILE, WEIGHTS_FILE
from storage.stores.objects import LocalObjects
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, Materialized, materialize_arrays, materialize_files, rebuild_catalog


def make(home: Home, kind: str, partition: str, *inputs: Materialized, files: bool = False, **fields) -> Materialized:
    provenance = Provenance(
        kind=kind,
        partition=partition,
        inputs=tuple(InputVersion(i.version.kind, i.version.partition, i.version.digest) for i in inputs),
        **fields,
    )
    metrics = {"quality": {"passed": kind != "nerf_teacher", "checks": {}}}
    if files:
        return materialize_files(home, provenance, lambda _: metrics)
    return materialize_arrays(home, provenance, lambda _: metrics)


@pytest.fixture
def made(home):
    """Two scenes, a teacher on one of them, a training set of both, and a checkpoint."""
    scenes = [make(home, "drive", f"tiny.{n}", sources={f"{n}.jpg": n * 64, "shared.json": "5" * 64}) for n in "ab"]
    teacher = make(home, "nerf_teacher", "tiny.a", scenes[0], files=True, seed=7)
    depth = make(home, "teacher_depth", "tiny.a", scenes[0], teacher, files=True)
    features = make(home, "clip_features", "tiny.b", scenes[1], files=True, weights_digests={"clip": "9" * 64})
    training_set = make(home, "training_set", "demo", depth, features, *scenes)
    checkpoint = make(home, "student_checkpoint", "depth", training_set, files=True, seed=1)
    return {"scenes": scenes, "teacher": teacher, "depth": depth, "features": features, "checkpoint": checkpoint}


def node(version) -> InputVersion:
    return InputVersion(version.kind, version.partition, version.digest)


def leaves(found: catalog.LineageNode) -> set[InputVersion]:
    if not found.inputs:
        return {found.version}
    return set().union(*(leaves(i) for i in found.inputs))


def test_lineage_ends_at_raw_and_weights_files(home, made):
    tree = catalog.lineage(home.objects, node(made["checkpoint"].version))
    assert tree.version == node(made["checkpoint"].version)
    assert leaves(tree) == {
        InputVersion(RAW_FILE, "a.jpg", "a" * 64),
        InputVersion(RAW_FILE, "b.jpg", "b" * 64),
        InputVersion(RAW_FILE, "shared.json", "5" * 64),
        InputVersion(WEIGHTS_FILE, "clip", "9" * 64),
    }


def test_dependents_go_the_other_way(home, made):
    def kinds(**asked):
        return [v.kind for v in catalog.dependents(home.objects, **asked)]

    assert kinds(kind="nerf_teacher", partition="tiny.a") == ["teacher_depth", "training_set", "student_checkpoint"]
    assert kinds(kind=WEIGHTS_FILE, partition="clip") == ["clip_features", "training_set", "student_checkpoint"]
    assert kinds(kind=RAW_FILE, partition="b.jpg", digest="b" * 64)[0] == "drive"
    assert kinds(kind=RAW_FILE, partition="b.jpg", digest="0" * 64) == []
    assert kinds(kind="student_checkpoint", partition="depth") == []


def test_each_dependent_is_named_once(home, made):
    found = catalog.dependents(home.objects, kind=RAW_FILE, partition="shared.json")
    assert len(found) == len(set(found)) == 7


def test_lineage_of_what_is_not_listed_is_an_error(home, made):
    with pytest.raises(MissingTargetError, match="rebuild"):
        catalog.lineage(home.objects, InputVersion("drive", "tiny.a", "0" * 64))


def test_lineage_is_told_while_others_write(home, made, monkeypatch):
    listed, reads = catalog.versions(home.objects), []

    def growing(_):
        reads.append(None)
        return pa.concat_tables([listed] * len(reads))

    monkeypatch.setattr(catalog, "versions", growing)
    assert leaves(catalog.lineage(home.objects, node(made["depth"].version)))


def test_rebuilding_gives_what_was_recorded(home, made):
    before = [sorted(map(repr, t.to_pylist())) for t in (catalog.versions(home.objects), catalog.edges(home.objects))]
    assert rebuild_catalog(home) == 7
    after = [sorted(map(repr, t.to_pylist())) for t in (catalog.versions(home.objects), catalog.edges(home.objects))]
    assert after == before


def test_a_lost_catalogue_is_made_again(home, made):
    shutil.rmtree(home.root / "catalog")
    assert catalog.versions(home.objects).num_rows == 0
    rebuild_catalog(home)
    assert leaves(catalog.lineage(home.objects, node(made["depth"].version)))


def test_rebuilding_keeps_the_quarantine(home, made):
    catalog.quarantine(home.objects, "tiny.c", SourceDataError(ErrorKind.FILE_MISSING, "c.jpg", "is not there"))
    rebuild_catalog(home)
    assert catalog.quarantined(home.objects).num_rows == 1


def test_a_row_tells_the_gate_and_the_seed(home, made):
    rows = {row["kind"]: row for row in catalog.versions(home.objects).to_pylist()}
    assert (rows["nerf_teacher"]["gate_passed"], rows["nerf_teacher"]["seed"]) == (False, 7)
    assert (rows["teacher_depth"]["gate_passed"], rows["teacher_depth"]["seed"]) == (True, None)
    assert rows["student_checkpoint"]["form"] == "files"
    assert rows["drive"]["form"] == "arrays"


def test_quarantine_keeps_every_reason(home):
    assert catalog.quarantined(home.objects).num_rows == 0
    for kind in (ErrorKind.FILE_MISSING, ErrorKind.POSE_INVALID):
        catalog.quarantine(home.objects, "tiny.c", SourceDataError(kind, "c.jpg", "seen 1, want 2"))
    rows = catalog.quarantined(home.objects).to_pylist()
    assert {row["error_kind"] for row in rows} == {"file_missing", "pose_invalid"}
    assert {row["message"] for row in rows} == {"seen 1, want 2"}


def test_an_empty_home_has_an_empty_catalogue(home):
    assert catalog.versions(home.objects).num_rows == 0
    assert catalog.edges(home.objects).num_rows == 0
    assert rebuild_catalog(home) == 0
    assert catalog.dependents(home.objects, kind="drive", partition="tiny.a") == []


def test_a_part_that_was_cut_is_named_and_set_aside_by_a_rebuild(home, caplog):
    versions = [materialize_files(home, Provenance(kind="a", partition=p), lambda _: {}).version for p in "bc"]
    parts = home.root / "catalog" / "versions"
    cut = parts / f"{versions[0].digest}.parquet"
    cut.write_bytes(cut.read_bytes()[:50])
    assert catalog.versions(home.objects)["digest"].to_pylist() == [versions[1].digest]
    assert f"{cut}: cannot be read; 'distillnerf catalog rebuild'" in caplog.text
    assert rebuild_catalog(home) == 2
    caplog.clear()
    assert set(catalog.versions(home.objects)["digest"].to_pylist()) == {version.digest for version in versions}
    assert caplog.text == ""
    assert [path.stat().st_size for path in (home.root / "aside" / "catalog" / "versions").iterdir()] == [50]


def test_a_rebuild_beside_writers_loses_nothing(home):
    failures, stop = [], threading.Event()

    def write(number: int) -> None:
        try:
            for index in range(4):
                provenance = Provenance(kind="a", partition=f"{number}", config_digest=str(index))
                materialize_files(home, provenance, lambda _: {})
                catalog.versions(home.objects)
        except Exception as error:
            failures.append(error)

    def rebuild() -> None:
        while not stop.is_set():
            rebuild_catalog(home)

    rebuilding = threading.Thread(target=rebuild)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (rebuilding, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    rebuilding.join()
    assert failures == []
    assert catalog.versions(home.objects).num_rows == len(home.versions()) == 16


def test_what_is_recorded_while_a_rebuild_ends_stays(home):
    version = materialize_files(home, Provenance(kind="a", partition="b"), lambda _: {}).version
    entry = home.catalog_entry(version)

    def entries():
        yield entry
        catalog.record(home.objects, replace(entry, snapshot_id="newer"))  # under the name of a part that was there

    catalog.replace(home.objects, entries())
    assert set(catalog.versions(home.objects)["snapshot_id"].to_pylist()) == {entry.snapshot_id, "newer"}


def test_a_rebuild_that_was_killed_lists_nothing_twice(home, monkeypatch):
    version = materialize_files(home, Provenance(kind="a", partition="b", sources={"x": "y"}), lambda _: {}).version
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(RuntimeError):
            rebuild_catalog(home)
    assert catalog.versions(home.objects)["digest"].to_pylist() == [version.digest]
    assert catalog.edges(home.objects).num_rows == 1
    assert rebuild_catalog(home) == 1
    assert len(list((home.root / "catalog" / "versions").iterdir())) == 1


def fail(*_, **__):
    raise RuntimeError


def entries(count: int) -> list[catalog.Entry]:
    found = []
    for index in range(count):
        provenance = Provenance(kind="a", partition=f"{index}", sources={f"{index}.jpg": "0" * 64}).finished(0.0)
        found.append(catalog.Entry(provenance=provenance, snapshot_id="x", form="files", metrics={}))
    return found


@pytest.fixture
def few_parts(monkeypatch):
    monkeypatch.setattr(catalog, "_SMALL_PARTS", 4)
    monkeypatch.setattr(catalog, "_MERGED_PARTS", 2)


def seen(home: Home) -> tuple[set[str], set[str]]:
    return (
        set(catalog.versions(home.objects)["partition"].to_pylist()),
        set(catalog.edges(home.objects)["input_partition"].to_pylist()),
    )


def test_parts_are_merged_and_rows_stay_as_they_are(home, few_parts):
    made = entries(23)
    for count, entry in enumerate(made, 1):
        catalog.record(home.objects, entry)
        for name in ("versions", "edges"):
            parts = list((home.root / "catalog" / name).iterdir())
            assert sorted(p.name.split("-")[1] for p in parts if "-" in p.name) == [
                str(level) for level in (1, 2, 3) if count // 4 & 1 << (level - 1)
            ]
            assert len(parts) == count % 4 + (count // 4).bit_count()
    assert seen(home) == ({f"{i}" for i in range(23)}, {f"{i}.jpg" for i in range(23)})
    rows = catalog.versions(home.objects).sort_by("created_at").to_pylist()
    assert len(rows) == 23
    assert all(catalog.is_listed(home.objects, entry.provenance.digest) for entry in made)
    assert not catalog.is_listed(home.objects, "0" * 64)


@pytest.mark.parametrize("step", range(9))
def test_a_merge_that_is_killed_loses_and_doubles_nothing(home, few_parts, monkeypatch, step):
    made = entries(5)
    for entry in made[:3]:
        catalog.record(home.objects, entry)
    left = iter(range(step))

    def dies(change):
        def wrapped(self, *args):
            if next(left, None) is None:
                raise KeyboardInterrupt
            change(self, *args)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("write", "delete"):
            patch.setattr(LocalObjects, name, dies(getattr(LocalObjects, name)))
        with pytest.raises(KeyboardInterrupt):
            catalog.record(home.objects, made[3])
    versions, edges = seen(home)
    assert versions >= {"0", "1", "2"}
    assert {f"{name}.jpg" for name in versions} <= edges
    assert catalog.versions(home.objects).num_rows == len(versions)
    for entry in made:
        catalog.record(home.objects, entry)
    assert seen(home) == ({f"{i}" for i in range(5)}, {f"{i}.jpg" for i in range(5)})


def test_a_reader_follows_parts_that_are_merged_under_it(home, few_parts, monkeypatch):
    made = entries(4)
    for entry in made[:3]:
        catalog.record(home.objects, entry)
    read_part = catalog._read_part

    def beside(objects, index, name, columns):
        with monkeypatch.context() as patch:
            patch.setattr(catalog, "_read_part", read_part)
            catalog.record(home.objects, made[3])
        return read_part(objects, index, name, columns)

    monkeypatch.setattr(catalog, "_read_part", beside)
    monkeypatch.setattr(catalog, "_READ_AT_ONCE", 1)
    assert catalog.versions(home.objects).num_rows == 4


def test_a_rebuild_takes_out_what_others_merge_meanwhile(home, few_parts):
    kept, *gone = entries(3)
    newer = [replace(entry, snapshot_id="newer") for entry in entries(5)[3:]]
    for entry in (kept, *gone):
        catalog.record(home.objects, entry)

    def found():
        yield kept
        for entry in newer:
            catalog.record(home.objects, entry)

    catalog.replace(home.objects, found())
    assert seen(home) == ({"0", "3", "4"}, {"0.jpg", "3.jpg", "4.jpg"})


def test_a_catalogue_of_one_part_a_version_is_merged_by_the_next_writer(home, few_parts):
    for entry in entries(9):
        catalog.write_part(home.objects, entry)
    assert len(list((home.root / "catalog" / "versions").iterdir())) == 9
    catalog.record(home.objects, entries(10)[9])
    assert len(list((home.root / "catalog" / "versions").iterdir())) == 1
    assert len(seen(home)[0]) == 10


def test_a_partition_leaves_the_quarantine_for_what_was_mended_alone(home):
    for kind, partition in (
        (ErrorKind.FILE_MISSING, "tiny.c"),
        (ErrorKind.DIVERGED, "tiny.c"),
        (ErrorKind.FILE_MISSING, "tiny.d"),
    ):
        catalog.quarantine(home.objects, partition, SourceDataError(kind, "c.jpg", "seen 1, want 2"))
    assert catalog.release(home.objects, "tiny.c", [ErrorKind.DIVERGED]) == 1
    left = {(row["partition"], row["error_kind"]) for row in catalog.quarantined(home.objects).to_pylist()}
    assert left == {("tiny.c", "file_missing"), ("tiny.d", "file_missing")}
    assert catalog.release(home.objects, "tiny.c") == 1
    assert [row["partition"] for row in catalog.quarantined(home.objects).to_pylist()] == ["tiny.d"]
