import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import ErrorKind, MissingTargetError, SourceDataError
from storage.stores import catalog
from storage.stores.catalog import RAW_FILE, WEIGHTS_FILE
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
    tree = catalog.lineage(home.root, node(made["checkpoint"].version))
    assert tree.version == node(made["checkpoint"].version)
    assert leaves(tree) == {
        InputVersion(RAW_FILE, "a.jpg", "a" * 64),
        InputVersion(RAW_FILE, "b.jpg", "b" * 64),
        InputVersion(RAW_FILE, "shared.json", "5" * 64),
        InputVersion(WEIGHTS_FILE, "clip", "9" * 64),
    }


def test_dependents_go_the_other_way(home, made):
    def kinds(**asked):
        return [v.kind for v in catalog.dependents(home.root, **asked)]

    assert kinds(kind="nerf_teacher", partition="tiny.a") == ["teacher_depth", "training_set", "student_checkpoint"]
    assert kinds(kind=WEIGHTS_FILE, partition="clip") == ["clip_features", "training_set", "student_checkpoint"]
    assert kinds(kind=RAW_FILE, partition="b.jpg", digest="b" * 64)[0] == "drive"
    assert kinds(kind=RAW_FILE, partition="b.jpg", digest="0" * 64) == []
    assert kinds(kind="student_checkpoint", partition="depth") == []


def test_each_dependent_is_named_once(home, made):
    found = catalog.dependents(home.root, kind=RAW_FILE, partition="shared.json")
    assert len(found) == len(set(found)) == 7


def test_lineage_of_what_is_not_listed_is_an_error(home, made):
    with pytest.raises(MissingTargetError, match="rebuild"):
        catalog.lineage(home.root, InputVersion("drive", "tiny.a", "0" * 64))


def test_lineage_is_told_while_others_write(home, made, monkeypatch):
    listed, reads = catalog.versions(home.root), []

    def growing(_):
        reads.append(None)
        return pa.concat_tables([listed] * len(reads))

    monkeypatch.setattr(catalog, "versions", growing)
    assert leaves(catalog.lineage(home.root, node(made["depth"].version)))


def test_rebuilding_gives_what_was_recorded(home, made):
    before = [sorted(map(repr, t.to_pylist())) for t in (catalog.versions(home.root), catalog.edges(home.root))]
    assert rebuild_catalog(home) == 7
    after = [sorted(map(repr, t.to_pylist())) for t in (catalog.versions(home.root), catalog.edges(home.root))]
    assert after == before


def test_a_lost_catalogue_is_made_again(home, made):
    shutil.rmtree(home.root / "catalog")
    assert catalog.versions(home.root).num_rows == 0
    rebuild_catalog(home)
    assert leaves(catalog.lineage(home.root, node(made["depth"].version)))


def test_rebuilding_keeps_the_quarantine(home, made):
    catalog.quarantine(home.root, "tiny.c", SourceDataError(ErrorKind.FILE_MISSING, "c.jpg", "is not there"))
    rebuild_catalog(home)
    assert catalog.quarantined(home.root).num_rows == 1


def test_a_row_tells_the_gate_and_the_seed(home, made):
    rows = {row["kind"]: row for row in catalog.versions(home.root).to_pylist()}
    assert (rows["nerf_teacher"]["gate_passed"], rows["nerf_teacher"]["seed"]) == (False, 7)
    assert (rows["teacher_depth"]["gate_passed"], rows["teacher_depth"]["seed"]) == (True, None)
    assert rows["student_checkpoint"]["form"] == "files"
    assert rows["drive"]["form"] == "arrays"


def test_quarantine_keeps_every_reason(home):
    assert catalog.quarantined(home.root).num_rows == 0
    for kind in (ErrorKind.FILE_MISSING, ErrorKind.POSE_INVALID):
        catalog.quarantine(home.root, "tiny.c", SourceDataError(kind, "c.jpg", "seen 1, want 2"))
    rows = catalog.quarantined(home.root).to_pylist()
    assert {row["error_kind"] for row in rows} == {"file_missing", "pose_invalid"}
    assert {row["message"] for row in rows} == {"seen 1, want 2"}


def test_an_empty_home_has_an_empty_catalogue(home):
    assert catalog.versions(home.root).num_rows == 0
    assert catalog.edges(home.root).num_rows == 0
    assert rebuild_catalog(home) == 0
    assert catalog.dependents(home.root, kind="drive", partition="tiny.a") == []


def test_a_part_that_was_cut_is_named_and_set_aside_by_a_rebuild(home, caplog):
    versions = [materialize_files(home, Provenance(kind="a", partition=p), lambda _: {}).version for p in "bc"]
    parts = home.root / "catalog" / "versions"
    cut = parts / f"{versions[0].digest}.parquet"
    cut.write_bytes(cut.read_bytes()[:50])
    assert catalog.versions(home.root)["digest"].to_pylist() == [versions[1].digest]
    assert f"{cut}: cannot be read; 'distillnerf catalog rebuild'" in caplog.text
    assert rebuild_catalog(home) == 2
    caplog.clear()
    assert set(catalog.versions(home.root)["digest"].to_pylist()) == {version.digest for version in versions}
    assert caplog.text == ""
    assert [path.stat().st_size for path in (home.root / "aside" / "catalog" / "versions").iterdir()] == [50]


def test_a_rebuild_beside_writers_loses_nothing(home):
    failures, stop = [], threading.Event()

    def write(number: int) -> None:
        try:
            for index in range(4):
                provenance = Provenance(kind="a", partition=f"{number}", config_digest=str(index))
                materialize_files(home, provenance, lambda _: {})
                catalog.versions(home.root)
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
    assert catalog.versions(home.root).num_rows == len(home.versions()) == 16


def test_what_is_recorded_while_a_rebuild_ends_stays(home, monkeypatch):
    version = materialize_files(home, Provenance(kind="a", partition="b"), lambda _: {}).version
    newer = replace(home.catalog_entry(version), snapshot_id="newer")
    writer = threading.Thread(target=catalog.record, args=(home.root, newer))
    read_part = catalog._read_part

    def beside(path, schema):
        if path.parent.name == "versions" and not writer.ident:
            writer.start()
            writer.join(timeout=0.5)
        return read_part(path, schema)

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "_read_part", beside)
        rebuild_catalog(home)
        writer.join()
    assert "newer" in catalog.versions(home.root)["snapshot_id"].to_pylist()


def test_a_rebuild_that_was_killed_lists_nothing_twice(home, monkeypatch):
    version = materialize_files(home, Provenance(kind="a", partition="b", sources={"x": "y"}), lambda _: {}).version
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(RuntimeError):
            rebuild_catalog(home)
    assert catalog.versions(home.root)["digest"].to_pylist() == [version.digest]
    assert catalog.edges(home.root).num_rows == 1
    assert rebuild_catalog(home) == 1
    assert len(list((home.root / "catalog" / "versions").iterdir())) == 1


def fail(*_, **__):
    raise RuntimeError
