"""Instants are microseconds; a column in another unit is named by what it looks like."""

import numpy as np
from jaxtyping import Int64

from storage.errors import ErrorKind, SourceDataError

_UNITS = {"seconds": 1e-6, "milliseconds": 1e-3, "nanoseconds": 1e3}
_EPOCH_US = (5e14, 5e15)  # the years 1985 to 2128, counted from 1970
_STEP_US = (50.0, 1e7)  # from 20 kHz to one in ten seconds
_MAX_STEP_US = 5e7


def check_time_unit(timestamp_us: Int64[np.ndarray, " rows"], key: str, *, min_step_us: float = 1000.0) -> None:
    """Check that instants are plausible as microseconds.

    A recorder may count from 1970 or from its own start. In the first case the number itself tells its unit, in the
    second the steps between rows do.

    Args:
        timestamp_us: Instants of one sensor or trajectory, ascending.
        key: Table and column, for the error.
        min_step_us: Usual step under which they cannot be microseconds: frames come at less than 1 kHz.

    Raises:
        SourceDataError: If they look like another unit, which the message names.
    """
    if len(timestamp_us) < 2:
        return
    first, step = float(timestamp_us[0]), float(np.median(np.diff(timestamp_us)))
    if step < 0:
        return  # their order is checked elsewhere
    # Whole seconds of ten rows a second repeat.
    looks = next((unit for unit, scale in _UNITS.items() if _fits(first / scale, max(step, 1.0) / scale)), None)
    if step == 0 and looks is None:
        return
    if looks is None or _fits(first, step):
        if min_step_us <= step <= _MAX_STEP_US:
            return
        looks = "milliseconds or seconds" if step < min_step_us else "nanoseconds"
    message = f"begins at {int(first)} and goes on by {step:g}: that looks like {looks}, want microseconds"
    raise SourceDataError(ErrorKind.TIME_INVALID, key, message)


def _fits(first_us: float, step_us: float) -> bool:
    """Return whether instants count from 1970, at a rate that a drive has."""
    return _EPOCH_US[0] <= first_us <= _EPOCH_US[1] and _STEP_US[0] <= step_us <= _STEP_US[1]
