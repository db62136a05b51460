"""How fast a field learns at each step of its two phases."""

from teachers.nerf.config import NerfConfig

_WARM_UP_STEPS = 20
_WARM_UP_FROM = 0.1


def learning_rate_factor(step: int, config: NerfConfig) -> float:
    """Return the learning rate of a step over ``config.learning_rate``.

    Each phase warms up linearly, then decays exponentially to ``final_learning_rate_ratio``: the field that is judged
    is one that has come to rest. With all frames the rate starts again at ``whole_learning_rate_ratio``.

    Args:
        step: Steps done before, from 0; beyond the last step the rate stays.
        config: The fit.
    """
    if step < config.judged_steps:
        first, done, steps = 1.0, step, config.judged_steps
    else:
        first, done, steps = config.whole_learning_rate_ratio, step - config.judged_steps, config.whole_steps
    last = config.final_learning_rate_ratio
    warm_up = min(_WARM_UP_STEPS, steps // 10)
    if done < warm_up:
        lowest = _WARM_UP_FROM * first
        return lowest + (first - lowest) * done / warm_up
    fraction = min(1.0, (done - warm_up) / max(1, steps - warm_up))
    return first * (last / first) ** fraction
