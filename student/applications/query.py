"""Ask for something in a scene in words. The answer is a heat map per camera, and the best objects in space.

A part is asked for within an object: the object's voxels are found first, and the part's probability is defined on them
alone ("aircraft", then "engine"), as LERF-TOGO does.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from scipy.spatial import KDTree

from storage.geometry.rays import camera_rays, points_on_rays
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.previews.pictures import colour_map
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.applications.answers import (
    HEAT_MAP_WIDTH,
    NUM_OBJECTS,
    POINTS_FILE,
    RECORD_FILE,
    FoundObject,
    QueryAnswer,
    RegionConfig,
    connected_objects,
    shown_from,
    write_heat_maps,
    write_ply,
)
from student.applications.deployment import DeployedStudent, FrameReading
from student.evaluation.caveats import caveats_of_words
from student.inference.class_list import ClassList, asked, part_prompts
from student.inference.prompts import DEFAULT_TEMPLATE, PromptSet
from student.inference.vocabulary import Vocabulary

VOXELS_FILE, RANKED_FILE = "voxels.npz", "ranked_voxels.csv"

_TOUCHING_M = float(1.01 * np.sqrt(3.0) * OCC3D_GRID.voxel_size)  # from a voxel to one that shares a corner

VOXEL_REGION = RegionConfig(min_share=0.7, reach_m=_TOUCHING_M)
"""Objects of a student. From half the peak on, one chain of voxels holds everything that stands side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Voxels:
    """Occupied voxels of a frame and what a text says of them.

    Attributes:
        positions: Centres, ego frame, metres.
        occupancy: Calibrated probability that they are occupied.
        named: Probability that they show the text; NaN where they are not asked.
        threshold: Threshold of the text; None for a share of the peak.
    """

    positions: Float[np.ndarray, "voxels 3"]
    occupancy: Float[np.ndarray, " voxels"]
    named: Float[np.ndarray, " voxels"]
    threshold: float | None

    def objects(self, region: RegionConfig) -> tuple[Int64[np.ndarray, " voxels"], tuple[FoundObject, ...]]:
        """Return the rank of the object of each voxel, and the objects."""
        return connected_objects(
            self.positions,
            self.named,
            floor=region.floor(self.named, self.threshold),
            reach_m=region.reach_m,
            cell_m=OCC3D_GRID.voxel_size,
            score=np.nan_to_num(self.joint),
        )

    @property
    def joint(self) -> Float[np.ndarray, " voxels"]:
        """Return the probability that a voxel is occupied and shows the text."""
        return self.occupancy * self.named


def query_scene(
    home: Home,
    scene_key: SceneKey | str,
    frame: int,
    text: str,
    variant: str,
    out_dir: Path,
    *,
    part: str = "",
    negatives: Sequence[str] = (),
    classes: ClassList | None = None,
    template: str = DEFAULT_TEMPLATE,
    text_encoder: str = "",
    region: RegionConfig = VOXEL_REGION,
    num_ranked: int = 200,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> QueryAnswer:
    """Find a text, or a part of what it names, in one frame of a scene, in the images and in space.

    A probability is a softmax over the text and its negatives, at the temperature that an evaluation of this checkpoint
    fitted, or else CLIP's own; ``query.json`` says which. What is shown, and what belongs to an object, begins at the
    text's threshold in the list of classes, or else at a share of the largest probability: half of it in pictures.

    Args:
        home: Home of the student and the scene.
        scene_key: Key of the scene, which need not be one of the training scenes.
        frame: Index of the frame.
        text: A word or a phrase.
        variant: Variant of a student that renders CLIP features.
        out_dir: Folder for the answer, created if missing.
        part: A part of what ``text`` names, looked for within the best object alone; empty for the text itself.
        negatives: Words that compete with the text; by default the Occ3D classes and the sky, without those that the
            text names.
        classes: Own classes, which compete in place of Occ3D's; a text that names one of them stands for it.
        template: Sentence with one ``{}`` for the text; a list of classes has its own.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
        region: What belongs to an object.
        num_ranked: Number of voxels in ``ranked_voxels.csv``; ``voxels.npz`` holds all.
        device: Device of the student.

    Raises:
        ValueError: If a text is blank or no plain words, or is among its negatives, or the scene has no such frame.
        MissingTargetError: If the student or a store of the scene is missing.
    """
    prompts, threshold = asked(text, classes, template=template, negatives=tuple(negatives))
    within = part_prompts(part, prompts, classes, negatives=tuple(negatives)) if part else None
    student = DeployedStudent.open(home, variant, device=device, text_encoder=text_encoder)
    frames = student.frames(scene_key)
    reading = student.read(frames, frame)
    heat, is_best = _heat(student, reading, prompts)
    voxels = _occupied_voxels(student, reading, prompts, threshold)
    rank, objects = voxels.objects(region)
    whole: tuple[FoundObject, ...] = ()
    if within is not None:
        is_object, whole, threshold = rank == 1, objects[:1], None
        heat, is_best = _heat(student, reading, within)
        heat = np.where(_shows(reading, voxels.positions[is_object]), heat, np.nan)
        voxels = _occupied_voxels(student, reading, within, None, is_object)
        rank, objects = voxels.objects(region)
    out_dir.mkdir(parents=True, exist_ok=True)
    floor = shown_from(heat, threshold)
    images = _images(frames.stores.reader, frame)
    heat_maps = write_heat_maps(out_dir, frames.camera_names, images, heat, floor)
    order = np.argsort(-np.nan_to_num(voxels.joint, nan=-1.0), kind="stable")
    _write_voxels(out_dir, voxels, rank, order, num_ranked)
    ranked = order[: int(np.isfinite(voxels.joint).sum())]
    joint = voxels.joint[ranked]
    seen = np.isfinite(heat)
    record = {
        "scene": str(scene_key),
        "frame": frame,
        "text": prompts.names[0],
        "part": "" if within is None else within.names[0],
        "negatives": list((within or prompts).names[1:]),
        "template": prompts.template,
        "classes": None if classes is None else {"name": classes.name, "digest": classes.digest},
        "checkpoint": {"variant": variant, "digest": student.checkpoint.digest},
        "text_encoder_digest": student.space.encoder.digest,
        "caveats": list(caveats_of_words(home, [str(scene_key)], student.space.weights_source)),
        **student.point.to_json(),
        "threshold": threshold,
        "shown_from": floor,
        "cameras": list(frames.camera_names),
        "heat_map_peak": float(heat[seen].max()) if seen.any() else None,
        "shown_share": float((heat[seen] >= floor).mean()) if seen.any() else 0.0,
        "most_probable_share": float(is_best[seen].mean()) if seen.any() else 0.0,
        "num_voxels": len(ranked),
        "best_probability": float(joint[0]) if len(joint) else None,
        "within": [found.to_json() for found in whole],
        "num_objects": len(objects),
        "objects": [found.to_json() for found in objects[:NUM_OBJECTS]],
    }
    (out_dir / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return QueryAnswer(
        folder=out_dir,
        heat_maps=heat_maps,
        positions=voxels.positions[ranked],
        probability=joint,
        objects=objects,
        record=record,
    )


def _heat(
    student: DeployedStudent, reading: FrameReading, prompts: PromptSet
) -> tuple[Float[np.ndarray, "cameras height width"], Bool[np.ndarray, "cameras height width"]]:
    """Return the probability that pixels show the text, NaN without a ray, and where nothing else is likelier."""
    vocabulary = Vocabulary.of(student.space, prompts)
    probability = vocabulary.probability(reading.views.features["clip"], student.point.temperature)
    heat = np.where(reading.views.is_seen, probability[..., 0], np.nan)
    return heat, probability.argmax(axis=-1) == 0


def _occupied_voxels(
    student: DeployedStudent,
    reading: FrameReading,
    prompts: PromptSet,
    threshold: float | None,
    is_asked: Bool[np.ndarray, " voxels"] | None = None,
) -> _Voxels:
    held = np.flatnonzero(reading.voxels.is_occupied)
    features = student.clip_features(reading, held)
    vocabulary = Vocabulary.of(student.space, prompts)
    named = np.nan_to_num(vocabulary.probability(features, student.point.temperature)[:, 0])
    return _Voxels(
        positions=OCC3D_GRID.centres_of(held),
        occupancy=student.point.occupied(reading.voxels.occupancy[held]),
        named=named if is_asked is None else np.where(is_asked, named, np.nan),
        threshold=threshold,
    )


def _shows(reading: FrameReading, positions: Float[np.ndarray, "voxels 3"]) -> Bool[np.ndarray, "cameras height width"]:
    """Return the pixels whose rays end at one of the voxels, or touch one."""
    depths = reading.views.termination_depth
    shows = np.zeros(depths.shape, bool)
    if not len(positions):
        return shows
    tree = KDTree(positions)
    cameras = reading.batch.cameras
    poses, matrices = cameras.camera_to_reference_ego[0].double().numpy(), cameras.intrinsics[0].double().numpy()
    lenses = [None] * len(poses) if cameras.fisheye is None else cameras.fisheye[0].double().numpy()
    for pose, intrinsics, lens, depth, shown in zip(poses, matrices, lenses, depths, shows, strict=True):
        origins, directions = camera_rays(intrinsics, pose, height=depth.shape[0], width=depth.shape[1], fisheye=lens)
        is_hit = np.isfinite(depth)
        ends = points_on_rays(origins, directions, depth.astype(np.float64))[is_hit]
        shown[is_hit] = np.isfinite(tree.query(ends, distance_upper_bound=_TOUCHING_M)[0])
    return shows


def _images(reader: SceneReader, frame: int) -> UInt8[np.ndarray, "cameras height width 3"]:
    """Return the recorded images at the size of heat maps; those of other proportions are stretched to the first's."""
    height, width = reader.image_size(0)
    size = (max(1, round(HEAT_MAP_WIDTH * height / width)), HEAT_MAP_WIDTH)
    cameras = range(reader.num_cameras)
    return np.stack([reader.resized_image(frame, camera, height=size[0], width=size[1]) for camera in cameras])


def _write_voxels(
    folder: Path,
    voxels: _Voxels,
    rank: Int64[np.ndarray, " voxels"],
    order: Int64[np.ndarray, " voxels"],
    num_ranked: int,
) -> None:
    """Write all voxels as arrays and as a point cloud in the colours of heat, and the best ones as a table."""
    positions, joint, occupancy = voxels.positions[order], voxels.joint[order], voxels.occupancy[order]
    np.savez_compressed(
        folder / VOXELS_FILE,
        positions_ego=positions,
        probability=joint,
        occupancy_probability=occupancy,
        object_rank=rank[order],
    )
    peak = max(float(np.nan_to_num(joint).max(initial=0.0)), 1e-6)
    colours = colour_map("inferno")[np.round(255 * np.nan_to_num(joint) / peak).astype(np.int64)]
    write_ply(folder / POINTS_FILE, positions, colours, probability=joint, object_rank=rank[order])
    with (folder / RANKED_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "x_ego_m", "y_ego_m", "z_ego_m", "probability", "occupancy_probability", "object"])
        shown = np.flatnonzero(np.isfinite(joint))[:num_ranked]
        for place, at in enumerate(shown, start=1):
            x, y, z = positions[at]
            writer.writerow(
                [place, f"{x:.2f}", f"{y:.2f}", f"{z:.2f}", f"{joint[at]:.5f}", f"{occupancy[at]:.5f}", rank[order][at]]
            )
