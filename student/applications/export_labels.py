"""Write a student's labels for labelling tools: COCO panoptic, and point clouds. For Occ3D see ``export_occupancy``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from scipy import ndimage

from storage.errors import ErrorKind, MissingTargetError
from storage.geometry.resize import resize_nearest
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.previews.pictures import label_colour
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target, read_target
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import NUM_OCC3D_CLASSES, OCC3D_FREE, OCC3D_UNKNOWN, SKY, SKY_ID, VOID_ID
from student.applications.answers import write_ply
from student.applications.export_occupancy import RECORD_FILE, label_attributes, write_record

PANOPTIC_FILE = "panoptic.json"

_THINGS = frozenset((0, *range(1, 11)))
"""Occ3D classes whose members are counted one by one: "others", and barriers to trucks."""

_FIRST_CATEGORY = 1  # a category 0 is taken for "none" by many readers


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNames:
    """Labels of a store: names, colours and whether they are things.

    Attributes:
        names: Name by label, the sky included.
        occ3d: Occ3D class by label; those of the background are their own.
    """

    names: Mapping[int, str]
    occ3d: Mapping[int, int]

    @classmethod
    def of(cls, group: zarr.Group) -> "LabelNames":
        """Read them from a store's attributes."""
        class_names: Any = group.attrs["class_names"]
        own: Any = group.attrs.get("occ3d_labels", {})
        names = {label: str(name) for label, name in enumerate(class_names) if label != OCC3D_FREE}
        occ3d = {label: label for label in range(NUM_OCC3D_CLASSES)} | {int(k): int(v) for k, v in own.items()}
        return cls(names={**names, SKY_ID: SKY.name}, occ3d=occ3d)

    def is_thing(self, label: int) -> bool:
        """Return whether members of a class are counted one by one."""
        return label != SKY_ID and self.occ3d[label] in _THINGS

    def colour(self, label: int) -> tuple[int, int, int]:
        """Return the colour of a class: that of its Occ3D class."""
        return label_colour(label if label == SKY_ID else self.occ3d[label])


def export_coco_panoptic(
    home: Home,
    version: StoreVersion,
    out_dir: Path,
    *,
    on_progress: ProgressCallback | None = None,
) -> Path:
    """Write the pixel labels of a scene as COCO panoptic: a JSON file, PNG files of segments, and the images.

    A student knows classes and no instances: every connected region of a thing is a segment, and all of a stuff class
    in an image is one. Category ids are labels plus 1. A segment's id is ``R + 256 G + 256^2 B``; 0 is void. Labels are
    enlarged to the size of the recorded images.

    Returns:
        The JSON file. ``info`` holds checkpoint, prompts, template, temperature and thresholds.

    Raises:
        MissingTargetError: If the labels are of voxels alone.
    """
    group = home.open_arrays(version)
    if "pixel_label" not in group:
        raise MissingTargetError(
            ErrorKind.TARGET_MISSING, f"{version}/pixel_label", "labels of voxels alone: want weak_labels.pixel_labels"
        )
    scene = SceneReader.open(home, version.partition)
    labels = LabelNames.of(group)
    images, annotations = [], []
    (out_dir / "panoptic").mkdir(parents=True, exist_ok=True)
    (out_dir / "images").mkdir(parents=True, exist_ok=True)
    for frame in range(scene.num_frames):
        found = read_target(group, Kind.WEAK_LABELS, "pixel_label", frame)
        scores = read_target(group, Kind.WEAK_LABELS, "pixel_probability", frame).astype(np.float64)
        for camera, name in enumerate(scene.camera_names):
            size = scene.image_size(camera)
            stem = f"{version.partition}-{frame:06d}-{name}"
            segments, infos = panoptic_segments(
                resize_nearest(found[camera], *size), resize_nearest(scores[camera], *size), labels
            )
            image_id = len(images) + 1
            (out_dir / "images" / f"{stem}.jpg").write_bytes(scene.image_bytes(frame, camera))
            Image.fromarray(id_to_rgb(segments)).save(out_dir / "panoptic" / f"{stem}.png")
            images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": size[0], "width": size[1]})
            annotations.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": infos})
        if on_progress is not None:
            on_progress("images", (frame + 1) / scene.num_frames, {"frame": frame})
    content = {
        "info": {
            "description": "Labels that a student gave; no person has checked them",
            "made_from": str(version),
            "digest": version.digest,
            **label_attributes(group),
        },
        "licenses": [{"id": 1, "name": home.provenance(version).licence, "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": _categories(group, labels),
    }
    path = out_dir / PANOPTIC_FILE
    path.write_text(json.dumps(content) + "\n")
    return path


def panoptic_segments(
    labels: UInt8[np.ndarray, "height width"], scores: Float[np.ndarray, "height width"], names: LabelNames
) -> tuple[Int64[np.ndarray, "height width"], list[dict[str, Any]]]:
    """Return the segment of each pixel (0 for void) and the ``segments_info`` of COCO, with a mean score each."""
    segments = np.zeros(labels.shape, np.int64)
    infos = []
    for label in np.unique(labels).tolist():
        if label == VOID_ID:
            continue
        mask = labels == label
        found: Any = ndimage.label(mask) if names.is_thing(label) else (mask.astype(np.int64), 1)
        regions, number = found
        boxes = ndimage.find_objects(regions)
        for region in range(1, number + 1):
            rows, columns = boxes[region - 1]
            inside = regions[rows, columns] == region
            segment_id = len(infos) + 1
            segments[rows, columns][inside] = segment_id
            infos.append(
                {
                    "id": segment_id,
                    "category_id": label + _FIRST_CATEGORY,
                    "area": int(inside.sum()),
                    "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                    "iscrowd": 0,
                    "score": round(float(scores[rows, columns][inside].mean()), 5),
                }
            )
    return segments, infos


def id_to_rgb(segments: Int64[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Return COCO's colour of each segment id."""
    return np.stack([segments % 256, segments // 256 % 256, segments // 256**2], axis=-1).astype(np.uint8)


def _categories(group: zarr.Group, names: LabelNames) -> list[dict[str, Any]]:
    prompts: Any = group.attrs["prompts"]
    thresholds: Any = group.attrs.get("thresholds", {})
    class_names: Any = group.attrs["class_names"]
    return [
        {
            "id": label + _FIRST_CATEGORY,
            "name": name,
            "supercategory": name if label == SKY_ID else class_names[names.occ3d[label]],
            "isthing": int(names.is_thing(label)),
            "color": list(names.colour(label)),
            "prompts": prompts.get(name, []),
            "threshold": thresholds.get(name),
        }
        for label, name in names.names.items()
    ]


def export_point_clouds(
    home: Home,
    version: StoreVersion,
    out_dir: Path,
    *,
    on_progress: ProgressCallback | None = None,
) -> Path:
    """Write the occupied voxels of every frame as PLY: centre (ego frame, metres), colour, label, probability.

    Returns:
        The folder of the files; ``export.json`` in it names the labels, and what they were made with.
    """
    group = home.open_arrays(version)
    names = LabelNames.of(group)
    num_frames = open_target(group, Kind.WEAK_LABELS, "voxel_label").shape[0]
    folder = out_dir / "points" / version.partition
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.zeros((256, 3), np.uint8)
    for label in names.names:
        colours[label] = names.colour(label)
    for frame in range(num_frames):
        labels = read_target(group, Kind.WEAK_LABELS, "voxel_label", frame).reshape(-1)
        probability = read_target(group, Kind.WEAK_LABELS, "voxel_probability", frame).reshape(-1)
        held = np.flatnonzero((labels != OCC3D_FREE) & (labels != OCC3D_UNKNOWN))
        write_ply(
            folder / f"{frame:06d}.ply",
            OCC3D_GRID.centres_of(held),
            colours[labels[held]],
            probability=probability[held].astype(np.float64),
            label=labels[held].astype(np.int64),
        )
        if on_progress is not None:
            on_progress("point clouds", (frame + 1) / num_frames, {"frame": frame})
    about = {"labels": {str(label): name for label, name in names.names.items()}}
    write_record(folder / RECORD_FILE, home, version, about)
    return folder
