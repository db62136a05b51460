"""The interface of a format for ingest: first everything but images and points, then those, frame by frame.

The first step determines the identity of the scene store, so a scene that is already stored is not decoded again.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from storage.ingest.raw_scene import RawScene
from storage.scenes.schema import SceneFrame

FramePayload = SceneFrame
Sweep = tuple[Float32[np.ndarray, "points 4"], UInt8[np.ndarray, " points"] | None]
"""Points of a frame in the ego frame of its instant: x, y, z (metres) and intensity; then their classes, or None."""


@runtime_checkable
class Recording(Protocol):
    """One scene of a raw data set, opened for ingest."""

    @property
    def raw(self) -> RawScene:
        """Geometry, times and annotations; ``intrinsics`` belong to the images of ``payloads``."""
        ...

    def sources(self) -> Mapping[str, str]:
        """Return the SHA-256 of every raw file, or part of a file, that the scene is made from."""
        ...

    def payloads(self) -> Iterator[FramePayload]:
        """Yield images and points in frame order; raise ``SourceDataError`` if any is broken."""
        ...
