"""A lock says who holds it, and gives up when it was told to."""

import json
import os
import subprocess
import sys
import threading

import pytest

from storage.errors import ErrorKind, StoreLockedError
from storage.stores.locks import LOCK_TIMEOUT_VARIABLE, held, is_held, lock_timeout_from_environment
from storage.stores.versioned import Home

HOLD = "import sys; from storage.stores.versioned import Home\n"
HOLD += "with Home(sys.argv[1]).lock('example', 'tiny.a'): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def holder(home: Home):
    """Another process that holds the lock of a partition until its input ends."""
    command = [sys.executable, "-c", HOLD, str(home.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_holder_is_named(home: Home, holder: subprocess.Popen, caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(StoreLockedError, match=rf"process {holder.pid} on .* since 20..-") as caught,
        Home(home.root, lock_timeout_s=0.2).lock("example", "tiny.a"),
    ):
        pass
    assert (caught.value.kind, caught.value.key) == (ErrorKind.LOCKED, "example/tiny.a")
    assert f"waiting for process {holder.pid}" in caplog.text
    assert is_held(home.lock_file("example", "tiny.a"))
    with Home(home.root, lock_timeout_s=0.0).lock("example", "tiny.b"):
        pass


def test_who_waits_goes_on_when_the_holder_ends_or_is_killed(home: Home, holder: subprocess.Popen) -> None:
    timer = threading.Timer(0.3, holder.kill)
    timer.start()
    with Home(home.root, lock_timeout_s=30.0).lock("example", "tiny.a"):
        note = json.loads(home.lock_file("example", "tiny.a").with_suffix(".holder").read_text())
        assert note["pid"] == os.getpid()
    timer.join()
    assert not is_held(home.lock_file("example", "tiny.a"))
    assert not home.lock_file("example", "tiny.a").with_suffix(".holder").exists()


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    assert lock_timeout_from_environment() is None
    monkeypatch.setenv(LOCK_TIMEOUT_VARIABLE, "7.5")
    assert Home(tmp_path).lock_timeout_s == 7.5
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv(LOCK_TIMEOUT_VARIABLE, wrong)
        with pytest.raises(ValueError, match=LOCK_TIMEOUT_VARIABLE):
            lock_timeout_from_environment()


def test_an_error_of_the_body_frees_the_lock(tmp_path) -> None:
    path = tmp_path / "a.lock"
    with pytest.raises(KeyError), held(path, "a", 0.0):
        raise KeyError
    assert not is_held(path)
