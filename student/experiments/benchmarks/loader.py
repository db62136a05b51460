"""Reading of whole samples from our stores, against the same samples from the published layout of loose files.

The published layout has one file per camera, frame and kind: the camera's JPEG, which is decoded and resized every time
it is read, and ``.npy`` files for everything else. The same code assembles both into the same training sample. Both lie
in the page cache.

A second benchmark reads the same samples from the same stores without asking whether each chunk is the recorded one.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from PIL import Image

from storage.geometry.cameras import scale_intrinsics
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.scenes.schema import SceneData
from storage.scenes.store import SceneReader, write_scene
from storage.stores.arrays import write_target
from storage.stores.content_record import CheckedStore
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, StoreVersion, materialize_arrays
from storage.targets.images import InputImagesConfig, resize_scene_images
from student.config import DataConfig, TrainingSetConfig, ViewsConfig
from student.data.dataset import FrameDataset
from student.data.frames import Frames, StoreFrames
from student.data.training_set import FrozenScene, freeze_training_set, load_training_set
from student.data.views import TargetView, ViewChoice
from student.experiments.benchmarks.timing import BenchRecord, time_interleaved

_SCENE = "bench.scene"
_SIZE = (900, 1600)
_NUM_CAMERAS, _NUM_VIRTUAL, _NUM_POINTS = 6, 3, 34_000
_FEATURES = {"depth_anything_features": (37, 65, 128), "clip_features": (37, 65, 64)}


@torch.no_grad()
def bench_loader(*, runs: int = 5, num_frames: int = 3) -> BenchRecord:
    """Time reading one frame with its two neighbours, all cameras, all virtual views, depth, sky, CLIP and LiDAR.

    Args:
        runs: Samples read from each layout.
        num_frames: Frames of the scene, at least 3.
    """
    config = _config()
    with tempfile.TemporaryDirectory() as folder:
        home = _frozen_home(Path(folder) / "home", config, num_frames)
        frozen = load_training_set(home, "bench")
        loose = Path(folder) / "loose"
        _write_loose(home, frozen.scenes[0], config, loose)
        ours = _reader(home, config, StoreFrames)
        reference = _reader(home, config, lambda home, scene: _LooseFrames.open(home, scene, loose, config))
        with _as_in_a_worker():
            own, other = time_interleaved(ours, reference, runs=runs)
        difference = _largest_difference(ours(), reference())
        return BenchRecord(
            name="loader",
            ratio=other / own,
            ours=own,
            reference=other,
            unit="s",
            runs=runs,
            details={
                "images_per_sample": 3 * _NUM_CAMERAS,
                "virtual_views_per_sample": _NUM_CAMERAS * _NUM_VIRTUAL,
                "megabytes_of_stores": round(_megabytes(home.root / "stores"), 1),
                "megabytes_of_loose_files": round(_megabytes(loose), 1),
                "max_difference": difference,
            },
        )


@torch.no_grad()
def bench_checks(*, runs: int = 21, num_frames: int = 3) -> BenchRecord:
    """Compare processor time of the same reading with and without the comparison of each chunk with its record.

    Checksums inside of chunks are compared both times: the codec does that.

    Args:
        runs: Samples read each way; they differ by little, so a median of few would say nothing.
        num_frames: Frames of the scene, at least 3.
    """
    config = _config()
    with tempfile.TemporaryDirectory() as folder:
        home = _frozen_home(Path(folder) / "home", config, num_frames)
        ours = _reader(home, config, StoreFrames)
        reference = _reader(_TrustingHome(home.root), config, StoreFrames)
        with _as_in_a_worker():
            own, other = time_interleaved(ours, reference, runs=runs, clock=time.process_time)
        return BenchRecord(
            name="checks",
            ratio=other / own,
            ours=own,
            reference=other,
            unit="s",
            runs=runs,
            details={"max_difference": _largest_difference(ours(), reference())},
        )


class _TrustingHome(Home):
    """A home whose chunks are taken for what they should be."""

    def open_arrays(self, version: StoreVersion) -> zarr.Group:
        store = super().open_arrays(version).store
        if not isinstance(store, CheckedStore):
            raise TypeError(f"{version} is opened as {type(store).__name__}, want a store that checks")
        return zarr.open_group(store.unchecked, mode="r")


def _config() -> DataConfig:
    return DataConfig(
        depth_height=64,
        depth_width=114,
        views=ViewsConfig(same_frame=_NUM_CAMERAS, neighbour=2 * _NUM_CAMERAS, virtual=_NUM_CAMERAS * _NUM_VIRTUAL),
        feature_sources=("clip",),
    )


def _frozen_home(root: Path, config: DataConfig, num_frames: int) -> Home:
    home = Home(root)
    _publish(home, config, num_frames)
    noise = TrainingSetConfig(
        train_scenes=(_SCENE,), kinds=config.kinds, allow_ungated=(*config.kinds, Kind.SCENE_AUDIT)
    )
    freeze_training_set(home, "bench", noise)
    return home


@contextmanager
def _as_in_a_worker() -> Iterator[None]:
    """Compute on one thread, like a worker of PyTorch's loader."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _reader(
    home: Home, config: DataConfig, open_frames: Callable[[Home, FrozenScene], Frames]
) -> Callable[[], dict[str, torch.Tensor]]:
    dataset = FrameDataset(home, load_training_set(home, "bench"), "train", config, open_frames=open_frames)
    views = [TargetView(frame_index=frame, camera_index=c) for frame in (1, 0, 2) for c in range(_NUM_CAMERAS)]
    virtual = [
        TargetView(frame_index=1, camera_index=c, virtual_index=v)
        for c in range(_NUM_CAMERAS)
        for v in range(_NUM_VIRTUAL)
    ]
    choice = ViewChoice(real=tuple(views), virtual=tuple(virtual))

    def read() -> dict[str, torch.Tensor]:
        batch = dataset.sample(_SCENE, 1, choice)
        targets = batch.view_targets
        return {
            "image": targets.image,
            "teacher_depth": targets.teacher_depth,
            "lidar_depth": targets.lidar_depth,
            "clip": targets.features["clip"],
        }

    return read


def _largest_difference(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    return max(float((ours[name] - reference[name]).nan_to_num().abs().max()) for name in ours)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


# --- the scene, once as stores -------------------------------------------------------------------------------------


def _publish(home: Home, config: DataConfig, num_frames: int) -> None:
    generator = np.random.default_rng(0)
    scene = Provenance(kind="scene", partition=_SCENE)
    materialize_arrays(home, scene, lambda group: write_scene(group, _scene(num_frames, generator)) or {})
    resize_scene_images(
        home, SceneKey.parse(_SCENE), InputImagesConfig(height=config.image_height, width=config.image_width)
    )
    grid, image_size = (config.render_height, config.render_width), (config.image_height, config.image_width)
    rig = (num_frames, _NUM_CAMERAS)
    intrinsics = SceneReader.open(home, _SCENE).intrinsics(0)
    depth = _smooth((*rig, *grid), generator).astype(np.float16) * 60
    sky = _smooth((*rig, *grid), generator)
    views = (*rig, _NUM_VIRTUAL)
    _publish_target(
        home,
        "teacher_depth",
        termination_depth=depth,
        opacity=np.ones_like(depth),
        intrinsics=_stacked_intrinsics(intrinsics, grid),
    )
    _publish_target(
        home,
        "virtual_views",
        image=(_smooth((*views, *image_size, 3), generator) * 255).astype(np.uint8),
        termination_depth=_smooth((*views, *image_size), generator).astype(np.float16) * 60,
        opacity=np.ones((*views, *image_size), np.float16),
        virtual_to_camera=np.stack([np.eye(4)] * _NUM_VIRTUAL),
        intrinsics=_stacked_intrinsics(intrinsics, image_size),
    )
    _publish_target(home, "sky_mask", is_sky=sky > 0.8, sky_probability=sky.astype(np.float16))
    for kind, shape in _FEATURES.items():
        _publish_target(home, kind, features=_smooth((*rig, *shape), generator).astype(np.float16))


def _stacked_intrinsics(intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([scale_intrinsics(intrinsics, from_size=_SIZE, to_size=size)] * _NUM_CAMERAS)


def _publish_target(home: Home, kind: str, **arrays: np.ndarray) -> None:
    version = home.require("scene", _SCENE)
    provenance = Provenance(kind=kind, partition=_SCENE, inputs=(version.as_input,))

    def write(group: zarr.Group) -> dict[str, Any]:
        for name, data in arrays.items():
            write_target(group, kind, name, data)
        return {}

    materialize_arrays(home, provenance, write)


def _smooth(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Return values in [0, 1] that compress about as well as maps of a scene: waves with a little noise."""
    waves = [np.sin(np.linspace(0, generator.uniform(3, 9), size) + generator.uniform(0, 6)) for size in shape]
    total = np.zeros(shape, np.float32)
    for axis, wave in enumerate(waves):
        total += np.expand_dims(wave.astype(np.float32), [other for other in range(len(shape)) if other != axis])
    return 0.475 + 0.45 * total / len(shape) + 0.05 * generator.random(shape, np.float32)


def _scene(num_frames: int, generator: np.random.Generator) -> SceneData:
    intrinsics = np.array([[1260.0, 0, 800], [0, 1260.0, 450], [0, 0, 1]])
    poses = np.stack([np.eye(4)] * num_frames)
    poses[:, 0, 3] = np.arange(num_frames) * 4.0
    times = np.arange(num_frames, dtype=np.int64) * 500_000
    # A sensor's noise, not a picture's: about 150 kB per JPEG, like a real camera's.
    images = [
        [
            (np.clip(_smooth((*_SIZE, 3), generator) + generator.normal(0, 0.02, (*_SIZE, 1)), 0, 1) * 255)
            for _ in range(_NUM_CAMERAS)
        ]
        for _ in range(num_frames)
    ]
    points = generator.normal(0, 1, (num_frames, _NUM_POINTS, 4)).astype(np.float32) * [20, 20, 2, 1]
    return SceneData(
        camera_names=tuple(f"CAM_{c}" for c in range(_NUM_CAMERAS)),
        image_sizes=(_SIZE,) * _NUM_CAMERAS,
        intrinsics=np.stack([intrinsics] * _NUM_CAMERAS),
        camera_to_ego=np.stack([_camera_to_ego(2 * np.pi * c / _NUM_CAMERAS) for c in range(_NUM_CAMERAS)]),
        timestamp_us=times,
        ego_to_world=poses,
        camera_timestamp_us=np.stack([times] * _NUM_CAMERAS, axis=1),
        camera_ego_to_world=np.stack([poses] * _NUM_CAMERAS, axis=1),
        jpegs=tuple(tuple(_jpeg(image.astype(np.uint8)) for image in frame) for frame in images),
        lidar_points=tuple(p.astype(np.float32) for p in points),
        lidar_to_ego=np.eye(4),
    )


def _camera_to_ego(yaw: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = [[np.sin(yaw), 0, np.cos(yaw)], [-np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0]]
    pose[2, 3] = 1.5
    return pose


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=85)
    return buffer.getvalue()


# --- and once as loose files ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _LooseFrames:
    """Frames from one file per camera and kind; calibration and poses are in memory, as in the published code."""

    folder: Path
    config: DataConfig
    reader: SceneReader
    num_frames: int
    num_cameras: int

    @classmethod
    def open(cls, home: Home, scene: FrozenScene, folder: Path, config: DataConfig) -> "_LooseFrames":
        reader = SceneReader.open(home, scene.key)
        return cls(folder, config, reader, scene.num_frames, scene.num_cameras)

    def _load(self, kind: str, frames: range) -> np.ndarray:
        cameras = range(self.num_cameras)
        return np.stack(
            [np.stack([np.load(self.folder / kind / f"{frame}-{c}.npy") for c in cameras]) for frame in frames]
        )

    def images(self, frames: range) -> np.ndarray:
        return np.stack([np.stack([self._image(frame, c) for c in range(self.num_cameras)]) for frame in frames])

    def _image(self, frame_index: int, camera_index: int) -> np.ndarray:
        size = (self.config.image_width, self.config.image_height)
        with Image.open(self.folder / "images" / f"{frame_index}-{camera_index}.jpg") as image:
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))

    def intrinsics(self) -> np.ndarray:
        size = (self.config.image_height, self.config.image_width)
        return np.stack([self.reader.intrinsics(c, size=size) for c in range(self.num_cameras)])

    def fisheye(self) -> np.ndarray:
        return np.full((self.num_cameras, 4), np.nan)

    def is_valid(self, height: int, width: int) -> np.ndarray:
        return np.ones((self.num_cameras, height, width), bool)

    def is_still(self, frame_index: int, reference_frame_index: int, height: int, width: int) -> np.ndarray:
        del frame_index, reference_frame_index  # the published layout knows of nothing that moves
        return self.is_valid(height, width)

    def camera_to_reference_ego(self, frame_index: int, reference_frame_index: int) -> np.ndarray:
        return np.stack(
            [
                self.reader.camera_to_reference_ego(frame_index, c, reference_frame_index=reference_frame_index)
                for c in range(self.num_cameras)
            ]
        )

    def lidar_points(self, frames: range) -> list[np.ndarray]:
        files = (self.folder / "lidar" / f"{frame}.bin" for frame in frames)
        return [np.fromfile(file, np.float32).reshape(-1, 4)[:, :3] for file in files]

    def teacher_depth(self, frames: range) -> np.ndarray:
        return self._load("teacher_depth", frames)

    def is_sky(self, frames: range) -> np.ndarray:
        return self._load("sky", frames)

    def features(self, frames: range, kind: str, name: str = "features") -> np.ndarray:
        del name  # one array a file
        return self._load(kind, frames)

    def virtual_views(self, frame_index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        paths = [[f"{frame_index}-{c}-{v}" for v in range(_NUM_VIRTUAL)] for c in range(self.num_cameras)]
        images = [[_open(self.folder / "virtual_images" / f"{name}.jpg") for name in row] for row in paths]
        depths, validities = (
            np.stack([[np.load(self.folder / kind / f"{name}.npy") for name in row] for row in paths])
            for kind in ("virtual_depths", "virtual_validities")
        )
        return np.array(images), depths, validities

    def virtual_to_camera(self) -> np.ndarray:
        return np.stack([np.eye(4)] * _NUM_VIRTUAL)


def _open(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _write_loose(home: Home, scene: FrozenScene, config: DataConfig, folder: Path) -> None:
    """Write the content of the stores as loose files."""
    stored = StoreFrames(home, scene)
    kinds = ("images", "lidar", "teacher_depth", "sky", "virtual_images", "virtual_depths", "virtual_validities")
    for kind in (*kinds, *_FEATURES):
        (folder / kind).mkdir(parents=True)
    for frame in range(scene.num_frames):
        stored.reader.lidar_points(frame).tofile(folder / "lidar" / f"{frame}.bin")
        own = range(frame, frame + 1)
        maps = {"teacher_depth": stored.teacher_depth(own)[0], "sky": stored.is_sky(own)[0]}
        maps |= {kind: stored.features(own, kind)[0] for kind in _FEATURES}
        images, depths, validities = stored.virtual_views(frame)
        for camera in range(scene.num_cameras):
            jpeg = stored.reader.image_bytes(frame, camera)
            (folder / "images" / f"{frame}-{camera}.jpg").write_bytes(jpeg)
            for kind, values in maps.items():
                np.save(folder / kind / f"{frame}-{camera}.npy", values[camera])
            for view in range(_NUM_VIRTUAL):
                name = f"{frame}-{camera}-{view}"
                Image.fromarray(images[camera, view]).save(folder / "virtual_images" / f"{name}.jpg", quality=95)
                np.save(folder / "virtual_depths" / f"{name}.npy", depths[camera, view])
                np.save(folder / "virtual_validities" / f"{name}.npy", validities[camera, view])
