"""What a recording says about its own classes and sky: labels of its LiDAR points, its boxes, its panoptic labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Bool, Float, UInt8

from storage.geometry.resize import resize_nearest
from storage.references.point_classes import NameSource, occ3d_class
from storage.references.sweeps import NamedReturns, names_of
from storage.scenes.lidar import returns_in_image, seen_returns
from storage.scenes.store import SceneReader
from storage.taxonomy import NUM_OCC3D_CLASSES, OCC3D_UNKNOWN

_SKY_CLASS = "TYPE_SKY"
_UNDEFINED_CLASS = "TYPE_UNDEFINED"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPoints:
    """LiDAR returns of one frame whose class is known.

    Attributes:
        points: Positions in the ego frame of the frame's instant, metres.
        labels: Occ3D class; 254 for another class than those that are named.
        is_seen: Whether some camera sees the point: it lies in an image, and no nearer return hides it there.
    """

    points: Float[np.ndarray, "points 3"]
    labels: UInt8[np.ndarray, " points"]
    is_seen: Bool[np.ndarray, " points"]


class RecordedTruth:
    """Truth that a recording brings with it, partial but real.

    The sweep that was read last is kept: ``sweep(frame)`` returns it as :meth:`SceneReader.lidar_points` does.

    Args:
        reader: The scene.
        height: Rows of the grid on which pixels are named.
        width: Columns of it.
    """

    def __init__(self, reader: SceneReader, *, height: int, width: int) -> None:
        self.reader, self.size = reader, (height, width)
        self.source: NameSource = names_of(reader)[0]
        self.sweep = lru_cache(maxsize=1)(reader.lidar_points)
        self._returns = lru_cache(maxsize=None)(partial(NamedReturns, reader))
        self._is_seen = lru_cache(maxsize=1)(self._look)
        categories = reader.attributes.get("panoptic_categories")
        named = categories if isinstance(categories, Mapping) else {}
        self._sky = [int(number) for number, name in named.items() if name == _SKY_CLASS]
        self._undefined = [int(number) for number, name in named.items() if name == _UNDEFINED_CLASS]

    def _labels(self, frame: int, class_of: Callable[[str], int]) -> UInt8[np.ndarray, " points"] | None:
        return self._returns(class_of).labels(frame, self.sweep(frame)[:, :3].astype(np.float64))

    def points(self, frame: int, class_of: Callable[[str], int] = occ3d_class) -> NamedPoints | None:
        """Return the named returns of a frame; None if it has none.

        Args:
            frame: Frame index.
            class_of: Returns the class of a category's name; see :class:`storage.references.sweeps.NamedReturns`.
        """
        labels = self._labels(frame, class_of)
        if labels is None:
            return None
        known = labels != OCC3D_UNKNOWN
        points = self.sweep(frame)[known, :3].astype(np.float64)
        return NamedPoints(points=points, labels=labels[known], is_seen=self._is_seen(frame)[known])

    def _look(self, frame: int) -> Bool[np.ndarray, " points"]:
        """Return which returns of a frame some camera sees."""
        points = self.sweep(frame)[:, :3].astype(np.float64)
        is_seen = np.zeros(len(points), bool)
        for camera in range(self.reader.num_cameras):
            is_seen[seen_returns(self.reader, frame, camera, points)[0].index] = True
        return is_seen

    def pixel_labels(
        self, frame: int, class_of: Callable[[str], int] = occ3d_class, sky_class: int = NUM_OCC3D_CLASSES
    ) -> UInt8[np.ndarray, "cameras height width"] | None:
        """Return the class of the nearest return in each pixel; 255 where nothing is known.

        It is None for a frame without a named return.

        Args:
            frame: Frame index.
            class_of: Returns the class of a category's name; see :class:`storage.references.sweeps.NamedReturns`.
            sky_class: Class of the sky.
        """
        labels = self._labels(frame, class_of)
        if labels is None:
            return None
        cameras = range(self.reader.num_cameras)
        found = np.full((len(cameras), *self.size), OCC3D_UNKNOWN, np.uint8)
        sky = self.sky(frame)
        if sky is not None:
            found[sky[0]] = sky_class
        points = self.sweep(frame)
        for camera in cameras:
            shown = returns_in_image(self.reader, frame, camera, points, size=self.size).farthest_first()
            found[camera, shown.row, shown.column] = labels[shown.index]
        return found

    def sky(
        self, frame: int
    ) -> tuple[Bool[np.ndarray, "cameras height width"], Bool[np.ndarray, "cameras height width"]] | None:
        """Return where the panoptic labels say sky, and where they say anything; None for a frame without labels."""
        cameras = range(self.reader.num_cameras)
        is_sky, is_known = (np.zeros((len(cameras), *self.size), bool) for _ in range(2))
        for camera in cameras if self._sky else ():
            panoptic = self.reader.panoptic(frame, camera)
            if panoptic is not None:
                classes = resize_nearest(panoptic[0], *self.size)
                is_sky[camera] = np.isin(classes, self._sky)
                is_known[camera] = ~np.isin(classes, self._undefined)
        return (is_sky, is_known) if is_known.any() else None
