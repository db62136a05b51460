"""Generate a procedural data set: nuScenes files under a root, ground truth in the home."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.occ3d import Occ3dLabels, labels_path, write_labels
from storage.ingest.source import SourceConfig, register_source
from storage.keys import SceneKey
from storage.procedural.classes import occ3d_table
from storage.procedural.config import ProceduralConfig
from storage.procedural.mesh import placement
from storage.procedural.nuscenes_writer import (
    MAP_METRES_PER_PIXEL,
    SceneWriter,
    SensorMount,
    shared_rows,
    write_tables,
)
from storage.procedural.recorder import RecordedFrame, Recorder, truth_of
from storage.procedural.sensors import CAMERAS, LIDAR_NAME, lidar_to_ego
from storage.procedural.sources import dataset_code_digest
from storage.procedural.truth import KIND, WorldRecipe, write_truth
from storage.procedural.world import World
from storage.provenance import Provenance, config_digest, config_json, digest_of, package_versions
from storage.versioned import Home, materialize_arrays

logger = logging.getLogger(__name__)

MANIFEST = "procedural_manifest.json"
_LICENCE = "Apache-2.0"
_EPOCH_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
_SCENE_SPACING_US = 3_600_000_000
_MAP_SIZE_M = 500.0
_DRIVEABLE = 11

Progress = Callable[[str, float, Mapping[str, Any]], None]
Rows = dict[str, list[dict[str, Any]]]


def generate_dataset(
    home: Home,
    root: Path,
    config: ProceduralConfig,
    on_progress: Progress | None = None,
    *,
    num_workers: int = 1,
) -> list[SceneKey]:
    """Generate a data set with its Occ3D labels, or find that it is already there, and register it as a source.

    Files are written aside and moved to ``root`` when all are complete, so a half-written data set is never seen.

    Args:
        home: Receives the source and the ``scene_truth`` stores.
        root: Receives the nuScenes layout. A root that holds something else is never overwritten.
        config: What to generate.
        on_progress: Called with a message, the share done and details.
        num_workers: Processes that generate scenes side by side; does not change the result.

    Returns:
        The keys of the scenes, in order.

    Raises:
        SourceDataError: If ``root`` holds files that this generator did not write.
    """
    root = root.absolute()
    keys = [SceneKey(config.dataset, config.scene_name(i)) for i in range(config.num_scenes)]
    digest = dataset_digest(config)
    tell = on_progress or _ignore
    if not _is_current(root, digest) or any(_find_truth(home, key, config) is None for key in keys):
        _generate(home, root, config, digest, tell, num_workers)
    else:
        tell("procedural data set is already there", 1.0, {"digest": digest})
    register_source(
        home,
        SourceConfig(dataset=config.dataset, format="nuscenes", root=root, version=config.version, licence=_LICENCE),
    )
    return keys


def dataset_digest(config: ProceduralConfig) -> str:
    """Return what determines every byte: the configuration and the code."""
    return digest_of({"config": config_digest(config), "code": dataset_code_digest()})


def _ignore(message: str, share: float, details: Mapping[str, Any]) -> None:
    logger.info("%s (%.0f%%) %s", message, 100 * share, dict(details))


def _is_current(root: Path, digest: str) -> bool:
    path = root / MANIFEST
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not path.is_file():
        raise SourceDataError(
            ErrorKind.FILE_UNSAFE, str(root), f"holds files but no {MANIFEST}; want an empty or a generated folder"
        )
    manifest = json.loads(path.read_text())
    if manifest["digest"] != digest:
        return False
    return all((root / name).is_file() for name in manifest["files"])


def _provenance(key: SceneKey, config: ProceduralConfig) -> Provenance:
    return Provenance(
        kind=KIND,
        partition=str(key),
        config_digest=config_digest(config),
        code_digest=dataset_code_digest(),
        seed=config.seed,
        pose_source="procedural motion",
        licence=_LICENCE,
        config=config_json(config),
        packages=package_versions("numpy", "embreex", "trimesh", "scipy"),
    )


def _find_truth(home: Home, key: SceneKey, config: ProceduralConfig) -> object | None:
    return home.find(KIND, str(key), _provenance(key, config).digest)


def _generate(home: Home, root: Path, config: ProceduralConfig, digest: str, tell: Progress, num_workers: int) -> None:
    aside = root.with_name(f".{root.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    indices = range(config.num_scenes)
    parts: list[Rows] = []
    jobs = [_SceneJob(home=home, root=aside, config=config, index=i) for i in indices]
    for index, rows in enumerate(_run_jobs(jobs, num_workers, tell)):
        parts.append(rows)
        tell(f"{config.scene_name(index)} generated", (index + 1) / config.num_scenes, {"theme": config.theme(index)})
    write_tables(aside / config.version, [shared_rows(_mounts(config)), *parts])
    files = sorted(str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file())
    manifest = {"digest": digest, "config": config_json(config), "files": files}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    if root.exists():
        shutil.rmtree(root)
    aside.rename(root)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SceneJob:
    """One scene to generate; travels to a worker process."""

    home: Home
    root: Path
    config: ProceduralConfig
    index: int


def _run_jobs(jobs: list[_SceneJob], num_workers: int, tell: Progress) -> Iterator[Rows]:
    if num_workers <= 1 or len(jobs) == 1:
        return (_generate_scene(job, tell) for job in jobs)
    return _in_processes(jobs, num_workers)


def _in_processes(jobs: list[_SceneJob], num_workers: int) -> Iterator[Rows]:
    # Embree and the parent's stores do not survive a fork.
    with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_generate_scene, jobs)


def _mounts(config: ProceduralConfig) -> tuple[SensorMount, ...]:
    cameras = tuple(
        SensorMount(
            channel=c.name,
            sensor_to_ego=c.camera_to_ego(),
            intrinsics=c.intrinsics(config.image_height, config.image_width),
        )
        for c in CAMERAS
    )
    return (SensorMount(channel=LIDAR_NAME, sensor_to_ego=lidar_to_ego(), intrinsics=None), *cameras)


def _generate_scene(job: _SceneJob, tell: Progress = _ignore) -> Rows:
    """Write one scene's files, publish its truth, return its table rows."""
    config, index = job.config, job.index
    key = SceneKey(config.dataset, config.scene_name(index))
    recipe = WorldRecipe(
        theme=config.theme(index),
        seed=config.scene_seed(index),
        duration_s=config.duration_s,
        start_timestamp_us=_EPOCH_US + index * _SCENE_SPACING_US,
    )
    world = recipe.build()
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, 0x5EED]))
    world_to_global = placement(
        float(rng.uniform(200, 300)), float(rng.uniform(200, 300)), 0.0, float(rng.uniform(-np.pi, np.pi))
    )
    writer = SceneWriter(
        root=job.root,
        name=key.scene_name,
        log_name=f"procedural-{config.seed:d}-{index + 1:04d}",
        location=f"procedural-{recipe.theme}",
        description=_description(world),
        mounts=_mounts(config),
    )
    recorder = Recorder(config, world, world_to_global, rng)
    frames = []
    for frame in range(config.frames_per_scene):
        frames.append(recorder.record(config.keyframe_time_us(frame)))
        _write_frame(frames[-1], writer, job, world_to_global, recipe.start_timestamp_us)
        share = (index + (frame + 1) / config.frames_per_scene) / config.num_scenes
        tell(f"{key.scene_name} frame {frame + 1}/{config.frames_per_scene}", share, {})
    writer.finish(_driveable_mask(world, world_to_global))
    names = tuple(c.name for c in CAMERAS)

    def write(group: zarr.Group) -> Mapping[str, Any]:
        return write_truth(group, truth_of(frames), names, recipe)

    materialize_arrays(job.home, _provenance(key, config), write)
    return writer.rows


def _write_frame(
    frame: RecordedFrame, writer: SceneWriter, job: _SceneJob, to_global: np.ndarray, start_us: int
) -> None:
    """Write one keyframe: images, sweep, boxes, and its Occ3D labels."""
    sample = writer.add_frame(start_us + frame.time_us)
    for exposure in frame.exposures:
        writer.add_image(
            sample,
            exposure.name,
            start_us + exposure.camera.time_us,
            to_global @ exposure.ego_to_world,
            exposure.view.image,
            quality=job.config.jpeg_quality,
        )
    writer.add_sweep(sample, LIDAR_NAME, start_us + frame.time_us, to_global @ frame.ego_to_world, frame.sweep)
    for annotation in frame.annotations:
        writer.add_annotation(sample, annotation)
    labels = Occ3dLabels(semantics=frame.occupancy, mask_lidar=frame.is_scanned, mask_camera=frame.is_visible)
    write_labels(labels_path(job.root, writer.name, sample), labels)


def _description(world: World) -> str:
    counts: dict[str, int] = {}
    for actor in world.actors:
        counts[actor.class_name] = counts.get(actor.class_name, 0) + 1
    listing = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in sorted(counts.items()))
    return f"Procedural {world.theme}, {world.lighting.name}: {listing}"


def _driveable_mask(world: World, world_to_global: Float[np.ndarray, "4 4"]) -> Bool[np.ndarray, "rows columns"]:
    """Return the map's prior: which pixels are driveable ground, in global coordinates, y upwards."""
    size = round(_MAP_SIZE_M / MAP_METRES_PER_PIXEL)
    mesh = world.static_mesh
    flat = (occ3d_table()[mesh.class_id] == _DRIVEABLE) & (np.abs(mesh.corners[..., 2]).max(axis=1) < 0.1)
    corners = mesh.corners[flat].reshape(-1, 3) @ world_to_global[:3, :3].T + world_to_global[:3, 3]
    pixels = corners[:, :2] / MAP_METRES_PER_PIXEL
    pixels[:, 1] = size - pixels[:, 1]
    canvas = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(canvas)
    for triangle in pixels.reshape(-1, 6):
        draw.polygon(triangle.tolist(), fill=1)
    return np.asarray(canvas) > 0
