"""Every way a recording can be broken is a typed error that names the place; nothing is published, others go on."""

import io
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from storage.errors import ErrorKind, IntegrityError, SourceDataError, SourceMovedError
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import list_scenes
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores import catalog
from storage.stores.versioned import Home

KEY = SceneKey("tiny", "scene-0001")
OTHER = SceneKey("tiny", "scene-0002")
IMAGE = "samples/CAM_FRONT/scene-0001__CAM_FRONT__1.jpg"
SWEEP = "samples/LIDAR_TOP/scene-0001__LIDAR_TOP__1.pcd.bin"
CAMERA_ROW = "scene-0001/1/CAM_FRONT"
LIDAR_ROW = "scene-0001/1/LIDAR_TOP"
INTRINSICS = [[25.0, 0.0, 16.0], [0.0, 25.0, 9.0], [0.0, 0.0, 1.0]]


@dataclass(frozen=True)
class Fault:
    """One way to break scene-0001, and what must be said about it.

    Attributes:
        name: Of the fault.
        apply: Breaks a release.
        kind: Of the error.
        key: Part of the key that the error must carry: the file or row at fault.
        message: Part of the message: the value seen or wanted.
    """

    name: str
    apply: Callable
    kind: ErrorKind
    key: str
    message: str = ""


def _write(file: str, content: bytes) -> Callable:
    return lambda tiny: (tiny.root / file).write_bytes(content)


def _edit_bytes(file: str, change: Callable[[bytes], bytes]) -> Callable:
    return lambda tiny: (tiny.root / file).write_bytes(change((tiny.root / file).read_bytes()))


def _set(table: str, token: str, **values: object) -> Callable:
    return lambda tiny: tiny.set(table, token, **values)


def _image(mode: str, size: tuple[int, int], encoding: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, encoding)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A JPEG of a few bytes whose header claims 60000 x 60000 pixels."""
    content = bytearray(_image("RGB", (32, 18), "JPEG"))
    start_of_frame = content.index(b"\xff\xc0")
    content[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(content)


def _with_point(value: float) -> bytes:
    points = np.ones((10, 5), "<f4")
    points[3, 1] = value
    return points.tobytes()


def _link_outside(tiny) -> None:
    outside = tiny.root.parent / "outside.jpg"
    shutil.move(tiny.root / IMAGE, outside)
    (tiny.root / IMAGE).symlink_to(outside)


def _drop_row(table: str, token: str) -> Callable:
    return lambda tiny: tiny.edit(table, lambda rows: [r for r in rows if r["token"] != token])


def _drop_field(table: str, token: str, field: str) -> Callable:
    def change(rows):
        for row in rows:
            if row["token"] == token:
                del row[field]

    return lambda tiny: tiny.edit(table, change)


def _recalibrate_midway(tiny) -> None:
    def add(rows):
        row = next(r for r in rows if r["token"] == "scene-0001/calibration-CAM_FRONT")
        rows.append({**row, "token": "recalibrated", "translation": [1.6, 0.0, 1.5]})

    tiny.edit("calibrated_sensor", add)
    tiny.set("sample_data", CAMERA_ROW, calibrated_sensor_token="recalibrated")


def _repeat(file: str, number: int) -> Callable:
    """Put the file of the frame before in the place of one."""

    def change(tiny) -> None:
        before = tiny.root / file.replace(f"__{number}.", f"__{number - 1}.")
        (tiny.root / file).write_bytes(before.read_bytes())

    return change


def _drop_camera_of_the_first_frame(tiny) -> None:
    tiny.edit("sample_data", lambda rows: [r for r in rows if r["token"] != "scene-0001/0/CAM_BACK"])
    tiny.set("sample_data", "scene-0001/1/CAM_BACK", prev="")


def _in_unit(factor: float) -> Callable:
    def change(tiny) -> None:
        for table in ("sample", "sample_data", "ego_pose"):
            for row in (rows := tiny.rows(table)):
                if row["token"].startswith("scene-0001"):
                    row["timestamp"] = int(row["timestamp"] * factor)
            tiny.edit(table, lambda _, rows=rows: rows)

    return change


def _second_row(table: str, of: str, **values: object) -> Callable:
    """Append a row again, with other values."""

    def change(tiny) -> None:
        row = next(row for row in tiny.rows(table) if row["token"] == of)
        tiny.edit(table, lambda rows: rows.append({**row, **values}))

    return change


def _annotate(**values: object) -> Callable:
    """Give the first annotation of scene-0001 other values."""

    def change(tiny) -> None:
        token = next(r["token"] for r in tiny.rows("sample_annotation") if r["token"].startswith("scene-0001"))
        tiny.set("sample_annotation", token, **values)

    return change


def _shift_frame(tiny) -> None:
    """Put all poses of the middle frame five metres ahead, as a matching that failed does."""
    for sensor in ("LIDAR_TOP", "CAM_FRONT", "CAM_BACK"):
        row = next(r for r in tiny.rows("ego_pose") if r["token"] == f"scene-0001/1/{sensor}")
        tiny.set("ego_pose", row["token"], translation=[row["translation"][0] + 5.0, *row["translation"][1:]])


def _loop(tiny) -> None:
    (tiny.root / IMAGE).unlink()
    (tiny.root / IMAGE).symlink_to(tiny.root / IMAGE)


def _nested(depth: int) -> list:
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


CAMERA = "scene-0001/calibration-CAM_FRONT"
SPREAD = np.random.default_rng(0).uniform(-30, 30, (400, 5)).astype("<f4")
SPREAD[:, 3:] = np.arange(400)[:, None] % 32

E = ErrorKind
FAULTS = [
    # what decodes, and is wrong
    Fault("float64 sweep", _write(SWEEP, SPREAD.astype("<f8").tobytes()), E.LIDAR_INVALID, SWEEP, "no ring"),
    Fault("four columns", _write(SWEEP, SPREAD[:, :4].tobytes()), E.LIDAR_INVALID, SWEEP, "no ring"),
    Fault(
        "all zero",
        _write(SWEEP, np.zeros((400, 5), "<f4").tobytes()),
        E.LIDAR_INVALID,
        SWEEP,
        "lie in the sensor itself",
    ),
    Fault(
        "beams without a return",
        _write(SWEEP, (SPREAD * (np.arange(400) > 40)[:, None]).astype("<f4").tobytes()),
        E.LIDAR_INVALID,
        SWEEP,
        "41 of its 400 points lie in the sensor itself",
    ),
    Fault(
        "point far away",
        _write(SWEEP, np.where(np.arange(2000).reshape(400, 5) == 7, np.float32(1e30), SPREAD).tobytes()),
        E.LIDAR_INVALID,
        SWEEP,
        "point 1 lies 1e+30 m",
    ),
    Fault(
        "world frame",
        _write(SWEEP, (SPREAD + np.array([300, 400, 0, 0, 0], "<f4")).tobytes()),
        E.LIDAR_INVALID,
        SWEEP,
        "world frame",
    ),
    Fault("image again", _repeat(IMAGE, 1), E.IMAGE_INVALID, IMAGE, "image of frame 0 again"),
    Fault(
        "sweep again",
        lambda t: (_write(SWEEP, SPREAD.tobytes())(t), _write(SWEEP.replace("__1.", "__0."), SPREAD.tobytes())(t)),
        E.LIDAR_INVALID,
        SWEEP,
        "sweep of frame 0 again",
    ),
    Fault(
        "no first row of a camera", _drop_camera_of_the_first_frame, E.TABLE_INVALID, "", "no keyframe of 'CAM_BACK'"
    ),
    Fault("times in milliseconds", _in_unit(1e-3), E.TIME_INVALID, "", "looks like milliseconds"),
    Fault("times in nanoseconds", _in_unit(1e3), E.TIME_INVALID, "", "looks like nanoseconds"),
    # files
    Fault("missing image", lambda t: (t.root / IMAGE).unlink(), E.FILE_MISSING, IMAGE),
    Fault("missing sweep", lambda t: (t.root / SWEEP).unlink(), E.FILE_MISSING, SWEEP),
    Fault("folder for a file", lambda t: ((t.root / IMAGE).unlink(), (t.root / IMAGE).mkdir()), E.FILE_MISSING, IMAGE),
    Fault("row names no file", _set("sample_data", CAMERA_ROW, filename="samples/gone.jpg"), E.FILE_MISSING, "gone"),
    Fault("truncated JPEG", _edit_bytes(IMAGE, lambda b: b[: len(b) // 2]), E.FILE_CORRUPT, IMAGE, "do not decode"),
    Fault("JPEG cut in its header", _edit_bytes(IMAGE, lambda b: b[:20]), E.IMAGE_INVALID, IMAGE, "not a JPEG"),
    Fault("empty image", _write(IMAGE, b""), E.IMAGE_INVALID, IMAGE, "nothing"),
    Fault("PNG named jpg", _write(IMAGE, _image("RGB", (32, 18), "PNG")), E.IMAGE_INVALID, IMAGE, "a PNG"),
    Fault("grey JPEG", _write(IMAGE, _image("L", (32, 18), "JPEG")), E.IMAGE_INVALID, IMAGE, "mode L"),
    Fault("wrong size", _write(IMAGE, _image("RGB", (30, 18), "JPEG")), E.IMAGE_INVALID, IMAGE, "30 x 18"),
    Fault("decompression bomb", _write(IMAGE, _bomb()), E.IMAGE_INVALID, IMAGE, "60000"),
    Fault("table claims another size", _set("sample_data", CAMERA_ROW, width=64), E.IMAGE_INVALID, IMAGE, "64"),
    Fault("empty sweep", _write(SWEEP, b""), E.LIDAR_INVALID, SWEEP, "no point"),
    Fault("sweep of broken points", _write(SWEEP, b"\0" * 102), E.LIDAR_INVALID, SWEEP, "102 bytes"),
    Fault("NaN point", _write(SWEEP, _with_point(np.nan)), E.LIDAR_INVALID, SWEEP, "number 3"),
    Fault("infinite point", _write(SWEEP, _with_point(np.inf)), E.LIDAR_INVALID, SWEEP, "number 3"),
    # paths
    Fault("climbing path", _set("sample_data", CAMERA_ROW, filename="samples/../../x.jpg"), E.FILE_UNSAFE, ".."),
    Fault("absolute path", _set("sample_data", CAMERA_ROW, filename="/etc/passwd"), E.FILE_UNSAFE, "/etc/passwd"),
    Fault("path that is a number", _set("sample_data", CAMERA_ROW, filename=7), E.FILE_UNSAFE, CAMERA_ROW, "7"),
    Fault("link to itself", _loop, E.FILE_UNSAFE, IMAGE, "loop"),
    Fault(
        "path of 300 letters",
        _set("sample_data", CAMERA_ROW, filename="samples/" + 300 * "a"),
        E.FILE_UNSAFE,
        "aaa",
        "too long",
    ),
    Fault("link out of the root", _link_outside, E.FILE_UNSAFE, IMAGE, "outside.jpg"),
    # poses and calibration
    Fault(
        "NaN pose", _set("ego_pose", CAMERA_ROW, translation=[float("nan"), 0, 0]), E.POSE_INVALID, CAMERA_ROW, "nan"
    ),
    Fault("NaN rotation", _set("ego_pose", LIDAR_ROW, rotation=[1, 0, float("nan"), 0]), E.POSE_INVALID, LIDAR_ROW),
    Fault("long quaternion", _set("ego_pose", LIDAR_ROW, rotation=[1, 1, 0, 0]), E.POSE_INVALID, LIDAR_ROW, "1.41421"),
    Fault("zero quaternion", _set("ego_pose", LIDAR_ROW, rotation=[0, 0, 0, 0]), E.POSE_INVALID, LIDAR_ROW, "norm 0"),
    Fault("short quaternion", _set("ego_pose", LIDAR_ROW, rotation=[1, 0, 0]), E.POSE_INVALID, LIDAR_ROW, "(4,)"),
    Fault("pose of words", _set("ego_pose", LIDAR_ROW, translation=["a", "b", "c"]), E.POSE_INVALID, LIDAR_ROW),
    Fault("jumping pose", _set("ego_pose", LIDAR_ROW, translation=[900.0, 1600, 0]), E.POSE_INVALID, "[1]", "m/s"),
    Fault(
        "singular intrinsics",
        _set(
            "calibrated_sensor",
            "scene-0001/calibration-CAM_FRONT",
            camera_intrinsic=[[0.0, 0, 16], [0, 25.0, 9], [0, 0, 1]],
        ),
        E.CALIBRATION_INVALID,
        "scene-0001/CAM_FRONT",
        "fx, fy > 0",
    ),
    Fault(
        "focal length in millimetres",
        _set(
            "calibrated_sensor",
            "scene-0001/calibration-CAM_FRONT",
            camera_intrinsic=[[0.05, 0, 16], [0, 0.05, 9], [0, 0, 1]],
        ),
        E.CALIBRATION_INVALID,
        "scene-0001/CAM_FRONT",
        "fx, fy are 0.05, 0.05 for 32 x 18 pixels",
    ),
    Fault(
        "focal length that is no number of a lens",
        _set(
            "calibrated_sensor",
            "scene-0001/calibration-CAM_FRONT",
            camera_intrinsic=[[1e300, 0, 16], [0, 25, 9], [0, 0, 1]],
        ),
        E.CALIBRATION_INVALID,
        "scene-0001/CAM_FRONT",
        "0.02 to 200 times the image",
    ),
    Fault(
        "transposed intrinsics",
        _set("calibrated_sensor", "scene-0001/calibration-CAM_FRONT", camera_intrinsic=np.array(INTRINSICS).T.tolist()),
        E.CALIBRATION_INVALID,
        "scene-0001/CAM_FRONT",
    ),
    Fault(
        "no intrinsics",
        _set("calibrated_sensor", "scene-0001/calibration-CAM_FRONT", camera_intrinsic=[]),
        E.CALIBRATION_INVALID,
        "calibration-CAM_FRONT",
        "(3, 3)",
    ),
    Fault(
        "camera turned by no rotation",
        _set("calibrated_sensor", "scene-0001/calibration-CAM_FRONT", rotation=[0.5, -0.5, 0.5, -0.6]),
        E.CALIBRATION_INVALID,
        "calibration-CAM_FRONT",
        "unit quaternion",
    ),
    Fault(
        "mounting in mm",
        _set("calibrated_sensor", CAMERA, translation=[1700.0, 0, 1500]),
        E.CALIBRATION_INVALID,
        "scene-0001/CAM_FRONT",
        "is it given in mm",
    ),
    Fault(
        "quaternion in the order x, y, z, w",
        _set("ego_pose", LIDAR_ROW, rotation=[0.0, 0.0, 0.8, 0.6]),
        E.POSE_INVALID,
        "[1]",
        "order x, y, z, w",
    ),
    Fault(
        "one sensor's pose turned",
        _set("ego_pose", LIDAR_ROW, rotation=[0.0, 0.0, 0.0, 1.0]),
        E.POSE_INVALID,
        "[1]",
        "degrees within",
    ),
    Fault("a frame five metres ahead", _shift_frame, E.POSE_INVALID, "ego_to_world[1]", "no vehicle accelerates"),
    Fault("calibration changes midway", _recalibrate_midway, E.CALIBRATION_INVALID, "recalibrated", "1.6"),
    # time
    Fault(
        "time stands still", _set("sample_data", LIDAR_ROW, timestamp=1_000_000), E.TIME_INVALID, "LIDAR_TOP", "frame 1"
    ),
    Fault("time runs back", _set("sample_data", CAMERA_ROW, timestamp=980_000), E.TIME_INVALID, "CAM_FRONT", "980000"),
    Fault("time in seconds", _set("sample_data", CAMERA_ROW, timestamp=1.5), E.TIME_INVALID, CAMERA_ROW, "1.5"),
    # rows
    Fault("keyframe missing", _drop_row("sample_data", CAMERA_ROW), E.TABLE_INVALID, "sample_data", "CAM_FRONT"),
    Fault("pose row missing", _drop_row("ego_pose", CAMERA_ROW), E.TABLE_INVALID, "ego_pose", CAMERA_ROW),
    Fault(
        "field missing", _drop_field("sample_data", CAMERA_ROW, "filename"), E.TABLE_INVALID, "sample_data", "filename"
    ),
    Fault(
        "pose twice",
        _second_row("ego_pose", LIDAR_ROW, translation=[603.0, 1600.0, 0.0]),
        E.TABLE_INVALID,
        "ego_pose",
        "several rows",
    ),
    Fault(
        "second keyframe",
        _second_row("sample_data", CAMERA_ROW, token="another"),
        E.TABLE_INVALID,
        "sample_data",
        "several keyframes of 'CAM_FRONT'",
    ),
    Fault(
        "number of samples in quotes",
        lambda t: t.edit(
            "scene", lambda rows: [r.update(nbr_samples="3") for r in rows if r["name"] == "scene-0001"] and None
        ),
        E.TABLE_INVALID,
        "nbr_samples",
        "'3'",
    ),
    Fault(
        "sample of no scene",
        _drop_field("sample", "scene-0001/1", "scene_token"),
        E.TABLE_INVALID,
        "sample",
        "no field 'scene_token'",
    ),
    Fault("negative box", _annotate(size=[-1.8, 4.2, 1.5]), E.TABLE_INVALID, "size", "above 0"),
    Fault("box in cm", _annotate(size=[186.0, 492.0, 158.0]), E.TABLE_INVALID, "size", "at most 450 m"),
    Fault("points counted by nobody", _annotate(num_lidar_pts=None), E.TABLE_INVALID, "num_lidar_pts", "None"),
    Fault("attributes are null", _annotate(attribute_tokens=None), E.TABLE_INVALID, "attribute_tokens", "None"),
    Fault("deep field", _set("sample", "scene-0001/1", note=_nested(500)), E.TABLE_INVALID, "sample", "too deeply"),
    Fault("half of a character", _set("sample", "scene-0001/1", note="\ud800"), E.TABLE_INVALID, "sample", "Unicode"),
    Fault("chain too short", _set("sample", "scene-0001/1", next=""), E.TABLE_INVALID, "scene-0001", "holds 2"),
    Fault("chain in a circle", _set("sample", "scene-0001/1", next="scene-0001/0"), E.TABLE_INVALID, "scene", "3"),
    Fault(
        "chain leaves the scene", _set("sample", "scene-0001/1", next="scene-0002/2"), E.TABLE_INVALID, "scene-0002/2"
    ),
    Fault("chain leads nowhere", _set("sample", "scene-0001/1", next="nowhere"), E.TABLE_INVALID, "sample", "nowhere"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_broken_scene_is_refused_and_the_others_go_on(fault, tiny_home, tiny):
    fault.apply(tiny)

    with pytest.raises(SourceDataError) as caught:
        ingest_scene(tiny_home, KEY)

    assert caught.value.kind == fault.kind
    assert fault.key in caught.value.key
    assert fault.message in caught.value.message
    assert tiny_home.versions() == []
    assert not list((tiny_home.root / "stores").glob("*/*/chunks/*"))
    assert catalog.versions(tiny_home.objects).num_rows == 0
    (row,) = catalog.quarantined(tiny_home.objects).to_pylist()
    assert (row["partition"], row["error_kind"]) == (str(KEY), fault.kind)
    assert (row["key"], row["message"]) == (caught.value.key, caught.value.message)

    assert not ingest_scene(tiny_home, OTHER).reused
    assert SceneReader.open(tiny_home, OTHER).num_frames == 3


@pytest.mark.parametrize("fault", FAULTS[:5], ids=lambda fault: fault.name)
def test_an_earlier_version_stays_readable_when_its_source_breaks(fault, tiny_home, tiny):
    before = ingest_scene(tiny_home, KEY).version
    fault.apply(tiny)
    with pytest.raises(SourceDataError):
        ingest_scene(tiny_home, KEY)
    assert tiny_home.latest("scene", str(KEY)) == before
    assert SceneReader.open(tiny_home, KEY).image(1, 0).shape == (18, 32, 3)


# --- faults of the whole release -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apply", "kind", "key", "message"),
    [
        (lambda t: t.path("sample_data").unlink(), E.TABLE_MISSING, "v1.0-mini/sample_data.json", "missing"),
        (
            lambda t: t.path("ego_pose").write_text('[{"token": '),
            E.TABLE_INVALID,
            "v1.0-mini/ego_pose.json",
            "not JSON",
        ),
        (lambda t: t.path("ego_pose").write_bytes(b"\xff\xfe\x00"), E.TABLE_INVALID, "v1.0-mini/ego_pose.json", "JSON"),
        (lambda t: t.path("sensor").write_text("{}"), E.TABLE_INVALID, "v1.0-mini/sensor.json", "dict"),
        (lambda t: t.path("sensor").write_text("[1]"), E.TABLE_INVALID, "v1.0-mini/sensor.json", "entry 0"),
        (lambda t: t.path("lidarseg").write_text("[" * 10**5), E.TABLE_INVALID, "v1.0-mini/lidarseg.json", "nested"),
        (_drop_row("sensor", "sensor-CAM_BACK"), E.TABLE_INVALID, "calibrated_sensor.json", "sensor-CAM_BACK"),
        (lambda t: (t.root / "v1.0-mini").rename(t.root / "v1.0-trainval"), E.VERSION_UNKNOWN, "nuscenes", "trainval"),
        (lambda t: (t.root / "v1.0-mini").rename(t.root / "v1.0-test"), E.VERSION_UNKNOWN, "nuscenes", "--version"),
    ],
)
def test_a_broken_release_is_refused(apply, kind, key, message, tiny_home, tiny):
    apply(tiny)
    for call in (lambda: ingest_scene(tiny_home, KEY), lambda: list_scenes(tiny.source())):
        with pytest.raises(SourceDataError) as caught:
            call()
        assert caught.value.kind == kind
        assert key in caught.value.key
        assert message in caught.value.message
    assert tiny_home.versions() == []


def test_a_release_that_is_gone_was_moved_for_its_home_and_is_missing_for_others(tiny_home, tiny):
    tiny.root.rename(tiny.root.with_name("moved"))
    with pytest.raises(SourceMovedError, match="distillnerf home reroot"):
        ingest_scene(tiny_home, KEY)
    with pytest.raises(SourceDataError, match="root") as caught:
        list_scenes(tiny.source())
    assert caught.value.kind == E.FILE_MISSING
    assert tiny_home.versions() == []


def test_unknown_scene_names_its_neighbours(tiny_home):
    with pytest.raises(SourceDataError, match="scene-0001") as caught:
        ingest_scene(tiny_home, SceneKey("tiny", "scene-0011"))
    assert caught.value.kind == ErrorKind.SCENE_UNKNOWN


def test_unknown_dataset_names_those_registered(tiny_home):
    with pytest.raises(SourceDataError, match="tiny"):
        ingest_scene(tiny_home, SceneKey("waymo", "scene-0001"))


def test_duplicate_scene_is_refused_and_the_other_goes_on(tiny_home, tiny):
    tiny.edit("scene", lambda rows: [*rows, {**rows[0], "token": "again"}])
    with pytest.raises(SourceDataError) as caught:
        ingest_scene(tiny_home, KEY)
    assert caught.value.kind == ErrorKind.SCENE_DUPLICATE
    assert not ingest_scene(tiny_home, OTHER).reused


@pytest.mark.parametrize("name", ["a/b", "../x", "", ".hidden", "a b", "a\n", "ä", "a:b", None, 3])
def test_scene_with_a_reserved_name_is_refused(tiny, name):
    tiny.set("scene", "scene-0001", name=name)
    with pytest.raises(SourceDataError) as caught:
        list_scenes(tiny.source())
    assert caught.value.kind == ErrorKind.NAME_INVALID


def test_unknown_camera_is_refused(tiny_home):
    with pytest.raises(SourceDataError, match="CAM_ROOF"):
        ingest_scene(tiny_home, KEY, IngestConfig(cameras=("CAM_ROOF",)))


def test_bomb_is_refused_even_if_its_table_agrees(tiny_home, tiny):
    """The limit is ours: neither the table nor Pillow's own (which the devkit lifts) is asked."""
    (tiny.root / IMAGE).write_bytes(_bomb())
    far = [[60000.0, 0, 30000], [0, 60000.0, 30000], [0, 0, 1]]
    tiny.set("calibrated_sensor", "scene-0001/calibration-CAM_FRONT", camera_intrinsic=far)
    for frame in range(3):
        tiny.set("sample_data", f"scene-0001/{frame}/CAM_FRONT", width=60000, height=60000)
        (tiny.root / tiny.file("scene-0001", "CAM_FRONT", frame)).write_bytes(_bomb())
    with pytest.raises(SourceDataError, match="60000") as caught:
        ingest_scene(tiny_home, KEY)
    assert caught.value.kind == ErrorKind.IMAGE_INVALID


@pytest.mark.parametrize(("file", "content"), [(IMAGE, b"another image"), (SWEEP, b"another sweep")])
def test_file_that_changes_after_it_was_hashed_is_refused(tiny_home, tiny, file, content):
    def change(stage, fraction, _):
        if (stage, fraction) == ("hash", 1.0):
            (tiny.root / file).write_bytes(content)

    with pytest.raises(SourceDataError) as caught:
        ingest_scene(tiny_home, KEY, on_progress=change)
    assert (caught.value.kind, caught.value.key) == (ErrorKind.DIGEST_MISMATCH, file)
    assert tiny_home.versions() == []


# --- stores that were damaged afterwards ---------------------------------------------------------------------------


def test_store_of_an_unknown_schema_is_refused(tiny_home, monkeypatch):
    monkeypatch.setattr("storage.scenes.store.SCENE_SCHEMA", "distillnerf.scene/999")
    ingest_scene(tiny_home, KEY)
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="999") as caught:
        SceneReader.open(tiny_home, KEY)
    assert caught.value.kind == ErrorKind.SCHEMA_UNKNOWN


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_store_that_lost_a_chunk_is_never_read_as_fill_values(tiny_home, damage):
    ingest_scene(tiny_home, KEY)
    for chunk in (tiny_home.root / "stores" / "scene" / str(KEY) / "chunks").iterdir():
        chunk.unlink() if damage == "lost" else chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(IntegrityError) as caught:
        _read_all(tiny_home)
    assert caught.value.kind == ErrorKind.STORE_CORRUPT
    assert str(KEY) in caught.value.key


def _read_all(home: Home) -> None:
    scene = SceneReader.open(home, KEY)
    scene.boxes()
    for frame in range(scene.num_frames):
        scene.lidar_points(frame)
        for camera in range(scene.num_cameras):
            scene.image(frame, camera)


def test_source_file_that_is_no_source_is_refused(tiny_home):
    path = tiny_home.root / "sources" / "tiny.json"
    good = json.loads(path.read_text())
    for text in (
        "{",
        "[]",
        json.dumps({**good, "extra": "x"}),
        json.dumps({**good, "root": 3}),
        json.dumps({**good, "format": "kitti"}),
        json.dumps({**good, "dataset": "other"}),
        json.dumps({**good, "version": "../x"}),
    ):
        path.write_text(text)
        with pytest.raises(SourceDataError, match=r"tiny\.json"):
            ingest_scene(tiny_home, KEY)
