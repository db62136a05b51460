import dataclasses

import pytest

from teachers.nerf.config import NerfConfig
from teachers.nerf.schedule import learning_rate_factor

TWO_PHASES = NerfConfig(num_steps=400, fit_all_frames=True, whole_share=0.25)


def rates(config: NerfConfig) -> list[float]:
    return [learning_rate_factor(step, config) for step in range(config.num_steps)]


def test_each_phase_warms_up_and_comes_to_rest():
    first, second = rates(TWO_PHASES)[:300], rates(TWO_PHASES)[300:]
    assert max(first) == first[20] == 1.0
    assert max(second) == pytest.approx(0.25)
    assert second.index(max(second)) == 10
    for phase in (first, second):
        assert phase[-1] == pytest.approx(0.05, rel=0.02)
        peak = phase.index(max(phase))
        assert phase[: peak + 1] == sorted(phase[: peak + 1])
        assert phase[peak:] == sorted(phase[peak:], reverse=True)


def test_without_a_second_phase_the_first_takes_all_steps():
    one = dataclasses.replace(TWO_PHASES, fit_all_frames=None)
    assert (one.judged_steps, one.whole_steps) == (400, 0)
    assert rates(one)[-1] == pytest.approx(0.05, rel=0.02)
    assert learning_rate_factor(400, one) > 0  # the scheduler asks once more after the last step


@pytest.mark.parametrize(
    "wrong",
    [
        {"whole_share": 1.0},
        {"whole_share": 0.0},
        {"whole_learning_rate_ratio": 0.01},
        {"num_steps": 1, "whole_share": 0.9},
    ],
)
def test_impossible_phases_are_refused(wrong):
    with pytest.raises(ValueError, match=r"want|leaves"):
        dataclasses.replace(TWO_PHASES, **wrong)
