"""Time two programs so that whatever else the machine does hits both alike."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecord:
    """What a benchmark says.

    Attributes:
        name: Of the benchmark.
        ratio: How many times better ours is: above 1 is better whatever the unit.
        ours: Median of our runs, in ``unit``.
        reference: Median of the reference's runs, in ``unit``.
        unit: "s" (less is better) or a rate such as "GFLOP/s".
        runs: Runs of each.
        details: Sizes and parts.
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


def time_interleaved(ours: Callable[[], object], reference: Callable[[], object], *, runs: int) -> tuple[float, float]:
    """Return the median seconds of each program, run in turns after one unmeasured turn.

    Raises:
        ValueError: If ``runs`` is less than 5: a median of fewer says little on a shared machine.
    """
    if runs < 5:
        raise ValueError(f"runs must be at least 5, got {runs}")
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        for program, own in zip((ours, reference), times, strict=True):
            begin = time.perf_counter()
            program()
            if turn > 0:
                own.append(time.perf_counter() - begin)
    return median(times[0]), median(times[1])
