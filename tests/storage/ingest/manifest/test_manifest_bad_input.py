"""One test for each way in which a manifest can be wrong: a typed error that names the field, and nothing written."""

import copy
import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.audits.scene_audit import audit_scene
from storage.errors import ErrorKind, SourceDataError
from storage.ingest.manifest.manifest import find_problems, load_manifest, parse_manifest
from storage.ingest.manifest.tables import POSES, pose_columns, read_columns, write_columns
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import list_scenes, load_source
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores import catalog

KEY = SceneKey("apron", "stand-1")


@pytest.fixture(scope="module")
def valid(ingested) -> dict[str, Any]:
    return ingested[0].document


def camera(document: dict[str, Any], index: int) -> dict[str, Any]:
    return document["rigs"]["tug"]["cameras"][index]


DOCUMENT_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], ErrorKind, str]] = {
    "another schema version": (
        lambda d: d.update(schema="distillnerf.rig_manifest/2"),
        ErrorKind.VERSION_UNKNOWN,
        "schema: is 'distillnerf.rig_manifest/2', this version reads",
    ),
    "no schema": (lambda d: d.pop("schema"), ErrorKind.TABLE_INVALID, "schema: is missing"),
    "a camera for each image": (
        lambda d: d["rigs"]["tug"].update(cameras=d["rigs"]["tug"]["cameras"] * 1000),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras: has 2000 entries, want at most 64",
    ),
    "no licence": (lambda d: d.pop("licence"), ErrorKind.TABLE_INVALID, "licence: is missing"),
    "unknown field": (lambda d: d.update(author="me"), ErrorKind.TABLE_INVALID, "author: is unknown, want"),
    "a word for a number": (
        lambda d: camera(d, 1)["intrinsics"].update(fx="wide"),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[1].intrinsics.fx: 'wide' is not of type",
    ),
    "no focal length": (
        lambda d: camera(d, 0)["intrinsics"].update(fy=0),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[0].intrinsics.fy: 0 is less than or equal to",
    ),
    "unknown lens model": (
        lambda d: camera(d, 0).update(model="omnidirectional"),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[0].model: is 'omnidirectional', want ['pinhole', 'fisheye']",
    ),
    "fisheye without a lens": (
        lambda d: camera(d, 0).pop("distortion"),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[0].distortion: is missing",
    ),
    "fisheye with a pinhole's lens": (
        lambda d: camera(d, 0)["distortion"].update(p1=0.0),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[0].distortion.p1: is unknown",
    ),
    "half a lens": (
        lambda d: camera(d, 1)["distortion"].pop("k3"),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[1].distortion.k3: is missing",
    ),
    "quaternion of three": (
        lambda d: camera(d, 0)["camera_to_ego"]["rotation_wxyz"].pop(),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[0].camera_to_ego.rotation_wxyz:",
    ),
    "no rotation": (
        lambda d: camera(d, 1)["camera_to_ego"].update(rotation_wxyz=[1, 1, 0, 0]),
        ErrorKind.CALIBRATION_INVALID,
        "rigs.tug.cameras[1].camera_to_ego.rotation_wxyz: is [1, 1, 0, 0] of norm 1.41421",
    ),
    "one name for two sensors": (
        lambda d: d["rigs"]["tug"]["lidar"].update(name="front"),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.lidar.name: 'front' is used twice",
    ),
    "camera that is a path": (
        lambda d: camera(d, 0).update(name="../left"),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.cameras[0].name: '../left' does not match",
    ),
    "unknown rig": (
        lambda d: d["scenes"][1].update(rig="bus"),
        ErrorKind.TABLE_INVALID,
        "scenes[1].rig: is 'bus', want one of ['tug']",
    ),
    "no scene": (lambda d: d.update(scenes=[]), ErrorKind.TABLE_INVALID, "scenes:"),
    "no pixel origin": (
        lambda d: d["rigs"]["tug"].pop("pixel_origin"),
        ErrorKind.TABLE_INVALID,
        "rigs.tug.pixel_origin: is missing",
    ),
}


@pytest.mark.parametrize("fault", DOCUMENT_FAULTS)
def test_a_wrong_field_is_named_by_its_path(valid, fault):
    change, kind, message = DOCUMENT_FAULTS[fault]
    document = copy.deepcopy(valid)
    change(document)
    with pytest.raises(SourceDataError) as caught:
        parse_manifest(document)
    assert caught.value.kind == kind
    assert str(caught.value).startswith(f"rig_manifest.json: {message}")


def test_every_problem_is_found_at_once(valid):
    document = copy.deepcopy(valid)
    camera(document, 0)["width"] = 0
    camera(document, 1)["height"] = "tall"
    document["wheels"] = 4
    assert {p.field for p in find_problems(document)} == {
        "wheels",
        "rigs.tug.cameras[0].width",
        "rigs.tug.cameras[1].height",
    }
    assert find_problems(valid) == []
    assert find_problems([1])[0].field == "the document"


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "is not JSON"), (b'{"a": NaN}', "holds NaN"), (b"\xff\xfe", "is not JSON")]
)
def test_a_file_that_is_no_json(recording, content, message):
    (recording.root / "rig_manifest.json").write_bytes(content)
    with pytest.raises(SourceDataError, match=message):
        load_manifest(recording.root)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(SourceDataError) as caught:
        load_manifest(tmp_path)
    assert caught.value.kind == ErrorKind.FILE_MISSING


def test_scenes_that_cannot_be_named_do_not_hide_the_others(recording, recording_home):
    document = recording.document
    document["scenes"] += [{**document["scenes"][0], "name": name} for name in ("a/b", "stand-2")]
    recording.write(document)
    rejected: list[SourceDataError] = []
    source = load_source(recording_home, "apron")
    assert [str(k) for k in list_scenes(source, on_rejected=rejected.append)] == ["apron.stand-1"]
    assert [e.kind for e in rejected] == [ErrorKind.SCENE_DUPLICATE, ErrorKind.NAME_INVALID]
    with pytest.raises(SourceDataError, match="2 scenes are named 'stand-2'"):
        list_scenes(source)


def change_table(root: Path, name: str, change: Callable[[dict[str, list[Any]]], object]) -> None:
    path = root / "stand-1" / f"{name}.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    fields = [table.schema.field(column).with_nullable(True) for column in columns]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), path)


def cast(root: Path, name: str, column: str, kind: pa.DataType) -> None:
    path = root / "stand-1" / f"{name}.parquet"
    table = pq.read_table(path)
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, column, table[column].cast(kind)), path)


def put(column: str, row: int, value: object) -> Callable[[dict[str, list[Any]]], object]:
    return lambda columns: columns[column].__setitem__(row, value)


def symlink_outside(root: Path) -> None:
    outside = root.parent / "elsewhere.jpg"
    outside.write_bytes((root / "stand-1/left/0.jpg").read_bytes())
    (root / "stand-1/left/0.jpg").unlink()
    (root / "stand-1/left/0.jpg").symlink_to(outside)


def swap_cameras(root: Path) -> None:
    change_table(
        root, "images", lambda c: c.update(camera=[{"left": "front", "front": "left"}[name] for name in c["camera"]])
    )


def mask_of_another_size(root: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / "masks/left.png")


def swap_for(file: str, size: tuple[int, int], encoding: str) -> Callable[[Path], object]:
    return lambda root: Image.new("RGB" if encoding == "JPEG" else "L", size).save(root / file, encoding)


def bomb(root: Path) -> None:
    """A JPEG of a few bytes whose header claims 60000 x 60000 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    start_of_frame = content.index(b"\xff\xc0")
    content[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", 60000, 60000)
    (root / "stand-1/left/0.jpg").write_bytes(content)


def bomb_that_its_manifest_declares(root: Path) -> None:
    path = root / "rig_manifest.json"
    document = json.loads(path.read_text())
    camera(document, 0).update(width=16000, height=16000)
    path.write_text(json.dumps(document))


def mount_askew(root: Path) -> None:
    path = root / "rig_manifest.json"
    document = json.loads(path.read_text())
    camera(document, 1)["camera_to_ego"].update(rotation_wxyz=[1, 1, 0, 0])
    path.write_text(json.dumps(document))


def cut_image(root: Path) -> None:
    path = root / "stand-1/left/2.jpg"
    path.write_bytes(path.read_bytes()[:-300])


SCENE_FAULTS: dict[str, tuple[Callable[[Path], object], ErrorKind, str]] = {
    "missing table": (
        lambda r: (r / "stand-1/poses.parquet").unlink(),
        ErrorKind.FILE_MISSING,
        "stand-1/poses.parquet",
    ),
    "cut table": (
        lambda r: (r / "stand-1/images.parquet").write_bytes((r / "stand-1/images.parquet").read_bytes()[:-40]),
        ErrorKind.FILE_CORRUPT,
        "stand-1/images.parquet: cannot be read",
    ),
    "missing column": (
        lambda r: change_table(r, "poses", lambda c: c.pop("qz")),
        ErrorKind.TABLE_INVALID,
        "has no column 'qz'",
    ),
    "column of another type": (
        lambda r: cast(r, "frames", "timestamp_us", pa.float64()),
        ErrorKind.TABLE_INVALID,
        "column 'timestamp_us' holds double, want int64",
    ),
    "null": (
        lambda r: change_table(r, "images", put("timestamp_us", 2, None)),
        ErrorKind.TABLE_INVALID,
        "timestamp_us[2]: is null",
    ),
    "NaN pose": (
        lambda r: change_table(r, "poses", put("x", 3, float("nan"))),
        ErrorKind.POSE_INVALID,
        "x[3]: is nan",
    ),
    "quaternion without unit length": (
        lambda r: change_table(r, "poses", put("qw", 3, 2.0)),
        ErrorKind.POSE_INVALID,
        "[3]: is [2.0",
    ),
    "jumping pose": (
        lambda r: change_table(r, "poses", put("x", 7, 5000.0)),
        ErrorKind.POSE_INVALID,
        "pose jumps by",
    ),
    "time that does not advance": (
        lambda r: change_table(r, "poses", put("timestamp_us", 4, 0)),
        ErrorKind.TIME_INVALID,
        "pose 4 is at 0 us, want later than",
    ),
    "image before the first pose": (
        lambda r: change_table(r, "images", put("timestamp_us", 0, 1_600_000_000_000_000)),
        ErrorKind.POSE_INVALID,
        "1600000000000000 us lies outside of the poses",
    ),
    "gap in the trajectory": (
        lambda r: change_table(r, "poses", lambda c: [c[k].__delitem__(slice(1, 11)) for k in c]),
        ErrorKind.POSE_INVALID,
        "lies in a gap of 0.55 s",
    ),
    "frames out of order": (
        lambda r: change_table(r, "frames", put("frame", 1, 2)),
        ErrorKind.TABLE_INVALID,
        "frame[1]: is 2, want 1",
    ),
    "missing image": (
        lambda r: change_table(r, "images", lambda c: [c[k].pop() for k in c]),
        ErrorKind.TABLE_INVALID,
        "frame 0 has no image of left",
    ),
    "image twice": (
        lambda r: change_table(r, "images", put("frame", 0, 1)),
        ErrorKind.TABLE_INVALID,
        "frame 1 has a second image of front",
    ),
    "unknown camera": (
        lambda r: change_table(r, "images", put("camera", 1, "rear")),
        ErrorKind.TABLE_INVALID,
        "camera[1]: is 'rear', want one of ['front', 'left']",
    ),
    "swapped camera names": (swap_cameras, ErrorKind.IMAGE_INVALID, "its table says 32 x 24"),
    "truncated JPEG": (cut_image, ErrorKind.FILE_CORRUPT, "stand-1/left/2.jpg"),
    "image that is no JPEG": (
        swap_for("stand-1/left/0.jpg", (32, 24), "PNG"),
        ErrorKind.IMAGE_INVALID,
        "stand-1/left/0.jpg: is not a JPEG but a PNG",
    ),
    "image of another size": (
        swap_for("stand-1/left/0.jpg", (30, 24), "JPEG"),
        ErrorKind.IMAGE_INVALID,
        "stand-1/left/0.jpg: is 30 x 24 pixels",
    ),
    "decompression bomb": (bomb, ErrorKind.IMAGE_INVALID, "50000000"),
    "mask that is a bomb": (
        bomb_that_its_manifest_declares,
        ErrorKind.IMAGE_INVALID,
        "masks/left.png: claims 16000 x 16000",
    ),
    "mounting that is no rotation": (mount_askew, ErrorKind.CALIBRATION_INVALID, "rotation_wxyz: is [1, 1, 0, 0]"),
    "sweep outside of the recording": (
        lambda r: change_table(r, "frames", put("lidar_file", 1, "../roof.parquet")),
        ErrorKind.FILE_UNSAFE,
        "'../roof.parquet': want a plain path",
    ),
    "cut sweep": (
        lambda r: (r / "stand-1/roof/1.parquet").write_bytes((r / "stand-1/roof/1.parquet").read_bytes()[:-40]),
        ErrorKind.FILE_CORRUPT,
        "stand-1/roof/1.parquet: cannot be read",
    ),
    "path with ..": (
        lambda r: change_table(r, "images", put("file", 0, "../apron/stand-1/left/0.jpg")),
        ErrorKind.FILE_UNSAFE,
        "without '..'",
    ),
    "symlink out of the root": (symlink_outside, ErrorKind.FILE_UNSAFE, "outside the root"),
    "mask of another size": (mask_of_another_size, ErrorKind.IMAGE_INVALID, "masks/left.png: is 4 x 4 of mode L"),
    "mask that is no PNG": (
        lambda r: (r / "masks/left.png").write_bytes(b"GIF89a"),
        ErrorKind.IMAGE_INVALID,
        "is no PNG that decodes",
    ),
    "empty sweep": (
        lambda r: change_table(r, "roof/1", lambda c: [c[k].clear() for k in c]),
        ErrorKind.LIDAR_INVALID,
        "roof/1.parquet: holds no point",
    ),
    "NaN in a sweep": (
        lambda r: change_table(r, "roof/1", put("y", 1, float("nan"))),
        ErrorKind.LIDAR_INVALID,
        "y[1]: is nan",
    ),
    "point measured after the last pose": (
        lambda r: change_table(r, "roof/2", put("time_offset_us", 0, 2_000_000)),
        ErrorKind.POSE_INVALID,
        "roof/2.parquet: time_offset_us",
    ),
    "frame without a sweep": (
        lambda r: change_table(r, "frames", put("lidar_file", 1, None)),
        ErrorKind.LIDAR_INVALID,
        "lidar_file[1]: is empty",
    ),
    "box without extent": (
        lambda r: change_table(r, "boxes", put("width", 2, 0.0)),
        ErrorKind.TABLE_INVALID,
        "boxes.parquet: row 2",
    ),
    "box as long as a street": (
        lambda r: change_table(r, "boxes", put("length", 1, 480.0)),
        ErrorKind.TABLE_INVALID,
        "boxes.parquet: row 1, size: is [480.0",
    ),
    "box of no frame": (
        lambda r: change_table(r, "boxes", put("frame", 0, 1_000_000)),
        ErrorKind.TABLE_INVALID,
        "boxes.parquet: row 0: is of frame 1000000, and the scene has frames 0 to",
    ),
    "mask that hides all": (
        lambda r: Image.new("L", (32, 24)).save(r / "masks" / "left.png"),
        ErrorKind.IMAGE_INVALID,
        "masks/left.png: leaves no pixel of left",
    ),
}


@pytest.mark.parametrize("fault", SCENE_FAULTS)
def test_a_broken_scene_is_quarantined_with_its_reason(recording, recording_home, fault):
    change, kind, message = SCENE_FAULTS[fault]
    change(recording.root)
    with pytest.raises(SourceDataError) as caught:
        ingest_scene(recording_home, KEY)
    assert caught.value.kind == kind
    assert message in str(caught.value)
    assert recording_home.versions() == []
    assert not list((recording_home.root / "stores").glob("*/*/chunks/*"))
    (row,) = catalog.quarantined(recording_home.objects).to_pylist()
    assert (row["partition"], row["error_kind"]) == (str(KEY), kind)
    assert (row["key"], row["message"]) == (caught.value.key, caught.value.message)


@pytest.mark.parametrize("fault", ["truncated JPEG", "missing table", "NaN in a sweep", "jumping pose"])
def test_the_other_scenes_go_on(recording, recording_home, fault):
    SCENE_FAULTS[fault][0](recording.root)
    with pytest.raises(SourceDataError):
        ingest_scene(recording_home, KEY)
    assert not ingest_scene(recording_home, SceneKey("apron", "stand-2")).reused


def test_frames_without_a_sweep_may_be_accepted(recording, recording_home):
    change_table(recording.root, "frames", put("lidar_file", 1, None))
    made = ingest_scene(recording_home, KEY, IngestConfig(allow_missing_lidar=True, cameras=("left",)))
    assert made.metrics["lidar_points"] == 4
    assert SceneReader.open(recording_home, KEY).attributes["frames_without_lidar"] == [1]


def test_a_recording_without_lidar_is_no_failed_audit(recording, recording_home):
    for row in range(3):
        change_table(recording.root, "frames", put("lidar_file", row, None))
    ingest_scene(recording_home, KEY, IngestConfig(allow_missing_lidar=True))
    gate = recording_home.metrics(audit_scene(recording_home, KEY).version)["quality"]
    assert gate["passed"]
    assert "undecided" in gate["checks"]["decided_evidence"]


@pytest.mark.parametrize("file", ["left/1.jpg", "roof/1.parquet"])
def test_a_file_that_changes_after_it_was_hashed_is_refused(recording, recording_home, file):
    def change(stage, fraction, _):
        if (stage, fraction) == ("hash", 1.0):
            # Sound, but of another instant: only its digest tells.
            shutil.copy(recording.root / "stand-1" / file.replace("1.", "2."), recording.root / "stand-1" / file)

    with pytest.raises(SourceDataError) as caught:
        ingest_scene(recording_home, KEY, on_progress=change)
    assert (caught.value.kind, caught.value.key) == (ErrorKind.DIGEST_MISMATCH, f"stand-1/{file}")
    assert recording_home.versions() == []


def test_no_flipped_bit_of_a_table_is_read_as_another_value(tmp_path):
    path, random = tmp_path / "poses.parquet", np.random.default_rng(0)
    columns = {"timestamp_us": np.arange(40), **pose_columns(np.tile(np.eye(4), (40, 1, 1)))}
    columns["x"] = random.normal(size=40)
    write_columns(path, POSES, columns)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 11):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        try:
            read = read_columns(bytes(flipped), path.name, POSES)
        except SourceDataError:
            refused += 1
            continue
        for name, values in columns.items():
            np.testing.assert_array_equal(read[name], values)
    assert refused > 100


def test_a_column_that_is_there_twice_is_refused():
    doubled = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["timestamp_us", "timestamp_us"]), doubled)
    with pytest.raises(SourceDataError, match="has 2 columns 'timestamp_us', want one"):
        read_columns(doubled.getvalue().to_pybytes(), "poses.parquet", POSES)
