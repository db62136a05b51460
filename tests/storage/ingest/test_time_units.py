"""Instants in another unit are named by what they look like."""

import numpy as np
import pytest

from storage.errors import SourceDataError
from storage.ingest.time_units import check_time_unit

EPOCH_US = 1_763_000_000_000_000
TENTHS = EPOCH_US + 100_000 * np.arange(40)


@pytest.mark.parametrize(
    ("timestamp", "unit"),
    [
        (TENTHS // 1_000_000, "seconds"),  # whole seconds of ten rows a second repeat
        (TENTHS // 1_000, "milliseconds"),
        (TENTHS * 1_000, "nanoseconds"),
    ],
)
def test_another_unit_is_named(timestamp, unit):
    with pytest.raises(SourceDataError, match=f"that looks like {unit}, want microseconds"):
        check_time_unit(timestamp, "poses")


@pytest.mark.parametrize("timestamp", [TENTHS, TENTHS - EPOCH_US, TENTHS[:1], np.repeat(TENTHS[:1], 3)])
def test_microseconds_pass_and_order_is_the_business_of_others(timestamp):
    check_time_unit(timestamp, "poses")
