"""Ask for something in words in the features of a scene's own field: points in space, and heat maps of its views.

A part is asked for within an object: the object's points are found first, and the part's probability is defined on them
alone ("aircraft", then "engine"), as LERF-TOGO does.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from student.applications.answers import (
    DEFAULT_REGION,
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
from student.inference.class_list import ClassList, asked, part_prompts
from student.inference.prompts import DEFAULT_TEMPLATE, PromptSet
from student.inference.vocabulary import ClipSpace, Vocabulary


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
    classes: ClassList | None = None,
    template: str = DEFAULT_TEMPLATE,
    region: RegionConfig = DEFAULT_REGION,
    cell_m: float = 0.2,
    about: Mapping[str, Any] | None = None,
) -> QueryAnswer:
    """Find a text, or a part of what it names, in a scene's field.

    A probability is a softmax over the text and its negatives at CLIP's own temperature; those of a part have the
    object's text among the negatives, and are NaN outside the object. Thresholds of a list of classes were chosen for a
    student and do not count here: objects begin at a share of the largest probability.

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
        classes: Own classes, which compete in place of Occ3D's.
        template: Sentence with one ``{}`` for a text; a list of classes has its own.
        region: Which points are an object.
        cell_m: Points of one cell of this size are one point of the answer.
        about: Further entries of ``query.json``.

    Raises:
        ValueError: If a text is blank, no plain words or among its negatives, or no view shows a surface.
    """
    is_surface = np.isfinite(points_world).all(axis=-1)
    if not is_surface.any():
        raise ValueError("no view shows a surface of the field: want other frames or cameras")
    prompts, _ = asked(text, classes, template=template, negatives=tuple(negatives))
    within = part_prompts(part, prompts, classes, negatives=tuple(negatives)) if part else None
    heat = _probability(space, features, prompts)
    cells, owner = np.unique(np.floor(points_world[is_surface] / cell_m).astype(np.int64), axis=0, return_inverse=True)
    positions = _mean_of(owner, points_world[is_surface].astype(np.float64), len(cells))
    colours = _mean_of(owner, rgb[is_surface].astype(np.float64), len(cells))

    def in_space() -> tuple[Float[np.ndarray, " points"], Int64[np.ndarray, " points"], tuple[FoundObject, ...]]:
        probability = _mean_of(owner, heat[is_surface][:, None], len(cells))[:, 0]
        floor = region.floor(probability, None)
        rank, found = connected_objects(positions, probability, floor=floor, reach_m=region.reach_m, cell_m=cell_m)
        return probability, rank, found

    probability, rank, objects = in_space()
    whole: tuple[FoundObject, ...] = ()
    if within is not None:
        is_object, whole = rank == 1, objects[:1]
        heat = _probability(space, features, within)
        heat[is_surface] = np.where(is_object[owner], heat[is_surface], np.nan)
        heat[~is_surface] = np.nan
        probability, rank, objects = in_space()
    out_dir.mkdir(parents=True, exist_ok=True)
    write_ply(
        out_dir / POINTS_FILE,
        positions,
        colours.round().astype(np.uint8),
        probability=probability,
        object_rank=rank,
    )
    shown = slice(len(view_names))
    floor = shown_from(heat, None)
    heat_maps = write_heat_maps(out_dir, view_names, rgb[shown], heat[shown], floor)
    order = np.argsort(-np.nan_to_num(probability, nan=-1.0), kind="stable")[: np.isfinite(probability).sum()]
    record = {
        "text": prompts.names[0],
        "part": "" if within is None else within.names[0],
        "negatives": list((within or prompts).names[1:]),
        "template": prompts.template,
        "classes": None if classes is None else {"name": classes.name, "digest": classes.digest},
        "text_encoder_digest": space.encoder.digest,
        "temperature": space.encoder.temperature,
        "shown_from": floor,
        "views": list(view_names),
        "num_points": len(positions),
        "best_probability": float(probability[order[0]]),
        "best_point_m": positions[order[0]].round(2).tolist(),
        "within": [found.to_json() for found in whole],
        "num_objects": len(objects),
        "objects": [found.to_json() for found in objects[:NUM_OBJECTS]],
        **(about or {}),
    }
    (out_dir / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return QueryAnswer(
        folder=out_dir,
        heat_maps=heat_maps,
        positions=positions[order],
        probability=probability[order],
        objects=objects,
        record=record,
    )


def _probability(
    space: ClipSpace, features: Float[np.ndarray, "views height width channels"], prompts: PromptSet
) -> Float[np.ndarray, "views height width"]:
    vocabulary = Vocabulary.of(space, prompts)
    return vocabulary.probability(features.astype(np.float32), space.encoder.temperature)[..., 0]


def _mean_of(
    owner: np.ndarray, values: Float[np.ndarray, "members width"], number: int
) -> Float[np.ndarray, "groups width"]:
    counts = np.bincount(owner.reshape(-1), minlength=number)[:, None]
    sums = np.stack([np.bincount(owner.reshape(-1), weights=v, minlength=number) for v in values.T], axis=1)
    return sums / counts
