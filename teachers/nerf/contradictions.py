"""Where a rendered depth contradicts what the LiDAR measured.

A field knows little of what moves: in a frame that it was not fitted to, a car that passes is missing from it, and what
stands behind shows through. No label is needed to notice: a beam ended elsewhere. Such depth is no target.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import distance_transform_edt


def contradicts(
    rendered: Float[np.ndarray, " pixels"], measured: Float[np.ndarray, " pixels"], *, ratio: float
) -> Bool[np.ndarray, " pixels"]:
    """Return where one depth is more than ``ratio`` times the other; False where one is undefined (NaN)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(rendered / measured, measured / rendered) > ratio


def untrusted_pixels(
    depth: Float[np.ndarray, "height width"],
    pixel: Int64[np.ndarray, " returns"],
    measured: Float[np.ndarray, " returns"],
    *,
    ratio: float,
    reach: float,
) -> Bool[np.ndarray, "height width"]:
    """Return the pixels whose nearest LiDAR return within ``reach`` contradicts the depth rendered where it falls.

    Args:
        depth: Rendered termination depth, metres; NaN where undefined.
        pixel: Where returns fall, row-major.
        measured: Their termination depth, metres.
        ratio: Depths further apart than this factor contradict each other.
        reach: How far a return speaks for its surroundings, pixels.
    """
    untrusted = np.zeros(depth.shape, bool)
    if len(pixel) == 0:
        return untrusted
    is_contradicted = np.zeros(depth.size, bool)
    is_contradicted[pixel] = contradicts(depth.reshape(-1)[pixel].astype(np.float64), measured, ratio=ratio)
    has_return = np.zeros(depth.size, bool)
    has_return[pixel] = True
    found = distance_transform_edt(~has_return.reshape(depth.shape), return_indices=True)
    assert isinstance(found, tuple)
    distance, nearest = found
    return (distance <= reach) & is_contradicted.reshape(depth.shape)[tuple(nearest)]
