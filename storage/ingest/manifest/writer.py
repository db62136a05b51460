"""Write a recording as a rig manifest, for converters of other logs.

The caller copies the images to the files that it names. Everything else is written here, under the manifest's root.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from storage.ingest.manifest.manifest import RIG_MANIFEST_FILE, RigManifest, RigScene, parse_manifest
from storage.ingest.manifest.tables import BOXES, FRAMES, IMAGES, POSES, SWEEP, Values, pose_columns, write_columns
from storage.scenes.schema import SceneBoxes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEntry:
    """One image of a scene.

    Attributes:
        frame: Index of its frame.
        camera: Name of its camera on the rig.
        timestamp_us: Middle of the exposure.
        file: JPEG file, relative to the root.
    """

    frame: int
    camera: str
    timestamp_us: int
    file: str


def write_manifest(root: Path, manifest: RigManifest) -> Path:
    """Write ``rig_manifest.json``, replacing an existing one, and return its path.

    Raises:
        SourceDataError: If the manifest is invalid; nothing is written then.
    """
    document = manifest.to_json()
    parse_manifest(document)
    root.mkdir(parents=True, exist_ok=True)
    path = root / RIG_MANIFEST_FILE
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(document, indent=2) + "\n")
    aside.replace(path)
    return path


def write_scene_tables(
    root: Path,
    scene_name: str,
    rig: str,
    *,
    pose_timestamp_us: Int64[np.ndarray, " poses"],
    ego_to_world: Float[np.ndarray, "poses 4 4"],
    frame_timestamp_us: Int64[np.ndarray, " frames"],
    images: Sequence[ImageEntry],
    lidar_files: Sequence[str | None] | None = None,
    boxes: SceneBoxes | None = None,
    description: str = "",
    location: str = "",
) -> RigScene:
    """Write the tables of one scene into ``<root>/<scene_name>`` and return its entry for the manifest.

    Args:
        root: Folder of the manifest.
        scene_name: Name of the scene and of its folder.
        rig: Name of the rig in the manifest.
        pose_timestamp_us: Instants of the trajectory, strictly increasing; they enclose every image and point.
        ego_to_world: Ego poses at those instants; any origin, z up.
        frame_timestamp_us: Reference instant of each frame.
        images: One entry for each frame and camera, in any order.
        lidar_files: Sweep file of each frame, relative to the root, as ``write_sweep`` writes it; None without LiDAR.
        boxes: Annotations in the world frame of the poses.
        description: Free text for people.
        location: Place of the drive, for people.
    """
    folder = root / scene_name
    poses = {"timestamp_us": pose_timestamp_us, **pose_columns(ego_to_world)}
    write_columns(folder / "poses.parquet", POSES, poses)
    frames: dict[str, Values] = {"frame": np.arange(len(frame_timestamp_us)), "timestamp_us": frame_timestamp_us}
    if lidar_files is not None:
        frames["lidar_file"] = list(lidar_files)
    write_columns(folder / "frames.parquet", FRAMES, frames)
    names = ("frame", "camera", "timestamp_us", "file")
    write_columns(folder / "images.parquet", IMAGES, {name: [getattr(i, name) for i in images] for name in names})
    if boxes is not None:
        write_columns(folder / "boxes.parquet", BOXES, _box_columns(boxes))
    return RigScene(
        name=scene_name,
        rig=rig,
        poses=f"{scene_name}/poses.parquet",
        frames=f"{scene_name}/frames.parquet",
        images=f"{scene_name}/images.parquet",
        boxes=None if boxes is None else f"{scene_name}/boxes.parquet",
        description=description,
        location=location,
    )


def write_sweep(
    path: Path,
    points: Float[np.ndarray, "points 4"],
    *,
    time_offset_us: Int64[np.ndarray, " points"] | None = None,
) -> None:
    """Write one LiDAR sweep.

    Args:
        path: File under the manifest's root.
        points: x, y, z in the LiDAR's axes (metres), and intensity.
        time_offset_us: Time of each point since the frame's instant; None if all are 0.
    """
    columns = {name: points[:, i].astype(np.float32) for i, name in enumerate(("x", "y", "z", "intensity"))}
    if time_offset_us is not None:
        columns["time_offset_us"] = time_offset_us
    write_columns(path, SWEEP, columns)


def _box_columns(boxes: SceneBoxes) -> dict[str, Values]:
    columns: dict[str, Values] = {
        "frame": boxes.frame_index,
        "instance": boxes.instance,
        "category": boxes.category,
    }
    for names, values in (
        ("xyz", boxes.centre),
        (("length", "width", "height"), boxes.size),
        (("qw", "qx", "qy", "qz"), boxes.quat_wxyz),
    ):
        columns.update({name: values[:, i] for i, name in enumerate(names)})
    return columns
