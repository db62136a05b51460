"""Frames of a training set as samples: one frame's inputs, some views to render, and their targets."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch.utils.data import Dataset

from storage.errors import ErrorKind, ProvenanceMismatchError
from storage.geometry.cameras import scale_intrinsics
from storage.geometry.resize import resize_nearest
from storage.keys import sample_key
from storage.kinds import Kind
from storage.stores.versioned import Home
from student.config import DataConfig
from student.data.frames import Frames, StoreFrames
from student.data.lidar import rasterise_lidar
from student.data.sample import InputTargets, TrainingBatch, ViewTargets
from student.data.training_set import FrozenScene, FrozenScenes
from student.data.views import TargetView, ViewChoice, all_views, draw_views
from student.model.types import CameraInputs, TargetCameras

_PINHOLE = np.full(4, np.nan)

_Frames = np.ndarray | list[np.ndarray]
"""Stored values of several frames, indexed by frame."""


class SampleRequest(NamedTuple):
    """Request for a sample: its index, and the epoch, on which its random views depend."""

    epoch: int
    index: int


class FrameDataset(Dataset[TrainingBatch]):
    """Data set of one split's samples, each as a batch of one.

    Every random choice of a sample is derived from the seed, the epoch and its index. So a sample is the same in every
    process, in any order, and after any interruption.

    Args:
        home: Home of the stores.
        training_set: Training set, or other frozen scenes, to read.
        split: "train" draws views anew in each epoch; "validation" takes every camera of the input frame.
        config: Contents and sizes of a sample.
        seed: Seed of the drawn views.
        open_frames: Function that opens the frames of a scene; benchmarks read another layout than the stores'.
    """

    def __init__(
        self,
        home: Home,
        training_set: FrozenScenes,
        split: Literal["train", "validation"],
        config: DataConfig,
        *,
        seed: int = 0,
        open_frames: Callable[[Home, FrozenScene], Frames] = StoreFrames,
    ) -> None:
        self.config = config
        self.split: Literal["train", "validation"] = split
        self.seed = seed
        self._home = home
        self._num_cameras = training_set.num_cameras
        self._scenes = {scene.key: scene for scene in training_set.scenes}
        self._open_frames = open_frames
        self._frames: dict[str, Frames] = {}
        self.samples: tuple[tuple[str, int], ...] = tuple(
            (scene.key, frame)
            for scene in training_set.scenes
            for frame in (scene.train_frames if split == "train" else scene.validation_frames)
        )
        self.index_of: dict[tuple[str, int], int] = {sample: index for index, sample in enumerate(self.samples)}

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        """Return the identity of a sample."""
        return sample_key(*self.samples[index])

    def __getitem__(self, request: SampleRequest | int) -> TrainingBatch:
        if isinstance(request, int):
            request = SampleRequest(0, request)
        scene_key, frame_index = self.samples[request.index]
        scene = self._scenes[scene_key]
        if self.split == "validation":
            return self.sample(scene_key, frame_index, all_views(scene, frame_index))
        frames = self._open(scene_key)
        choice = draw_views(
            scene,
            frame_index,
            self.config.views,
            num_cameras=self._num_cameras,
            num_virtual_views=len(frames.virtual_to_camera()) if self.config.views.virtual else 0,
            generator=np.random.default_rng((self.seed, request.epoch, request.index)),
        )
        return self.sample(scene_key, frame_index, choice)

    def inputs(self, index: int) -> CameraInputs:
        """Return what the student sees of a sample, without any target."""
        return self._of_one_frame(index).inputs(self._num_cameras)

    def with_depth(self, index: int) -> tuple[CameraInputs, InputTargets]:
        """Return what the student sees of a sample, and what its teachers say of the depth there."""
        assembler = self._of_one_frame(index)
        return assembler.inputs(self._num_cameras), assembler.input_targets(self._num_cameras)

    def _of_one_frame(self, index: int) -> "_Assembler":
        scene_key, frame = self.samples[index]
        return _Assembler(self._open(scene_key), self.config, frame, range(frame, frame + 1))

    def _open(self, scene_key: str) -> Frames:
        if scene_key not in self._frames:
            frames = self._open_frames(self._home, self._scenes[scene_key])
            if isinstance(frames, StoreFrames):
                frames.check_geometry()
            self._frames[scene_key] = frames
        return self._frames[scene_key]

    def sample(self, scene_key: str, frame_index: int, choice: ViewChoice) -> TrainingBatch:
        """Return one frame as a batch of one, rendering the views that ``choice`` names.

        Raises:
            MissingTargetError: If the training set lacks a store that the configuration asks for.
            IntegrityError: If a store lost data; its key names the kind, the scene and the frame.
            ProvenanceMismatchError: If the stored images have another size than configured.
        """
        shown = [frame_index, *(view.frame_index for view in choice.real if view is not None)]
        assembler = _Assembler(self._open(scene_key), self.config, frame_index, range(min(shown), max(shown) + 1))
        return TrainingBatch(
            keys=(sample_key(scene_key, frame_index),),
            inputs=assembler.inputs(self._num_cameras),
            cameras=assembler.cameras(choice),
            input_targets=assembler.input_targets(self._num_cameras),
            view_targets=assembler.view_targets(choice),
        )


class _Assembler:
    """Builder of one sample, which reads each store once; three frames at once take little longer than one."""

    def __init__(self, frames: Frames, config: DataConfig, frame_index: int, shown: range) -> None:
        self._frames = frames
        self._config = config
        self._frame_index = frame_index
        self._shown = shown
        self._stored: dict[str, _Frames] = {}
        self._cache: dict[tuple[str, int], np.ndarray] = {}
        self._virtual: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    # --- reading ---------------------------------------------------------------------------------------------------

    def _of_frame(self, name: str, frame_index: int, read: Callable[[range], _Frames]) -> np.ndarray:
        if name not in self._stored:
            self._stored[name] = read(self._shown)
        return self._stored[name][frame_index - self._shown.start]

    def _once(self, name: str, frame_index: int, read: Callable[[int], np.ndarray]) -> np.ndarray:
        key = (name, frame_index)
        if key not in self._cache:
            self._cache[key] = read(frame_index)
        return self._cache[key]

    def _images(self, frame_index: int) -> np.ndarray:
        images = self._of_frame("images", frame_index, self._frames.images)
        wanted = (self._config.image_height, self._config.image_width)
        if images.shape[1:3] != wanted:
            raise ProvenanceMismatchError(
                ErrorKind.TARGET_MISSING, Kind.INPUT_IMAGES, f"images are {images.shape[1:3]}, configured are {wanted}"
            )
        return images

    def _poses(self, frame_index: int) -> np.ndarray:
        read = partial(self._frames.camera_to_reference_ego, reference_frame_index=self._frame_index)
        return self._once("poses", frame_index, read)

    def _intrinsics(self, height: int, width: int) -> np.ndarray:
        image_size = (self._config.image_height, self._config.image_width)
        return scale_intrinsics(self._frames.intrinsics(), from_size=image_size, to_size=(height, width))

    def _where_valid(self, values: np.ndarray, camera_index: int) -> np.ndarray:
        """Return a depth map with NaN where the camera sees its own vehicle."""
        height, width = values.shape
        return np.where(self._frames.is_valid(height, width)[camera_index], values, np.float32(np.nan))

    def _lidar(self, frame_index: int, camera_index: int, height: int, width: int) -> np.ndarray:
        # The same view is often both an input and a target, on grids of one size.
        name = f"lidar {camera_index} {height}x{width}"
        return self._once(name, frame_index, lambda frame: self._rasterise(frame, camera_index, height, width))

    def _rasterise(self, frame_index: int, camera_index: int, height: int, width: int) -> np.ndarray:
        points = self._of_frame("lidar", frame_index, self._frames.lidar_points)
        # The returns are in the ego frame of *their* reference instant, so the camera must be too.
        poses = self._once(
            "own_poses",
            frame_index,
            lambda frame: self._frames.camera_to_reference_ego(frame, reference_frame_index=frame),
        )
        depth = rasterise_lidar(
            points,
            poses[camera_index],
            self._intrinsics(height, width)[camera_index],
            self._frames.fisheye()[camera_index],
            height=height,
            width=width,
            min_camera_depth=self._config.min_camera_depth,
            max_range=self._config.max_lidar_range,
        )
        return self._where_valid(depth, camera_index)

    def _teacher_depth(self, frame_index: int, camera_index: int, height: int, width: int) -> np.ndarray:
        if not self._config.teacher_depth:
            return np.full((height, width), np.nan, np.float32)
        depth = self._of_frame(Kind.TEACHER_DEPTH, frame_index, self._frames.teacher_depth)[camera_index]
        return self._where_valid(resize_nearest(depth, height, width).astype(np.float32), camera_index)

    def _is_sky(
        self, frame_index: int, camera_index: int, lidar_depth: Float[np.ndarray, "height width"]
    ) -> tuple[Bool[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
        height, width = lidar_depth.shape
        if not self._config.sky_masks:
            return np.zeros((height, width), bool), np.zeros((height, width), bool)
        mask = self._of_frame("sky", frame_index, self._frames.is_sky)[camera_index]
        is_sky = resize_nearest(mask, height, width)
        is_valid = self._frames.is_valid(height, width)[camera_index]
        return is_sky, is_valid & ~(is_sky & np.isfinite(lidar_depth))

    def _features(self, frame_index: int, source: str) -> np.ndarray:
        kind, name = self._config.feature_array(source)
        return self._of_frame(f"{kind}/{name}", frame_index, partial(self._frames.features, kind=kind, name=name))

    def _virtual_views(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._virtual is None:
            self._virtual = self._frames.virtual_views(self._frame_index)
        return self._virtual

    # --- assembling ------------------------------------------------------------------------------------------------

    def inputs(self, num_cameras: int) -> CameraInputs:
        """Return the input images of the frame, padded to ``num_cameras``."""
        padding = num_cameras - self._frames.num_cameras
        features = None
        if self._config.depth_anything:
            own = range(self._frame_index, self._frame_index + 1)  # no other frame is an input
            features = _pad(self._frames.features(own, Kind.DEPTH_ANYTHING_FEATURES)[0], padding)
            features = _as_maps(features).contiguous()
        config = self._config
        return CameraInputs(
            images=_as_images(_pad(self._images(self._frame_index), padding)),
            intrinsics=_as_matrices(self._intrinsics(config.image_height, config.image_width), padding),
            camera_to_reference_ego=_as_matrices(self._poses(self._frame_index), padding),
            camera_is_present=torch.arange(num_cameras)[None] < self._frames.num_cameras,
            depth_features=features,
            fisheye=_as_lenses([*self._frames.fisheye(), *[_PINHOLE] * padding]),
            is_valid=_stack([*_pad(self._frames.is_valid(config.image_height, config.image_width), padding)]),
        )

    def input_targets(self, num_cameras: int) -> InputTargets:
        """Return the depth targets of the inputs, padded to ``num_cameras``."""
        height, width = self._config.depth_height, self._config.depth_width
        cameras = range(self._frames.num_cameras)
        padding = num_cameras - self._frames.num_cameras
        lidar = [self._lidar(self._frame_index, camera, height, width) for camera in cameras]
        sky = [self._is_sky(self._frame_index, camera, lidar[camera]) for camera in cameras]
        teacher = [self._teacher_depth(self._frame_index, camera, height, width) for camera in cameras]
        unknown = np.full((height, width), np.nan, np.float32)
        nowhere = np.zeros((height, width), bool)
        return InputTargets(
            lidar_depth=_stack([*lidar, *[unknown] * padding]),
            teacher_depth=_stack([*teacher, *[unknown] * padding]),
            is_sky=_stack([*[is_sky for is_sky, _ in sky], *[nowhere] * padding]),
            is_sky_known=_stack([*[is_known for _, is_known in sky], *[nowhere] * padding]),
        )

    def cameras(self, choice: ViewChoice) -> TargetCameras:
        """Return the cameras of the chosen views."""
        height, width = self._config.render_height, self._config.render_width
        intrinsics, poses, fisheye, is_valid, is_present = [], [], [], [], []
        for view in (*choice.real, *choice.virtual):
            is_present.append(view is not None)
            intrinsics.append(np.eye(3) if view is None else self._intrinsics(height, width)[view.camera_index])
            poses.append(np.eye(4) if view is None else self._view_pose(view))
            fisheye.append(_PINHOLE if view is None else self._frames.fisheye()[view.camera_index])
            is_valid.append(self._is_valid(view, height, width))
        return TargetCameras(
            intrinsics=_as_matrices(np.stack(intrinsics)),
            camera_to_reference_ego=_as_matrices(np.stack(poses)),
            target_is_present=torch.tensor([is_present]),
            render_height=height,
            render_width=width,
            fisheye=_as_lenses(fisheye),
            is_valid=_stack(is_valid),
        )

    def _is_valid(self, view: TargetView | None, height: int, width: int) -> Bool[np.ndarray, "height width"]:
        """Return True for pixels of a view whose content the input frame's field can be compared with."""
        if view is None or view.virtual_index is not None:  # a virtual view has no vehicle in it
            return np.ones((height, width), bool)
        is_valid = self._frames.is_valid(height, width)[view.camera_index]
        if self._config.dynamic_masks == "none" or view.frame_index == self._frame_index:
            return is_valid
        still = partial(self._frames.is_still, reference_frame_index=self._frame_index, height=height, width=width)
        return is_valid & self._once("still", view.frame_index, still)[view.camera_index]

    def _view_pose(self, view: TargetView) -> np.ndarray:
        pose = self._poses(view.frame_index)[view.camera_index]
        return pose if view.virtual_index is None else pose @ self._frames.virtual_to_camera()[view.virtual_index]

    def view_targets(self, choice: ViewChoice) -> ViewTargets:
        """Return the targets of the chosen views."""
        size = (self._config.render_height, self._config.render_width)
        image_size = (2 * size[0], 2 * size[1])
        real = [self._real_maps(view, *size) for view in choice.real]
        virtual = [self._virtual_maps(view, *size) for view in choice.virtual]
        lidar, teacher, is_sky, is_known = zip(*real, *virtual, strict=True)
        images = np.stack(
            [
                np.zeros((self._config.image_height, self._config.image_width, 3), np.uint8)
                if view is None
                else self._images(view.frame_index)[view.camera_index]
                for view in choice.real
            ]
        )
        virtual_image, virtual_is_valid = self._virtual_images(choice.virtual)
        return ViewTargets(
            image=_resized(_as_images(images), image_size),
            virtual_image=virtual_image,
            virtual_is_valid=virtual_is_valid,
            lidar_depth=_stack(lidar),
            teacher_depth=_stack(teacher),
            is_sky=_stack(is_sky),
            is_sky_known=_stack(is_known),
            features={source: self._view_features(choice.real, source) for source in self._config.feature_sources},
        )

    def _real_maps(self, view: TargetView | None, height: int, width: int) -> tuple[np.ndarray, ...]:
        if view is None:
            return _unknown_maps(height, width)
        lidar = self._lidar(view.frame_index, view.camera_index, height, width)
        teacher = self._teacher_depth(view.frame_index, view.camera_index, height, width)
        is_sky, is_known = self._is_sky(view.frame_index, view.camera_index, lidar)
        is_valid, unknown = self._is_valid(view, height, width), np.float32(np.nan)
        return np.where(is_valid, lidar, unknown), np.where(is_valid, teacher, unknown), is_sky, is_known & is_valid

    def _virtual_maps(self, view: TargetView | None, height: int, width: int) -> tuple[np.ndarray, ...]:
        if view is None:
            return _unknown_maps(height, width)
        _, depth, is_valid = (
            resize_nearest(array[view.camera_index, view.virtual_index], height, width)
            for array in self._virtual_views()
        )
        depth = np.where(is_valid, depth, np.float32(np.nan)).astype(np.float32)
        return np.full((height, width), np.nan, np.float32), depth, is_valid & np.isnan(depth), is_valid

    def _virtual_images(
        self, views: Sequence[TargetView | None]
    ) -> tuple[Float[torch.Tensor, "1 virtual 3 height width"], Bool[torch.Tensor, "1 virtual height width"]]:
        """Return the images of the views at the teacher's size, and which of their pixels are valid."""
        if not views:
            return torch.zeros((1, 0, 3, 1, 1)), torch.zeros((1, 0, 1, 1), dtype=torch.bool)
        image, _, is_valid = self._virtual_views()
        blank = np.zeros(image.shape[2:], np.uint8), np.zeros(is_valid.shape[2:], bool)
        chosen = [
            blank
            if view is None
            else (image[view.camera_index, view.virtual_index], is_valid[view.camera_index, view.virtual_index])
            for view in views
        ]
        return _as_images(np.stack([rgb for rgb, _ in chosen])), _stack([valid for _, valid in chosen])

    def _view_features(self, views: Sequence[TargetView | None], source: str) -> Float[torch.Tensor, "1 real _ _ _"]:
        blank = np.zeros_like(self._features(self._frame_index, source)[0])
        maps = [
            blank if view is None else self._features(view.frame_index, source)[view.camera_index] for view in views
        ]
        return _as_maps(np.stack(maps))


def _unknown_maps(height: int, width: int) -> tuple[np.ndarray, ...]:
    unknown, nowhere = np.full((height, width), np.nan, np.float32), np.zeros((height, width), bool)
    return unknown, unknown, nowhere, nowhere


def _pad(values: np.ndarray, number: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((number, *values.shape[1:]), values.dtype)]) if number else values


def _stack(maps: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(maps))[None]


def _as_images(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(255.0)[None]


def _as_maps(maps: np.ndarray) -> torch.Tensor:
    # Channels stay last in memory: to move every value would take longer than to read it from the store.
    return torch.from_numpy(maps).permute(0, 3, 1, 2).float()[None]


def _as_matrices(matrices: np.ndarray, padding: int = 0) -> torch.Tensor:
    identity = np.broadcast_to(np.eye(matrices.shape[-1]), (padding, *matrices.shape[1:]))
    return torch.from_numpy(np.concatenate([matrices, identity]).astype(np.float32))[None]


def _as_lenses(fisheye: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(fisheye).astype(np.float32))[None]


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if images.shape[-2:] == size:
        return images
    flat = torch.nn.functional.interpolate(images[0], size=size, mode="bilinear", antialias=True)
    return flat[None].clamp_(0.0, 1.0)
