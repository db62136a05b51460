"""Recordings and scenes, from which everything else is made."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.declarations import declare, shown_only
from assets.failures import ends_when_told, stops_retries
from assets.partition_runs import LOOK_UPS, event_of, partitioned_asset
from pipeline.partitions import add_scene_partitions, scenes
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection, RunSelector
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.procedural.config import ProceduralConfig
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, Materialized

LIGHT_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=8)
"""Backfill policy of short steps: a process for each scene would cost more than the step."""


_READERS = ("nuscenes.recording", "manifest.recording", "waymo.v1", "waymo.v2")


@dg.asset(
    **declare(
        group="recordings",
        kinds={"python", "nuscenes"},
        makes=Kind.SCENE_TRUTH,
        producer="storage.procedural.run",
        is_partitioned=False,
    ),
    description=(
        "Procedural drives in the nuScenes v1.0 layout with their exact ground truth, and the partitions of their "
        "scenes. Not needed for real recordings, which `distillnerf ingest` registers."
    ),
)
def procedural_recordings(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> dg.MaterializeResult:
    """Generate drives, register them as a source and add a partition for each scene."""
    from storage.procedural.run import dataset_digest, generate_dataset

    with ends_when_told("procedural_recordings"):
        opened = home.open()
        with stops_retries(opened, "procedural_recordings"):
            settings = config.resolve(opened.root, by_command=home.by_command).procedural
        report = progress.reporter(context.log, "procedural_recordings", settings.dataset)
        root, workers = _folder_of(opened, settings), min(os.cpu_count() or 1, settings.num_scenes)
        with stops_retries(opened, "procedural_recordings"):
            keys = [str(k) for k in generate_dataset(opened, root, settings, on_progress=report, num_workers=workers)]
        add_scene_partitions(context.instance, keys)
        for key in keys:
            context.log_event(event_of(opened, opened.require("scene_truth", key)))
    metadata = {"root": dg.MetadataValue.path(str(root)), "scenes": dg.MetadataValue.json(keys)}
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(dataset_digest(settings)))


def _folder_of(home: Home, settings: ProceduralConfig) -> Path:
    return home.root / "recordings" / settings.dataset


def _look_up_recordings(home: Home, _: str, choices: Mapping[str, Any]) -> str:
    from storage.procedural.run import dataset_digest, generate_dataset

    settings = RunSelector(**choices).resolve(home.root, by_command=True).procedural
    generate_dataset(home, _folder_of(home, settings), settings)
    return dataset_digest(settings)


LOOK_UPS["procedural_recordings"] = _look_up_recordings


scene_truth = dg.AssetSpec(
    "scene_truth",
    group_name="recordings",
    kinds={"zarr", "icechunk"},
    owners=["team:perception-data"],
    partitions_def=scenes,
    deps=["procedural_recordings"],
    description=(
        "Exact depth, semantics, instances and occupancy of procedural scenes. Written by `procedural_recordings`; "
        "read by evaluation alone, the training loader refuses it."
    ),
)


@partitioned_asset(
    **declare(
        group="scenes",
        kinds={"zarr", "icechunk", "nuscenes"},
        makes=Kind.SCENE,
        producer=("storage.ingest.scene_writer", *(f"storage.ingest.{reader}" for reader in _READERS)),
        backfill_policy=LIGHT_BACKFILL,
        task="scene",
    ),
    deps=[shown_only("procedural_recordings")],
    description=(
        "One recorded scene: images as recorded, intrinsics, rig, ego poses at every exposure, LiDAR in the ego frame, "
        "timestamps, boxes, and the SHA-256 of every raw file."
    ),
)
def scene(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Ingest a scene from its registered source."""
    from storage.ingest.run import ingest_scene

    return ingest_scene(home, SceneKey.parse(key), selection.resolve().ingest, on_progress=tell)


@partitioned_asset(
    **declare(
        group="scenes",
        kinds={"python"},
        makes=Kind.SCENE_AUDIT,
        producer="storage.audits.scene_audit",
        backfill_policy=LIGHT_BACKFILL,
    ),
    deps=["scene"],
    description=(
        "Whether the geometry of a scene is what its sensors saw: axes, boxes, cameras against LiDAR, sweeps against "
        "poses. No student learns from a scene that fails, unless `split.allow_ungated` names this asset."
    ),
)
def scene_audit(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Audit the geometry of a scene."""
    from storage.audits.scene_audit import audit_scene

    return audit_scene(home, SceneKey.parse(key))


@partitioned_asset(
    **declare(
        group="scenes",
        kinds={"zarr", "icechunk"},
        makes=Kind.INPUT_IMAGES,
        producer="storage.targets.images",
        backfill_policy=LIGHT_BACKFILL,
        task="scene",
    ),
    deps=["scene"],
    description="Every image of a scene at the size that the student reads, with intrinsics scaled to it.",
)
def input_images(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Resize the images of a scene."""
    from storage.targets.images import resize_scene_images

    return resize_scene_images(home, SceneKey.parse(key), selection.resolve().input_images, on_progress=tell)


@partitioned_asset(
    **declare(
        group="scenes",
        kinds={"zarr", "icechunk"},
        makes=Kind.OCCUPANCY_LABELS,
        producer="storage.ingest.occupancy_labels",
        backfill_policy=LIGHT_BACKFILL,
        task="scene",
    ),
    deps=["scene"],
    description=(
        "Semantic occupancy that lies beside the recording in Occ3D's layout, `gts/<scene>/<token>/labels.npz`. Frames "
        "without a file are counted. Evaluation reads it; the training loader refuses it."
    ),
)
def occupancy_labels(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Read the labels of a scene, if there are any."""
    from storage.ingest.occupancy_labels import ingest_occupancy_labels

    return ingest_occupancy_labels(home, SceneKey.parse(key), on_progress=tell)


@partitioned_asset(
    **declare(
        group="scenes",
        kinds={"zarr", "icechunk"},
        makes=Kind.LIDAR_OCCUPANCY,
        producer="storage.references.lidar_occupancy",
        backfill_policy=LIGHT_BACKFILL,
        task="scene",
    ),
    deps=["scene"],
    description=(
        "Occupied, free and unknown voxels around each frame, by the beams of all sweeps around it: what a recording "
        "with LiDAR tells about its own occupancy. Evaluation reads it; the training loader refuses it."
    ),
)
def lidar_occupancy(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Let the beams of a scene vote about its voxels."""
    from storage.references.lidar_occupancy import make_lidar_occupancy

    return make_lidar_occupancy(home, SceneKey.parse(key), selection.resolve().lidar_occupancy, on_progress=tell)
