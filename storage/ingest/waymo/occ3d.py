"""Occ3D-Waymo labels: one ``<frame>_04.npz`` for each frame, in folders that are numbered and not named.

Unpacked, the labels of 0.4 m lie in ``<split>/<SSS>/<FFF>_04.npz``: the split, the number of the scene in it and of the
frame in the scene, three digits each. They are looked for in the folder ``occ3d`` below the root of the recordings.
A file holds ``voxel_label`` (classes 0 to 14, free space as 15 or 23), ``origin_voxel_state`` (what the LiDAR saw),
``final_voxel_state`` (what some camera saw), ``infov`` (what lies in the field of view of some camera: five do not see
all around) and ``ego2global``, by which the scene of a folder is told.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.ingest.nuscenes.occ3d import Occ3dLabels, read_arrays
from storage.references.point_classes import occ3d_class
from storage.scenes.store import SceneReader
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, OCC3D_UNNAMED

FOLDER = "occ3d"
CLASSES = (
    "TYPE_GENERALOBJECT",
    "TYPE_VEHICLE",
    "TYPE_PEDESTRIAN",
    "TYPE_SIGN",
    "TYPE_CYCLIST",
    "TYPE_TRAFFIC_LIGHT",
    "TYPE_POLE",
    "TYPE_CONSTRUCTION_CONE",
    "TYPE_BICYCLE",
    "TYPE_MOTORCYCLE",
    "TYPE_BUILDING",
    "TYPE_VEGETATION",
    "TYPE_TREE_TRUNK",
    "TYPE_ROAD",
    "TYPE_WALKABLE",
)
"""Classes by number. A vehicle may be a car, a truck or a bus, so it has no class of Occ3D-nuScenes."""

FREE = (15, 23)
"""Numbers of free space: the documentation's, and that of the files in circulation."""

_POSE = "ego2global"
_STATES = {"mask_lidar": "origin_voxel_state", "mask_camera": "final_voxel_state", "mask_fov": "infov"}
_POSE_TOLERANCE_M, _POSE_TOLERANCE = 0.01, 1e-3


def waymo_label_files(root: Path, read: Callable[[str], bytes], scene: SceneReader) -> list[str | None]:
    """Return the label file of each frame of a scene, relative to the root; None for frames without one.

    Args:
        root: Root of the recordings.
        read: Reads a file below it.
        scene: The ingested scene, which knows its own poses in Waymo's global frame.

    Raises:
        SourceDataError: If a folder's first file cannot be read or tells no pose, or several folders are of this scene.
    """
    to_global = np.asarray(scene.attributes["world_to_global"], np.float64)
    poses = to_global @ np.stack([scene.ego_to_world(frame) for frame in range(scene.num_frames)])
    own = [
        folder.relative_to(root)
        for folder in sorted((root / FOLDER).glob("*/[0-9][0-9][0-9]"))
        if _is_of(root, folder, read, poses)
    ]
    if len(own) > 1:
        raise SourceDataError(
            ErrorKind.TABLE_INVALID, FOLDER, f"{', '.join(map(str, own))} hold labels of one scene, want one of them"
        )
    if not own:
        return [None] * scene.num_frames
    wanted = [own[0] / f"{frame:03d}_04.npz" for frame in range(scene.num_frames)]
    return [str(file) if (root / file).is_file() else None for file in wanted]


def parse_waymo_labels(content: bytes, file: str, ego_to_global: Float[np.ndarray, "4 4"]) -> Occ3dLabels:
    """Return the labels of one frame, in the classes of Occ3D-nuScenes.

    What only vehicles and nothing finer are called is 254: something of no known class. A voxel outside every field of
    view is seen by no camera.

    Args:
        content: Content of a file of labels.
        file: Name of the file, for errors.
        ego_to_global: Pose of the frame that the file should be of.

    Raises:
        SourceDataError: If the file is damaged, lacks an array, holds unknown values, or is of another instant.
    """
    names = ("voxel_label", *_STATES.values(), _POSE)
    arrays = read_arrays(content, file, names)
    labels = _checked(arrays, "voxel_label", file, np.isin(np.arange(256), [*range(len(CLASSES)), *FREE]))
    states = {mask: _checked(arrays, name, file, np.arange(256) <= 1).astype(bool) for mask, name in _STATES.items()}
    pose = _pose_in(arrays, file)
    if not _same_pose(pose, ego_to_global):
        off = float(np.linalg.norm(pose[:3, 3] - ego_to_global[:3, 3]))
        raise SourceDataError(
            ErrorKind.POSE_INVALID, file, f"{_POSE} is {off:.2f} m from the pose of its frame: another scene or instant"
        )
    return Occ3dLabels(
        semantics=_table()[labels],
        mask_lidar=states["mask_lidar"],
        mask_camera=states["mask_camera"] & states["mask_fov"],
    )


def _table() -> UInt8[np.ndarray, " 256"]:
    table = np.full(256, OCC3D_UNKNOWN, np.uint8)
    for number, name in enumerate(CLASSES):
        known = occ3d_class(name)
        table[number] = OCC3D_UNNAMED if known == OCC3D_UNKNOWN else known
    table[CLASSES.index("TYPE_GENERALOBJECT")] = 0  # "others": something that is in no category
    table[list(FREE)] = OCC3D_FREE
    return table


def _is_of(root: Path, folder: Path, read: Callable[[str], bytes], poses: Float[np.ndarray, "frames 4 4"]) -> bool:
    """Return whether the first file of a folder is of its frame of a scene."""
    first = min(folder.glob("[0-9][0-9][0-9]_04.npz"), default=None)
    if first is None:
        return False
    name, frame = str(first.relative_to(root)), int(first.name[:3])
    pose = _pose_in(read_arrays(read(name), name, (_POSE,)), name)
    return frame < len(poses) and _same_pose(pose, poses[frame])


def _same_pose(pose: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"]) -> bool:
    is_near = np.linalg.norm(pose[:3, 3] - other[:3, 3]) <= _POSE_TOLERANCE_M
    return bool(is_near and np.abs(pose[:3, :3] - other[:3, :3]).max() <= _POSE_TOLERANCE)


def _pose_in(arrays: dict[str, np.ndarray], file: str) -> Float[np.ndarray, "4 4"]:
    pose = arrays.get(_POSE)
    if pose is None or pose.shape != (4, 4) or not np.isfinite(pose.astype(np.float64)).all():
        seen = "is missing" if pose is None else f"is {pose.dtype} {pose.shape}"
        raise SourceDataError(
            ErrorKind.POSE_INVALID, file, f"{_POSE} {seen}, want a pose 4 4: folders are numbered, and tell no scene"
        )
    return pose.astype(np.float64)


def _checked(
    arrays: dict[str, np.ndarray], name: str, file: str, is_known: np.ndarray
) -> UInt8[np.ndarray, "200 200 16"]:
    if name not in arrays:
        raise SourceDataError(ErrorKind.TABLE_INVALID, file, f"lacks the array {name!r}")
    array = arrays[name]
    if array.dtype.kind not in "iub" or array.shape != OCC3D_GRID.shape:
        message = f"{name} is {array.dtype} {array.shape}, want whole numbers {OCC3D_GRID.shape}"
        raise SourceDataError(ErrorKind.TABLE_INVALID, file, message)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255 or not is_known[np.unique(array).astype(np.int64)].all():
        wanted = np.flatnonzero(is_known).tolist()
        message = f"{name} holds {sorted(set(np.unique(array).tolist()) - set(wanted))[:3]}, want {wanted}"
        raise SourceDataError(ErrorKind.TABLE_INVALID, file, message)
    return array.astype(np.uint8)


def write_waymo_labels(
    folder: Path,
    frame: int,
    labels: UInt8[np.ndarray, "200 200 16"],
    ego_to_global: Float[np.ndarray, "4 4"],
    *,
    mask_lidar: np.ndarray,
    mask_camera: np.ndarray,
    mask_fov: np.ndarray,
) -> None:
    """Write the labels of one frame.

    Args:
        folder: Folder of the scene, created if it does not exist.
        frame: Number of the frame.
        labels: Numbers of ``CLASSES``; 23 for free space.
        ego_to_global: Pose of the frame.
        mask_lidar: Voxels that the LiDAR saw.
        mask_camera: Voxels that some camera saw.
        mask_fov: Voxels in the field of view of some camera.
    """
    folder.mkdir(parents=True, exist_ok=True)
    masks = {"mask_lidar": mask_lidar, "mask_camera": mask_camera, "mask_fov": mask_fov}
    states = {_STATES[name]: mask.astype(np.uint8) for name, mask in masks.items()}
    np.savez_compressed(folder / f"{frame:03d}_04.npz", voxel_label=labels, **states, **{_POSE: ego_to_global})
