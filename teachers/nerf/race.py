"""Two fits of one scene in turns, each with the same processor time, judged on the same rays after every turn.

Imports neither torch nor nerfstudio: who runs is known by what it does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from teachers.nerf.config import NerfConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceTask:
    """One scene to race on.

    Attributes:
        home_root: Home that holds the scene, and its exact depth if it is known.
        scene_key: The scene.
        nerf: Our fit; its images and held-out frames are the reference's too.
        turn_s: Processor time of a turn, seconds.
        reference_rays: Rays per step of the reference. Its own 4096 take tens of seconds a step on a CPU; with fewer it
            takes more steps in the same time.
        judged_pixels: Held-out pixels that colour is judged on, and as many that depth is, evenly drawn.
        max_depth_m: Exact depths beyond it are not judged, and depths of a fit are clipped to it, metres.
    """

    home_root: str
    scene_key: str
    nerf: NerfConfig
    turn_s: float = 10.0
    reference_rays: int = 1024
    judged_pixels: int = 4800
    max_depth_m: float = 80.0


@runtime_checkable
class Runner(Protocol):
    """A fit that is driven step by step."""

    def step(self) -> bool:
        """Take one optimisation step, and return whether there is another one."""
        ...

    def judge(self) -> tuple[float, float | None]:
        """Return PSNR of held-out images, dB, and depth AbsRel against the truth; None where there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A fit at some time of its run.

    Attributes:
        steps: Optimisation steps taken.
        processor_s: Processor time of these steps, seconds.
        wall_s: Wall time of these steps, seconds.
        psnr: PSNR of held-out images, dB.
        abs_rel: Absolute relative error of depth against exact truth; None without a truth.
    """

    steps: int
    processor_s: float
    wall_s: float
    psnr: float
    abs_rel: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Outcome of a race.

    Attributes:
        ours: Our marks, in order.
        reference: The reference's marks, in order.
    """

    ours: tuple[Mark, ...]
    reference: tuple[Mark, ...]

    def best_of_reference(self) -> Mark:
        """Return the reference's mark of highest PSNR, the first of several."""
        return max(self.reference, key=lambda mark: mark.psnr)

    def when_ours_is_as_good(self) -> Mark | None:
        """Return our first mark with that PSNR; None if we never got there."""
        wanted = self.best_of_reference().psnr
        return next((mark for mark in self.ours if mark.psnr >= wanted), None)

    def lead(self) -> float:
        """Return how many times sooner ours has the reference's best PSNR, in processor time; 0 if it never has."""
        reached = self.when_ours_is_as_good()
        return 0.0 if reached is None else self.best_of_reference().processor_s / reached.processor_s

    def depth_share(self) -> float | None:
        """Return our AbsRel over the reference's, both after the time of our whole fit; None without a truth."""
        ours, reference = self.ours[-1].abs_rel, self.reference[-1].abs_rel
        return None if ours is None or reference is None else ours / reference


def race(
    ours: Runner,
    reference: Runner,
    *,
    turn_s: float,
    clock: Callable[[], float] = time.process_time,
    wall: Callable[[], float] = time.perf_counter,
) -> Race:
    """Run until ours has taken its last step; the reference follows, and never has less processor time.

    Judging is outside of both clocks.

    Args:
        ours: Its last step ends the race.
        reference: Driven until it has had as much processor time as ours, after each of our turns.
        turn_s: Processor time of a turn, seconds.
        clock: Processor time, seconds.
        wall: Wall time, seconds.
    """
    lanes = _Lane(ours, clock, wall), _Lane(reference, clock, wall)
    limit = 0.0
    while lanes[0].is_running:
        limit += turn_s
        lanes[0].run_until(limit)
        lanes[1].run_until(max(limit, lanes[0].processor_s) if lanes[0].is_running else lanes[0].processor_s)
    return Race(ours=tuple(lanes[0].marks), reference=tuple(lanes[1].marks))


class _Lane:
    def __init__(self, runner: Runner, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.runner, self.clock, self.wall = runner, clock, wall
        self.steps, self.processor_s, self.wall_s = 0, 0.0, 0.0
        self.is_running = True
        self.marks: list[Mark] = []

    def run_until(self, limit_s: float) -> None:
        before = self.steps
        while self.is_running and self.processor_s < limit_s:
            began, began_wall = self.clock(), self.wall()
            self.is_running = self.runner.step()
            self.processor_s += self.clock() - began
            self.wall_s += self.wall() - began_wall
            self.steps += 1
        if self.steps == before and self.marks:
            return  # the last turn was longer than its share
        psnr, abs_rel = self.runner.judge()
        self.marks.append(
            Mark(steps=self.steps, processor_s=self.processor_s, wall_s=self.wall_s, psnr=psnr, abs_rel=abs_rel)
        )
