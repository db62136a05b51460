"""Ask for something in words in the features of a scene's own field: points in space, and heat maps of its views.

A part is asked for within an object: the object's points are found first, and the part's probability is defined on them
alone ("aircraft", then "engine"), as LERF-TOGO does.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from storage.geometry.resize import resize_nearest
from storage.previews.pictures import encode_image, heat_overlay
from student.inference.prompts import DEFAULT_TEMPLATE, query_prompts
from student.inference.vocabulary import ClipSpace, Vocabulary

POINTS_FILE, RECORD_FILE = "points.ply", "query.json"

_HEAT_MAP_WIDTH = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionConfig:
    """Which points are an object.

    Attributes:
        min_share: Smallest probability of a point of the object, as a share of the largest in the scene.
        reach_m: Points of one object are connected over gaps up to this.
    """

    min_share: float = 0.5
    reach_m: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.min_share <= 1 and self.reach_m > 0):
            raise ValueError(f"min_share {self.min_share}, reach_m {self.reach_m}: want in (0, 1] and > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldAnswer:
    """The answer to a query of a scene's field.

    Attributes:
        folder: Folder of its files.
        heat_maps: One picture per view.
        positions: Points in the scene's world frame, best first, metres.
        probability: Probability that a point shows the text, best first.
        record: Content of ``query.json``.
    """

    folder: Path
    heat_maps: tuple[Path, ...]
    positions: Float[np.ndarray, "points 3"]
    probability: Float[np.ndarray, " points"]
    record: dict[str, Any]


def query_field(
    space: ClipSpace,
    features: Float[np.ndarray, "views height width channels"],
    points_world: Float[np.ndarray, "views height width 3"],
    rgb: UInt8[np.ndarray, "views height width 3"],
    view_names: Sequence[str],
    text: str,
    out_dir: Path,
    *,
    part: str = "",
    negatives: Sequence[str] = (),
    template: str = DEFAULT_TEMPLATE,
    region: RegionConfig = RegionConfig(),
    cell_m: float = 0.2,
    about: Mapping[str, Any] | None = None,
) -> FieldAnswer:
    """Find a text, or a part of what it names, in a scene's field.

    A probability is a softmax over the text and its negatives at CLIP's own temperature; those of a part have the
    object's text among the negatives, and are NaN outside the object.

    Args:
        space: CLIP space of the features.
        features: Reduced CLIP features of the field's views.
        points_world: Where their rays end, metres; NaN where they end nowhere.
        rgb: Colours of the views.
        view_names: Names of the first views; heat maps are drawn of them, points taken from all.
        text: A word or a phrase.
        out_dir: Folder for the answer, created if missing.
        part: A part of what ``text`` names; empty to look for the text itself.
        negatives: Words that compete; by default the Occ3D classes and the sky, without those that the text names.
        template: Sentence with one ``{}`` for a text.
        region: Which points are the object.
        cell_m: Points of one cell of this size are one point of the answer.
        about: Further entries of ``query.json``.

    Raises:
        ValueError: If a text is blank or among its negatives, or no view shows a surface.
    """
    is_surface = np.isfinite(points_world).all(axis=-1)
    if not is_surface.any():
        raise ValueError("no view shows a surface of the field: want other frames or cameras")
    prompts = query_prompts(text, template=template, negatives=negatives)
    heat = _probability(space, features, prompts.names[0], negatives, template)
    cells, owner = np.unique(np.floor(points_world[is_surface] / cell_m).astype(np.int64), axis=0, return_inverse=True)
    positions = _mean_of(owner, points_world[is_surface].astype(np.float64), len(cells))
    colours = _mean_of(owner, rgb[is_surface].astype(np.float64), len(cells))
    probability = _mean_of(owner, heat[is_surface][:, None], len(cells))[:, 0]
    record: dict[str, Any] = {"text": prompts.names[0], "part": part, "negatives": list(prompts.names[1:])}
    if part:
        is_object = object_points(positions, probability, region)
        record["object_points"] = int(is_object.sum())
        record["object_centre_m"] = positions[is_object].mean(axis=0).round(2).tolist()
        others = tuple(negatives) or tuple(n for n in prompts.names[1:] if n.lower() != part.lower())
        heat = _probability(space, features, part, (*others, prompts.names[0]), template)
        heat[is_surface] = np.where(is_object[owner], heat[is_surface], np.nan)
        heat[~is_surface] = np.nan
        probability = _mean_of(owner, heat[is_surface][:, None], len(cells))[:, 0]
    out_dir.mkdir(parents=True, exist_ok=True)
    write_ply(out_dir / POINTS_FILE, positions, colours.round().astype(np.uint8), probability)
    shown = slice(len(view_names))
    heat_maps = _write_heat_maps(out_dir, view_names, rgb[shown], heat[shown])
    order = np.argsort(-np.nan_to_num(probability, nan=-1.0), kind="stable")[: np.isfinite(probability).sum()]
    record |= {
        "template": template,
        "text_encoder_digest": space.encoder.digest,
        "temperature": space.encoder.temperature,
        "views": list(view_names),
        "num_points": len(positions),
        "best_probability": float(probability[order[0]]),
        "best_point_m": positions[order[0]].round(2).tolist(),
        **(about or {}),
    }
    (out_dir / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return FieldAnswer(
        folder=out_dir,
        heat_maps=heat_maps,
        positions=positions[order],
        probability=probability[order],
        record=record,
    )


def object_points(
    positions: Float[np.ndarray, "points 3"], probability: Float[np.ndarray, " points"], region: RegionConfig
) -> Bool[np.ndarray, " points"]:
    """Return the points of the object that a text names: of all connected groups, that with the most probability."""
    likely = np.flatnonzero(probability >= region.min_share * probability.max())
    near = KDTree(positions[likely]).sparse_distance_matrix(KDTree(positions[likely]), region.reach_m)
    _, group = connected_components(near, directed=False)
    best = np.bincount(group, weights=probability[likely]).argmax()
    is_object = np.zeros(len(positions), bool)
    is_object[likely[group == best]] = True
    return is_object


def write_ply(
    path: Path,
    positions: Float[np.ndarray, "points 3"],
    colours: UInt8[np.ndarray, "points 3"],
    probability: Float[np.ndarray, " points"],
) -> None:
    """Write points as binary PLY: position (metres), colour, and ``probability``, NaN where undefined."""
    columns = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertices = np.empty(len(positions), [*columns, ("probability", "<f4")])
    for axis, name in enumerate("xyz"):
        vertices[name] = positions[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = colours[:, channel]
    vertices["probability"] = probability
    kinds = {"<f4": "float", "u1": "uchar"}
    properties = [f"property {kinds[kind]} {name}" for name, kind in [*columns, ("probability", "<f4")]]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *properties, "end_header"]
    path.write_bytes("\n".join([*header, ""]).encode() + vertices.tobytes())


def _probability(
    space: ClipSpace,
    features: Float[np.ndarray, "views height width channels"],
    text: str,
    negatives: Sequence[str],
    template: str,
) -> Float[np.ndarray, "views height width"]:
    vocabulary = Vocabulary.of(space, query_prompts(text, template=template, negatives=negatives))
    return vocabulary.probability(features.astype(np.float32), space.encoder.temperature)[..., 0]


def _mean_of(
    owner: np.ndarray, values: Float[np.ndarray, "members width"], number: int
) -> Float[np.ndarray, "groups width"]:
    counts = np.bincount(owner.reshape(-1), minlength=number)[:, None]
    sums = np.stack([np.bincount(owner.reshape(-1), weights=v, minlength=number) for v in values.T], axis=1)
    return sums / counts


def _write_heat_maps(
    folder: Path,
    names: Sequence[str],
    rgb: UInt8[np.ndarray, "views height width 3"],
    heat: Float[np.ndarray, "views height width"],
) -> tuple[Path, ...]:
    """Write one picture per view, on a common scale: the brightest pixel of all views is full heat."""
    finite = heat[np.isfinite(heat)]
    peak = max(float(finite.max()) if len(finite) else 0.0, 1e-6)
    scale = max(1, round(_HEAT_MAP_WIDTH / rgb.shape[2]))
    size = (scale * rgb.shape[1], scale * rgb.shape[2])
    paths = []
    for name, image, probability in zip(names, rgb, heat / peak, strict=True):
        path = folder / f"{name}.png"
        overlay = heat_overlay(resize_nearest(image, *size), resize_nearest(probability, *size))
        path.write_bytes(encode_image(overlay, quality=None))
        paths.append(path)
    return tuple(paths)
