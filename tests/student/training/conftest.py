"""A home with a small world in it: a drive through a round, tiled yard under a blue sky, known in closed form."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from storage.digests import digest_of
from storage.geometry.cameras import scale_intrinsics
from storage.geometry.rays import camera_rays
from storage.keys import SceneKey
from storage.scenes.schema import SceneData
from storage.scenes.store import SceneReader, write_scene
from storage.stores.arrays import write_target
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, Materialized, materialize_arrays, materialize_files
from storage.targets.images import InputImagesConfig, resize_scene_images
from student.config import (
    DataConfig,
    FitConfig,
    FitRuntime,
    LossConfig,
    OptimizerConfig,
    StudentConfig,
    TrainingSetConfig,
    ViewsConfig,
)
from student.data.training_set import freeze_training_set
from student.model.config import FeatureHeadConfig
from student.presets.models import tiny_model

HEIGHT, WIDTH = 48, 80
GRID = (16, 24)
WALL_RADIUS, WALL_HEIGHT = 12.0, 5.0
NUM_FRAMES, NUM_CAMERAS = 4, 3
PASSED = {"quality": {"passed": True, "checks": {"psnr": {"value": 20.0, "threshold": 18.0, "passed": True}}}}
INTRINSICS = np.array([[44.0, 0, WIDTH / 2], [0, 44.0, HEIGHT / 2], [0, 0, 1]])


def camera_to_ego(yaw: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[sin, 0, cos], [-cos, 0, sin], [0, -1, 0]])
    pose[:3, 3] = [0.5 * cos, 0.5 * sin, 1.5]
    return pose


def ego_to_world(seconds: float) -> np.ndarray:
    """A slow drive along x that turns a little."""
    yaw = 0.1 * seconds
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = [1.0 * seconds, 0.2 * seconds, 0.0]
    return pose


def look(intrinsics: np.ndarray, camera_to_world: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours (uint8) and termination depths (NaN for sky) that a camera sees."""
    origins, directions = camera_rays(intrinsics, camera_to_world, height=height, width=width)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_ground = np.where(directions[..., 2] < 0, -origins[..., 2] / directions[..., 2], np.inf)
        a = (directions[..., :2] ** 2).sum(-1)
        b = (directions[..., :2] * origins[..., :2]).sum(-1)
        c = (origins[..., :2] ** 2).sum(-1) - WALL_RADIUS**2
        to_wall = (-b + np.sqrt(b * b - a * c)) / a
    wall_z = origins[..., 2] + to_wall * directions[..., 2]
    to_wall = np.where(wall_z < WALL_HEIGHT, to_wall, np.inf)
    distance = np.minimum(to_ground, to_wall)
    depth = np.where(np.isfinite(distance), distance, np.nan)
    points = origins + directions * np.nan_to_num(depth)[..., None]
    tile = (np.floor(points[..., 0] / 2) + np.floor(points[..., 1] / 2)) % 2
    ground = np.stack([0.3 + 0.3 * tile, 0.3 + 0.25 * tile, 0.3 + 0.1 * tile], -1)
    angle = np.arctan2(points[..., 1], points[..., 0])
    wall = np.stack([0.5 + 0.4 * np.sin(3 * angle), 0.4 + 0 * angle, 0.5 + 0.4 * np.cos(2 * angle)], -1)
    colour = np.where((to_ground < to_wall)[..., None], ground, wall)
    colour = np.where(np.isnan(depth)[..., None], [0.5, 0.7, 1.0], colour)
    return (colour * 255).astype(np.uint8), depth.astype(np.float32)


def scene_data(seed: int) -> SceneData:
    rig = np.stack([camera_to_ego(2 * np.pi * c / NUM_CAMERAS + 0.3 * seed) for c in range(NUM_CAMERAS)])
    times = np.arange(NUM_FRAMES) * 0.5 + 2.0 * seed
    # Each camera is exposed a little later than the reference instant, from a pose of its own.
    exposures = times[:, None] + 0.03 * np.arange(NUM_CAMERAS)[None]
    poses = np.array([ego_to_world(t) for t in times])
    camera_poses = np.array([[ego_to_world(t) for t in row] for row in exposures])
    jpegs, lidar = [], []
    for frame in range(NUM_FRAMES):
        encoded = []
        for camera in range(NUM_CAMERAS):
            image, _ = look(INTRINSICS, camera_poses[frame, camera] @ rig[camera], HEIGHT, WIDTH)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "jpeg", quality=95)
            encoded.append(buffer.getvalue())
        jpegs.append(tuple(encoded))
        lidar.append(_sweep(poses[frame]))
    return SceneData(
        camera_names=tuple(f"CAM_{c}" for c in range(NUM_CAMERAS)),
        image_sizes=((HEIGHT, WIDTH),) * NUM_CAMERAS,
        intrinsics=np.broadcast_to(INTRINSICS, (NUM_CAMERAS, 3, 3)).copy(),
        camera_to_ego=rig,
        timestamp_us=(times * 1e6).astype(np.int64),
        ego_to_world=poses,
        camera_timestamp_us=(exposures * 1e6).astype(np.int64),
        camera_ego_to_world=camera_poses,
        jpegs=tuple(jpegs),
        lidar_points=tuple(lidar),
        lidar_to_ego=np.eye(4),
    )


def _sweep(pose: np.ndarray) -> np.ndarray:
    """Return the returns of a scanner 1.8 m above the ego origin, in the ego frame."""
    points = []
    for yaw in np.linspace(0, 2 * np.pi, 4, endpoint=False):
        scanner = camera_to_ego(yaw)
        scanner[:3, 3] = [0, 0, 1.8]
        intrinsics = np.array([[20.0, 0, 20], [0, 20.0, 10], [0, 0, 1]])
        _, depth = look(intrinsics, pose @ scanner, 20, 40)
        origins, directions = camera_rays(intrinsics, scanner, height=20, width=40)
        points.append((origins + directions * depth[..., None])[np.isfinite(depth)])
    xyz = np.concatenate(points)
    return np.concatenate([xyz, np.ones((len(xyz), 1))], axis=1).astype(np.float32)


class World:
    """Publishes the stores of small scenes into a home."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)

    def publish(self, kind: str, key: str, arrays: dict[str, np.ndarray], **options: Any) -> None:
        inputs = (InputVersion("scene", key, self.home.require("scene", key).digest),)
        provenance = Provenance(
            kind=kind,
            partition=key,
            inputs=options.get("inputs", inputs),
            code_digest=options.get("code", "1"),
            licence=options.get("licence", "CC0-1.0"),
        )

        def write(group: Any) -> dict[str, Any]:
            for name, data in arrays.items():
                write_target(group, kind, name, data)
            return options.get("metrics", PASSED)

        materialize_arrays(self.home, provenance, write)

    def add_scene(self, key: str, seed: int = 0) -> None:
        provenance = Provenance(kind="scene", partition=key, code_digest=str(seed), licence="CC0-1.0")
        materialize_arrays(self.home, provenance, lambda group: write_scene(group, scene_data(seed)) or {})
        self.publish_audit(key)
        resize_scene_images(self.home, SceneKey.parse(key), InputImagesConfig(height=2 * GRID[0], width=2 * GRID[1]))
        reader = SceneReader.open(self.home, key)
        size = (HEIGHT, WIDTH)
        intrinsics = scale_intrinsics(INTRINSICS, from_size=size, to_size=GRID)
        shifts = np.stack([np.eye(4)] * 2)
        shifts[:, 0, 3] = [-1.0, 1.0]
        shape = (NUM_FRAMES, NUM_CAMERAS, 1 + len(shifts), *GRID)
        images, depths = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float16)
        for frame, camera, view in np.ndindex(*shape[:3]):
            pose = reader.camera_to_world(frame, camera) @ (np.eye(4), *shifts)[view]
            images[frame, camera, view], depths[frame, camera, view] = look(intrinsics, pose, *GRID)
        stacked = np.stack([intrinsics] * NUM_CAMERAS)
        self.publish(
            "teacher_depth",
            key,
            {
                "termination_depth": depths[:, :, 0],
                "opacity": np.isfinite(depths[:, :, 0]).astype(np.float16),
                "intrinsics": stacked,
            },
        )
        self.publish(
            "virtual_views",
            key,
            {
                "image": images[:, :, 1:],
                "termination_depth": depths[:, :, 1:],
                "opacity": np.isfinite(depths[:, :, 1:]).astype(np.float16),
                "virtual_to_camera": shifts,
                "intrinsics": stacked,
            },
        )
        is_sky = np.isnan(depths[:, :, 0])
        self.publish("sky_mask", key, {"is_sky": is_sky, "sky_probability": is_sky.astype(np.float16)})
        inverse = np.nan_to_num(1 / depths[:, :, 0].astype(np.float32))[..., None]
        features = np.concatenate([inverse, np.cos(4 * inverse), images[:, :, 0] / 255], -1).astype(np.float16)
        self.publish("depth_anything_features", key, {"features": features})
        self.publish("clip_features", key, {"features": np.clip(features, 0, 1)[..., :4]})

    def publish_audit(self, key: str, metrics: dict[str, Any] = PASSED) -> None:
        """Publish a verdict about the scene's current version; a scene so small shows an audit too little."""
        scene = self.home.require("scene", key)
        tag = digest_of({"metrics": metrics})
        provenance = Provenance(kind="scene_audit", partition=key, inputs=(scene.as_input,), config_digest=tag)
        materialize_files(self.home, provenance, lambda _: metrics)

    def freeze(self, name: str, config: StudentConfig, **changes: Any) -> Materialized:
        return freeze_training_set(self.home, name, self.training_set(config, **changes))

    def training_set(self, config: StudentConfig, **changes: Any) -> TrainingSetConfig:
        defaults: dict[str, Any] = {
            "train_scenes": ("yard.a",),
            "validation_scenes": ("yard.b",),
            "kinds": config.data.kinds,
        }
        return TrainingSetConfig(**{**defaults, **changes})


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two scenes, ``yard.a`` and ``yard.b``, for tests that only read or that publish under names of their own."""
    world = World(tmp_path_factory.mktemp("world"))
    world.add_scene("yard.a", 0)
    world.add_scene("yard.b", 1)
    return world


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[[], World]:
    """Make worlds of one scene, ``yard.a``, for tests that break something."""

    def make() -> World:
        world = World(tmp_path / f"world-{len(list(tmp_path.iterdir()))}")
        world.add_scene("yard.a")
        return world

    return make


@pytest.fixture
def make_scene_data() -> Callable[[int], SceneData]:
    """Make the recording of a scene by its seed."""
    return scene_data


@pytest.fixture
def student_config() -> StudentConfig:
    """A very small run that reads every kind."""
    model = tiny_model(
        depth_feature_channels=5, feature_heads=(FeatureHeadConfig(source="clip", channels=4, hidden_width=8),)
    )
    model = replace(
        model,
        fine_depth=replace(model.fine_depth, lift_detail=False),
        voxels=replace(model.voxels, coarse_level=5, feature_width=8, convolution_width=8, down_width=8),
        renderer=replace(model.renderer, bins=replace(model.renderer.bins, num_bins=40), num_fine_samples=8),
    )
    return StudentConfig(
        model=model,
        data=DataConfig(
            image_height=2 * GRID[0],
            image_width=2 * GRID[1],
            render_height=GRID[0],
            render_width=GRID[1],
            depth_height=GRID[0],
            depth_width=GRID[1],
            views=ViewsConfig(same_frame=2, neighbour=1, virtual=1),
            feature_sources=("clip",),
        ),
        losses=LossConfig(
            log_depth=0.5, depth_likelihood=0.1, fine_depth=1.0, perceptual=0.3, surface_feature=0.5, line_of_sight=0.1
        ),
        fit=FitConfig(
            max_steps=6,
            validate_every=4,
            max_validation_samples=1,
            optimizer=OptimizerConfig(learning_rate=3e-3, betas=(0.9, 0.99), schedule="cosine", ema_decay=0.9),
            runtime=FitRuntime(device="cpu", log_every=1, save_every=2),
        ),
    )


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Small tensors only lose time to a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unsound_targets_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training sets take targets that contradict the recording, to see what comes of them later."""
    monkeypatch.setattr("student.data.training_set.check_physics", lambda *_, **__: [])
