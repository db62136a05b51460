"""What ends is started again; what is asked to end does, with all of it."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.instance import prepare_instance
from pipeline.service.serve import serve
from pipeline.service.supervisor import Patience, Service, supervise
from storage.errors import StoreLockedError
from storage.stores.locks import held
from storage.stores.versioned import Home

QUICK = Patience(first_s=0.01, longest_s=0.05, settled_s=60.0)


def sh(name: str, script: str, ready: Path | None = None) -> Service:
    return Service(name=name, command=["sh", "-c", script], ready=ready)


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


@pytest.fixture
def supervised(tmp_path: Path):
    """Supervise services until the test is over; yields what was told."""
    stop, told, threads = threading.Event(), [], []

    def start(*services: Service) -> list[str]:
        options = {"environment": os.environ, "cwd": tmp_path, "stop": stop, "tell": told.append, "patience": QUICK}
        threads.append(threading.Thread(target=supervise, args=(services,), kwargs=options))
        threads[0].start()
        return told

    yield start
    stop.set()
    threads[0].join()


def test_a_killed_process_is_started_again_and_only_that_one(supervised, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("one", "two")}
    told = supervised(*(sh(name, f"echo $$ >> {file}; exec sleep 60") for name, file in files.items()))
    wait_for(lambda: all(pids(file) for file in files.values()))
    psutil.Process(pids(files["one"])[0]).kill()
    first, second = wait_for(lambda: len(found := pids(files["one"])) == 2 and found)
    assert first != second
    assert len(pids(files["two"])) == 1
    assert told == ["one ended with code -9; it starts again in 0 s"]


def test_one_starts_after_the_other_is_ready_and_a_stale_sign_of_it_does_not_count(supervised, tmp_path: Path) -> None:
    ready, order, go = tmp_path / "ready", tmp_path / "order", tmp_path / "go"
    ready.touch()  # a killed process left it
    first = sh(
        "first",
        f"echo first >> {order}; while [ ! -e {go} ]; do sleep 0.05; done; "
        f"echo ready >> {order}; touch {ready}; exec sleep 60",
        ready,
    )
    supervised(first, sh("second", f"echo second >> {order}; exec sleep 60"))
    wait_for(order.is_file)
    time.sleep(0.5)
    go.touch()
    wait_for(lambda: "second" in order.read_text())
    assert order.read_text().split() == ["first", "ready", "second"]


def test_the_wait_grows_while_a_process_keeps_ending() -> None:
    patience = Patience(first_s=1.0, longest_s=30.0)
    assert [patience.wait_s(n) for n in (1, 2, 3, 5, 6, 60)] == [1, 2, 4, 16, 30, 30]


def test_stopping_ends_everything_that_was_started(tmp_path: Path) -> None:
    file, stop = tmp_path / "pids", threading.Event()
    service = sh("parent", f"sleep 60 & echo $! >> {file}; echo $$ >> {file}; wait")
    thread = threading.Thread(
        target=supervise,
        args=([service],),
        kwargs={"environment": os.environ, "cwd": tmp_path, "stop": stop, "tell": print},
    )
    thread.start()
    started = wait_for(lambda: len(found := pids(file)) == 2 and [psutil.Process(pid) for pid in found])
    stop.set()
    thread.join(timeout=60)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in started)


def test_a_second_service_of_a_home_says_who_holds_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare_instance(home.root)
    with (
        held(home.root / "dagster" / "service.lock", "x", None),
        pytest.raises(StoreLockedError, match=rf"process {os.getpid()} on .*{Path(sys.argv[0]).name}"),
    ):
        serve(home, web=None)
