"""Another grid over the same image."""

import numpy as np
from jaxtyping import Shaped


def resize_nearest(
    values: Shaped[np.ndarray, "*shape"], height: int, width: int, *, axis: int = 0
) -> Shaped[np.ndarray, "*resized"]:
    """Return a map on another grid over the same image: each pixel takes what lies at its centre.

    Nothing is blended: depth is never averaged over an edge, a label is never invented, and a NaN never spreads.

    Args:
        values: Rows and columns of pixels on two consecutive axes.
        height: Rows wanted.
        width: Columns wanted.
        axis: The axis of the rows.
    """
    for offset, wanted in enumerate((height, width)):
        index = ((np.arange(wanted) + 0.5) * values.shape[axis + offset] / wanted).astype(np.int64)
        values = values.take(index, axis=axis + offset)
    return values
