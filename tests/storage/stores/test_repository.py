"""A store whose branches, snapshots or manifests are lost: that is said, mended if it can be, and never made worse."""

import errno
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr
from rich.console import Console

from pipeline.commands.catalog import Verify
from storage.errors import HomeUnavailableError, IntegrityError, OutOfCapacityError, PipelineError
from storage.stores.objects import LocalObjects
from storage.stores.provenance import Provenance
from storage.stores.repository import ArrayRepository
from storage.stores.verification import verify_home
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_arrays

KIND, PARTITION = "example", "tiny.a"
ROOT_SNAPSHOT = "1CECHNKREP0F1RSTCMT0"


def publish(home: Home, config: int) -> Materialized:
    def write(group) -> dict:
        group.create_array("numbers", data=numbers(config), chunks=(1, 3000))
        return {}

    return materialize_arrays(home, Provenance(kind=KIND, partition=PARTITION, config_digest=str(config)), write)


def numbers(config: int) -> np.ndarray:
    return np.random.default_rng(config).integers(0, 255, (3, 3000), np.uint8)


@pytest.fixture
def three(home: Home) -> list[StoreVersion]:
    return [publish(home, config).version for config in range(3)]


def store(home: Home) -> Path:
    return home.root / "stores" / KIND / PARTITION


def write_ref(home: Home, branch: str, text: str) -> None:
    (store(home) / "refs" / f"branch.{branch}" / "ref.json").write_text(text)


def manifests_of(home: Home, version: StoreVersion) -> list[Path]:
    (record,) = (store(home) / "records").glob(f"{version.digest}.*")
    objects = json.loads(record.read_bytes().partition(b"\n")[2])["objects"]
    return [store(home) / name for name in objects if name.startswith("manifests")]


NAMES_LOST: dict[str, Callable[[Home, list[StoreVersion]], object]] = {
    "main is gone": lambda home, _: shutil.rmtree(store(home) / "refs" / "branch.main"),
    "all refs are gone": lambda home, _: shutil.rmtree(store(home) / "refs"),
    "main is empty": lambda home, _: write_ref(home, "main", ""),
    "main is cut": lambda home, _: write_ref(home, "main", '{"snapsh'),
    "main names the root": lambda home, _: write_ref(home, "main", f'{{"snapshot": "{ROOT_SNAPSHOT}"}}'),
    "main names the first": lambda home, v: write_ref(home, "main", json.dumps({"snapshot": v[0].snapshot_id})),
    "main names nothing": lambda home, _: write_ref(home, "main", '{"snapshot": "AAAAAAAAAAAAAAAAAAAA"}'),
    "current is gone": lambda home, _: shutil.rmtree(store(home) / "refs" / "branch.current"),
    "current is empty": lambda home, _: write_ref(home, "current", ""),
    "current names nothing": lambda home, _: write_ref(home, "current", '{"snapshot": "AAAAAAAAAAAAAAAAAAAA"}'),
}


@pytest.mark.parametrize("damage", NAMES_LOST.values(), ids=NAMES_LOST)
def test_lost_names_are_told_and_mended_by_the_next_write(home, three, damage) -> None:
    asked = 2 if damage in (NAMES_LOST["main is empty"], NAMES_LOST["current names nothing"]) else 3
    damage(home, three)
    assert "store at fault" in {found.finding for found in verify_home(home)}
    assert publish(home, asked).reused == (asked < 3)
    assert {found.finding for found in verify_home(home)} == {"whole"}
    for config, version in enumerate(three):
        np.testing.assert_array_equal(home.open_arrays(version)["numbers"][...], numbers(config))
    assert home.latest(KIND, PARTITION) == publish(home, asked).version


@pytest.mark.parametrize("damage", ["main is gone", "main is cut"])
def test_versions_of_a_store_that_lost_its_branch_are_not_given_up(home, three, damage) -> None:
    NAMES_LOST[damage](home, three)
    found = list(verify_home(home))
    assert {f.version for f in found if f.finding == "store at fault"} >= set(three)
    assert "damaged" not in {f.finding for f in found}
    said = Console(file=io.StringIO(), width=200)
    assert Verify(home=str(home.root), set_aside=True).run(said) == 0
    assert all(publish(home, config).reused for config in range(3))
    assert not (home.root / "aside").exists()


def once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: BaseException) -> None:
    """Let the next call of a function fail."""
    original, left = getattr(owner, name), [error]

    def call(*args: object, **named: object) -> object:
        if left:
            raise left.pop()
        return original(*args, **named)

    monkeypatch.setattr(owner, name, call)


def test_what_cannot_be_opened_for_a_moment_is_no_damage(home, three, monkeypatch) -> None:
    """Icechunk and Zarr call missing what they cannot open."""
    lost = icechunk.IcechunkError(f"snapshot not found: {three[1].snapshot_id}")
    for owner, name, error in (
        (icechunk.Repository, "readonly_session", lost),
        (zarr, "open_group", zarr.errors.GroupNotFoundError("no group found")),
    ):
        with monkeypatch.context() as patched:
            once(patched, owner, name, error)
            with pytest.raises(HomeUnavailableError, match="could not be opened for a moment, and is there; ask again"):
                home.open_arrays(three[1])
            np.testing.assert_array_equal(home.open_arrays(three[1])["numbers"][...], numbers(1))
    once(monkeypatch, icechunk.Repository, "readonly_session", lost)
    assert [f.finding for f in verify_home(home)].count("not read") == 1


def test_a_history_that_cannot_be_followed_for_a_moment_is_not_begun_anew(home, three, monkeypatch) -> None:
    once(monkeypatch, icechunk.Repository, "ancestry", icechunk.IcechunkError(f"snapshot not found: {ROOT_SNAPSHOT}"))
    with pytest.raises(HomeUnavailableError, match="ask again"):
        publish(home, 1)
    assert not (home.root / "aside").exists()
    assert publish(home, 1).reused


@pytest.mark.parametrize(
    ("what", "which", "how"),
    [
        ("snapshot", 0, "deleted"),
        ("snapshot", 1, "emptied"),
        ("snapshot", 2, "emptied"),
        ("manifest", 0, "deleted"),
        ("manifest", 2, "emptied"),
    ],
)
def test_damage_of_one_version_touches_no_other(home, three, what, which, how) -> None:
    paths = [store(home) / "snapshots" / three[which].snapshot_id]
    for path in paths if what == "snapshot" else manifests_of(home, three[which]):
        path.unlink() if how == "deleted" else path.write_bytes(b"")
    found = list(verify_home(home))
    assert [f.version for f in found if f.finding == "damaged"] == [three[which]]
    # A new version can be made, the damaged one is built again when it is asked for, and the others stay.
    assert not publish(home, 3).reused
    assert not publish(home, which).reused
    for config in range(4):
        version = publish(home, config)
        assert version.reused
        np.testing.assert_array_equal(home.open_arrays(version.version)["numbers"][...], numbers(config))
    assert "damaged" not in {f.finding for f in verify_home(home)}


def test_a_store_of_which_nothing_can_be_read_is_begun_anew(home, three) -> None:
    for path in (store(home) / "snapshots").iterdir():
        path.write_bytes(b"")
    assert {f.finding for f in verify_home(home)} >= {"damaged", "store at fault"}
    assert not publish(home, 0).reused
    assert {f.finding for f in verify_home(home)} == {"whole", "lost"}
    (aside,) = (home.root / "aside" / "stores" / KIND).iterdir()
    assert len(list((aside / "chunks").iterdir())) == 9


def test_a_lost_store_and_a_lost_row_are_named(home, three) -> None:
    shutil.move(store(home), home.root / "kept")
    found = list(verify_home(home))
    assert {f.key for f in found if f.finding == "lost"} == {str(version) for version in three}
    shutil.move(home.root / "kept", store(home))
    shutil.rmtree(home.root / "catalog")
    found = list(verify_home(home))
    assert {f.key for f in found if f.finding == "not in the catalogue"} == {str(version) for version in three}


def test_two_homes_copied_over_each_other_lose_nothing(home, three, tmp_path) -> None:
    other = Home(tmp_path / "other")
    for config in (7, 8):
        publish(other, config)
    shutil.copytree(other.root, home.root, dirs_exist_ok=True)
    assert not publish(home, 9).reused  # deletes nothing that its branch does not reach
    for config in (0, 1, 2, 7, 8, 9):
        version = publish(home, config)
        assert version.reused
        np.testing.assert_array_equal(home.open_arrays(version.version)["numbers"][...], numbers(config))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("No space left on device (os error 28)", OutOfCapacityError),
        ("Too many open files (os error 24)", OutOfCapacityError),
        ("Input/output error (os error 5)", HomeUnavailableError),
        ("Read-only file system (os error 30)", HomeUnavailableError),
    ],
)
def test_a_fault_of_the_machine_is_no_damage(home, three, monkeypatch, text, error) -> None:
    def fail(*_, **__):
        raise icechunk.IcechunkError(f"x object store error\n| {text}")

    with monkeypatch.context() as patch:
        patch.setattr(icechunk.Repository, "readonly_session", fail)
        patch.setattr(icechunk.Repository, "writable_session", fail)
        with pytest.raises(error, match=f"{KIND}/{PARTITION}@"):
            home.open_arrays(three[0])
        with pytest.raises(error):
            publish(home, 5)
        assert {f.finding for f in verify_home(home)} == {"not read"}
    assert {f.finding for f in verify_home(home)} == {"whole"}


def test_every_error_of_icechunk_is_ours(home, three) -> None:
    shutil.rmtree(store(home) / "snapshots")
    for act in (
        lambda: home.open_arrays(three[0]),
        lambda: home.metrics(three[0]),
        lambda: home.latest(KIND, PARTITION) and home.provenance(three[1]),
    ):
        with pytest.raises(PipelineError) as caught:
            act()
        assert isinstance(caught.value, IntegrityError)


@pytest.mark.parametrize("branch", ["main", "current"])
def test_a_recorded_version_outlives_an_error_on_its_way_to_a_branch(home, three, monkeypatch, branch) -> None:
    point = ArrayRepository._point

    def fail(repository, name, *arguments) -> None:
        if name == branch:
            raise OSError(28, "No space left on device")
        point(repository, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ArrayRepository, "_point", fail)
        with pytest.raises(OutOfCapacityError):
            publish(home, 3)
    assert publish(home, 4).reused is False
    again = publish(home, 3)
    assert again.reused
    np.testing.assert_array_equal(home.open_arrays(again.version)["numbers"][...], numbers(3))
    assert {f.finding for f in verify_home(home)} == {"whole"}


@pytest.mark.parametrize(("can_open", "wanted"), [(False, OutOfCapacityError), (True, HomeUnavailableError)])
def test_a_snapshot_that_cannot_be_opened_is_not_called_lost(home, monkeypatch, can_open, wanted):
    """Icechunk says of a parent that it cannot open for want of file descriptors that there is none."""
    publish(home, 0)

    def create_branch(self, branch, parent):
        monkeypatch.setattr(LocalObjects, "read", read if can_open else cannot_open)
        raise icechunk.IcechunkError(f"x snapshot not found: `{parent}`")

    def cannot_open(self, name):
        assert name.startswith("snapshots/")
        raise OSError(errno.EMFILE, "Too many open files")

    read = LocalObjects.read
    monkeypatch.setattr(icechunk.Repository, "create_branch", create_branch)
    with pytest.raises(wanted) as caught:
        publish(home, 1)
    assert type(caught.value) is wanted
