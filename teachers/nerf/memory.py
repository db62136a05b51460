"""Fits on one machine share its memory: each reserves what it will still need, and waits while others hold it.

A reservation is a file in a folder of the machine, whose lock its process holds while it lives; a killed process holds
none. What a process has already taken is missing from what the machine has available, so only the rest counts.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import filelock
import psutil

from storage.errors import ErrorKind, OutOfCapacityError
from teachers.nerf.config import NerfConfig

_MIB = 1 << 20
_POLL_S = 5.0

_BYTES_PER_FIELD_SAMPLE = 3000
_BYTES_PER_PROPOSAL_SAMPLE = 300
"""Peak of one step beyond what lives between steps, measured: see docs/experiments.md."""

_OPTIMIZER_COPIES = 3
"""Gradient and Adam's two moments of every parameter."""


def bytes_to_come(nerf: NerfConfig, *, parameter_bytes: int, scene_bytes: int) -> int:
    """Return about how much more memory a fit will take, when its data and parameters are in memory.

    Args:
        nerf: The fit.
        parameter_bytes: Size of the field's parameters.
        scene_bytes: Size of the prepared rays of the first phase.
    """
    rays = nerf.pixel_rays + nerf.lidar_pixel_rays + nerf.lidar_rays
    sampling = nerf.sampling
    per_ray = (
        sampling.num_field_samples * _BYTES_PER_FIELD_SAMPLE
        + sum(proposal.num_samples for proposal in sampling.proposals) * _BYTES_PER_PROPOSAL_SAMPLE
    )
    # Frames held out are read too, and those of the second phase while the first's are still there.
    every = nerf.holdout_every
    more_frames = 1.0 / (every - 1) + (every / (every - 1) if nerf.whole_steps else 0.0)
    return _OPTIMIZER_COPIES * parameter_bytes + rays * per_ray + round(more_frames * scene_bytes)


class Reservation(NamedTuple):
    """Memory that a living process has set aside.

    Attributes:
        scene_key: What it fits.
        bytes_left: What it has not taken yet.
    """

    scene_key: str
    bytes_left: int


@contextmanager
def memory_reserved(
    needed: int,
    scene_key: str,
    *,
    on_wait: Callable[[str], None],
    folder: Path | None = None,
    available: Callable[[], int] | None = None,
    poll_s: float = _POLL_S,
) -> Iterator[None]:
    """Hold a reservation of memory while the body runs, waiting for it as long as other fits hold theirs.

    Args:
        needed: Bytes that this process will still take.
        scene_key: What it fits.
        on_wait: Told, every time it has looked in vain, what it waits for.
        folder: Where the machine's reservations are; by default in its folder for temporary files.
        available: What says how many bytes the machine can give; by default the system.
        poll_s: Seconds between two looks.

    Raises:
        OutOfCapacityError: If it does not fit, and no other fit will give any back.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"distillnerf-memory-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}.json"
    own = filelock.FileLock(path.with_suffix(".alive"))
    while True:
        with filelock.FileLock(folder / "table.lock"):
            others = _others(folder, path)
            free = (available or available_bytes)() - sum(other.bytes_left for other in others)
            if needed <= free:
                own.acquire()
                taken = {"scene_key": scene_key, "needed": needed, "pid": os.getpid(), "rss": _resident(os.getpid())}
                path.write_text(json.dumps(taken))
                break
        said = f"it will need {needed // _MIB} MiB more and {max(0, free) // _MIB} MiB are free"
        if not others:
            message = (
                f"{said}; fit fewer rays at once (nerf.pixel_rays), smaller images or smaller tables "
                "(nerf.field.log2_table_size), or use a larger machine"
            )
            raise OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, scene_key, message)
        on_wait(f"{scene_key} waits: {said}; reserved for {', '.join(other.scene_key for other in others)}")
        time.sleep(poll_s)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        own.release()


def available_bytes() -> int:
    """Return how many bytes this machine, or the container that it looks like, can still give."""
    available = psutil.virtual_memory().available
    limit, current = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and current.is_file() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text) - int(current.read_text()))
    return available


def _others(folder: Path, own: Path) -> list[Reservation]:
    """Return the reservations of other living processes, and forget those of dead ones."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if path == own:
            continue
        alive = filelock.FileLock(path.with_suffix(".alive"))
        try:
            alive.acquire(timeout=0)
        except filelock.Timeout:
            held = json.loads(path.read_text())
            grown = max(0, _resident(held["pid"]) - held["rss"])
            found.append(Reservation(held["scene_key"], max(0, held["needed"] - grown)))
        else:
            path.unlink(missing_ok=True)
            alive.release()
    return found


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.NoSuchProcess:
        return 0
