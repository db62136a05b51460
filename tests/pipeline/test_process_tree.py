"""Processes end with everything that they started, the deaf ones too."""

import subprocess
import sys
import time

import psutil
import pytest

from pipeline.process_tree import ends_children

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);print('ready', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DEAF!r}])"


def start() -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def test_an_interrupted_body_leaves_nothing_that_computes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.process_tree.GRACE_S", 0.5)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    tree: list[psutil.Process] = []
    try:
        with pytest.raises(KeyboardInterrupt), ends_children():  # noqa: PT012 - the body is what is interrupted
            process, tree = start()
            raise KeyboardInterrupt
        process.wait(timeout=10)
        assert len(tree) == 2
        assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree)
        assert bystander.poll() is None, "it was there before"
    finally:
        bystander.kill()
        bystander.wait()
        for p in tree:
            if p.is_running():
                p.kill()
        if tree and process.stdout is not None:
            process.stdout.close()


def test_a_body_that_succeeds_ends_nothing() -> None:
    with ends_children():
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.wait()
