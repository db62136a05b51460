"""What killed writers leave is removed; what living ones hold, and every version, stays."""

import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from storage.stores.file_versions import PARTIAL
from storage.stores.litter import sweep
from storage.stores.provenance import Provenance
from storage.stores.verification import verify_home
from storage.stores.versioned import Home, materialize_arrays, materialize_files


def publish(home: Home, *, partition: str = "tiny.a") -> None:
    def write(group) -> dict:
        group.create_array("numbers", data=np.random.default_rng(0).random((4, 500)), chunks=(1, 500))
        return {}

    arrays = materialize_arrays(home, Provenance(kind="scene_like", partition=partition), write).version
    inputs = (arrays.as_input,)
    materialize_files(home, Provenance(kind="model", partition=partition, inputs=inputs), write_text)


def write_text(folder: Path) -> dict:
    (folder / "weights").write_text("weights")
    return {}


def litter(home: Home, partition: str = "tiny.a") -> dict[Path, int]:
    """Leave one piece of each sort, and return their sizes."""
    artifacts, store = home.root / "artifacts" / "model" / partition, home.root / "stores" / "scene_like" / partition
    (version,) = home.versions("model", partition)
    pieces = {
        artifacts / f"{PARTIAL}{uuid.uuid4().hex}" / "weights": 5000,
        artifacts / f".current-{uuid.uuid4().hex}": 64,
        store / "chunks" / "0MJ9DDE6DW388PB9FBBG": 3000,
        store / "chunks" / "0MJ9DDE6DW388PB9FBBG#1": 700,
        home.root / "work" / "model" / partition / version.digest[:16] / "step" / "state": 9000,
        home.root / "catalog" / "versions" / f".x.parquet-{uuid.uuid4().hex}": 11,
    }
    for path, size in pieces.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    unfinished = home.root / "work" / "model" / partition / ("f" * 16) / "state"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text("of a version that does not exist yet")
    return pieces


def files(home: Home) -> set[Path]:
    return {path for path in home.root.rglob("*") if path.is_file() and path.suffix not in (".lock", ".holder")}


def test_litter_goes_and_versions_stay(home: Home, capsys: pytest.CaptureFixture) -> None:
    publish(home)
    pieces = litter(home)
    before = files(home)
    assert cli.main(["gc", "--dry-run", "--home", str(home.root)]) == 0
    told = capsys.readouterr().out
    assert told.endswith(f"{sum(pieces.values()):,} bytes would be removed\n")
    assert files(home) == before
    assert cli.main(["gc", "--home", str(home.root)]) == 0
    assert capsys.readouterr().out == told.replace("would be removed", "removed")
    assert files(home) == before - set(pieces)
    assert {found.finding for found in verify_home(home)} == {"whole"}
    assert list(sweep(home, dry_run=False)) == []


def test_what_a_living_writer_holds_stays(home: Home) -> None:
    publish(home)
    pieces = litter(home)
    with home.lock("model", "tiny.a"), home.lock("scene_like", "tiny.a"):
        for dry_run in (True, False):
            found = list(sweep(home, dry_run=dry_run))
            assert sorted(f.place for f in found if f.sort == "in use") == ["model/tiny.a", "scene_like/tiny.a"]
        assert {path for path in pieces if path.exists()} == {p for p in pieces if "catalog" not in p.parts}
    assert sum(f.num_bytes for f in sweep(home, dry_run=False)) > 17_000


def test_what_is_set_aside_goes_only_when_asked(home: Home) -> None:
    publish(home)
    (version,) = home.versions("model")
    (home.open_files(version) / "weights").write_text("")
    snapshot = home.require("scene_like", "tiny.a").snapshot_id
    (home.root / "stores" / "scene_like" / "tiny.a" / "snapshots" / snapshot).write_bytes(b"")
    publish(home)
    assert list(sweep(home, dry_run=False)) == []
    chunks = home.root / "stores" / "scene_like" / "tiny.a" / "chunks"
    assert len(list(chunks.iterdir())) == 8  # of the version that cannot be read, too
    sorts = [found.sort for found in sweep(home, dry_run=False, aside=True)]
    assert sorted(sorts) == ["set aside", "unreachable objects"]
    assert len(list(chunks.iterdir())) == 4
    assert not (home.root / "aside").exists()
    assert {found.finding for found in verify_home(home)} == {"whole"}


def test_damage_is_left_alone(home: Home) -> None:
    publish(home)
    publish(home, partition="tiny.b")
    litter(home, "tiny.b")
    store = home.root / "stores" / "scene_like" / "tiny.a"
    shutil.rmtree(store / "refs")
    for path in (store / "snapshots").iterdir():
        path.write_bytes(b"")
    before = {path.name for path in (store / "chunks").iterdir()}
    for dry_run in (True, False):
        found = list(sweep(home, dry_run=dry_run))
        assert sum(f.num_bytes for f in found) > 17_000
        assert not [f for f in found if "tiny.a" in f.place]
    assert {path.name for path in (store / "chunks").iterdir()} == before


def test_copies_of_states_of_what_is_published_go_from_a_bucket(bucket) -> None:
    home = Home(f"s3://{bucket.name}/home")
    publish(home)
    (version,) = home.versions("model", "tiny.a")
    work = home.work_folder("model", "tiny.a").relative_to(home.root).as_posix()
    for digest in (version.digest, "f" * 64):
        home.objects.write(f"{work}/{digest}/step-2/state", b"1234")
    place = f"{home.address}/{work}/{version.digest}"
    before = {found.key for found in bucket.objects.all()}
    for dry_run in (True, False):
        found = [(piece.sort, piece.place, piece.num_bytes) for piece in sweep(home, dry_run=dry_run)]
        assert found == [("finished work", place, 4)]
    gone = before - {found.key for found in bucket.objects.all()}
    assert gone == {f"home/{work}/{version.digest}/step-2/state"}
