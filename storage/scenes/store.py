"""Write and read scene stores.

Images stay the verbatim JPEG bytes of the recording, so nothing is lost and every image can be traced to its file.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from storage.errors import ErrorKind, IntegrityError
from storage.geometry.cameras import scale_intrinsics
from storage.geometry.transforms import invert_se3
from storage.integrity import reading
from storage.keys import SceneKey
from storage.scenes.schema import PINHOLE_SCENE_SCHEMA, SCENE_SCHEMA, SceneBoxes, SceneData
from storage.versioned import Home, StoreVersion

_BYTES_PER_CHUNK = 1 << 20
_POINTS_PER_CHUNK = 1 << 16


def write_scene(group: zarr.Group, scene: SceneData) -> None:
    """Write a scene into an empty group."""
    attributes: dict[str, Any] = {
        "schema": SCENE_SCHEMA,
        "camera_names": list(scene.camera_names),
        "image_sizes": [list(size) for size in scene.image_sizes],
        "box_categories": list(scene.boxes.category),
        "box_instances": list(scene.boxes.instance),
        "scene_attributes": scene.attributes,
    }
    group.attrs.update(attributes)
    for name in (
        "intrinsics",
        "camera_to_ego",
        "timestamp_us",
        "ego_to_world",
        "camera_timestamp_us",
        "camera_ego_to_world",
        "lidar_to_ego",
    ):
        group.create_array(name, data=np.ascontiguousarray(getattr(scene, name)))
    pinholes = np.full((len(scene.camera_names), 4), np.nan)
    group.create_array("fisheye", data=pinholes if scene.fisheye is None else np.ascontiguousarray(scene.fisheye))
    for name in ("frame_index", "centre", "size", "quat_wxyz", "num_lidar_points"):
        _write_flat(group, f"boxes/{name}", getattr(scene.boxes, name), _POINTS_PER_CHUNK)
    for camera, is_valid in zip(scene.camera_names, scene.is_valid or (), strict=bool(scene.is_valid)):
        if is_valid is not None:
            group.create_array(f"is_valid/{camera}", data=np.ascontiguousarray(is_valid))
    for index, camera in enumerate(scene.camera_names):
        jpegs = [frame[index] for frame in scene.jpegs]
        group.create_array(f"images/{camera}/offsets", data=_offsets([len(j) for j in jpegs]))
        _write_flat(
            group, f"images/{camera}/bytes", np.frombuffer(b"".join(jpegs), np.uint8), _BYTES_PER_CHUNK, compress=False
        )
    group.create_array("lidar/offsets", data=_offsets([len(p) for p in scene.lidar_points]))
    points = (
        np.concatenate([np.asarray(p, np.float32) for p in scene.lidar_points])
        if scene.lidar_points
        else np.zeros((0, 4), np.float32)
    )
    _write_flat(group, "lidar/points", points, _POINTS_PER_CHUNK)


def _offsets(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _write_flat(group: zarr.Group, name: str, data: np.ndarray, rows_per_chunk: int, *, compress: bool = True) -> None:
    chunks = (max(1, min(rows_per_chunk, len(data))), *data.shape[1:])
    array = group.create_array(
        name, shape=data.shape, dtype=data.dtype, chunks=chunks, compressors="auto" if compress else None
    )
    if len(data):
        array[...] = data


class SceneReader:
    """Read one version of a scene. Small arrays are read once; images and points when asked for."""

    def __init__(self, group: zarr.Group, version: StoreVersion | None = None) -> None:
        attributes: dict[str, Any] = group.attrs.asdict()
        schema = attributes.get("schema")
        if schema not in (SCENE_SCHEMA, PINHOLE_SCENE_SCHEMA):
            message = f"schema {schema!r}, want {SCENE_SCHEMA!r} or {PINHOLE_SCENE_SCHEMA!r}"
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(version or group.name), message)
        self.group = group
        self._box_names = (tuple(attributes["box_categories"]), tuple(attributes["box_instances"]))
        self.version = version
        self.camera_names: tuple[str, ...] = tuple(attributes["camera_names"])
        self.attributes: dict[str, object] = dict(attributes["scene_attributes"])
        self._sizes = [(int(h), int(w)) for h, w in attributes["image_sizes"]]
        self._arrays = {
            name: self._read(name)
            for name in (
                "intrinsics",
                "camera_to_ego",
                "timestamp_us",
                "ego_to_world",
                "camera_timestamp_us",
                "camera_ego_to_world",
                "lidar_to_ego",
            )
        }
        only_pinholes = schema == PINHOLE_SCENE_SCHEMA
        self._fisheye = np.full((len(self.camera_names), 4), np.nan) if only_pinholes else self._read("fisheye")
        self._lidar_offsets = self._read("lidar/offsets")
        self._image_offsets = [self._read(f"images/{camera}/offsets") for camera in self.camera_names]

    def _read(self, name: str, selection: slice | None = None) -> np.ndarray:
        key = f"{self.version or 'scene'}/{name}"
        with reading(key):
            array = self.group.get(name)
            if not isinstance(array, zarr.Array):
                raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"is {array}, want an array")
            return np.asarray(array[...] if selection is None else array[selection])

    @classmethod
    def open(cls, home: Home, scene_key: SceneKey | str, digest: str | None = None) -> "SceneReader":
        """Open the current version of a scene, or the one with this digest."""
        version = home.require("scene", str(scene_key), digest)
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
            reading(f"{self.version or 'scene'}/images/{self.camera_names[camera_index]}[{frame_index}]"),
            Image.open(io.BytesIO(self.image_bytes(frame_index, camera_index))) as image,
        ):
            yield image

    def intrinsics(self, camera_index: int, *, size: tuple[int, int] | None = None) -> Float[np.ndarray, "3 3"]:
        """Return the intrinsics of the stored image, or of the same image resized to ``size`` (height, width)."""
        stored = self._arrays["intrinsics"][camera_index]
        return stored if size is None else scale_intrinsics(stored, from_size=self._sizes[camera_index], to_size=size)

    def fisheye(self, camera_index: int) -> Float[np.ndarray, "4"]:
        """Return k1 to k4 of a fisheye's lens, NaN for a pinhole, whatever size its image is resized to."""
        return self._fisheye[camera_index]

    def is_valid(self, camera_index: int, *, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "height width"]:
        """Return the pixels that show the world, and not the vehicle itself; all where the recording names none.

        At another ``size`` (height, width) than the stored image's, a pixel counts if all that it covers does.
        """
        stored_size, name = self._sizes[camera_index], f"is_valid/{self.camera_names[camera_index]}"
        size = size or stored_size
        if name not in self.group:
            return np.ones(size, bool)
        is_valid = self._read(name)
        if size == stored_size:
            return is_valid
        covered = Image.fromarray(np.where(is_valid, np.float32(1), np.float32(0)))
        resized = covered.resize((size[1], size[0]), Image.Resampling.BOX)
        return np.asarray(resized) > 1.0 - 1e-6

    def camera_to_ego(self, camera_index: int) -> Float[np.ndarray, "4 4"]:
        """Return where the camera sits on the vehicle."""
        return self._arrays["camera_to_ego"][camera_index]

    def ego_to_world(self, frame_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the ego pose at the frame's reference instant."""
        return self._arrays["ego_to_world"][frame_index]

    def camera_ego_to_world(self, frame_index: int, camera_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the ego pose at the instant of that camera's own exposure."""
        return self._arrays["camera_ego_to_world"][frame_index, camera_index]

    def camera_to_world(self, frame_index: int, camera_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the camera's pose at its own exposure."""
        return self.camera_ego_to_world(frame_index, camera_index) @ self.camera_to_ego(camera_index)

    def camera_to_reference_ego(
        self, frame_index: int, camera_index: int, *, reference_frame_index: int | None = None
    ) -> Float[np.ndarray, "4 4"]:
        """Return the camera's pose at its own exposure, in the ego frame of a reference instant.

        Args:
            frame_index: The frame that the image belongs to.
            camera_index: The camera.
            reference_frame_index: The frame whose ego pose is the origin; the image's own frame by default.
        """
        reference = frame_index if reference_frame_index is None else reference_frame_index
        return invert_se3(self.ego_to_world(reference)) @ self.camera_to_world(frame_index, camera_index)

    def timestamp_us(self, frame_index: int) -> int:
        """Return the frame's reference instant."""
        return int(self._arrays["timestamp_us"][frame_index])

    def camera_timestamp_us(self, frame_index: int, camera_index: int) -> int:
        """Return the instant of an exposure."""
        return int(self._arrays["camera_timestamp_us"][frame_index, camera_index])

    def lidar_points(self, frame_index: int) -> Float[np.ndarray, "points 4"]:
        """Return x, y, z in the ego frame of the reference instant (metres) and intensity, float32."""
        start, stop = self._lidar_offsets[frame_index : frame_index + 2]
        return self._read("lidar/points", slice(int(start), int(stop)))

    @property
    def lidar_to_ego(self) -> Float[np.ndarray, "4 4"]:
        """Return where the LiDAR sits on the vehicle."""
        return self._arrays["lidar_to_ego"]

    def boxes(self) -> SceneBoxes:
        """Return the annotations, for evaluation and dynamic masks; empty where the source has none."""
        arrays = {
            name: self._read(f"boxes/{name}")
            for name in ("frame_index", "centre", "size", "quat_wxyz", "num_lidar_points")
        }
        categories, instances = self._box_names
        return SceneBoxes(category=categories, instance=instances, **arrays)
