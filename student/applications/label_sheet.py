"""Spot checks of weak labels: draw a random sample for a person to judge, and read the verdicts back.

A sheet is a stored version: a page with pictures, and a table. Verdicts are another, made from sheets. A label's id
holds the digest of its sheet, so that verdicts cannot be taken for those of another sample.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from scipy.special import ndtri

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.errors import ErrorKind, MissingTargetError, SourceDataError
from storage.kinds import Kind
from storage.previews.pages import page_template
from storage.previews.pictures import data_uri, encode_image
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target, read_target
from storage.stores.provenance import InputVersion, Provenance, package_versions
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files
from storage.taxonomy import VOID_ID
from student.applications.export_labels import LabelNames

PAGE, TABLE_FILE, SAMPLE_FILE = "sheet.html", "verdicts.csv", "sample.json"
VERDICTS = ("right", "wrong", "unsure")
DATA_FILES = ("templates/label_sheet.html.j2",)

_HEADER = ("id", "class", "confidence", "scene", "frame", "camera", "row", "column", "verdict")
_MAX_CSV_BYTES = 1 << 24
_PICTURE_HEIGHT, _GAP = 200, 8
_CROP_SHARE = 0.28


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetConfig:
    """Configuration of a sheet.

    Attributes:
        per_class: Largest number of labels of each class.
        min_confidence: Smallest probability of a label that may be drawn.
        seed: Seed of the choice.
    """

    per_class: int = 20
    min_confidence: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class < 1 or not 0 <= self.min_confidence < 1:
            raise ValueError(
                f"per_class {self.per_class}, min_confidence {self.min_confidence}: want at least 1, and in [0, 1)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSample:
    """One label of a sheet: its id, its class, its probability, and the pixel of the student's grid that has it."""

    id: str
    name: str
    confidence: float
    scene: str
    frame: int
    camera: str
    row: int
    column: int

    @property
    def cells(self) -> tuple[str, ...]:
        """Return its row in the table, without a verdict."""
        place = (self.scene, str(self.frame), self.camera, str(self.row), str(self.column))
        return (self.id, self.name, f"{self.confidence:.5f}", *place)


def make_sheet(home: Home, variant: str, scenes: Sequence[str], config: SheetConfig) -> Materialized:
    """Draw labels of each class from the current weak labels of some scenes, and write a sheet to judge them on.

    Every labelled pixel of a class has the same chance, without replacement, over all scenes.

    Args:
        home: Home of the labels.
        variant: The student that gave them.
        scenes: Keys of the scenes.
        config: Size and seed of the sample.

    Raises:
        MissingTargetError: If a scene has no weak labels of pixels, or those of another student.
        ValueError: If no scene is named.
    """
    if not scenes:
        raise ValueError("no scene to draw labels from")
    versions = [_labels_of(home, scene, variant) for scene in dict.fromkeys(scenes)]
    provenance = Provenance(
        kind=Kind.LABEL_SHEET,
        partition=variant,
        inputs=tuple(version.as_input for version in versions),
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, kind=Kind.LABEL_SHEET),
        seed=config.seed,
        licence=home.licence_of(version.as_input for version in versions),
        config=config_json(config),
        packages=package_versions("numpy", "pillow", "jinja2"),
    )

    def write(folder: Path) -> Mapping[str, Any]:
        samples, totals = _draw(home, versions, config, provenance.digest[:12])
        page = _page(home, versions, samples, totals, config, f"Spot check of {variant}")
        (folder / PAGE).write_text(page, encoding="utf-8")
        (folder / SAMPLE_FILE).write_text(json.dumps([asdict(sample) for sample in samples], indent=1) + "\n")
        with (folder / TABLE_FILE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_HEADER, *((*sample.cells, "") for sample in samples)])
        drawn = {name: sum(sample.name == name for sample in samples) for name in totals}
        return {"samples": len(samples), "drawn": drawn, "labelled_pixels": totals}

    return materialize_files(home, provenance, write)


def accept_verdicts(home: Home, variant: str, tables: Sequence[Path], person: str) -> Materialized:
    """Read verdicts of one or more sheets into a store, with precision and its interval for each class.

    Rows without a verdict are not judged and counted; "unsure" is counted apart and in no precision. The interval is
    Wilson's at 95 %. It takes labels for independent, which those of one picture are not: it is too narrow where few
    pictures were drawn.

    Args:
        home: Home of the sheets.
        variant: The student whose labels were judged.
        tables: CSV files as the sheet saves them.
        person: Who judged.

    Raises:
        SourceDataError: If a file is missing, has other columns, an unknown id or verdict or an id twice, or nothing
            is judged.
        MissingTargetError: If the sheet of an id is gone.
        ValueError: If no person or no file is named.
    """
    person = " ".join(person.split())
    if not person or not tables:
        raise ValueError("want the name of who judged, and one or more files of verdicts")
    given: dict[str, tuple[str, str]] = {}
    digests: dict[str, str] = {}
    for path in tables:
        content = _read_table(path)
        digest = hashlib.sha256(content).hexdigest()
        if digest in digests.values():
            raise SourceDataError(ErrorKind.VERDICTS_INVALID, str(path), "is given twice")
        digests[f"{len(digests)}-{path.name}"] = digest
        for line, identity, verdict in _rows(path, content):
            if identity in given:
                message = f"{identity!r} stands twice, here and in {given[identity][1]}"
                raise SourceDataError(ErrorKind.VERDICTS_INVALID, f"{path}: line {line}", message)
            given[identity] = (verdict, f"{path}: line {line}")
    sheets = _sheets_of(home, variant, given)
    samples = {sample.id: sample for sheet in sheets for sample in read_samples(home, sheet)}
    for identity, (_, place) in given.items():
        if identity not in samples:
            raise SourceDataError(ErrorKind.VERDICTS_INVALID, place, f"{identity!r} is no id of its sheet")
    judged = {identity: verdict for identity, (verdict, _) in given.items() if verdict}
    if not judged:
        raise SourceDataError(ErrorKind.VERDICTS_INVALID, str(tables[0]), f"judges nothing, want {', '.join(VERDICTS)}")
    labels = {item for sheet in sheets for item in home.provenance(sheet).inputs}
    inputs = (*(sheet.as_input for sheet in sheets), *sorted(labels))
    config = {"person": person}
    provenance = Provenance(
        kind=Kind.LABEL_VERDICTS,
        partition=variant,
        inputs=inputs,
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, kind=Kind.LABEL_VERDICTS),
        sources=digests,
        licence=home.licence_of(inputs),
        config=config,
        packages=package_versions("numpy"),
    )

    def write(folder: Path) -> Mapping[str, Any]:
        with (folder / TABLE_FILE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [_HEADER, *((*samples[identity].cells, verdict) for identity, verdict in sorted(judged.items()))]
            )
        names = sorted({samples[identity].name for identity in given})
        return {
            "person": person,
            "checkpoints": _checkpoints(home, labels),
            "judged": len(judged),
            "not_judged": len(given) - len(judged),
            "classes": {name: _score([v for i, v in judged.items() if samples[i].name == name]) for name in names},
        }

    return materialize_files(home, provenance, write)


def read_samples(home: Home, sheet: StoreVersion) -> list[LabelSample]:
    """Return the labels that were drawn for a sheet."""
    return [LabelSample(**entry) for entry in json.loads((home.open_files(sheet) / SAMPLE_FILE).read_text())]


def read_verdicts(home: Home, version: StoreVersion) -> list[tuple[str, float, str]]:
    """Return class, confidence and verdict of every label that was judged."""
    with (home.open_files(version) / TABLE_FILE).open(newline="", encoding="utf-8") as file:
        return [(row["class"], float(row["confidence"]), row["verdict"]) for row in csv.DictReader(file)]


def wilson_interval(hits: int, number: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share; (0, 1) of nothing.

    Args:
        hits: Number of hits.
        number: Number of trials.
        level: Confidence level.
    """
    if number == 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + level / 2))
    share, spread = hits / number, z * z / number
    centre = (share + spread / 2) / (1 + spread)
    half = z * float(np.sqrt(share * (1 - share) / number + spread / (4 * number))) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _score(verdicts: Sequence[str]) -> dict[str, Any]:
    right, wrong, unsure = (sum(verdict == name for verdict in verdicts) for name in VERDICTS)
    low, high = wilson_interval(right, right + wrong)
    precision = right / (right + wrong) if right + wrong else None
    return {"right": right, "wrong": wrong, "unsure": unsure, "precision": precision, "low": low, "high": high}


def _checkpoints(home: Home, labels: set[InputVersion]) -> list[str]:
    """Return the digests of the students that gave some labels."""
    found = (home.open_arrays(home.require(item.kind, item.partition, item.digest)).attrs for item in labels)
    made_by: list[Any] = [attributes["checkpoint"] for attributes in found]
    return sorted({checkpoint["digest"] for checkpoint in made_by})


def _labels_of(home: Home, scene: str, variant: str) -> StoreVersion:
    version = home.require(Kind.WEAK_LABELS, scene)
    group = home.open_arrays(version)
    checkpoint: Any = group.attrs["checkpoint"]
    if "pixel_label" not in group or checkpoint["variant"] != variant:
        message = f"are labels of {checkpoint['variant']!r}, want pixel labels of {variant!r}"
        raise MissingTargetError(ErrorKind.TARGET_MISSING, str(version), message)
    return version


def _draw(
    home: Home, versions: Sequence[StoreVersion], config: SheetConfig, prefix: str
) -> tuple[list[LabelSample], dict[str, int]]:
    """Return the labels drawn, and the number of labels of each class that could have been."""
    places: dict[str, list[np.ndarray]] = {}
    stores = []
    for index, version in enumerate(versions):
        group = home.open_arrays(version)
        labels = read_target(group, Kind.WEAK_LABELS, "pixel_label")
        confidence = read_target(group, Kind.WEAK_LABELS, "pixel_probability").astype(np.float64)
        cameras: Any = group.attrs["camera_names"]
        stores.append((version.partition, confidence, cameras))
        may_be_drawn = (labels != VOID_ID) & (confidence >= config.min_confidence)
        for label, name in LabelNames.of(group).names.items():
            found = np.argwhere((labels == label) & may_be_drawn)
            if len(found):
                places.setdefault(name, []).append(np.concatenate([np.full((len(found), 1), index), found], axis=1))
    samples: list[LabelSample] = []
    totals = {}
    for order, name in enumerate(sorted(places)):
        everywhere = np.concatenate(places[name])
        totals[name] = len(everywhere)
        generator = np.random.default_rng((config.seed, order))
        for at in generator.choice(len(everywhere), min(config.per_class, len(everywhere)), replace=False):
            store, frame, camera, row, column = everywhere[at].tolist()
            scene, confidence, cameras = stores[store]
            samples.append(
                LabelSample(
                    id=f"{prefix}-{len(samples):05d}",
                    name=name,
                    confidence=round(float(confidence[frame, camera, row, column]), 5),
                    scene=scene,
                    frame=frame,
                    camera=cameras[camera],
                    row=row,
                    column=column,
                )
            )
    return samples, totals


def _page(
    home: Home,
    versions: Sequence[StoreVersion],
    samples: Sequence[LabelSample],
    totals: Mapping[str, int],
    config: SheetConfig,
    title: str,
) -> str:
    readers = {version.partition: SceneReader.open(home, version.partition) for version in versions}
    grids: dict[str, Any] = {}
    for version in versions:
        grids[version.partition] = open_target(home.open_arrays(version), Kind.WEAK_LABELS, "pixel_label").shape[2:]
    shown = [
        asdict(sample) | {"image": _picture(readers[sample.scene], sample, grids[sample.scene])} for sample in samples
    ]
    return page_template("student.applications", *DATA_FILES).render(
        title=title,
        samples=shown,
        totals=totals,
        per_class=config.per_class,
        seed=config.seed,
        verdicts=VERDICTS,
        header=list(_HEADER),
        rows=[list(sample.cells) for sample in samples],
    )


def _picture(reader: SceneReader, sample: LabelSample, grid: tuple[int, int]) -> str:
    """Return the whole image and its part around a labelled pixel, side by side, with the pixel marked in both."""
    camera = reader.camera_names.index(sample.camera)
    image = reader.image(sample.frame, camera)
    height, width = image.shape[:2]
    box = (
        sample.column * width / grid[1],
        sample.row * height / grid[0],
        (sample.column + 1) * width / grid[1],
        (sample.row + 1) * height / grid[0],
    )
    side = _CROP_SHARE * min(height, width)
    u, v = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left = min(max(0.0, u - side), width - 2 * side)
    top = min(max(0.0, v - side), height - 2 * side)
    whole = _marked(image, (0.0, 0.0, float(width), float(height)), box)
    near = _marked(image, (left, top, left + 2 * side, top + 2 * side), box)
    gap = np.full((_PICTURE_HEIGHT, _GAP, 3), 255, np.uint8)
    return data_uri(encode_image(np.concatenate([whole, gap, near], axis=1)), "image/jpeg")


def _marked(
    image: UInt8[np.ndarray, "_ _ 3"], part: tuple[float, float, float, float], box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a part of an image at the height of pictures, with a box and a cross through its middle."""
    scale = _PICTURE_HEIGHT / (part[3] - part[1])
    size = (max(1, round((part[2] - part[0]) * scale)), _PICTURE_HEIGHT)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, part)
    x0, y0, x1, y1 = ((value - part[axis % 2]) * scale for axis, value in enumerate(box))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x0, y0, x1, y1), outline=(255, 0, 200))
    x, y, reach = (x0 + x1) / 2, (y0 + y1) / 2, 10
    for line in ((x - reach, y, x0, y), (x1, y, x + reach, y), (x, y - reach, x, y0), (x, y1, x, y + reach)):
        draw.line(line, fill=(255, 0, 200), width=2)
    return np.asarray(picture)


def _read_table(path: Path) -> bytes:
    if not path.is_file():
        raise SourceDataError(ErrorKind.FILE_MISSING, str(path), "there is no such file of verdicts")
    if path.stat().st_size > _MAX_CSV_BYTES:
        raise SourceDataError(
            ErrorKind.FILE_UNSAFE, str(path), f"has {path.stat().st_size} bytes, want {_MAX_CSV_BYTES}"
        )
    return path.read_bytes()


def _rows(path: Path, content: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield line, id and verdict of every row."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        if list(reader.fieldnames or []) != list(_HEADER):
            message = f"has the columns {reader.fieldnames}, want {', '.join(_HEADER)}"
            raise SourceDataError(ErrorKind.VERDICTS_INVALID, f"{path}: line 1", message)
        for row in reader:
            place = f"{path}: line {reader.line_num}"
            if None in row or None in row.values():
                raise SourceDataError(ErrorKind.VERDICTS_INVALID, place, f"has no {len(_HEADER)} cells")
            verdict = row["verdict"].strip().lower()
            if verdict not in ("", *VERDICTS):
                message = f"has the verdict {row['verdict']!r}, want {', '.join(VERDICTS)} or nothing"
                raise SourceDataError(ErrorKind.VERDICTS_INVALID, place, message)
            yield reader.line_num, row["id"].strip(), verdict
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceDataError(ErrorKind.VERDICTS_INVALID, str(path), f"is no readable CSV: {error}") from error


def _sheets_of(home: Home, variant: str, given: Mapping[str, tuple[str, str]]) -> list[StoreVersion]:
    """Return the sheets that the ids name."""
    sheets = {version.digest[:12]: version for version in home.versions(Kind.LABEL_SHEET, variant)}
    wanted = {identity.partition("-")[0]: place for identity, (_, place) in given.items()}
    for prefix, place in wanted.items():
        if prefix not in sheets:
            message = f"is of sheet {prefix!r}, and there is none of that digest of student {variant!r}"
            raise SourceDataError(ErrorKind.VERDICTS_INVALID, place, message)
    return [sheets[prefix] for prefix in sorted(wanted)]
