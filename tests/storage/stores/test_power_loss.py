"""A loss of power at any moment of a publication: what was not synced by then is empty afterwards."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from storage.errors import HomeUnavailableError
from storage.kinds import StoreForm
from storage.stores import catalog, durable
from storage.stores.objects import LocalObjects
from storage.stores.provenance import Provenance
from storage.stores.verification import verify_version
from storage.stores.versioned import Home, Materialized, materialize_arrays, materialize_files

PARTITION = "tiny.a"


def publish(home: Home, kind: str, config: str) -> Materialized:
    data = np.random.default_rng(ord(config)).integers(0, 255, (4, 3000), np.uint8)

    def write_arrays(group) -> dict:
        array = group.create_array("numbers", shape=data.shape, dtype=data.dtype, chunks=(1, 3000))
        for index, row in enumerate(data):
            array[index] = row
            time.sleep(0.03 if kind == "slow_arrays" else 0.0)
        return {"config": config}

    def write_files(folder: Path) -> dict:
        (folder / "inner").mkdir()
        (folder / "inner" / "numbers.bin").write_bytes(data.tobytes())
        return {"config": config}

    provenance = Provenance(kind=kind, partition=PARTITION, config_digest=config)
    if kind == "files":
        return materialize_files(home, provenance, write_files)
    return materialize_arrays(home, provenance, write_arrays)


class Disk:
    """Knows which files below a root are on the disk, and keeps a copy of what a loss of power would leave."""

    def __init__(self, root: Path, states: Path) -> None:
        self.root, self.states = root, states
        self.synced = {path for path in root.rglob("*") if path.is_file()}
        self.num_states = 0

    def sync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_file():
            self.synced.add(path)

    def renamed(self, source: Path, target: Path) -> None:
        for path in list(self.synced):
            if path == source or source in path.parents:
                self.synced.remove(path)
                self.synced.add(target / path.relative_to(source))
        self.lose_power()

    def lose_power(self) -> None:
        state = self.states / str(self.num_states)
        self.num_states += 1
        shutil.copytree(self.root, state)
        for path in state.rglob("*"):
            if path.is_file() and self.root / path.relative_to(state) not in self.synced:
                path.write_bytes(b"")


@pytest.fixture
def record_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Home, Callable], Iterator[Home]]:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are not listed here")

    def record(home: Home, act: Callable[[], object]) -> Iterator[Home]:
        disk = Disk(home.root, tmp_path / "states")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", disk.sync)
            for name in ("rename", "replace"):
                real = getattr(Path, name)

                def renaming(source: Path, target: Path, real: Callable = real) -> Path:
                    moved = real(source, target)
                    disk.renamed(source, Path(target))
                    return moved

                patch.setattr(Path, name, renaming)
            act()
        disk.lose_power()
        return (Home(tmp_path / "states" / str(index)) for index in range(disk.num_states))

    return record


@pytest.mark.parametrize("kind", ["arrays", "slow_arrays", "files"])
def test_no_version_is_lost_and_none_is_found_torn(
    kind: str, home: Home, record_states, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_AHEAD_S", 0.01)  # slow arrays are synced while they are written
    old = publish(home, kind, "1").version
    states = list(record_states(home, lambda: publish(home, kind, "2")))
    assert len(states) >= 5
    seen = []
    for state in states:
        versions = {state.metrics(v)["config"]: v for v in state.versions()}
        assert "1" in versions
        for version in versions.values():
            verify_version(state, version)
        current = state.require(kind, PARTITION)
        assert current in versions.values()
        assert set(catalog.versions(LocalObjects(state.root))["digest"].to_pylist()) <= {
            v.digest for v in versions.values()
        }
        again = publish(state, kind, "2")
        assert again.reused == ("2" in versions)
        verify_version(state, again.version)
        verify_version(state, state.require(kind, PARTITION, old.digest))
        assert len(catalog.versions(LocalObjects(state.root))) == 2
        seen.append(again.reused)
    assert seen == sorted(seen)
    assert seen[-1]


@pytest.mark.parametrize("name", ["files.json", "provenance.json", "metrics.json", "inner/numbers.bin"])
@pytest.mark.parametrize("content", [b"", b"{"])
def test_torn_files_are_set_aside_and_built_again(
    home: Home, name: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    version = publish(home, "files", "1").version
    assert version.form is StoreForm.FILES
    torn = home.root / "artifacts" / "files" / PARTITION / version.digest / name
    torn.write_bytes(content)
    again = publish(home, "files", "1")
    assert not again.reused
    assert "set aside and built again" in caplog.text
    verify_version(home, again.version)
    (aside,) = (home.root / "aside" / "artifacts" / "files" / PARTITION).iterdir()
    assert (aside / name).read_bytes() == content
    assert publish(home, "files", "1").reused


def test_a_file_that_cannot_be_synced_ahead_stops_the_version(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reports such an error once: who syncs again is told that all is well."""
    publish(home, "slow_arrays", "1")
    real, failed = os.fsync, []

    def fail_once(descriptor: int) -> None:
        if not failed and threading.current_thread() is not threading.main_thread():
            failed.append(descriptor)
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(durable, "_AHEAD_S", 0.01)
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(HomeUnavailableError):
        publish(home, "slow_arrays", "2")
    assert failed
    assert len(home.versions()) == 1
    assert not publish(home, "slow_arrays", "2").reused
