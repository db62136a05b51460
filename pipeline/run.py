"""Drive a whole run: execute every task that has work through Dagster on a few workers, and show progress.

A scene that fails stops only the tasks that depend on it. Every asset finds existing versions, so an interrupted run
goes on where it was, and a complete one costs only look-ups.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from assets.declarations import Work
from pipeline.display import Display
from pipeline.instance import open_instance, pool_waits
from pipeline.liveness import end_abandoned_runs
from pipeline.look_up import look_up_tasks
from pipeline.process_tree import end_trees
from pipeline.resources import dagster_environment, devices_from_environment
from pipeline.tasks import Task, blocked, ready

_WORKER = (sys.executable, "-m", "pipeline.worker")
_MIN_WORKERS = 2
_QUIET_S = 5.0
"""Seconds without a word from any worker after which the display says what a task waits for."""
_MAX_DEATHS = 3
"""How often in a row a worker may end without an outcome: a task that ends its process each time is given up then."""
_IDLE_GRACE_S = 15.0
"""Seconds that an idle worker has to close what it has open."""
_PREFERENCE: dict[int, tuple[Work, ...]] = {0: ("models", "student", "scene_teacher"), 1: ("scene_teacher", "models")}
"""Kinds of work of a worker, the preferred first. The first worker keeps torch; a student runs alone on all cores."""


@dataclass(kw_only=True)
class RunOutcome:
    """Outcome of a run.

    Attributes:
        outcomes: Outcome of each task, by name, from ``pipeline.outcomes.read_outcome``; of one that had nothing to do,
            that of the run before.
        blocked: Tasks that could not start because a predecessor failed.
        wall_time_s: Time from the first task to the last, seconds.
    """

    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    wall_time_s: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Return whether every task succeeded."""
        return not self.blocked and all(outcome["succeeded"] for outcome in self.outcomes.values())

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Return every failure, with its task."""
        return [
            {"task": name, **failure}
            for name, outcome in self.outcomes.items()
            for failure in outcome.get("failures", [])
        ]


class WorkerDiedError(RuntimeError):
    """A worker process ended again and again while it executed a task."""


class _Worker:
    """One worker process and the thread that listens to it."""

    def __init__(
        self,
        index: int,
        home: Path,
        inbox: "queue.Queue[tuple[int, Mapping[str, Any]]]",
        environment: Mapping[str, str],
    ) -> None:
        self.index = index
        self.task: Task | None = None
        self.log = home / "logs" / f"worker-{index}.log"
        self._process = subprocess.Popen(
            [*_WORKER, str(home), str(self.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**dagster_environment(home), **environment},
            start_new_session=True,  # a Ctrl-C in the terminal reaches the command alone, which ends its workers
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._tasks, self._replies = self._process.stdin, self._process.stdout
        self._listener = threading.Thread(target=self._listen, args=(inbox,), name=f"worker-{index}", daemon=True)
        self._listener.start()

    def assign(self, task: Task, threads: int) -> None:
        """Send a task."""
        self.task = task
        message = {**dataclasses.asdict(task), "threads": threads}
        with contextlib.suppress(BrokenPipeError):  # it is dead already: the listener says so, with its exit code
            self._tasks.write(json.dumps(message) + "\n")
            self._tasks.flush()

    def _listen(self, inbox: "queue.Queue[tuple[int, Mapping[str, Any]]]") -> None:
        for line in self._replies:
            inbox.put((self.index, json.loads(line)))
        inbox.put((self.index, {"event": "died", "code": self._process.wait()}))

    def close(self) -> None:
        """Tell the process that no more tasks come; an idle one ends."""
        with contextlib.suppress(BrokenPipeError):
            self._tasks.close()

    def tree(self) -> list[psutil.Process]:
        """Return the process if it still runs."""
        try:
            return [psutil.Process(self._process.pid)] if self._process.poll() is None else []
        except psutil.NoSuchProcess:
            return []

    def join(self) -> None:
        """End what a process that has ended left behind, and release what belongs to it."""
        self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a killed worker could not end what it had started
        self._listener.join()
        self._replies.close()


def usual_workers() -> int:
    """Return the number of worker processes that keep this machine busy: one for each accelerator, but two at least."""
    return max(_MIN_WORKERS, len(devices_from_environment()))


def run_tasks(
    tasks: Sequence[Task],
    home: Path,
    console: Console,
    *,
    num_workers: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> RunOutcome:
    """Execute tasks in the order that their predecessors allow.

    Args:
        tasks: Tasks, each after its predecessors.
        home: Home of the instance and the stores.
        console: Console that shows progress.
        num_workers: Number of worker processes; by default as many as there is work for on this machine.
        environment: Environment variables of the workers in addition to those of this process.

    Raises:
        WorkerDiedError: If a worker process died several times in a row; the tasks that were finished are stored.
    """
    outcome = RunOutcome()
    started_at = time.perf_counter()
    inbox: queue.Queue[tuple[int, Mapping[str, Any]]] = queue.Queue()
    start = partial(_Worker, home=home, inbox=inbox, environment=environment or {})
    with Display(console, len(tasks)) as display, contextlib.ExitStack() as stack:
        for name, found in look_up_tasks(tasks, home, environment=environment):
            outcome.outcomes[name] = found
            display.begin(name)
            display.finish(name, succeeded=True, note=_note(found))
        finished = dict.fromkeys(outcome.outcomes, True)
        begun = list(finished)
        count = min(num_workers or usual_workers(), len(tasks) - len(finished))
        workers = stack.enter_context(_workers(count, start))
        deaths = [0] * count
        while True:
            for worker, task, threads in _assign(workers, tasks, finished, begun):
                begun.append(task.name)
                worker.assign(task, threads)
                display.begin(task.name)
            if all(worker.task is None for worker in workers):
                break
            try:
                index, message = inbox.get(timeout=_QUIET_S)
            except queue.Empty:
                for name, holder in pool_waits(home).items():
                    display.waiting(name, holder)
                continue
            worker = workers[index]
            if message["event"] == "progress" and worker.task is not None:
                display.advance(worker.task.name, message)
            elif message["event"] == "outcome" and worker.task is not None:
                finished[worker.task.name] = message["succeeded"]
                outcome.outcomes[worker.task.name] = dict(message)
                display.finish(worker.task.name, succeeded=message["succeeded"], note=_note(message))
                worker.task = None
                deaths[index] = 0
            elif message["event"] == "died":
                busy = worker.task.name if worker.task else "nothing"
                told = f"a worker ended with code {message['code']} at {busy}; see {worker.log}"
                deaths[index] += 1
                if deaths[index] > _MAX_DEATHS:
                    raise WorkerDiedError(told)
                display.tell(f"{told}; another one takes its place")
                worker.close()
                worker.join()
                with open_instance(home) as instance:
                    end_abandoned_runs(instance)  # its pool slots are free again
                if worker.task is not None:
                    begun.remove(worker.task.name)
                workers[index] = start(index)
        outcome.blocked = [task.name for task in blocked(tasks, finished)]
    outcome.wall_time_s = time.perf_counter() - started_at
    return outcome


def _assign(
    workers: Sequence[_Worker], tasks: Sequence[Task], finished: Mapping[str, bool], begun: Sequence[str]
) -> Iterator[tuple[_Worker, Task, int]]:
    """Yield the next task for each idle worker, and its number of threads."""
    idle = [worker for worker in workers if worker.task is None]
    if any(worker.task is not None and worker.task.work == "student" for worker in workers):
        return  # the student has every core
    waiting = ready(tasks, finished, begun)
    cores = os.cpu_count() or 1
    num_busy = len(workers) - len(idle)
    for worker in idle:
        order = _PREFERENCE.get(worker.index, ("scene_teacher", "models"))
        able = [task for task in waiting if task.work in order and (task.work != "student" or num_busy == 0)]
        if not able:
            continue
        task = min(able, key=lambda task: order.index(task.work))  # the first of its work, as planned
        waiting.remove(task)
        num_busy += 1
        beside = sum(other.work != "student" for other in waiting)
        shares = 1 if task.work == "student" else min(len(workers), num_busy + beside)
        yield worker, task, max(1, cores // shares)
        if task.work == "student":
            return


@contextmanager
def _workers(count: int, start: Callable[[int], _Worker]) -> Iterator[list[_Worker]]:
    workers = [start(index) for index in range(count)]
    try:
        yield workers
    finally:
        try:
            for worker in workers:
                worker.close()
            idle = [process for worker in workers if worker.task is None for process in worker.tree()]
            end_trees([process for worker in workers if worker.task is not None for process in worker.tree()])
            psutil.wait_procs(idle, timeout=_IDLE_GRACE_S)
        finally:  # also where a second signal ended the waiting
            end_trees([process for worker in workers for process in worker.tree()], grace_s=0.0)
            for worker in workers:
                worker.join()


def _note(outcome: Mapping[str, Any]) -> str:
    if not outcome["succeeded"]:
        return outcome["failures"][0]["message"].splitlines()[0] if outcome["failures"] else "failed"
    made = outcome["materializations"]
    reused = sum(bool(m["reused"]) for m in made)
    what = "already there" if made and reused == len(made) else f"{len(made) - reused} built"
    failed = [f"{c['asset']}:{c['check']}" for c in outcome["checks"] if not c["passed"]]
    warning = f", failed checks: {', '.join(failed)}" if failed else ""
    return f"{outcome.get('wall_time_s', 0.0):.1f} s, {what}{warning}"
