"""Choose some of many, evenly."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def evenly_spaced(items: Sequence[Item], wanted: int) -> tuple[Item, ...]:
    """Return at most ``wanted`` of the items, evenly spaced and with both ends."""
    if wanted >= len(items):
        return tuple(items)
    return tuple(items[int(i)] for i in np.linspace(0, len(items) - 1, wanted).round())
