"""Write occupancy in Occ3D's layout: ``gts/<scene>/<token>/labels.npz``, as other projects train and score on it.

What is stored has an answer for "unknown"; Occ3D's files have none. Such a voxel is written as free and outside both
masks, so that whoever respects the masks never learns or scores it. What is occupied by something of no known class is
one of Occ3D's "others".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from storage.digests import config_json
from storage.errors import ErrorKind, SourceDataError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.ingest.nuscenes.occ3d import Occ3dLabels, labels_path, write_labels
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import OCC3D_FREE, OCC3D_NAMES, OCC3D_UNKNOWN, OCC3D_UNNAMED
from student.inference.class_list import FIRST_OWN_LABEL

RECORD_FILE = "export.json"

_NO_LABEL = 256
_GRID = config_json(OCC3D_GRID)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedOccupancy:
    """Outcome of an export.

    Attributes:
        folder: Folder of the scene's files.
        num_frames: Frames written.
        unlabelled_frames: Frames about which the store says nothing; they have no file.
        unnamed_frames: Frames that have no token, such as those between keyframes; they have no file.
        unknown_voxels: Voxels written as free and outside both masks.
        unnamed_voxels: Occupied voxels of no known class, written as "others".
    """

    folder: Path
    num_frames: int
    unlabelled_frames: int
    unnamed_frames: int
    unknown_voxels: int
    unnamed_voxels: int


def export_occupancy(
    home: Home,
    version: StoreVersion,
    out_dir: Path,
    *,
    on_progress: ProgressCallback | None = None,
) -> ExportedOccupancy:
    """Write one stored version of voxels in Occ3D's layout, with a record of what it was made from.

    Args:
        home: Home of the version and its scene.
        version: Any kind with ``voxel_label`` on Occ3D's grid: labels of a recording, of LiDAR, or of a student. Where
            it says which voxels are visible and scanned, these are the masks. Of a student's labels, what its cameras
            observe is the mask of the cameras, and there is none of the LiDAR. Own classes become the Occ3D class that
            they belong to.
        out_dir: Root of the layout.
        on_progress: Function called after every frame.

    Raises:
        SourceDataError: If the store has another grid than Occ3D's, or labels that are none of its.
        ValueError: If the scene's folder there holds something that no export wrote, such as a recording's own labels.
    """
    group = home.open_arrays(version)
    key = SceneKey.parse(version.partition)
    tokens = frame_tokens(SceneReader.open(home, key))
    table = _occ3d_table(group, version.kind, str(version))
    if group.attrs.get("grid", _GRID) != _GRID:
        raise SourceDataError(
            ErrorKind.LABELS_INVALID, str(version), f"has the grid {group.attrs['grid']}, want {_GRID}"
        )
    folder = out_dir / "gts" / key.scene_name
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD_FILE).is_file():
        raise ValueError(f"{folder} holds labels that no export wrote: want another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / RECORD_FILE, home, version, {})  # first, so that an interrupted export can be repeated
    counts = dict.fromkeys((f.name for f in fields(ExportedOccupancy) if f.name != "folder"), 0)
    for frame, token in enumerate(tokens):
        labels, num_unnamed = _frame(group, version, frame, table)
        is_unknown = labels.semantics == OCC3D_UNKNOWN
        if is_unknown.all():
            counts["unlabelled_frames"] += 1
        elif token is None:
            counts["unnamed_frames"] += 1
        else:
            counts["num_frames"] += 1
            counts["unknown_voxels"] += int(is_unknown.sum())
            counts["unnamed_voxels"] += num_unnamed
            known = Occ3dLabels(
                semantics=np.where(is_unknown, np.uint8(OCC3D_FREE), labels.semantics),
                mask_lidar=labels.mask_lidar & ~is_unknown,
                mask_camera=labels.mask_camera & ~is_unknown,
            )
            write_labels(labels_path(out_dir, key.scene_name, token), known)
        if on_progress is not None:
            on_progress("frames", (frame + 1) / len(tokens), {"frame": frame})
    write_record(folder / RECORD_FILE, home, version, counts)
    return ExportedOccupancy(folder=folder, **counts)


def frame_tokens(scene: SceneReader) -> list[str | None]:
    """Return the name of each frame in the layout: its sample token, else its index in six digits."""
    tokens = scene.attributes.get("sample_tokens")
    if isinstance(tokens, list):
        return [None if token is None else str(token) for token in tokens]
    return [f"{index:06d}" for index in range(scene.num_frames)]


def write_record(path: Path, home: Home, version: StoreVersion, about: Mapping[str, Any]) -> None:
    """Write what labels were made from and with: version, licence, and prompts, checkpoint and thresholds if any."""
    record = {
        "made_from": {"kind": version.kind, "partition": version.partition, "digest": version.digest},
        "licence": home.provenance(version).licence,
        **label_attributes(home.open_arrays(version)),
        **about,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def label_attributes(group: zarr.Group) -> dict[str, Any]:
    """Return what a store of a student's labels says about them; nothing of other stores."""
    names = (
        "prompts",
        "template",
        "checkpoint",
        "text_encoder_digest",
        "occupancy_threshold",
        "occupancy_cuts",
        "temperature",
        "temperature_source",
        "evaluation_digest",
        "class_list",
        "thresholds",
        "occ3d_labels",
    )
    return {name: group.attrs[name] for name in names if name in group.attrs}


def _frame(group: zarr.Group, version: StoreVersion, frame: int, table: np.ndarray) -> tuple[Occ3dLabels, int]:
    found = read_target(group, version.kind, "voxel_label", frame)
    if found.shape != OCC3D_GRID.shape:
        message = f"has a grid of {found.shape} voxels, want Occ3D's {OCC3D_GRID.shape}"
        raise SourceDataError(ErrorKind.LABELS_INVALID, str(version), message)
    num_unnamed = int((found == OCC3D_UNNAMED).sum())
    labels = table[found]
    if (labels == _NO_LABEL).any():
        unknown = sorted(set(np.unique(found[labels == _NO_LABEL]).tolist()))
        raise SourceDataError(ErrorKind.LABELS_INVALID, str(version), f"holds the labels {unknown}, none of Occ3D's")
    labels = labels.astype(np.uint8)
    if version.kind == Kind.WEAK_LABELS:
        scanned, visible = np.zeros(labels.shape, bool), labels != OCC3D_UNKNOWN
    else:
        scanned, visible = (read_target(group, version.kind, name, frame) for name in ("is_scanned", "is_visible"))
    return Occ3dLabels(semantics=labels, mask_lidar=scanned, mask_camera=visible), num_unnamed


def _occ3d_table(group: zarr.Group, kind: str, key: str) -> np.ndarray:
    """Return the Occ3D label of every stored label."""
    table = np.full(256, _NO_LABEL, np.int64)
    table[: OCC3D_FREE + 1] = np.arange(OCC3D_FREE + 1)
    table[OCC3D_UNKNOWN] = OCC3D_UNKNOWN
    if kind == Kind.LIDAR_OCCUPANCY:
        table[OCC3D_UNNAMED] = OCC3D_NAMES.index("others")
    own: Any = group.attrs.get("occ3d_labels", {})
    for label, index in own.items():
        if int(label) < FIRST_OWN_LABEL or not 0 <= int(index) < OCC3D_FREE:
            raise SourceDataError(ErrorKind.LABELS_INVALID, key, f"puts its label {label} into class {index} of Occ3D")
        table[int(label)] = int(index)
    return table
