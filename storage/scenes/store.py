"""Write and read scene stores.

Images stay the verbatim JPEG bytes of the recording, so every image can be traced to its file.
"""

import copy
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float, UInt8, UInt16
from PIL import Image

from storage.errors import ErrorKind, IntegrityError
from storage.geometry.cameras import scale_intrinsics
from storage.geometry.transforms import invert_se3, quat_wxyz_to_rotation, rotation_to_quat_wxyz
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.scenes.growing_array import GrowingArray
from storage.scenes.schema import PINHOLE_SCENE_SCHEMA, SCENE_SCHEMA, UNLABELLED, SceneBoxes, SceneData, SceneFrame
from storage.stores.codecs import COMPRESSED
from storage.stores.integrity import reading
from storage.stores.versioned import Home, StoreVersion

_BYTES_PER_CHUNK = 1 << 18
_POINTS_PER_CHUNK = 1 << 16
_SMALL_ARRAYS = (
    "intrinsics",
    "camera_to_ego",
    "timestamp_us",
    "ego_to_world",
    "camera_timestamp_us",
    "camera_ego_to_world",
    "lidar_to_ego",
)
_BOX_ARRAYS = ("frame_index", "centre", "size", "quat_wxyz", "num_lidar_points")


def write_scene(group: zarr.Group, scene: SceneData, frames: Iterable[SceneFrame] | None = None) -> None:
    """Write a scene into an empty group.

    Args:
        group: Empty group to fill.
        scene: Geometry, times and annotations.
        frames: Images and points in frame order, taken one by one so that memory holds one frame; by default those in
            ``scene``.

    Raises:
        ValueError: If the number of frames is not that of the instants.
    """
    attributes: dict[str, Any] = {
        "schema": SCENE_SCHEMA,
        "camera_names": list(scene.camera_names),
        "image_sizes": [list(size) for size in scene.image_sizes],
        "box_categories": list(scene.boxes.category),
        "box_instances": list(scene.boxes.instance),
        "box_attributes": scene.boxes.attributes and [list(names) for names in scene.boxes.attributes],
        "scene_attributes": scene.attributes,
    }
    group.attrs.update(attributes)
    for name in _SMALL_ARRAYS:
        group.create_array(name, data=np.ascontiguousarray(getattr(scene, name)), compressors=COMPRESSED)
    pinholes = np.full((len(scene.camera_names), 4), np.nan)
    group.create_array(
        "fisheye",
        data=pinholes if scene.fisheye is None else np.ascontiguousarray(scene.fisheye),
        compressors=COMPRESSED,
    )
    for name in _BOX_ARRAYS:
        array = GrowingArray(group, f"boxes/{name}", rows_per_chunk=_POINTS_PER_CHUNK)
        array.append(getattr(scene.boxes, name))
        array.close()
    for camera, is_valid in zip(scene.camera_names, scene.is_valid or (), strict=bool(scene.is_valid)):
        if is_valid is not None:
            group.create_array(f"is_valid/{camera}", data=np.ascontiguousarray(is_valid), compressors=COMPRESSED)
    _write_frames(group, scene, _frames_of(scene) if frames is None else frames)


def _frames_of(scene: SceneData) -> Iterator[SceneFrame]:
    for jpegs, points in zip(scene.jpegs, scene.lidar_points, strict=True):
        yield SceneFrame(jpegs=jpegs, points=np.asarray(points, np.float32))


def _write_frames(group: zarr.Group, scene: SceneData, frames: Iterable[SceneFrame]) -> None:
    images = [
        GrowingArray(group, f"images/{camera}/bytes", rows_per_chunk=_BYTES_PER_CHUNK, compress=False)
        for camera in scene.camera_names
    ]
    image_ends: list[list[int]] = [[0] for _ in images]
    points = GrowingArray(group, "lidar/points", rows_per_chunk=_POINTS_PER_CHUNK)
    panoptics = [
        GrowingArray(group, f"panoptic/{c}/bytes", rows_per_chunk=_BYTES_PER_CHUNK, compress=False)
        for c in scene.camera_names
    ]
    panoptic_ends: list[list[int]] = [[0] for _ in panoptics]
    labels: GrowingArray | None = None
    point_ends = [0]
    for frame in frames:
        for array, ends, data in zip(images, image_ends, frame.jpegs, strict=True):
            array.append(np.frombuffer(data, np.uint8))
            ends.append(array.num_rows)
        for array, ends, data in zip(panoptics, panoptic_ends, frame.panoptics or (b"",) * len(images), strict=True):
            array.append(np.frombuffer(data, np.uint8))
            ends.append(array.num_rows)
        if labels is None and frame.labels is not None:
            labels = GrowingArray(group, "lidar/labels", rows_per_chunk=_POINTS_PER_CHUNK)
            labels.append(np.full(points.num_rows, UNLABELLED, np.uint8))
        if labels is not None:
            unlabelled = np.full(len(frame.points), UNLABELLED, np.uint8)
            labels.append(unlabelled if frame.labels is None else frame.labels)
        points.append(frame.points)
        point_ends.append(points.num_rows)
    if len(point_ends) - 1 != len(scene.timestamp_us):
        raise ValueError(f"{len(point_ends) - 1} frames came, want {len(scene.timestamp_us)}")
    for array, ends, camera in zip(images, image_ends, scene.camera_names, strict=True):
        array.close()
        group.create_array(f"images/{camera}/offsets", data=np.array(ends, np.int64), compressors=COMPRESSED)
    points.close()
    group.create_array("lidar/offsets", data=np.array(point_ends, np.int64), compressors=COMPRESSED)
    if labels is not None:
        labels.close()
    if any(array.num_rows for array in panoptics):
        for array, ends, camera in zip(panoptics, panoptic_ends, scene.camera_names, strict=True):
            array.close()
            group.create_array(f"panoptic/{camera}/offsets", data=np.array(ends, np.int64), compressors=COMPRESSED)


class SceneReader:
    """Reads one version of a scene: small arrays at once, images and points on request."""

    def __init__(self, group: zarr.Group, version: StoreVersion | None = None) -> None:
        attributes: dict[str, Any] = group.attrs.asdict()
        schema = attributes.get("schema")
        if schema not in (SCENE_SCHEMA, PINHOLE_SCENE_SCHEMA):
            message = f"schema {schema!r}, want {SCENE_SCHEMA!r} or {PINHOLE_SCENE_SCHEMA!r}"
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(version or group.name), message)
        self.group = group
        self._opened: dict[str, zarr.Array] = {}
        self._box_names = (tuple(attributes["box_categories"]), tuple(attributes["box_instances"]))
        names = attributes.get("box_attributes")
        self._box_attributes = names and tuple(tuple(of_box) for of_box in names)
        self.version = version
        self.camera_names: tuple[str, ...] = tuple(attributes["camera_names"])
        self.attributes: dict[str, object] = dict(attributes["scene_attributes"])
        self._sizes = [(int(h), int(w)) for h, w in attributes["image_sizes"]]
        self._arrays = {name: self._read(name) for name in _SMALL_ARRAYS}
        only_pinholes = schema == PINHOLE_SCENE_SCHEMA
        self._fisheye = np.full((len(self.camera_names), 4), np.nan) if only_pinholes else self._read("fisheye")
        self._corrections: Float[np.ndarray, "frames 4 4"] | None = None
        self._lidar_offsets = self._read("lidar/offsets")
        self._image_offsets = [self._read(f"images/{camera}/offsets") for camera in self.camera_names]

    def _read(self, name: str, selection: slice | None = None) -> np.ndarray:
        key = f"{self.version or Kind.SCENE}/{name}"
        with reading(key):
            if name not in self._opened:
                array = self.group.get(name)
                if not isinstance(array, zarr.Array):
                    raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"is {array}, want an array")
                self._opened[name] = array
            return np.asarray(self._opened[name][... if selection is None else selection])

    @classmethod
    def open(cls, home: Home, scene_key: SceneKey | str, digest: str | None = None) -> "SceneReader":
        """Open the current version of a scene, or the one with this digest."""
        version = home.require(Kind.SCENE, str(scene_key), digest)
        return cls(home.open_arrays(version), version)

    @property
    def num_frames(self) -> int:
        """Return the number of reference instants."""
        return len(self._arrays["timestamp_us"])

    @property
    def num_cameras(self) -> int:
        """Return the number of cameras."""
        return len(self.camera_names)

    def image_size(self, camera_index: int) -> tuple[int, int]:
        """Return height and width of a camera's images, pixels."""
        return self._sizes[camera_index]

    def image_bytes(self, frame_index: int, camera_index: int) -> bytes:
        """Return the encoded image, verbatim."""
        start, stop = self._image_offsets[camera_index][frame_index : frame_index + 2]
        data = self._read(f"images/{self.camera_names[camera_index]}/bytes", slice(int(start), int(stop)))
        return data.tobytes()

    def image(self, frame_index: int, camera_index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return the decoded image, RGB."""
        with self._decoding(frame_index, camera_index) as image:
            return np.asarray(image.convert("RGB"))

    def resized_image(
        self, frame_index: int, camera_index: int, *, height: int, width: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Return the image resized with an antialiasing (area-supported) filter, RGB."""
        with self._decoding(frame_index, camera_index) as image:
            # Decode at a reduced scale that still oversamples twice. Its last row and column may reach past the edge
            # of the image, so only the box that the image really fills is resized.
            drafted = image.draft("RGB", (2 * width, 2 * height))
            box = None if drafted is None else drafted[1]
            decoded = image.convert("RGB")
        return np.asarray(decoded.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=3.0))

    @contextmanager
    def _decoding(self, frame_index: int, camera_index: int) -> Iterator[Image.Image]:
        with (
            reading(f"{self.version or Kind.SCENE}/images/{self.camera_names[camera_index]}[{frame_index}]"),
            Image.open(io.BytesIO(self.image_bytes(frame_index, camera_index))) as image,
        ):
            yield image

    def intrinsics(self, camera_index: int, *, size: tuple[int, int] | None = None) -> Float[np.ndarray, "3 3"]:
        """Return the intrinsics of the stored image, or of the same image resized to ``size`` (height, width)."""
        stored = self._arrays["intrinsics"][camera_index]
        return stored if size is None else scale_intrinsics(stored, from_size=self._sizes[camera_index], to_size=size)

    def fisheye(self, camera_index: int) -> Float[np.ndarray, "4"]:
        """Return k1 to k4 of a fisheye lens, NaN for a pinhole; they hold for every size of the image."""
        return self._fisheye[camera_index]

    def is_valid(self, camera_index: int, *, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "height width"]:
        """Return a mask of the pixels that show the world, not the vehicle; all True if the recording has no mask.

        For another ``size`` (height, width) than the stored image's, a pixel is valid if all pixels that it covers are.
        """
        stored_size, name = self._sizes[camera_index], f"is_valid/{self.camera_names[camera_index]}"
        size = size or stored_size
        if name not in self.group:
            return np.ones(size, bool)
        is_valid = self._read(name)
        if size == stored_size:
            return is_valid
        return shrink_valid(is_valid, size)

    def camera_to_ego(self, camera_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the camera's pose on the vehicle."""
        return self._arrays["camera_to_ego"][camera_index]

    def ego_to_world(self, frame_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the ego pose at the frame's reference instant."""
        return self._arrays["ego_to_world"][frame_index]

    def camera_ego_to_world(self, frame_index: int, camera_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the ego pose at the instant of that camera's own exposure."""
        return self._arrays["camera_ego_to_world"][frame_index, camera_index]

    def camera_to_world(self, frame_index: int, camera_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the camera's pose in the world frame at its own exposure."""
        return self.camera_ego_to_world(frame_index, camera_index) @ self.camera_to_ego(camera_index)

    def with_cameras_at(self, camera_to_world: Float[np.ndarray, "frames cameras 4 4"]) -> "SceneReader":
        """Return this scene with other poses of its cameras; mountings stay, so ego poses at exposures differ."""
        other = copy.copy(self)
        ego_to_camera = invert_se3(self._arrays["camera_to_ego"])
        other._arrays = {**self._arrays, "camera_ego_to_world": camera_to_world @ ego_to_camera}
        return other

    def camera_to_reference_ego(
        self, frame_index: int, camera_index: int, *, reference_frame_index: int | None = None
    ) -> Float[np.ndarray, "4 4"]:
        """Return the camera's pose at its own exposure, in the ego frame of a reference instant.

        Args:
            frame_index: Frame of the image.
            camera_index: Camera of the image.
            reference_frame_index: Frame whose ego pose is the origin; the image's own frame by default.
        """
        reference = frame_index if reference_frame_index is None else reference_frame_index
        return invert_se3(self.ego_to_world(reference)) @ self.camera_to_world(frame_index, camera_index)

    def timestamp_us(self, frame_index: int) -> int:
        """Return the frame's reference instant, microseconds."""
        return int(self._arrays["timestamp_us"][frame_index])

    def frame_seconds(self) -> tuple[float, ...]:
        """Return the time of each frame since the first, seconds."""
        timestamps = np.array([self.timestamp_us(frame) for frame in range(self.num_frames)])
        return tuple(((timestamps - timestamps[0]) / 1e6).tolist())

    def camera_timestamp_us(self, frame_index: int, camera_index: int) -> int:
        """Return the instant of an exposure, microseconds."""
        return int(self._arrays["camera_timestamp_us"][frame_index, camera_index])

    def moved(self, corrections: Float[np.ndarray, "frames 4 4"]) -> "SceneReader":
        """Return this scene with every frame's poses multiplied by a correction from the left, boxes included.

        Mountings stay, so what a frame shows of itself does too.
        """
        other = copy.copy(self)
        other._corrections = corrections if self._corrections is None else corrections @ self._corrections
        other._arrays = {
            **self._arrays,
            "ego_to_world": corrections @ self._arrays["ego_to_world"],
            "camera_ego_to_world": corrections[:, None] @ self._arrays["camera_ego_to_world"],
        }
        return other

    def lidar_points(self, frame_index: int) -> Float[np.ndarray, "points 4"]:
        """Return x, y, z in the ego frame of the reference instant (metres) and intensity, float32."""
        return self.lidar_points_of(range(frame_index, frame_index + 1))[0]

    def num_lidar_points(self, frame_index: int) -> int:
        """Return the number of points of a frame."""
        return int(self._lidar_offsets[frame_index + 1] - self._lidar_offsets[frame_index])

    def lidar_points_of(self, frames: range) -> list[Float[np.ndarray, "points 4"]]:
        """Return the points of consecutive frames, as :meth:`lidar_points` does; shared chunks are read once."""
        offsets = self._lidar_offsets[frames.start : frames.stop + 1]
        points = self._read("lidar/points", slice(int(offsets[0]), int(offsets[-1])))
        return np.split(points, offsets[1:-1] - offsets[0])

    def lidar_labels(self, frame_index: int) -> UInt8[np.ndarray, " points"] | None:
        """Return the class of each point of ``lidar_points`` in the source's numbering, 255 for an unlabelled point.

        It is None for a recording without labelled points.
        """
        if "lidar/labels" not in self.group:
            return None
        start, stop = self._lidar_offsets[frame_index : frame_index + 2]
        return self._read("lidar/labels", slice(int(start), int(stop)))

    def panoptic(
        self, frame_index: int, camera_index: int
    ) -> tuple[UInt16[np.ndarray, "height width"], UInt16[np.ndarray, "height width"]] | None:
        """Return each pixel's class in the source's numbering, and the number of its object in this image.

        The object is 0 for classes that are not counted. The result is None for an unlabelled image.
        """
        name = f"panoptic/{self.camera_names[camera_index]}"
        if name not in self.group:
            return None
        start, stop = self._read(f"{name}/offsets", slice(frame_index, frame_index + 2))
        if start == stop:
            return None
        data = self._read(f"{name}/bytes", slice(int(start), int(stop))).tobytes()
        with (
            reading(f"{self.version or Kind.SCENE}/{name}[{frame_index}]"),
            Image.open(io.BytesIO(data), formats=("PNG",)) as image,
        ):
            labels = np.asarray(image).astype(np.uint16)
        divisor = self.attributes.get("panoptic_divisor")
        if not isinstance(divisor, int):
            message = f"panoptic_divisor is {divisor!r}, want a whole number"
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(self.version or Kind.SCENE), message)
        return np.divmod(labels, np.uint16(divisor))

    @property
    def lidar_to_ego(self) -> Float[np.ndarray, "4 4"]:
        """Return the LiDAR's pose on the vehicle."""
        return self._arrays["lidar_to_ego"]

    def boxes(self) -> SceneBoxes:
        """Return the annotated boxes, for evaluation and masks of moving objects; empty where the source has none."""
        arrays = {name: self._read(f"boxes/{name}") for name in _BOX_ARRAYS}
        if self._corrections is not None:
            by = self._corrections[arrays["frame_index"]]
            arrays["centre"] = (by[:, :3, :3] @ arrays["centre"][:, :, None])[..., 0] + by[:, :3, 3]
            turned = by[:, :3, :3] @ np.asarray(quat_wxyz_to_rotation(arrays["quat_wxyz"]))
            arrays["quat_wxyz"] = np.asarray(rotation_to_quat_wxyz(turned))
        categories, instances = self._box_names
        return SceneBoxes(category=categories, instance=instances, attributes=self._box_attributes, **arrays)


def shrink_valid(is_valid: Bool[np.ndarray, "_ _"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Return the mask at another size (height, width); a pixel is valid if all pixels that it covers are."""
    covered = Image.fromarray(np.where(is_valid, np.float32(1), np.float32(0)))
    resized = covered.resize((size[1], size[0]), Image.Resampling.BOX)
    return np.asarray(resized) > 1.0 - 1e-6
