"""Answers of a search as files: a page that needs nothing beside it, a table, and JSON."""

import csv
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from storage.previews.pages import page_template
from storage.previews.pictures import data_uri, encode_image
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.applications.find import Hit, Spot
from student.applications.region_index import RegionIndex

DATA_FILES = ("templates/contact_sheet.html.j2",)

PAGE_FILE, TABLE_FILE, RECORD_FILE = "index.html", "hits.csv", "hits.json"

_WIDTH = 420
_LINE, _HALO = (255, 214, 10), (20, 20, 20)
_COLUMNS = ("rank", "score", "scene", "frame", "camera", "u", "v", "left", "top", "right", "bottom", "timestamp_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked, for people.

    Attributes:
        title: Heading of the page.
        explanation: Meaning of the scores.
        question: The question for programs: its text and negatives, or its examples.
        examples: Pixels that were given as examples.
        per_scene: Most answers in one scene.
        notes: What a reader has to know.
    """

    title: str
    explanation: str
    question: dict[str, Any]
    examples: tuple[Spot, ...]
    per_scene: int
    notes: tuple[str, ...]


def write_answers(home: Home, index: RegionIndex, hits: Sequence[Hit], asked: Asked, folder: Path) -> Path:
    """Write ``index.html``, ``hits.csv`` and ``hits.json`` into a folder, and return the page.

    Boxes are in pixels of the images as recorded, as wide and high as the cells of the region that they hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    readers = {key: _reader(home, index, key) for key in {spot.scene for spot in _spots(hits, asked)}}
    rows = [_row(rank, hit, readers[hit.spot.scene]) for rank, hit in enumerate(hits, start=1)]
    record = {
        **asked.question,
        "index": {"kind": index.version.kind, "partition": index.source, "digest": index.version.digest},
        "notes": list(asked.notes),
        "hits": [{**row, "id": str(hit.spot), "features": hit.features} for row, hit in zip(rows, hits, strict=True)],
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    with (folder / TABLE_FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, "id"])
        writer.writeheader()
        writer.writerows({**row, "id": str(hit.spot)} for row, hit in zip(rows, hits, strict=True))
    cards = [
        {
            **row,
            "id": str(hit.spot),
            "bar": 100 * min(1.0, max(0.0, hit.score)),
            "command": shlex.join(["distillnerf", "find", "--like", str(hit.spot), "--home", str(home.root)]),
            "picture": _picture(readers[hit.spot.scene], hit.spot, hit.region),
        }
        for row, hit in zip(rows, hits, strict=True)
    ]
    page = folder / PAGE_FILE
    page.write_text(_render(index, asked, readers, cards))
    return page


def outlined(
    image: UInt8[np.ndarray, "height width 3"], region: Bool[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the border of a region of cells over an image that the cells span."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    edges = list(_edges(region, image.shape[0] / region.shape[0], image.shape[1] / region.shape[1]))
    for colour, width in ((_HALO, 5), (_LINE, 3)):
        for edge in edges:
            draw.line(edge, colour, width)
    return np.asarray(picture)


def _edges(region: np.ndarray, height: float, width: float) -> list[tuple[float, float, float, float]]:
    """Return the lines between cells of the region and others, in pixels of an image with cells of that size.

    Where the region ends at the border of the image, the line is drawn within it.
    """
    padded = np.pad(region, 1)
    rows, columns = region.shape
    last_row, last_column = rows * height - 2, columns * width - 2
    lines = []
    for row, column in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        y = min(max(row * height, 1.0), last_row)
        lines.append((column * width, y, (column + 1) * width, y))
    for row, column in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        x = min(max(column * width, 1.0), last_column)
        lines.append((x, row * height, x, (row + 1) * height))
    return lines


def _spots(hits: Sequence[Hit], asked: Asked) -> list[Spot]:
    return [*(hit.spot for hit in hits), *asked.examples]


def _reader(home: Home, index: RegionIndex, key: str) -> SceneReader:
    scene = index.scene_of(key)
    assert scene is not None, "an answer or an example of a scene that the index lacks"
    return SceneReader.open(home, key, scene.scene)


def _row(rank: int, hit: Hit, reader: SceneReader) -> dict[str, Any]:
    spot, camera = hit.spot, reader.camera_names.index(hit.spot.camera)
    height, width = reader.image_size(camera)
    rows, columns = np.nonzero(hit.region)
    down, across = height / hit.region.shape[0], width / hit.region.shape[1]
    return {
        "rank": rank,
        "score": round(hit.score, 5),
        "scene": spot.scene,
        "frame": spot.frame,
        "camera": spot.camera,
        "u": spot.u,
        "v": spot.v,
        "left": round(float(columns.min() * across), 1),
        "top": round(float(rows.min() * down), 1),
        "right": round(float((columns.max() + 1) * across), 1),
        "bottom": round(float((rows.max() + 1) * down), 1),
        "timestamp_us": reader.camera_timestamp_us(spot.frame, camera),
    }


def _picture(reader: SceneReader, spot: Spot, region: np.ndarray | None) -> str:
    camera = reader.camera_names.index(spot.camera)
    height, width = reader.image_size(camera)
    size = (round(height * _WIDTH / width), _WIDTH)
    image = reader.resized_image(spot.frame, camera, height=size[0], width=size[1])
    if region is None:
        picture = Image.fromarray(image)
        x, y = spot.u * _WIDTH / width, spot.v * _WIDTH / width
        draw = ImageDraw.Draw(picture)
        for colour, line in ((_HALO, 5), (_LINE, 3)):
            draw.ellipse((x - 9, y - 9, x + 9, y + 9), outline=colour, width=line)
        image = np.asarray(picture)
    else:
        image = outlined(image, region)
    return data_uri(encode_image(image, quality=82), "image/jpeg")


def _render(index: RegionIndex, asked: Asked, readers: dict[str, SceneReader], cards: list[dict[str, Any]]) -> str:
    return page_template("student.applications", *DATA_FILES).render(
        title=asked.title,
        explanation=asked.explanation,
        notes=asked.notes,
        num_scenes=len(index.scenes),
        num_images=sum(scene.num_frames * len(scene.camera_names) for scene in index.scenes),
        num_regions=index.num_rows,
        per_scene=asked.per_scene,
        source=index.source,
        index_digest=index.version.digest[:12],
        examples=[{"id": str(spot), "picture": _picture(readers[spot.scene], spot, None)} for spot in asked.examples],
        hits=cards,
    )
