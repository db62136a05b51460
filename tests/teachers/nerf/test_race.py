"""Races between fits whose speed is known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarks import run_benchmark
from teachers.nerf.race import Race, race

Clock = Callable[[], float]


class Known:
    """A fit that takes a known time for a step, gains a known PSNR by it, and a long time to be judged."""

    def __init__(self, world: list[float], *, step_s: float, gain: float, num_steps: int) -> None:
        self.world, self.step_s, self.gain, self.num_steps = world, step_s, gain, num_steps
        self.taken = 0

    def step(self) -> bool:
        self.world[0] += self.step_s
        self.taken += 1
        return self.taken < self.num_steps

    def judge(self) -> tuple[float, float]:
        self.world[0] += 1000.0
        return self.gain * self.taken, 1.0 / (1.0 + self.gain * self.taken)


def run(*, ours: dict[str, float], reference: dict[str, float], turn_s: float, steps: int) -> Race:
    world = [0.0]
    clock: Clock = lambda: world[0]  # noqa: E731 - a clock in a line
    lanes = [Known(world, num_steps=n, **known) for n, known in ((steps, ours), (10_000, reference))]
    return race(*lanes, turn_s=turn_s, clock=clock, wall=clock)


def test_ten_times_the_pace_takes_a_tenth_of_the_time() -> None:
    outcome = run(ours={"step_s": 1.0, "gain": 1.0}, reference={"step_s": 1.0, "gain": 0.1}, turn_s=5.0, steps=100)
    assert outcome.ours[-1].processor_s == outcome.reference[-1].processor_s == 100.0  # judging took 1000 s a time
    assert outcome.lead() == 10.0
    assert outcome.depth_share() == pytest.approx((1 / 101) / (1 / 11))


def test_who_never_gets_there_takes_forever() -> None:
    outcome = run(ours={"step_s": 1.0, "gain": 0.1}, reference={"step_s": 1.0, "gain": 1.0}, turn_s=5.0, steps=20)
    assert outcome.when_ours_is_as_good() is None
    assert outcome.lead() == 0.0


@settings(deadline=None, max_examples=40)
@given(own_s=st.floats(0.1, 3.0), other_s=st.floats(0.1, 30.0), turn_s=st.floats(0.5, 20.0), steps=st.integers(1, 40))
def test_the_reference_never_has_less_time(own_s: float, other_s: float, turn_s: float, steps: int) -> None:
    outcome = run(
        ours={"step_s": own_s, "gain": 1.0}, reference={"step_s": other_s, "gain": 1.0}, turn_s=turn_s, steps=steps
    )
    assert outcome.ours[-1].steps == steps
    assert outcome.ours[-1].processor_s == pytest.approx(steps * own_s)
    assert outcome.reference[-1].processor_s >= outcome.ours[-1].processor_s - 1e-6
    whole_turns = turn_s * math.ceil(steps * own_s / turn_s)
    assert outcome.reference[-1].processor_s <= max(steps * own_s, whole_turns) + other_s + 1e-6


@pytest.mark.nightly
def test_a_quick_race_runs(nerfstudio_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLNERF_NERFSTUDIO_PYTHON", str(nerfstudio_python))
    record = run_benchmark("teacher", quick=True)
    details: dict[str, Any] = record["details"]
    (key,) = {name.rpartition(".")[0] for name in details if name.endswith(".steps")}
    assert details[f"{key}.steps"] == 4
    assert details[f"{key}.reference_processor_s"] >= details[f"{key}.processor_s"] > 0
    assert details[f"{key}.abs_rel"] > 0
    assert details[f"{key}.reference_best_psnr"] > 0
