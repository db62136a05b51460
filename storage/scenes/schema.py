"""The content of an ingested scene, the same for every format of recording.

Frames are the reference instants (LiDAR sweeps at keyframe rate). Each image keeps the ego pose of its own exposure.
The world frame is the first reference ego pose: origin there, z up.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

SCENE_SCHEMA = "distillnerf.scene/2"
PINHOLE_SCENE_SCHEMA = "distillnerf.scene/1"
"""The schema before fisheye cameras: its stores lack ``fisheye``, and every camera is a pinhole."""

UNLABELLED = 255
"""Label of a LiDAR point without an annotated class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneBoxes:
    """Annotated boxes of a scene, one row per box and frame; empty arrays where the source has none.

    Attributes:
        frame_index: Frame of the box.
        centre: Centre in the world frame, metres.
        size: Length (x), width (y), height (z), metres.
        quat_wxyz: Box-to-world rotation.
        category: Category name of the source.
        instance: Identity of the object through time.
        num_lidar_points: LiDAR returns inside; -1 where unknown, as everywhere if it is left out.
        attributes: Attributes that the source gives each box, such as ``vehicle.parked``; None where the source gives
            none.
    """

    frame_index: Int64[np.ndarray, " boxes"]
    centre: Float[np.ndarray, "boxes 3"]
    size: Float[np.ndarray, "boxes 3"]
    quat_wxyz: Float[np.ndarray, "boxes 4"]
    category: tuple[str, ...]
    instance: tuple[str, ...]
    num_lidar_points: Int64[np.ndarray, " counted"] = field(default_factory=lambda: np.zeros(0, np.int64))
    attributes: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.num_lidar_points):
            object.__setattr__(self, "num_lidar_points", np.full(len(self.frame_index), -1, np.int64))

    @classmethod
    def none(cls) -> "SceneBoxes":
        """Return the boxes of a scene that has no annotations."""
        empty = np.zeros(0, np.int64)
        return cls(
            frame_index=empty,
            centre=np.zeros((0, 3)),
            size=np.zeros((0, 3)),
            quat_wxyz=np.zeros((0, 4)),
            category=(),
            instance=(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFrame:
    """Images and points of one frame.

    Attributes:
        jpegs: One encoded image for each camera, checked to decode.
        points: x, y, z in the ego frame of the reference instant (metres), and intensity.
        labels: Class of each point in the source's own numbering (``scene_attributes.lidarseg_categories``), 255 for an
            unlabelled point; None for an unlabelled frame.
        panoptics: One 16-bit PNG for each camera, of its image's size: class (``scene_attributes.panoptic_categories``)
            times ``scene_attributes.panoptic_divisor``, plus the number of the object in that image. Empty bytes for an
            unlabelled image; None for an unlabelled frame.
    """

    jpegs: tuple[bytes, ...]
    points: Float32[np.ndarray, "points 4"]
    labels: UInt8[np.ndarray, " points"] | None = None
    panoptics: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneData:
    """Everything that ``write_scene`` stores; images and points may also be given to it frame by frame.

    Attributes:
        camera_names: Camera names in the order of every camera axis below.
        image_sizes: Height and width of each camera's images, pixels.
        intrinsics: Intrinsics of the images as stored, pixels.
        fisheye: Coefficients k1 to k4 of each fisheye lens, NaN for a pinhole; None if all are pinholes.
        is_valid: Pixels of each camera that show the world, rather than the vehicle itself or a lens shade; None where
            all do.
        camera_to_ego: Camera poses, fixed on the vehicle.
        timestamp_us: Reference instant of each frame, strictly increasing.
        ego_to_world: Ego pose at the reference instant.
        camera_timestamp_us: Instant of each exposure.
        camera_ego_to_world: Ego pose at each exposure.
        jpegs: Encoded images ``jpegs[frame][camera]``, verbatim.
        lidar_points: Points of each frame, ``points 4``: x, y, z in the ego frame of the reference instant (metres),
            intensity.
        lidar_to_ego: LiDAR pose, fixed on the vehicle.
        boxes: Annotations.
        attributes: JSON values worth keeping: location, description, world origin, missing optional tables.
    """

    camera_names: tuple[str, ...]
    image_sizes: tuple[tuple[int, int], ...]
    intrinsics: Float[np.ndarray, "cameras 3 3"]
    camera_to_ego: Float[np.ndarray, "cameras 4 4"]
    timestamp_us: Int64[np.ndarray, " frames"]
    ego_to_world: Float[np.ndarray, "frames 4 4"]
    camera_timestamp_us: Int64[np.ndarray, "frames cameras"]
    camera_ego_to_world: Float[np.ndarray, "frames cameras 4 4"]
    jpegs: tuple[tuple[bytes, ...], ...] = ()
    lidar_points: tuple[Float[np.ndarray, "_ 4"], ...] = ()
    lidar_to_ego: Float[np.ndarray, "4 4"]
    fisheye: Float[np.ndarray, "cameras 4"] | None = None
    is_valid: tuple[Bool[np.ndarray, "_ _"] | None, ...] | None = None
    boxes: SceneBoxes = field(default_factory=SceneBoxes.none)
    attributes: dict[str, object] = field(default_factory=dict)
