"""A small drive past a wall under a clear sky, with exact images and LiDAR, published as a scene."""

import dataclasses
import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from storage.geometry.rays import camera_rays
from storage.scenes.schema import SceneData
from storage.scenes.store import SceneReader, write_scene
from storage.stores.arrays import write_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from teachers.nerf.rendered_views import FieldViews

SCENE_KEY = "test.wall"
WALL_Y = 6.0
WALL_TOP = 4.0
SIZE = (36, 64)


def intersect(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Distance along unit rays to the ground (z = 0) or the wall (y = 6, up to z = 4); inf where there is sky."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = np.where(directions[..., 2] < -1e-6, -origins[..., 2] / directions[..., 2], np.inf)
        wall = np.where(directions[..., 1] > 1e-6, (WALL_Y - origins[..., 1]) / directions[..., 1], np.inf)
        wall = np.where(origins[..., 2] + wall * directions[..., 2] <= WALL_TOP, wall, np.inf)
    distance = np.minimum(ground, wall)
    return np.where(distance < 60.0, distance, np.inf)


def paint(points: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Smooth texture of the surfaces, and a blue sky, as uint8."""
    on_wall = np.abs(points[..., 1] - WALL_Y) < 1e-3
    stripes = 0.5 + 0.25 * np.sin(points[..., 0]) + 0.2 * np.sin(1.3 * points[..., 2] + points[..., 1])
    ground, wall = np.array([0.5, 0.5, 0.45]), np.array([0.9, 0.45, 0.3])
    colour = np.where(on_wall[..., None], wall, ground) * stripes[..., None]
    colour = np.where(np.isfinite(distance)[..., None], colour, np.array([0.5, 0.7, 0.95]))
    return (255 * colour.clip(0, 1)).astype(np.uint8)


def make_wall_scene(
    frames: int = 5, *, fisheye: np.ndarray | None = None, step_m: float = 0.8
) -> tuple[SceneData, np.ndarray]:
    """Return the scene and, per frame and camera, which pixels are sky; a lens given turns LEFT into a fisheye."""
    lenses = np.full((2, 4), np.nan)
    if fisheye is not None:
        lenses[1] = fisheye
    height, width = SIZE
    intrinsics = np.array([[40.0, 0, width / 2], [0, 40.0, height / 2], [0, 0, 1]])
    forward = np.array([[0.0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]])
    left = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0.3], [0, -1, 0, 1.6], [0, 0, 0, 1]])
    camera_to_ego = np.stack([forward, left])
    lidar_to_ego = np.eye(4)
    lidar_to_ego[2, 3] = 1.9
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = step_m * np.arange(frames)
    azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 180), np.linspace(-0.5, 0.2, 24))
    beams = np.stack(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], -1
    ).reshape(-1, 3)
    jpegs, lidar, is_sky = [], [], np.zeros((frames, 2, height, width), bool)
    for frame in range(frames):
        row = []
        for camera in range(2):
            origins, directions = camera_rays(
                intrinsics, poses[frame] @ camera_to_ego[camera], height=height, width=width, fisheye=lenses[camera]
            )
            distance = intersect(origins, directions)
            is_sky[frame, camera] = ~np.isfinite(distance)
            points = origins + directions * np.where(np.isfinite(distance), distance, 0.0)[..., None]
            buffer = io.BytesIO()
            Image.fromarray(paint(points, distance)).save(buffer, "JPEG", quality=95)
            row.append(buffer.getvalue())
        jpegs.append(tuple(row))
        origin = (poses[frame] @ lidar_to_ego)[:3, 3]
        distance = intersect(np.broadcast_to(origin, beams.shape), beams)
        hit = np.isfinite(distance)
        in_ego = lidar_to_ego[:3, 3] + beams[hit] * distance[hit, None]
        lidar.append(np.concatenate([in_ego, np.ones((len(in_ego), 1))], axis=1).astype(np.float32))
    times = 500_000 * np.arange(1, frames + 1)
    scene = SceneData(
        camera_names=("FRONT", "LEFT"),
        image_sizes=(SIZE, SIZE),
        intrinsics=np.stack([intrinsics, intrinsics]),
        camera_to_ego=camera_to_ego,
        timestamp_us=times,
        ego_to_world=poses,
        camera_timestamp_us=np.tile(times[:, None], (1, 2)),
        camera_ego_to_world=np.tile(poses[:, None], (1, 2, 1, 1)),
        jpegs=tuple(jpegs),
        lidar_points=tuple(lidar),
        lidar_to_ego=lidar_to_ego,
        fisheye=lenses,
    )
    return scene, is_sky


@pytest.fixture(scope="session")
def wall_home(tmp_path_factory) -> Home:
    """A home that holds the scene and its sky mask."""
    home = Home(tmp_path_factory.mktemp("wall") / "home")
    publish_wall(home, SCENE_KEY, *make_wall_scene())
    return home


@pytest.fixture(scope="session")
def lacking_home(tmp_path_factory) -> Home:
    """A home of scenes that lack something: LiDAR, two images of a camera, motion."""
    home = Home(tmp_path_factory.mktemp("lacking") / "home")
    scene, is_sky = make_wall_scene()
    nothing = np.zeros((0, 4), np.float32)
    publish_wall(home, "test.no-lidar", dataclasses.replace(scene, lidar_points=(nothing,) * 5), is_sky)
    dead = tuple((black_jpeg(), row[1]) if frame in (1, 2) else row for frame, row in enumerate(scene.jpegs))
    publish_wall(home, "test.black", dataclasses.replace(scene, jpegs=dead), is_sky)
    publish_wall(home, "test.still", *make_wall_scene(step_m=0.0))
    return home


def black_jpeg() -> bytes:
    """What a dead camera delivers: black, with the noise of its compression."""
    pixels = np.random.default_rng(0).integers(0, 4, (*SIZE, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def publish_wall(home: Home, scene_key: str, scene: SceneData, is_sky: np.ndarray) -> None:
    """Publish a scene and its sky mask."""

    def scene_into(group):
        write_scene(group, scene)
        return {}

    def mask_into(group):
        write_target(group, "sky_mask", "is_sky", is_sky)
        write_target(group, "sky_mask", "sky_probability", is_sky.astype(np.float16))
        return {}

    materialize_arrays(home, Provenance(kind="scene", partition=scene_key, licence="none"), scene_into)
    materialize_arrays(home, Provenance(kind="sky_mask", partition=scene_key), mask_into)


@pytest.fixture(scope="session")
def wall_scene(wall_home) -> SceneReader:
    return SceneReader.open(wall_home, SCENE_KEY)


@pytest.fixture(scope="session")
def fisheye_wall_scene() -> SceneReader:
    """The first frames of the drive, with a left camera whose image circle leaves its corners black."""
    group = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(group, make_wall_scene(2, fisheye=np.array([-0.5, 0.0, 0.0, 0.0]))[0])
    return SceneReader(group)


@pytest.fixture(scope="session")
def nerfstudio_python(repository_root) -> Path:
    python = repository_root / ".venv-nerfstudio" / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"no nerfstudio environment at {python}: run 'make environments'")
    return python


@pytest.fixture(scope="session")
def render_wall(wall_scene):
    """Renders the drive exactly, as ``RenderSource.views`` renders a field."""

    def render(frame: int, camera: int, poses: np.ndarray, size: tuple[int, int]) -> FieldViews:
        height, width = size
        intrinsics, shown = wall_scene.intrinsics(camera, size=size), []
        for pose in poses:
            origins, directions = camera_rays(intrinsics, pose, height=height, width=width)
            distance = intersect(origins, directions)
            points = origins + directions * np.where(np.isfinite(distance), distance, 0.0)[..., None]
            shown.append((paint(points, distance) / np.float32(255), distance))
        distance = np.stack([d for _, d in shown])
        return FieldViews(
            frame=frame,
            camera=camera,
            poses=poses,
            has_ray=np.ones(size, bool),
            rgb=np.stack([rgb for rgb, _ in shown]).astype(np.float32),
            termination_depth=np.where(np.isfinite(distance), distance, 60.0).astype(np.float32),
            opacity=np.isfinite(distance).astype(np.float32),
        )

    return render


@pytest.fixture(scope="session")
def user_environment() -> dict[str, str]:
    """The environment of a user's shell: no path and no plugin is named by a variable."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NERFSTUDIO_METHOD_CONFIGS")}
    return {**kept, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def installed_python(nerfstudio_python, repository_root, user_environment) -> Path:
    """The interpreter of nerfstudio's environment, if this very checkout is installed there."""
    question = "from importlib.util import find_spec; print(find_spec('teachers').origin)"
    command = [str(nerfstudio_python), "-c", question]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=user_environment, cwd="/")
    origin = Path(done.stdout.strip() or "/")
    if origin != repository_root / "teachers" / "__init__.py":
        pytest.skip(f"{nerfstudio_python} has the project from {origin}: run 'make environments' in this checkout")
    return nerfstudio_python
