"""A student on images outside any store: one moment of a camera rig, in one pass.

The inputs are made here as they are made for the stores: images at the student's size, and Depth Anything features from
the very weights that the student was trained with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.cameras import scale_intrinsics
from storage.previews.pictures import from_uint8
from storage.scenes.store import shrink_valid
from storage.stores.versioned import Home
from student.inference.predictor import Predictor, RenderedViews
from student.inference.vocabulary import training_set_of
from student.model.types import CameraInputs, TargetCameras
from student.model.voxel_field import VoxelField
from teachers.config import DepthAnythingConfig, InferenceConfig
from teachers.image.depth_anything import DepthAnything
from teachers.image.image_batches import network_size, to_float16
from teachers.image.weights import TeacherModel, resolve_weights

_DEPTH_KIND = "depth_anything_features"
_PINHOLE = (np.nan,) * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraImage:
    """Image and calibration of one camera of a rig.

    Attributes:
        image: RGB image; a pinhole's must be without lens distortion.
        intrinsics: Intrinsics in pixels of the image, whose corner is (0, 0).
        camera_to_ego: Transform from the camera (OpenCV axes) at its own exposure to the ego frame at the reference
            time.
        fisheye: Lens coefficients k1 to k4, None for a pinhole.
        is_valid: Whether each pixel shows the world, rather than the vehicle; None if all do.
    """

    image: UInt8[np.ndarray, "height width 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    camera_to_ego: Float[np.ndarray, "4 4"]
    fisheye: Float[np.ndarray, "4"] | None = None
    is_valid: Bool[np.ndarray, "height width"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the image, pixels."""
        height, width, _ = self.image.shape
        return height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFrame:
    """Output of a student for one moment.

    Attributes:
        field: Voxel field in the ego frame of the reference time, to be rendered or queried anywhere.
        cameras: The rig's cameras on the render grid.
        views: Rendered views of these cameras.
    """

    field: VoxelField
    cameras: TargetCameras
    views: RenderedViews


class LiveStudent:
    """A student ready for images of any calibrated rig.

    Args:
        predictor: The student.
        depth_anything: Model of its depth features; None for a student without them.
    """

    def __init__(self, predictor: Predictor, depth_anything: DepthAnything | None) -> None:
        self.predictor, self._depth_anything = predictor, depth_anything

    @classmethod
    def open(
        cls, home: Home, variant: str, digest: str | None = None, *, device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> "LiveStudent":
        """Open the current checkpoint of a variant, or the one with this digest, and its depth model.

        Args:
            home: Home of the checkpoint.
            variant: Partition of the checkpoint.
            digest: Digest of an exact version; None for the current one.
            device: Device of both models.

        Raises:
            MissingTargetError: If the checkpoint, its training set or the weights of the depth model are gone.
            IntegrityError: If those weights differ from the ones that made the student's training targets.
        """
        predictor = Predictor.open(home, variant, digest, device=device)
        if not predictor.config.data.depth_anything:
            return cls(predictor, None)
        assert predictor.version is not None
        frozen = training_set_of(home, predictor.version)
        provenance = home.provenance(frozen.scenes[0].stores[_DEPTH_KIND])
        config = _depth_config(provenance.config, str(frozen.scenes[0].stores[_DEPTH_KIND]), device)
        weights = resolve_weights(config.weights, TeacherModel.DEPTH_ANYTHING)
        changed = sorted(n for n, d in provenance.weights_digests.items() if weights.digests.get(n) != d)
        if changed:
            message = f"{', '.join(changed)}: other files than the student's training targets were made with"
            raise IntegrityError(ErrorKind.DIGEST_MISMATCH, str(weights.path), message)
        return cls(predictor, DepthAnything(config, weights))

    def see(self, rig: Sequence[CameraImage]) -> LiveFrame:
        """Lift one moment into a field, and render the rig's cameras from it.

        Args:
            rig: Any number of cameras, of any image sizes.

        Raises:
            ValueError: If there is no camera.
        """
        if not rig:
            raise ValueError("a rig needs at least one camera")
        data = self.predictor.config.data
        cameras = _target_cameras(rig, height=data.render_height, width=data.render_width)
        field = self.predictor.encode(self._inputs(rig))
        return LiveFrame(field=field, cameras=cameras, views=self.predictor.render(field, cameras))

    def _inputs(self, rig: Sequence[CameraImage]) -> CameraInputs:
        data = self.predictor.config.data
        size = (data.image_height, data.image_width)
        images = np.stack([_resized(camera.image, size) for camera in rig])
        features = None if self._depth_anything is None else _depth_features(self._depth_anything, rig)
        return CameraInputs(
            images=torch.from_numpy(from_uint8(images.transpose(0, 3, 1, 2)))[None],
            intrinsics=_intrinsics(rig, size),
            camera_to_reference_ego=_poses(rig),
            camera_is_present=torch.ones(1, len(rig), dtype=torch.bool),
            depth_features=None if features is None else torch.from_numpy(features.transpose(0, 3, 1, 2))[None],
            fisheye=_lenses(rig),
            is_valid=_valid(rig, size),
        )


def _depth_config(raw: Mapping[str, Any], key: str, device: Literal["auto", "cpu", "cuda"]) -> DepthAnythingConfig:
    """Return the configuration of the stored features, with this machine's device."""
    if not raw:
        raise MissingTargetError(ErrorKind.TARGET_MISSING, key, "its provenance names no configuration")
    inference = {"batch_size": InferenceConfig().batch_size, "device": device}
    return config_from_json(DepthAnythingConfig, {**raw, "inference": inference}, key)


def _depth_features(model: DepthAnything, rig: Sequence[CameraImage]) -> Float[np.ndarray, "cameras rows columns c"]:
    """Return each camera's features, rounded as in a store."""
    features = []
    for camera in rig:  # image sizes may differ
        size = network_size(camera.size, short_side=model.config.input_short_side, multiple=model.multiple)
        maps, _ = model.features_and_inverse_depth(_resized(camera.image, size)[None])
        features.append(to_float16(maps[0].numpy()).astype(np.float32))
    return np.stack(features)


def _resized(image: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _target_cameras(rig: Sequence[CameraImage], *, height: int, width: int) -> TargetCameras:
    return TargetCameras(
        intrinsics=_intrinsics(rig, (height, width)),
        camera_to_reference_ego=_poses(rig),
        target_is_present=torch.ones(1, len(rig), dtype=torch.bool),
        render_height=height,
        render_width=width,
        fisheye=_lenses(rig),
        is_valid=_valid(rig, (height, width)),
    )


def _intrinsics(rig: Sequence[CameraImage], size: tuple[int, int]) -> Float[torch.Tensor, "1 cameras 3 3"]:
    scaled = [scale_intrinsics(c.intrinsics, from_size=c.size, to_size=size) for c in rig]
    return torch.from_numpy(np.stack(scaled).astype(np.float32))[None]


def _valid(rig: Sequence[CameraImage], size: tuple[int, int]) -> Bool[torch.Tensor, "1 cameras height width"]:
    everywhere = np.ones(size, bool)
    masks = [everywhere if c.is_valid is None else shrink_valid(c.is_valid, size) for c in rig]
    return torch.from_numpy(np.stack(masks))[None]


def _poses(rig: Sequence[CameraImage]) -> Float[torch.Tensor, "1 cameras 4 4"]:
    return torch.from_numpy(np.stack([camera.camera_to_ego for camera in rig]).astype(np.float32))[None]


def _lenses(rig: Sequence[CameraImage]) -> Float[torch.Tensor, "1 cameras 4"]:
    lenses = [_PINHOLE if camera.fisheye is None else camera.fisheye for camera in rig]
    return torch.from_numpy(np.array(lenses, np.float32))[None]
