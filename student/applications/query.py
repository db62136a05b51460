"""Ask for something in a scene in words. The answer is a heat map per camera, and the best voxels."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32

from storage.geometry.resize import resize_nearest
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.previews.pictures import encode_image, heat_overlay, to_uint8
from storage.stores.versioned import Home
from student.applications.deployment import DeployedStudent, FrameReading, voxel_centres
from student.evaluation.frames import view_images
from student.inference.prompts import DEFAULT_TEMPLATE, query_prompts
from student.inference.vocabulary import Vocabulary

VOXELS_FILE, RANKED_FILE, RECORD_FILE = "voxels.npz", "ranked_voxels.csv", "query.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """The answer to a query.

    Attributes:
        folder: Folder of its files.
        heat_maps: One picture per camera.
        positions: Centres of the occupied voxels in the ego frame, best first, metres.
        probability: Probability that a voxel is occupied and shows the text, best first.
        record: Content of ``query.json``.
    """

    folder: Path
    heat_maps: tuple[Path, ...]
    positions: Float[np.ndarray, "voxels 3"]
    probability: Float[np.ndarray, " voxels"]
    record: dict[str, Any]


def query_scene(
    home: Home,
    scene_key: SceneKey | str,
    frame: int,
    text: str,
    variant: str,
    out_dir: Path,
    *,
    negatives: Sequence[str] = (),
    template: str = DEFAULT_TEMPLATE,
    text_encoder: str = "",
    num_ranked: int = 200,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> QueryResult:
    """Find a text in one frame of a scene, in the images and in space.

    A probability is a softmax over the text and its declared negatives, at the temperature that an
    evaluation of this checkpoint fitted, or else CLIP's own; ``query.json`` says which.

    Args:
        home: Home of the student and the scene.
        scene_key: Key of the scene, which need not be one of the training scenes.
        frame: Index of the frame.
        text: A word or a phrase.
        variant: Variant of a student that renders CLIP features.
        out_dir: Folder for the answer, created if missing.
        negatives: Words that compete with the text; by default the Occ3D classes and the sky, without those that the
            text names.
        template: Sentence with one ``{}`` for the text.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
        num_ranked: Number of voxels in ``ranked_voxels.csv``; ``voxels.npz`` holds all occupied ones.
        device: Device of the student.

    Raises:
        ValueError: If the text is blank or the scene has no such frame.
        MissingTargetError: If the student or a store of the scene is missing.
    """
    prompts = query_prompts(text, template=template, negatives=negatives)
    student = DeployedStudent.open(home, variant, device=device, text_encoder=text_encoder)
    frames = student.frames(scene_key)
    reading = student.read(frames, frame)
    vocabulary = Vocabulary.of(student.space, prompts)
    out_dir.mkdir(parents=True, exist_ok=True)
    heat = vocabulary.probability(reading.views.features["clip"], student.point.temperature)[..., 0]
    heat = np.where(reading.views.is_seen, heat, np.nan)
    heat_maps = _write_heat_maps(out_dir, frames.camera_names, view_images(reading.batch), heat)
    positions, probability, occupancy = _answering_voxels(student, reading, vocabulary)
    np.savez_compressed(
        out_dir / VOXELS_FILE, positions_ego=positions, probability=probability, occupancy_probability=occupancy
    )
    _write_ranked(out_dir / RANKED_FILE, positions, probability, occupancy, num_ranked)
    record = {
        "scene": str(scene_key),
        "frame": frame,
        "text": prompts.names[0],
        "negatives": list(prompts.names[1:]),
        "template": template,
        "checkpoint": {"variant": variant, "digest": student.checkpoint.digest},
        "text_encoder_digest": student.space.encoder.digest,
        **student.point.to_json(),
        "cameras": list(frames.camera_names),
        "heat_map_peak": float(np.nanmax(heat)),
        "num_voxels": len(positions),
        "best_probability": float(probability[0]) if len(probability) else None,
    }
    (out_dir / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return QueryResult(folder=out_dir, heat_maps=heat_maps, positions=positions, probability=probability, record=record)


def _write_heat_maps(
    folder: Path,
    camera_names: Sequence[str],
    images: Float32[np.ndarray, "cameras height width 3"],
    heat: Float[np.ndarray, "cameras grid_height grid_width"],
) -> tuple[Path, ...]:
    """Write one picture per camera, on a common scale: the brightest pixel of all cameras is full heat."""
    peak = max(float(np.nanmax(heat)), 1e-6)
    paths = []
    for name, image, probability in zip(camera_names, images, heat / peak, strict=True):
        path = folder / f"{name}.png"
        seen = to_uint8(image)
        path.write_bytes(encode_image(heat_overlay(seen, resize_nearest(probability, *seen.shape[:2])), quality=None))
        paths.append(path)
    return tuple(paths)


def _answering_voxels(
    student: DeployedStudent, reading: FrameReading, vocabulary: Vocabulary
) -> tuple[Float[np.ndarray, "voxels 3"], Float[np.ndarray, " voxels"], Float[np.ndarray, " voxels"]]:
    """Return centres, joint probability and occupancy of the occupied voxels, best first."""
    held = np.flatnonzero(reading.is_observed & (reading.occupancy >= student.point.threshold))
    features = student.predictor.point_features(reading.field, "clip", reading.points[held])
    occupancy = student.point.occupied(reading.occupancy[held])
    named = np.nan_to_num(vocabulary.probability(features, student.point.temperature)[:, 0])
    joint = occupancy * named
    order = np.argsort(-joint, kind="stable")
    return voxel_centres(OCC3D_GRID, held)[order], joint[order], occupancy[order]


def _write_ranked(
    path: Path,
    positions: Float[np.ndarray, "voxels 3"],
    probability: Float[np.ndarray, " voxels"],
    occupancy: Float[np.ndarray, " voxels"],
    number: int,
) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "x_ego_m", "y_ego_m", "z_ego_m", "probability", "occupancy_probability"])
        rows = zip(positions[:number], probability[:number], occupancy[:number], strict=True)
        for rank, ((x, y, z), joint, occupied) in enumerate(rows, start=1):
            writer.writerow([rank, f"{x:.2f}", f"{y:.2f}", f"{z:.2f}", f"{joint:.5f}", f"{occupied:.5f}"])
