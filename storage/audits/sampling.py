"""What audits of scenes and of targets share: which frames are looked at, and how far a pose is from rigid."""

import numpy as np
from jaxtyping import Float

MAX_FRAMES = 8
"""An audit of a long scene looks at this many frames, evenly spaced."""


def spread(count: int, most: int = MAX_FRAMES) -> list[int]:
    """Return indices below a count at even distances, first and last among them, ``most`` of them at most."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))})


def rotation_error(transform: Float[np.ndarray, "4 4"]) -> float:
    """Return how far the rotation of a pose is from orthonormal and right-handed."""
    rotation = transform[:3, :3]
    return float(np.abs(rotation @ rotation.T - np.eye(3)).max() + abs(np.linalg.det(rotation) - 1.0))
