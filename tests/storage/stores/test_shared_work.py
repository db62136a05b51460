"""States of a fit in a bucket: newest first, whole or not at all, gone when they are of no use."""

from pathlib import Path
from typing import Any

import pytest

from storage.errors import ErrorKind, StoreUnreachableError
from storage.stores.bucket import BucketObjects
from storage.stores.places import CACHE_VARIABLE
from storage.stores.shared_work import SharedWork
from storage.stores.versioned import Home

LAST = "manifest"


@pytest.fixture
def on_machine(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns the work folder of a machine, and its copies in the bucket."""

    def opened(name: str) -> tuple[Path, SharedWork]:
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
        home = Home(f"s3://{bucket.name}/home")
        folder = home.work_folder("weights", "tiny.a") / "0123"
        return folder, SharedWork(home, folder, last=LAST)

    return opened


def save(folder: Path, state: str) -> None:
    (folder / state).mkdir(parents=True)
    for file in ("a", LAST, "z"):
        (folder / state / file).write_text(f"{state} {file}")


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_another_machine_goes_on_from_the_newest_state(on_machine: Any, bucket: Any) -> None:
    folder, work = on_machine("one")
    for state in ("step-1", "step-2"):
        save(folder, state)
    work.push()
    elsewhere, its_work = on_machine("two")
    its_work.pull()
    assert states(elsewhere) == ["step-2"]
    assert {path.name: path.read_text() for path in (elsewhere / "step-2").iterdir()} == {
        name: f"step-2 {name}" for name in ("a", LAST, "z")
    }
    save(elsewhere, "step-3")
    its_work.push()
    work.pull()
    assert states(folder) == ["step-1", "step-2", "step-3"]
    work.drop()
    assert not list(bucket.objects.all())


def test_states_that_are_gone_here_go_there_and_newer_ones_stay(on_machine: Any) -> None:
    folder, work = on_machine("one")
    for state in ("step-1", "step-2", "step-9"):
        save(folder, state)
    work.push()
    elsewhere, its_work = on_machine("two")
    save(elsewhere, "step-2")
    its_work.push()  # it is behind, and knows nothing of step 9
    third, pulled = on_machine("three")
    pulled.pull()
    assert states(third) == ["step-9"]
    assert sorted(pulled._objects.folders()) == ["step-2", "step-9"]  # type: ignore[union-attr]


def test_a_state_that_was_not_copied_to_its_end_is_none(on_machine: Any, bucket: Any) -> None:
    folder, work = on_machine("one")
    for state in ("step-1", "step-2"):
        save(folder, state)
    work.push()
    (last,) = [found for found in bucket.objects.all() if found.key.endswith(f"0123/step-2/{LAST}")]
    last.delete()
    elsewhere, its_work = on_machine("two")
    its_work.pull()
    assert states(elsewhere) == ["step-1"]


def test_an_outage_does_not_end_a_fit(
    on_machine: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, work = on_machine("one")
    save(folder, "step-1")

    def refuse(*_: object) -> None:
        raise StoreUnreachableError(ErrorKind.STORE_UNREACHABLE, "s3://x", "no answer")

    with monkeypatch.context() as outage:
        outage.setattr(BucketObjects, "write", refuse)
        work.push()
    assert "not copied into the bucket" in caplog.text
    work.push()
    elsewhere, its_work = on_machine("two")
    its_work.pull()
    assert states(elsewhere) == ["step-1"]


def test_a_home_in_a_folder_keeps_no_copies(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder = home.work_folder("weights", "tiny.a") / "0123"
    save(folder, "step-1")
    work = SharedWork(home, folder, last=LAST)
    for step in (work.push, work.pull, work.drop):
        step()
    assert states(folder) == ["step-1"]
