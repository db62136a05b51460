"""Read whole frames of one frozen scene from its stores."""

from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import zarr
from jaxtyping import Bool, Float, Float16, UInt8

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.cameras import scale_intrinsics, unproject_camera
from storage.geometry.transforms import rotate
from storage.kinds import KINDS, Kind, is_trainable
from storage.scenes.moving import MovingBoxes
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target
from storage.stores.integrity import reading
from storage.stores.versioned import Home
from student.data.training_set import FrozenScene

_SKY_OPACITY, _SOLID_OPACITY = 0.1, 0.9


@runtime_checkable
class Frames(Protocol):
    """Source of everything that a sample is made of, for all cameras at once."""

    num_frames: int
    num_cameras: int

    def images(self, frames: range) -> UInt8[np.ndarray, "frames cameras height width 3"]:
        """Return the input images of some frames, RGB."""
        ...

    def intrinsics(self) -> Float[np.ndarray, "cameras 3 3"]:
        """Return the intrinsics of the input images, pixels."""
        ...

    def fisheye(self) -> Float[np.ndarray, "cameras 4"]:
        """Return the lens coefficients of each camera, NaN for a pinhole."""
        ...

    def is_valid(self, height: int, width: int) -> Bool[np.ndarray, "cameras height width"]:
        """Return True for the pixels, at that image size, that show the world and not the vehicle itself."""
        ...

    def is_still(
        self, frame_index: int, reference_frame_index: int, height: int, width: int
    ) -> Bool[np.ndarray, "cameras height width"]:
        """Return True for pixels of a frame without an annotated, moving object in their line of sight.

        Movement is counted between ``frame_index`` and ``reference_frame_index``.
        """
        ...

    def camera_to_reference_ego(self, frame_index: int, reference_frame_index: int) -> Float[np.ndarray, "cameras 4 4"]:
        """Return each camera's pose at its exposure in a frame, in the ego frame at the reference frame's time."""
        ...

    def lidar_points(self, frames: range) -> list[Float[np.ndarray, "points 3"]]:
        """Return the LiDAR returns of each frame in the ego frame at its own reference time, metres."""
        ...

    def teacher_depth(self, frames: range) -> Float16[np.ndarray, "frames cameras height width"]:
        """Return the scene teacher's termination depth, metres; NaN where undefined."""
        ...

    def is_sky(self, frames: range) -> Bool[np.ndarray, "frames cameras height width"]:
        """Return the sky masks; True is sky."""
        ...

    def features(
        self, frames: range, kind: str, name: str = "features"
    ) -> Float16[np.ndarray, "frames cameras height width channels"]:
        """Return the feature maps of the cameras from an array of a store of this kind."""
        ...

    def virtual_views(
        self, frame_index: int
    ) -> tuple[
        UInt8[np.ndarray, "cameras views height width 3"],
        Float16[np.ndarray, "cameras views height width"],
        Bool[np.ndarray, "cameras views height width"],
    ]:
        """Return RGB images, termination depth in metres, and valid pixels of the teacher's virtual views.

        A valid pixel without a depth shows sky.
        """
        ...

    def virtual_to_camera(self) -> Float[np.ndarray, "views 4 4"]:
        """Return the pose of each virtual view in its camera's frame, metres."""
        ...


class StoreFrames:
    """Frames of a scene from the store versions that a training set froze. A store is opened when first read.

    Args:
        home: Home of the stores.
        scene: The frozen scene.
    """

    def __init__(self, home: Home, scene: FrozenScene) -> None:
        self.home = home
        self.scene = scene
        self.num_frames = scene.num_frames
        self.num_cameras = scene.num_cameras
        self._groups: dict[str, zarr.Group] = {}
        self._arrays: dict[tuple[str, str], zarr.Array] = {}
        self._is_valid: dict[tuple[int, int], np.ndarray] = {}

    def _group(self, kind: str) -> zarr.Group:
        if kind not in self._groups:
            if not is_trainable(kind):
                raise MissingTargetError(ErrorKind.TARGET_FORBIDDEN, f"{kind}/{self.scene.key}", "is never read here")
            if kind not in self.scene.stores:
                raise MissingTargetError(
                    ErrorKind.TARGET_MISSING, f"{kind}/{self.scene.key}", "is not in the training set"
                )
            self._groups[kind] = self.home.open_arrays(self.scene.stores[kind])
        return self._groups[kind]

    def _array(self, kind: str, name: str) -> zarr.Array:
        # Opening one takes as long as reading a frame of it.
        if (kind, name) not in self._arrays:
            self._arrays[kind, name] = open_target(self._group(kind), kind, name)
        return self._arrays[kind, name]

    def _read(self, kind: str, name: str, frames: range | None = None) -> np.ndarray:
        """Read an array, or some consecutive frames of it; the error for a damaged chunk names its frame."""
        array = self._array(kind, name)
        if frames is None:
            with reading(f"{kind}/{self.scene.key}/{name}"):
                return np.asarray(array[...])
        try:
            with reading(f"{kind}/{self.scene.key}/{frames[0]:06d}/{name}"):
                return np.asarray(array[frames.start : frames.stop])
        except IntegrityError:
            if len(frames) > 1:
                for frame in frames:
                    self._read(kind, name, range(frame, frame + 1))
            raise

    def _grid(self, kind: str, name: str) -> tuple[int, int]:
        array, axes = self._array(kind, name), KINDS[kind].arrays[name].axes
        return array.shape[axes.index("height")], array.shape[axes.index("width")]

    @cached_property
    def reader(self) -> SceneReader:
        """Return the reader of the scene's store."""
        return SceneReader(self._group(Kind.SCENE), self.scene.stores[Kind.SCENE])

    @cached_property
    def _intrinsics(self) -> np.ndarray:
        return self._read(Kind.INPUT_IMAGES, "intrinsics")

    @cached_property
    def _fisheye(self) -> np.ndarray:
        if "fisheye" not in self._group(Kind.INPUT_IMAGES):
            return np.full((self.num_cameras, 4), np.nan)  # written when there were only pinholes
        return self._read(Kind.INPUT_IMAGES, "fisheye")

    @cached_property
    def _virtual_to_camera(self) -> np.ndarray:
        return self._read(Kind.VIRTUAL_VIEWS, "virtual_to_camera")

    def images(self, frames: range) -> UInt8[np.ndarray, "frames cameras height width 3"]:
        """See :class:`Frames`."""
        return self._read(Kind.INPUT_IMAGES, "image", frames)

    def intrinsics(self) -> Float[np.ndarray, "cameras 3 3"]:
        """See :class:`Frames`."""
        return self._intrinsics

    def fisheye(self) -> Float[np.ndarray, "cameras 4"]:
        """See :class:`Frames`."""
        return self._fisheye

    def is_valid(self, height: int, width: int) -> Bool[np.ndarray, "cameras height width"]:
        """See :class:`Frames`."""
        size = (height, width)
        if size not in self._is_valid:
            self._is_valid[size] = np.stack([self.reader.is_valid(c, size=size) for c in range(self.num_cameras)])
        return self._is_valid[size]

    @cached_property
    def _moving(self) -> MovingBoxes:
        if not len(self.reader.boxes().instance):
            raise MissingTargetError(
                ErrorKind.TARGET_MISSING,
                f"scene/{self.scene.key}/boxes",
                "dynamic_masks is 'boxes', but the scene has no annotations: want some, or dynamic_masks 'none'",
            )
        return MovingBoxes.of(self.reader)

    def is_still(
        self, frame_index: int, reference_frame_index: int, height: int, width: int
    ) -> Bool[np.ndarray, "cameras height width"]:
        """See :class:`Frames`."""
        rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
        pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        is_still = np.ones((self.num_cameras, height * width), bool)
        for camera in range(self.num_cameras):
            intrinsics = self.reader.intrinsics(camera, size=(height, width))
            directions = unproject_camera(pixels, intrinsics, self.reader.fisheye(camera))
            pose = self.reader.camera_to_world(frame_index, camera)
            directions = rotate(pose, directions)
            for frame in (frame_index, reference_frame_index):  # where it is, and where the field has it
                is_still[camera] &= ~self._moving.hit_by(frame, pose[:3, 3], directions)
        return is_still.reshape(-1, height, width)

    def camera_to_reference_ego(self, frame_index: int, reference_frame_index: int) -> Float[np.ndarray, "cameras 4 4"]:
        """See :class:`Frames`."""
        return np.stack(
            [
                self.reader.camera_to_reference_ego(frame_index, camera, reference_frame_index=reference_frame_index)
                for camera in range(self.num_cameras)
            ]
        )

    def lidar_points(self, frames: range) -> list[Float[np.ndarray, "points 3"]]:
        """See :class:`Frames`."""
        return [np.ascontiguousarray(points[:, :3]) for points in self.reader.lidar_points_of(frames)]

    def teacher_depth(self, frames: range) -> Float16[np.ndarray, "frames cameras height width"]:
        """See :class:`Frames`."""
        return self._read(Kind.TEACHER_DEPTH, "termination_depth", frames)

    def is_sky(self, frames: range) -> Bool[np.ndarray, "frames cameras height width"]:
        """See :class:`Frames`."""
        return self._read(Kind.SKY_MASK, "is_sky", frames)

    def features(
        self, frames: range, kind: str, name: str = "features"
    ) -> Float16[np.ndarray, "frames cameras height width channels"]:
        """See :class:`Frames`."""
        return self._read(kind, name, frames)

    def virtual_views(
        self, frame_index: int
    ) -> tuple[
        UInt8[np.ndarray, "cameras views height width 3"],
        Float16[np.ndarray, "cameras views height width"],
        Bool[np.ndarray, "cameras views height width"],
    ]:
        """See :class:`Frames`."""
        own = range(frame_index, frame_index + 1)
        image = self._read(Kind.VIRTUAL_VIEWS, "image", own)[0]
        depth = self._read(Kind.VIRTUAL_VIEWS, "termination_depth", own)[0]
        if "is_valid" in self._group(Kind.VIRTUAL_VIEWS):
            return image, depth, self._read(Kind.VIRTUAL_VIEWS, "is_valid", own)[0]
        # Written before pixels were judged: their rays alone say which end somewhere, or leave the scene.
        opacity = self._read(Kind.VIRTUAL_VIEWS, "opacity", own)[0]
        return image, depth, (opacity < _SKY_OPACITY) | (np.isfinite(depth) & (opacity > _SOLID_OPACITY))

    def virtual_to_camera(self) -> Float[np.ndarray, "views 4 4"]:
        """See :class:`Frames`."""
        return self._virtual_to_camera

    def check_geometry(self) -> None:
        """Check that every target grid shows the same cameras as the input images.

        Raises:
            IntegrityError: If a target's intrinsics differ from the images', scaled to its size. Its pixels would lie
                on other rays.
        """
        image_size = self._grid(Kind.INPUT_IMAGES, "image")
        for kind in (Kind.TEACHER_DEPTH, Kind.VIRTUAL_VIEWS):
            if kind not in self.scene.stores:
                continue
            size = self._grid(kind, "termination_depth")
            wanted = scale_intrinsics(self._intrinsics, from_size=image_size, to_size=size)
            if not np.allclose(self._read(kind, "intrinsics"), wanted, rtol=1e-4, atol=1e-2):
                raise IntegrityError(
                    ErrorKind.CALIBRATION_INVALID, f"{kind}/{self.scene.key}", "intrinsics differ from the images'"
                )
