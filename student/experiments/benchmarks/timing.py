"""Time two programs so that whatever else the machine does hits both alike."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecord:
    """Result of a benchmark.

    Attributes:
        name: Name of the benchmark.
        ratio: Factor by which ours is better; above 1 ours is better, whatever the unit.
        ours: Median of our runs, in ``unit``.
        reference: Median of the reference's runs, in ``unit``.
        unit: "s" (less is better) or a rate such as "GFLOP/s".
        runs: Number of runs of each.
        details: Sizes, and times of the parts.
    """

    name: str
    ratio: float
    ours: float
    reference: float
    unit: str
    runs: int
    details: dict[str, float | int | str]

    def to_json(self) -> dict[str, Any]:
        """Return the record as a mapping."""
        return asdict(self)


def device_name(device: str) -> str:
    """Return the name of a device for a record: the card, or the kind of processor."""
    return torch.cuda.get_device_name() if device == "cuda" else platform.machine()


def seconds(
    program: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the seconds that a program takes by a clock, including an accelerator's queue."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = clock()
    program()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def time_interleaved(
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    runs: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Return the median seconds of each program, run in turns after one unmeasured turn.

    Args:
        ours: Our program.
        reference: The program to compare with.
        runs: Number of measured turns.
        device: Device of both programs.
        clock: ``time.process_time`` counts the processor time of all threads, which other programs hardly change.

    Raises:
        ValueError: If ``runs`` is less than 5: a median of fewer says little on a shared machine.
    """
    if runs < 5:
        raise ValueError(f"runs must be at least 5, got {runs}")
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        for program, own in zip((ours, reference), times, strict=True):
            taken = seconds(program, device, clock)
            if turn > 0:
                own.append(taken)
    return median(times[0]), median(times[1])
