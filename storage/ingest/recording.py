"""What ingest asks of a format: everything about a scene but its images and points first, then those, frame by frame.

Two steps, because the identity of a scene store is known from the first: what is already there is not decoded again.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from storage.ingest.raw_scene import RawScene
from storage.scenes.schema import SceneFrame

FramePayload = SceneFrame
Sweep = tuple[Float32[np.ndarray, "points 4"], UInt8[np.ndarray, " points"] | None]
"""Points of a frame, in the ego frame of its instant, and their classes where they have any."""


@runtime_checkable
class Recording(Protocol):
    """One scene of a raw data set, opened for ingest."""

    @property
    def raw(self) -> RawScene:
        """Geometry, times and annotations; ``intrinsics`` are those of the images in ``payloads``."""
        ...

    def sources(self) -> Mapping[str, str]:
        """Return the SHA-256 of every raw file, or part of one, that the scene is made from."""
        ...

    def payloads(self) -> Iterator[FramePayload]:
        """Yield images and points in frame order; raises ``SourceDataError`` on whatever is broken."""
        ...
