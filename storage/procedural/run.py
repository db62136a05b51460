"""Generate a procedural data set: nuScenes files or a rig manifest under a root, ground truth in the home."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from storage.code import code_digest
from storage.digests import config_digest, config_json, digest_of
from storage.errors import ErrorKind, SourceDataError
from storage.ingest.manifest.manifest import RigScene
from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.keys import SceneKey
from storage.plain_json import parse_json
from storage.procedural.config import ProceduralConfig
from storage.procedural.sensing.rigs import rig_cameras
from storage.procedural.world.mesh import placement
from storage.procedural.world.world import World
from storage.procedural.writers.manifest_output import ManifestOutput, write_rig_manifest
from storage.procedural.writers.nuscenes_output import NuscenesOutput, Rows, write_nuscenes_tables
from storage.procedural.writers.recorder import RecordedScene, Recorder, truth_of
from storage.procedural.writers.truth import KIND, FrameTruth, WorldRecipe, write_truth
from storage.progress import ProgressCallback
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, NothingBuiltError, materialize_arrays

logger = logging.getLogger(__name__)

MANIFEST = "procedural_manifest.json"
_LICENCE = "Apache-2.0"
_EPOCH_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
_SCENE_SPACING_US = 3_600_000_000


def generate_dataset(
    home: Home,
    root: Path,
    config: ProceduralConfig,
    on_progress: ProgressCallback | None = None,
    *,
    num_workers: int = 1,
) -> list[SceneKey]:
    """Generate a data set with its Occ3D labels, unless it exists already, and register it as a source.

    Files are written aside and moved to ``root`` when all are complete.

    Args:
        home: Home of the source and of the ``scene_truth`` stores.
        root: Folder of the files. A root that holds something else is never overwritten.
        config: Settings of the data set.
        on_progress: Called with a message, the share done and details.
        num_workers: Processes that generate scenes side by side; the result does not depend on it.

    Returns:
        The keys of the scenes, in order.

    Raises:
        SourceDataError: If ``root`` holds files that this generator did not write.
        NothingBuiltError: If the data set is not there, and the home builds nothing.
    """
    root = root.absolute()
    keys = [SceneKey(config.dataset, config.scene_name(i)) for i in range(config.num_scenes)]
    digest = dataset_digest(config)
    tell = on_progress or _ignore
    if not _is_current(root, digest) or any(_find_truth(home, key, config) is None for key in keys):
        if not home.builds:
            raise NothingBuiltError(ErrorKind.FILE_MISSING, str(root), "the procedural data set is not there")
        _generate(home, root, config, digest, tell, num_workers)
    else:
        tell("procedural data set is already there", 1.0, {"digest": digest})
    register_source(
        home,
        SourceConfig(
            dataset=config.dataset, format=config.source_format, root=root, version=config.version, licence=_LICENCE
        ),
    )
    return keys


def dataset_digest(config: ProceduralConfig) -> str:
    """Return the digest of everything that determines the files: the configuration and the code."""
    return digest_of({"config": config_digest(config), "code": code_digest(__name__, kind=KIND)})


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
    manifest = parse_json(path.read_text())
    if manifest["digest"] != digest:
        return False
    return all((root / name).is_file() for name in manifest["files"])


def _provenance(key: SceneKey, config: ProceduralConfig) -> Provenance:
    return Provenance(
        kind=KIND,
        partition=str(key),
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, kind=KIND),
        seed=config.seed,
        pose_source="procedural motion",
        licence=_LICENCE,
        config=config_json(config),
        packages=package_versions("numpy", "embreex", "trimesh", "scipy"),
    )


def _find_truth(home: Home, key: SceneKey, config: ProceduralConfig) -> object | None:
    return home.find(KIND, str(key), _provenance(key, config).digest)


def _generate(
    home: Home, root: Path, config: ProceduralConfig, digest: str, tell: ProgressCallback, num_workers: int
) -> None:
    aside = root.with_name(f".{root.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    indices = range(config.num_scenes)
    entries: list[Any] = []
    jobs = [_SceneJob(home=home, root=aside, config=config, index=i) for i in indices]
    for index, entry in enumerate(_run_jobs(jobs, num_workers, tell)):
        entries.append(entry)
        tell(f"{config.scene_name(index)} generated", (index + 1) / config.num_scenes, {"theme": config.theme(index)})
    if config.source_format == "nuscenes":
        write_nuscenes_tables(aside, config, entries)
    else:
        write_rig_manifest(aside, config, entries, _LICENCE)
    files = sorted(str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file())
    manifest = {"digest": digest, "config": config_json(config), "files": files}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    if root.exists():
        shutil.rmtree(root)
    aside.rename(root)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SceneJob:
    """One scene to generate, sent to a worker process."""

    home: Home
    root: Path
    config: ProceduralConfig
    index: int


def _run_jobs(jobs: list[_SceneJob], num_workers: int, tell: ProgressCallback) -> Iterator[Rows | RigScene]:
    if num_workers <= 1 or len(jobs) == 1:
        return (_generate_scene(job, tell) for job in jobs)
    return _in_processes(jobs, num_workers)


def _in_processes(jobs: list[_SceneJob], num_workers: int) -> Iterator[Rows | RigScene]:
    # Embree and the parent's stores do not survive a fork.
    with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_generate_scene, jobs)


def _generate_scene(job: _SceneJob, tell: ProgressCallback = _ignore) -> Rows | RigScene:
    """Write one scene's files, publish its truth, and return its part of the data set's tables."""
    config, index = job.config, job.index
    key = SceneKey(config.dataset, config.scene_name(index))
    seed = config.scene_seed(index)
    recipe = WorldRecipe(
        theme=config.theme(index),
        seed=seed,
        duration_s=config.duration_s,
        start_timestamp_us=_EPOCH_US + index * _SCENE_SPACING_US,
        conditions=config.weather.of_scene(seed),
    )
    world = recipe.build()
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, 0x5EED]))
    world_to_global = placement(
        float(rng.uniform(200, 300)), float(rng.uniform(200, 300)), 0.0, float(rng.uniform(-np.pi, np.pi))
    )
    scene = RecordedScene(
        name=key.scene_name,
        log_name=f"procedural-{config.seed:d}-{index + 1:04d}",
        location=f"procedural-{recipe.theme}",
        description=_description(world),
        start_timestamp_us=recipe.start_timestamp_us,
        world=world,
        world_to_global=world_to_global,
    )
    output = (NuscenesOutput if config.source_format == "nuscenes" else ManifestOutput)(job.root, config, scene)
    recorder = Recorder(config, world, world_to_global, rng)
    frames: list[FrameTruth] = []
    for frame in range(config.frames_per_scene):
        recorded = recorder.record(frame)
        output.add_frame(recorded)
        frames.append(truth_of(recorded))
        share = (index + (frame + 1) / config.frames_per_scene) / config.num_scenes
        tell(f"{key.scene_name} frame {frame + 1}/{config.frames_per_scene}", share, {})
    entry = output.finish()
    cameras = rig_cameras(config)
    names = tuple(c.name for c in cameras)
    intrinsics = np.stack([c.intrinsics(config.image_height, config.image_width) for c in cameras])

    def write(group: zarr.Group) -> Mapping[str, Any]:
        return write_truth(group, frames, names, intrinsics, recipe)

    materialize_arrays(job.home, _provenance(key, config), write)
    return entry


def _description(world: World) -> str:
    counts: dict[str, int] = {}
    for actor in world.actors:
        counts[actor.class_name] = counts.get(actor.class_name, 0) + 1
    listing = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in sorted(counts.items()))
    return f"Procedural {world.theme}, {world.lighting.name}: {listing}"
