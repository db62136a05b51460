"""A fit in several processes of this machine: ``torchrun`` as a child of the process that asked for it.

The child tells of progress and errors line by line in a file, so that whoever asked sees the fit as if it ran here.
``python -m student.training.torchrun ARGUMENTS`` is ``torchrun ARGUMENTS`` that ends with its parent.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.distributed.run import main as torchrun

from storage.code import PROJECT
from storage.digests import config_json
from storage.errors import ErrorKind, OutOfCapacityError, PipelineError, error_of_another_process
from storage.parent_process import end_with_parent
from storage.progress import ProgressCallback
from storage.stores.versioned import Home
from student.config import StudentConfig

_LOOK_S = 0.3
_GRACE_S = 60.0
"""Seconds that ``torchrun`` has to end by itself: it gives its own processes thirty."""


def fit_with_torchrun(
    home: Home,
    variant: str,
    config: StudentConfig,
    on_progress: ProgressCallback | None,
    *,
    training_set: str,
    device: torch.device,
) -> None:
    """Fit and publish a student in ``config.fit.runtime.processes`` processes of this machine.

    Args:
        home: Home of the training set and of the checkpoint.
        variant: Partition of the checkpoint.
        config: The run.
        on_progress: Called at every logged step.
        training_set: Name of the frozen training set.
        device: Device to compute on; on CUDA, each process takes one of its own.

    Raises:
        OutOfCapacityError: If there are fewer CUDA devices than processes.
        PipelineError: What ended the fit, as the process raised it.
        ChildProcessError: If the processes ended otherwise, such as by a signal. What the survivors of a killed process
            raise looks like an error of their own, so every such end is taken for a fault of the machine.
    """
    count = config.fit.runtime.processes
    if device.type == "cuda" and torch.cuda.device_count() < count:
        seen = f"{count} processes want a device each, and there are {torch.cuda.device_count()}"
        raise OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, "fit.runtime.processes", seen)
    with tempfile.TemporaryDirectory(prefix="fit-") as folder:
        run, messages = Path(folder) / "run.json", Path(folder) / "messages"
        run.write_text(json.dumps(config_json(config)))
        command = [sys.executable, "-m", __name__, "--standalone", "--nproc-per-node", str(count)]
        command += ["-m", "student.training.train", str(home.root), variant, "--config", str(run)]
        command += ["--training-set", training_set, "--messages", str(messages)]
        if home.store_url is not None:
            command += ["--store-url", home.store_url]
        follow(command, messages, on_progress, threads=max(1, torch.get_num_threads() // count))


def follow(command: Sequence[str], messages: Path, on_progress: ProgressCallback | None, *, threads: int) -> None:
    """Run a command to its end, and pass on what it tells; it is ended if the caller is interrupted.

    Args:
        command: Command line.
        messages: File that the command appends messages to.
        on_progress: Called for each message of progress.
        threads: Threads of each process of the command.

    Raises:
        PipelineError: The first error that the command told of.
        ChildProcessError: If it ended with an error that it did not tell.
    """
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    messages.touch()
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}, stdin=subprocess.DEVNULL
    )
    error: PipelineError | None = None
    try:
        with messages.open() as told:
            rest = ""
            is_running = True
            while is_running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_LOOK_S)
                    is_running = False
                *lines, rest = (rest + told.read()).split("\n")
                for message in map(json.loads, lines):
                    if "error" in message:
                        error = error or error_of_another_process(**message["error"])
                    elif on_progress is not None:
                        on_progress(message["stage"], message["share"], message["figures"])
    finally:
        _end(process)
    if error is not None and process.returncode:
        raise error
    if process.returncode:
        raise ChildProcessError(f"torchrun ended with code {process.returncode}; what its processes said is in the log")


def tell_progress(messages: Path, stage: str, share: float, figures: Mapping[str, Any]) -> None:
    """Append a message of progress."""
    _tell(messages, {"stage": stage, "share": share, "figures": dict(figures)})


def tell_error(messages: Path, error: PipelineError) -> None:
    """Append the error that ends this process."""
    parts = {"type_name": type(error).__name__, "kind": error.kind, "key": error.key, "message": error.message}
    _tell(messages, {"error": parts})


def _tell(messages: Path, message: Mapping[str, Any]) -> None:
    with messages.open("a") as file:  # one write of a short line, which those of other processes do not cut
        file.write(json.dumps(message) + "\n")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that still runs, as after an interrupt of the caller."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    end_with_parent()
    torchrun()
