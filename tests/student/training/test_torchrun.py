"""What a fit in several processes tells the process that asked for it, and how it ends with that."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from storage.errors import ErrorKind, OutOfCapacityError, StudentDivergedError
from storage.stores.versioned import Home
from student.config import FitRuntime, StudentConfig
from student.training.torchrun import fit_with_torchrun, follow, tell_error, tell_progress


def told(messages: Path, script: str) -> list[Any]:
    """Follow a program; return the progress that it told of."""
    seen: list[Any] = []
    follow([sys.executable, "-c", script], messages, lambda *progress: seen.append(progress), threads=3)
    return seen


def test_progress_arrives_in_order_and_a_line_may_come_in_two_parts(tmp_path: Path) -> None:
    at = tmp_path / "messages"
    script = f"""
import os, time
with open({str(at)!r}, "a") as file:
    file.write('{{"stage": "fit", "share": 0.5, "fig')
    file.flush()
    time.sleep(0.5)
    threads = os.environ["OMP_NUM_THREADS"]
    file.write('ures": {{"step": 1}}}}\\n{{"stage": "fit", "share": 1.0, "figures": {{"threads": %s}}}}\\n' % threads)
"""
    assert told(at, script) == [("fit", 0.5, {"step": 1}), ("fit", 1.0, {"threads": 3})]


def test_the_first_typed_error_of_several_processes_is_raised(tmp_path: Path) -> None:
    at = tmp_path / "messages"
    tell_progress(at, "fit", 0.1, {"step": 1, "psnr": None})
    tell_error(at, StudentDivergedError(ErrorKind.DIVERGED, "yard.a:0", "the loss is nan"))
    tell_error(at, OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, "memory", "none is left"))
    with pytest.raises(StudentDivergedError, match="the loss is nan") as raised:
        told(at, "raise SystemExit(1)")
    assert (raised.value.kind, raised.value.key) == (ErrorKind.DIVERGED, "yard.a:0")


def test_an_end_that_nothing_explains_is_no_typed_error(tmp_path: Path) -> None:
    """Dagster's retries take it for a fault of the machine."""
    with pytest.raises(ChildProcessError, match="ended with code -9"):
        told(tmp_path / "messages", "import os; os.kill(os.getpid(), 9)")


def test_an_interrupt_of_the_caller_ends_the_processes(tmp_path: Path) -> None:
    at = tmp_path / "messages"
    tell_progress(at, "fit", 0.1, {})

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        follow([sys.executable, "-c", "import time; time.sleep(600)"], at, interrupt, threads=1)
    assert set(psutil.Process().children()) <= before


def test_devices_are_counted_before_anything_starts(
    tmp_path: Path, student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = replace(
        student_config,
        data=replace(student_config.data, batch_size=2),
        fit=replace(student_config.fit, runtime=FitRuntime(processes=2)),
    )
    with pytest.raises(OutOfCapacityError, match="2 processes want a device each, and there are 1"):
        fit_with_torchrun(Home(tmp_path), "clip", config, None, training_set="clip", device=torch.device("cuda"))


def test_a_batch_that_the_processes_cannot_share_is_refused(student_config: StudentConfig) -> None:
    size = student_config.data.batch_size
    with pytest.raises(ValueError, match=f"cannot be shared by {size + 1} processes"):
        replace(student_config, fit=replace(student_config.fit, runtime=FitRuntime(processes=size + 1)))


def test_torchrun_ends_with_the_process_that_started_it(tmp_path: Path, repository_root: Path) -> None:
    """Nobody would take what it makes, and the next try of the run would fit beside it."""
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    start = (
        "import subprocess, sys\n"
        f"command = [sys.executable, '-m', 'student.training.torchrun', '--standalone', {str(sleeper)!r}]\n"
        "subprocess.run(command)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", start], cwd=repository_root, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    parent.stdout.close()
    assert not alive
