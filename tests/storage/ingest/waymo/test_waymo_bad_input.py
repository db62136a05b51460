"""Every way a Waymo recording can be broken is a typed error that names the place; nothing is published."""

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import list_scenes, register_source
from storage.ingest.source_config import SourceConfig
from storage.ingest.waymo.panoptic import encode_panoptic
from storage.ingest.waymo.tfrecord import masked_crc32c, read_records, write_records
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores import catalog
from storage.stores.versioned import Home

KEY = SceneKey("waymo", "scene-0001")
FILE = "segment-scene-0001_with_camera_labels.tfrecord"
IMAGE = "[CameraImageComponent].image"


@dataclass(frozen=True)
class Fault:
    """One way to break a recording, and what must be said about it."""

    name: str
    apply: Callable
    kind: ErrorKind
    key: str
    message: str = ""


@pytest.fixture
def broken(request, tmp_path) -> Callable[[str], SimpleNamespace]:
    """A copy of a data set that a test may break."""

    def copy(source_format: str) -> SimpleNamespace:
        written = request.getfixturevalue(source_format.removeprefix("waymo_"))
        root, home = tmp_path / "raw", Home(tmp_path / "home")
        shutil.copytree(written.root, root)
        source = SourceConfig(dataset="waymo", format=source_format, root=root, version="v", licence="CC0-1.0")
        register_source(home, source)
        return SimpleNamespace(root=root, home=home, source=source)

    return copy


def _refuse(set_: SimpleNamespace, fault: Fault, config: IngestConfig | None = None) -> SourceDataError:
    with pytest.raises(SourceDataError) as caught:
        ingest_scene(set_.home, KEY, config)
    assert caught.value.kind == fault.kind, caught.value
    assert fault.key in caught.value.key, caught.value
    assert fault.message in caught.value.message, caught.value
    assert not set_.home.versions()
    assert not list((set_.home.root / "stores").glob("*/*/chunks/*"))
    (row,) = catalog.quarantined(set_.home.objects).to_pylist()
    assert (row["partition"], row["error_kind"]) == (str(KEY), fault.kind)
    assert (row["key"], row["message"]) == (caught.value.key, caught.value.message)
    return caught.value


# --- v1: framing -----------------------------------------------------------------------------------------------------


def _flip(position: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 0x10
        path.write_bytes(bytes(content))

    return apply


def _cut(num_bytes: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:-num_bytes])


def _append_empty_record(path: Path) -> None:
    length = struct.pack("<Q", 0)
    record = length + struct.pack("<I", masked_crc32c(length)) + struct.pack("<I", masked_crc32c(b""))
    path.write_bytes(path.read_bytes() + record)


def _edit_frames(change: Callable[[list], list]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        from waymo_open_dataset import dataset_pb2

        frames = [dataset_pb2.Frame.FromString(record.payload) for record in read_records(path, "x")]
        write_records(path, [frame.SerializeToString() for frame in change(frames)])

    return apply


def _edit_second(change: Callable) -> Callable[[Path], None]:
    def apply(frames: list) -> list:
        change(frames[1])
        return frames

    return _edit_frames(apply)


def _edit_first(change: Callable) -> Callable[[Path], None]:
    def apply(frames: list) -> list:
        change(frames[0])
        return frames

    return _edit_frames(apply)


def _panoptic(frame) -> None:
    frame.images[0].camera_segmentation_label.panoptic_label = encode_panoptic(np.zeros((8, 8), np.uint16))


def _divisor(value: int) -> Callable:
    def apply(frame) -> None:
        frame.images[0].camera_segmentation_label.panoptic_label_divisor = value

    return apply


def _drop_camera(frame) -> None:
    del frame.images[0]


def _repeat_camera(frame) -> None:
    frame.images[1].name = frame.images[0].name


def _nan_pose(frame) -> None:
    frame.pose.transform[3] = float("nan")


def _sheared_image_pose(frame) -> None:
    frame.images[0].pose.transform[0] = 1.3


def _cut_image(frame) -> None:
    frame.images[0].image = frame.images[0].image[:-200]


def _jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def _bomb() -> bytes:
    """A JPEG of a few bytes whose header claims 60000 x 60000 pixels."""
    content = bytearray(_jpeg(96, 64))
    start_of_frame = content.index(b"\xff\xc0")
    content[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(content)


def _first_image(content: bytes) -> Callable:
    def apply(frame) -> None:
        frame.images[0].image = content

    return apply


def _swap_cameras(frame) -> None:
    """The front camera's image under the name of a side camera, which is less high."""
    by_number = {image.name: image for image in frame.images}
    by_number[1].name, by_number[4].name = 4, 1


def _jump(frame) -> None:
    for pose in (frame.pose, *(image.pose for image in frame.images)):
        pose.transform[3] += 5000.0


def _sheared_mounting(frames: list) -> list:
    for frame in frames:
        frame.context.camera_calibrations[0].extrinsic.transform[0] = 1.3
    return frames


def _inflating(frame) -> None:
    frame.lasers[0].ri_return1.range_image_compressed = zlib.compress(bytes(1 << 27))


def _reserved_name(frames: list) -> list:
    for frame in frames:
        frame.context.name = "../scene-0001"
    return frames


def _no_lasers(frame) -> None:
    del frame.lasers[:]


def _no_pixel_pose(frame) -> None:
    frame.lasers[0].ri_return1.range_image_pose_compressed = b""


def _bad_zlib(frame) -> None:
    frame.lasers[0].ri_return1.range_image_compressed = b"\x00" * 32


def _cut_zlib(frame) -> None:
    data = frame.lasers[0].ri_return1.range_image_compressed
    frame.lasers[0].ri_return1.range_image_compressed = data[: len(data) // 2]


def _matrix(values: np.ndarray) -> bytes:
    from waymo_open_dataset import dataset_pb2

    is_whole = np.issubdtype(values.dtype, np.integer)
    matrix = dataset_pb2.MatrixInt32() if is_whole else dataset_pb2.MatrixFloat()
    matrix.shape.dims.extend(values.shape)
    matrix.data.extend(values.reshape(-1).tolist())
    return zlib.compress(matrix.SerializeToString())


def _nan_range(frame) -> None:
    values = np.ones((24, 180, 4))
    values[7, 11, 0] = np.nan
    frame.lasers[0].ri_return1.range_image_compressed = _matrix(values)


def _wrong_channels(frame) -> None:
    frame.lasers[0].ri_return1.range_image_compressed = _matrix(np.ones((24, 180, 3)))


def _wrong_beams(frame) -> None:
    frame.lasers[0].ri_return1.range_image_compressed = _matrix(np.ones((20, 180, 4)))


def _labels(values: np.ndarray) -> Callable:
    def apply(frame) -> None:
        frame.lasers[0].ri_return1.segmentation_label_compressed = _matrix(values)

    return apply


def _no_return(frame) -> None:
    for laser in frame.lasers:
        shape = (24, 180, 4) if laser.name == 1 else (8, 24, 4)
        for one in (laser.ri_return1, laser.ri_return2):
            one.range_image_compressed = _matrix(-np.ones(shape))


def _flat_box(frame) -> None:
    frame.laser_labels[0].box.height = 0.0


def _nan_box(frame) -> None:
    frame.laser_labels[0].box.center_x = float("nan")


def _other_segment(frame) -> None:
    frame.context.name = "another"


def _infinite_time(frame) -> None:
    frame.images[0].pose_timestamp = float("inf")


def _missing_beams(frames: list) -> list:
    for frame in frames:
        del frame.context.laser_calibrations[0].beam_inclinations[5]
    return frames


def _no_calibration(frames: list) -> list:
    for frame in frames:
        del frame.context.camera_calibrations[0]
    return frames


def _zero_focal(frames: list) -> list:
    for frame in frames:
        frame.context.camera_calibrations[0].intrinsic[0] = 0.0
    return frames


def _short_intrinsic(frames: list) -> list:
    for frame in frames:
        del frame.context.camera_calibrations[0].intrinsic[8]
    return frames


def _mad_lens(frames: list) -> list:
    for frame in frames:
        frame.context.camera_calibrations[0].intrinsic[4] = -40.0
    return frames


def _moved_camera(frame) -> None:
    frame.context.camera_calibrations[0].extrinsic.transform[3] += 0.1


K = ErrorKind
V1_FAULTS = [
    Fault("bad CRC of a length", _flip(9), K.FILE_CORRUPT, f"{FILE}#record0: length", "masked CRC-32C is"),
    Fault("length itself", _flip(1), K.FILE_CORRUPT, f"{FILE}#record0: length", "masked CRC-32C is"),
    Fault("bad CRC of data", _flip(500), K.FILE_CORRUPT, f"{FILE}#record0: data", "masked CRC-32C is"),
    Fault("cut in the data", _cut(3000), K.FILE_CORRUPT, f"{FILE}#record1", "is cut"),
    Fault("cut in the checksum", _cut(2), K.FILE_CORRUPT, f"{FILE}#record1", "is cut"),
    Fault(
        "cut in a header",
        lambda path: path.write_bytes(path.read_bytes() + b"\1\2\3"),
        K.FILE_CORRUPT,
        f"{FILE}#record2",
        "is cut after 3 of the 12 bytes",
    ),
    Fault("zero-length record", _append_empty_record, K.FILE_CORRUPT, f"{FILE}#record2", "zero bytes"),
    Fault("empty file", lambda path: path.write_bytes(b""), K.FILE_CORRUPT, FILE, "is empty"),
    Fault("no message", lambda path: write_records(path, [b"\xff" * 40]), K.FILE_CORRUPT, FILE, "is no waymo"),
    Fault("missing camera", _edit_second(_drop_camera), K.IMAGE_INVALID, "#record1", "no image of camera 'FRONT'"),
    Fault("repeated camera", _edit_second(_repeat_camera), K.TABLE_INVALID, "#record1", "at most once"),
    Fault("frames out of order", _edit_frames(lambda f: f[::-1]), K.TIME_INVALID, "#record1", "want later than"),
    Fault("repeated frame", _edit_frames(lambda f: [f[0], f[0]]), K.TIME_INVALID, "#record1", "want later than"),
    Fault("NaN pose", _edit_second(_nan_pose), K.POSE_INVALID, "#record1.pose", "finite"),
    Fault("sheared image pose", _edit_second(_sheared_image_pose), K.POSE_INVALID, "#record1/FRONT", "rotation"),
    Fault("cut JPEG", _edit_second(_cut_image), K.FILE_CORRUPT, "#record1/FRONT", "do not decode"),
    Fault("no JPEG", _edit_second(_first_image(b"GIF89a")), K.IMAGE_INVALID, "#record1/FRONT", "is not a JPEG"),
    Fault("wrong size", _edit_second(_first_image(_jpeg(90, 64))), K.IMAGE_INVALID, "#record1/FRONT", "is 90 x 64"),
    Fault("decompression bomb", _edit_second(_first_image(_bomb())), K.IMAGE_INVALID, "#record1/FRONT", "60000"),
    Fault("swapped camera names", _edit_second(_swap_cameras), K.IMAGE_INVALID, "#record1/", "its table says 96 x"),
    Fault("jumping pose", _edit_second(_jump), K.POSE_INVALID, "scene-0001: ego_to_world[1]", "m/s"),
    Fault(
        "sheared mounting",
        _edit_frames(_sheared_mounting),
        K.CALIBRATION_INVALID,
        "/FRONT.extrinsic",
        "want a rotation",
    ),
    Fault("range image that inflates", _edit_second(_inflating), K.LIDAR_INVALID, "TOP, return 1", "more than"),
    Fault("reserved characters", _edit_frames(_reserved_name), K.NAME_INVALID, "'../scene-0001'", "want letters"),
    Fault("empty lasers", _edit_second(_no_lasers), K.LIDAR_INVALID, "#record1", "no LiDAR"),
    Fault("no pixel poses", _edit_second(_no_pixel_pose), K.LIDAR_INVALID, "#record1/TOP", "no pixel poses"),
    Fault("range image is no zlib", _edit_second(_bad_zlib), K.LIDAR_INVALID, "TOP, return 1", "does not inflate"),
    Fault("range image is cut", _edit_second(_cut_zlib), K.LIDAR_INVALID, "TOP, return 1", "is cut"),
    Fault("NaN range", _edit_second(_nan_range), K.LIDAR_INVALID, "#record1/TOP", "pixel (7, 11)"),
    Fault("wrong channels", _edit_second(_wrong_channels), K.LIDAR_INVALID, "#record1/TOP", "(24, 180, 3)"),
    Fault(
        "ranges of another shape", _edit_second(_wrong_beams), K.LIDAR_INVALID, "TOP, return 1", "its ranges (20, 180)"
    ),
    Fault(
        "labels of another shape",
        _edit_second(_labels(np.ones((24, 90, 2), np.int32))),
        K.LIDAR_INVALID,
        "#record1/TOP, return 1",
        "segmentation has shape (24, 90), its ranges (24, 180)",
    ),
    Fault(
        "labels without instances",
        _edit_second(_labels(np.ones((24, 180, 1), np.int32))),
        K.LIDAR_INVALID,
        "#record1/TOP, return 1",
        "want (beams, columns, 2)",
    ),
    Fault(
        "unknown class of a point",
        _edit_second(_labels(np.full((24, 180, 2), 23, np.int32))),
        K.LIDAR_INVALID,
        "#record1/TOP, return 1",
        "has class 23, want 0 to 22",
    ),
    Fault("labels of another image", _edit_first(_panoptic), K.IMAGE_INVALID, "#record0/", "labels are 8 x 8"),
    Fault("divisor of labels", _edit_first(_divisor(0)), K.TABLE_INVALID, "#record0/", "panoptic_label_divisor is 0"),
    Fault("two divisors", _edit_first(_divisor(500)), K.TABLE_INVALID, "#record0/", "want one for each segment"),
    Fault("missing beams", _edit_frames(_missing_beams), K.CALIBRATION_INVALID, "laser TOP", "lists 23 beams"),
    Fault("no return at all", _edit_second(_no_return), K.LIDAR_INVALID, "#record1", "hold no return"),
    Fault("flat box", _edit_second(_flat_box), K.TABLE_INVALID, "#record1.laser_labels[actor-", "all above 0"),
    Fault("NaN box", _edit_second(_nan_box), K.TABLE_INVALID, "#record1.laser_labels[actor-", "finite centre"),
    Fault("frame of another segment", _edit_second(_other_segment), K.TABLE_INVALID, "#record1", "'another'"),
    Fault("infinite image time", _edit_second(_infinite_time), K.TIME_INVALID, "scene-0001", "inf"),
    Fault(
        "uncalibrated image",
        _edit_frames(_no_calibration),
        K.CALIBRATION_INVALID,
        "scene-0001",
        "no calibration of camera 'FRONT'",
    ),
    Fault("camera moves", _edit_second(_moved_camera), K.CALIBRATION_INVALID, "#record1", "differ from"),
    Fault("focal length of zero", _edit_frames(_zero_focal), K.CALIBRATION_INVALID, "FRONT", "> 0"),
    Fault("eight intrinsics", _edit_frames(_short_intrinsic), K.CALIBRATION_INVALID, "FRONT", "nine"),
    Fault("a lens that folds", _edit_frames(_mad_lens), K.CALIBRATION_INVALID, "FRONT", "focal scale"),
]


@pytest.mark.parametrize("fault", V1_FAULTS, ids=lambda fault: fault.name)
def test_v1_fault_is_a_typed_error(broken, fault):
    data = broken("waymo_v1")
    fault.apply(data.root / FILE)
    _refuse(data, fault)


def test_unknown_fields_are_tolerated_and_counted(broken):
    """Field 1000 of the frame and field 999 of its pose, as a later release may add them."""
    data = broken("waymo_v1")
    unknown = b"\xc0\x3e\x07"  # field 1000, varint 7
    inside = b"\xba\x3e\x02hi"  # field 999, two bytes

    def change(frames: list) -> list:
        frames[0].pose.MergeFromString(inside)
        frames[1].MergeFromString(unknown)
        return frames

    _edit_frames(change)(data.root / FILE)
    ingest_scene(data.home, KEY)
    assert SceneReader.open(data.home, KEY).attributes["unknown_fields"] == 2


def test_frames_without_lidar_are_listed_when_allowed(broken):
    data = broken("waymo_v1")
    _edit_second(_no_lasers)(data.root / FILE)
    ingest_scene(data.home, KEY, IngestConfig(allow_missing_lidar=True))
    scene = SceneReader.open(data.home, KEY)
    assert scene.attributes["frames_without_lidar"] == [1]
    assert len(scene.lidar_points(0)) > 1000
    assert len(scene.lidar_points(1)) == 0


def test_allowing_no_lidar_does_not_allow_broken_lidar(broken):
    data = broken("waymo_v1")
    _edit_second(_nan_range)(data.root / FILE)
    with pytest.raises(SourceDataError, match="pixel \\(7, 11\\)"):
        ingest_scene(data.home, KEY, IngestConfig(allow_missing_lidar=True))


def test_unknown_camera_and_scene_are_named(broken):
    data = broken("waymo_v1")
    with pytest.raises(SourceDataError, match="CAM_FRONT"):
        ingest_scene(data.home, KEY, IngestConfig(cameras=("CAM_FRONT",)))
    with pytest.raises(SourceDataError) as caught:
        ingest_scene(data.home, SceneKey("waymo", "scene-0002"))
    assert caught.value.kind == K.SCENE_UNKNOWN


def test_listing_goes_on_past_broken_and_repeated_files(broken):
    data = broken("waymo_v1")
    shutil.copy(data.root / FILE, data.root / "twice.tfrecord")
    (data.root / "zero.tfrecord").write_bytes(b"\0" * 20)
    rejected: list[SourceDataError] = []
    assert list_scenes(data.source, on_rejected=rejected.append) == [KEY]
    assert [e.kind for e in rejected] == [K.SCENE_DUPLICATE, K.FILE_CORRUPT]
    with pytest.raises(SourceDataError, match=r"twice\.tfrecord"):
        list_scenes(data.source)
    ingest_scene(data.home, KEY)  # a broken neighbour is not this scene's business


def test_a_link_out_of_the_root_is_refused(broken, tmp_path):
    data = broken("waymo_v1")
    shutil.move(data.root / FILE, tmp_path / "outside.tfrecord")
    (data.root / FILE).symlink_to(tmp_path / "outside.tfrecord")
    with pytest.raises(SourceDataError) as caught:
        list_scenes(data.source)
    assert caught.value.kind == K.FILE_UNSAFE
    _refuse(data, Fault("link", _edit_frames, K.FILE_UNSAFE, FILE, "outside the root"))


def test_a_record_that_changes_after_it_was_hashed_is_refused(broken):
    """A sound record with other ranges, at the same place: neither its checksum nor its images tell."""
    data = broken("waymo_v1")
    path = data.root / FILE
    other = path.with_suffix(".other")
    shutil.copy(path, other)
    _edit_frames(lambda frames: [_with_other_ranges(frame) for frame in frames])(other)

    def change(stage, fraction, _):
        if (stage, fraction) == ("hash", 1.0):
            shutil.move(other, path)

    with pytest.raises(SourceDataError) as caught:
        ingest_scene(data.home, KEY, on_progress=change)
    assert (caught.value.kind, caught.value.key) == (K.DIGEST_MISMATCH, f"{FILE}#record0")
    assert not data.home.versions()


def _with_other_ranges(frame):
    values = np.ones((24, 180, 4))
    frame.lasers[0].ri_return1.range_image_compressed = _matrix(values)
    return frame


def test_a_segment_that_is_there_twice_is_refused(broken):
    """As in two splits of a release that were unpacked over each other."""
    data = broken("waymo_v1")
    (data.root / "validation").mkdir()
    shutil.copy(data.root / FILE, data.root / "validation" / FILE)
    _refuse(data, Fault("twice", shutil.copy, K.SCENE_DUPLICATE, f"validation/{FILE}", f"as {FILE} does"))


# --- v2: components --------------------------------------------------------------------------------------------------


def _edit_table(component: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / component / "scene-0001.parquet"
        pq.write_table(change(pq.read_table(path)), path)

    return apply


def _set_column(name: str, change: Callable[[list], list], kind: pa.DataType | None = None) -> Callable:
    def apply(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        values = change(table.column(name).to_pylist())
        return table.set_column(index, name, pa.array(values, kind or table.schema.field(name).type))

    return apply


def _second_nan(values: list) -> list:
    return [values[0], [float("nan")] * 16, *values[2:]]


def _second_far(values: list) -> list:
    return [values[0], [x + 5000.0 * (i == 3) for i, x in enumerate(values[1])], *values[2:]]


def _link_out(root: Path) -> None:
    outside = root.parent / "outside.parquet"
    shutil.move(root / "lidar_box" / "scene-0001.parquet", outside)
    (root / "lidar_box" / "scene-0001.parquet").symlink_to(outside)


def _shifted(values: list) -> list:
    return [None if v is None else [x + 23 for x in v] for v in values]


def _truncate(root: Path) -> None:
    path = root / "camera_image" / "scene-0001.parquet"
    path.write_bytes(path.read_bytes()[:-100])


LABELS = "[LiDARSegmentationLabelComponent].range_image_return2"
CAMERA = "key.camera_name"
FOCAL = "[CameraCalibrationComponent].intrinsic.f_u"
MOUNTING = "[CameraCalibrationComponent].extrinsic.transform"
RANGES = "[LiDARComponent].range_image_return1.values"
POSE = "[VehiclePoseComponent].world_from_vehicle.transform"
TIME = "key.frame_timestamp_micros"
V2_FAULTS = [
    Fault(
        "missing component",
        lambda root: (root / "camera_image" / "scene-0001.parquet").unlink(),
        K.FILE_MISSING,
        "camera_image/scene-0001.parquet",
    ),
    Fault(
        "missing column",
        _edit_table("camera_image", lambda t: t.drop_columns([IMAGE])),
        K.TABLE_INVALID,
        "camera_image/scene-0001.parquet",
        IMAGE,
    ),
    Fault(
        "wrong dtype",
        _edit_table("vehicle_pose", _set_column(TIME, lambda v: [str(x) for x in v], pa.string())),
        K.TABLE_INVALID,
        "vehicle_pose/scene-0001.parquet",
        "holds string, want integers",
    ),
    Fault(
        "wrong list type",
        _edit_table("vehicle_pose", _set_column(POSE, lambda v: [["x"] * 16] * len(v), pa.list_(pa.string()))),
        K.TABLE_INVALID,
        "vehicle_pose/scene-0001.parquet",
        "want lists of reals",
    ),
    Fault(
        "null value",
        _edit_table("camera_image", _set_column(IMAGE, lambda v: [None, *v[1:]])),
        K.TABLE_INVALID,
        "camera_image",
        "is missing in row 0",
    ),
    Fault(
        "frames out of order",
        _edit_table("vehicle_pose", lambda t: t.take([1, 0])),
        K.TIME_INVALID,
        "vehicle_pose",
        "want later than",
    ),
    Fault("NaN pose", _edit_table("vehicle_pose", _set_column(POSE, _second_nan)), K.POSE_INVALID, "vehicle_pose"),
    Fault("no row", _edit_table("vehicle_pose", lambda t: t.slice(0, 0)), K.TABLE_INVALID, "vehicle_pose", "no row"),
    Fault("jumping pose", _edit_table("vehicle_pose", _set_column(POSE, _second_far)), K.POSE_INVALID, "[1]", "m/s"),
    Fault(
        "truncated JPEG",
        _edit_table("camera_image", _set_column(IMAGE, lambda v: [v[0][:-200], *v[1:]])),
        K.FILE_CORRUPT,
        "/FRONT",
        "do not decode",
    ),
    Fault(
        "wrong size",
        _edit_table("camera_image", _set_column(IMAGE, lambda v: [_jpeg(90, 64), *v[1:]])),
        K.IMAGE_INVALID,
        "/FRONT",
        "is 90 x 64",
    ),
    Fault(
        "decompression bomb",
        _edit_table("camera_image", _set_column(IMAGE, lambda v: [_bomb(), *v[1:]])),
        K.IMAGE_INVALID,
        "/FRONT",
        "60000",
    ),
    Fault(
        "swapped camera names",
        _edit_table("camera_image", _set_column(CAMERA, lambda v: [{1: 4, 4: 1}.get(x, x) for x in v])),
        K.IMAGE_INVALID,
        "scene-0001#",
        "its table says 96 x",
    ),
    Fault(
        "singular intrinsics",
        _edit_table("camera_calibration", _set_column(FOCAL, lambda v: [0.0, *v[1:]])),
        K.CALIBRATION_INVALID,
        "camera_calibration/scene-0001.parquet/FRONT",
        "focal lengths are 0.0",
    ),
    Fault(
        "sheared mounting",
        _edit_table("camera_calibration", _set_column(MOUNTING, lambda v: [[1.3, *v[0][1:]], *v[1:]])),
        K.CALIBRATION_INVALID,
        "/FRONT.extrinsic",
        "want a rotation",
    ),
    Fault(
        "NaN range",
        _edit_table("lidar", _set_column(RANGES, lambda v: [[float("nan"), *v[0][1:]], *v[1:]])),
        K.LIDAR_INVALID,
        "/TOP, return 1",
        "pixel (0, 0)",
    ),
    Fault(
        "link out of the root",
        _link_out,
        K.FILE_UNSAFE,
        "lidar_box/scene-0001.parquet",
        "outside the root",
    ),
    Fault("cut file", _truncate, K.FILE_CORRUPT, "camera_image", "cannot be read"),
    Fault(
        "row of another segment",
        _edit_table("lidar", _set_column("key.segment_context_name", lambda v: ["other", *v[1:]])),
        K.TABLE_INVALID,
        "lidar",
        "'other'",
    ),
    Fault(
        "image at no frame",
        _edit_table("camera_image", _set_column(TIME, lambda v: [v[0] - 1, *v[1:]])),
        K.TABLE_INVALID,
        "camera_image",
        "no vehicle pose",
    ),
    Fault(
        "missing camera",
        _edit_table("camera_image", lambda t: t.slice(0, len(t) - 1)),
        K.IMAGE_INVALID,
        "scene-0001#",
        "no image of camera 'SIDE_RIGHT'",
    ),
    Fault(
        "no LiDAR",
        lambda root: shutil.rmtree(root / "lidar"),
        K.LIDAR_INVALID,
        "scene-0001#",
        "2 of 2 frames have none; --ingest.allow-missing-lidar",
    ),
    Fault(
        "no pixel poses",
        lambda root: shutil.rmtree(root / "lidar_pose"),
        K.LIDAR_INVALID,
        "/TOP",
        "no pixel poses",
    ),
    Fault(
        "wrong shape",
        _edit_table("lidar", _set_column("[LiDARComponent].range_image_return1.shape", lambda v: [[5, 5, 4], *v[1:]])),
        K.LIDAR_INVALID,
        "/TOP",
        "shape (5, 5, 4)",
    ),
    Fault(
        "labels of another shape",
        _edit_table("lidar_segmentation", _set_column(f"{LABELS}.shape", lambda v: [[180, 24, 2], *v[1:]])),
        K.LIDAR_INVALID,
        "/TOP, return 2",
        "segmentation has shape (180, 24), its ranges (24, 180)",
    ),
    Fault(
        "labels that are no whole numbers",
        _edit_table(
            "lidar_segmentation", _set_column(f"{LABELS}.values", lambda v: [None] * len(v), pa.list_(pa.float32()))
        ),
        K.TABLE_INVALID,
        "lidar_segmentation/scene-0001.parquet",
        "holds list<",
    ),
    Fault(
        "unknown class of a point",
        _edit_table("lidar_segmentation", _set_column(f"{LABELS}.values", _shifted)),
        K.LIDAR_INVALID,
        "/TOP, return 2",
        "want 0 to 22",
    ),
    Fault(
        "labels of an image that was not taken",
        _edit_table("camera_segmentation", _set_column(CAMERA, lambda v: [9, *v[1:]])),
        K.TABLE_INVALID,
        "camera_segmentation/scene-0001.parquet#",
        "labels camera 9",
    ),
    Fault(
        "image labelled twice",
        _edit_table("camera_segmentation", lambda t: t.take([0, *range(len(t))])),
        K.TABLE_INVALID,
        "camera_segmentation/scene-0001.parquet#",
        "twice",
    ),
    Fault(
        "labels at no frame",
        _edit_table("lidar_segmentation", _set_column(TIME, lambda v: [v[0] - 1])),
        K.TABLE_INVALID,
        "lidar_segmentation",
        "no vehicle pose",
    ),
]


@pytest.mark.parametrize("fault", V2_FAULTS, ids=lambda fault: fault.name)
def test_v2_fault_is_a_typed_error(broken, fault):
    data = broken("waymo_v2")
    fault.apply(data.root)
    _refuse(data, fault)


def test_a_component_that_changes_after_it_was_hashed_is_refused(broken):
    """Other ranges of the same shape: the images do not tell."""
    data = broken("waymo_v2")
    path = data.root / "lidar" / "scene-0001.parquet"
    other = path.with_suffix(".other")
    farther = _set_column(RANGES, lambda values: [[x + 1.0 for x in v] for v in values])
    pq.write_table(farther(pq.read_table(path)), other)

    def change(stage, fraction, _):
        if (stage, fraction) == ("hash", 1.0):
            shutil.move(other, path)

    with pytest.raises(SourceDataError) as caught:
        ingest_scene(data.home, KEY, on_progress=change)
    assert (caught.value.kind, caught.value.key) == (K.DIGEST_MISMATCH, "lidar/scene-0001.parquet")
    assert not data.home.versions()


def test_a_component_that_cannot_be_named_does_not_hide_the_others(broken):
    data = broken("waymo_v2")
    shutil.copy(data.root / "vehicle_pose" / "scene-0001.parquet", data.root / "vehicle_pose" / "scene 2.parquet")
    rejected: list[SourceDataError] = []
    assert list_scenes(data.source, on_rejected=rejected.append) == [KEY]
    assert [(e.kind, e.key) for e in rejected] == [(K.NAME_INVALID, "'scene 2'")]
    with pytest.raises(SourceDataError, match="scene 2"):
        list_scenes(data.source)


def test_unknown_columns_are_tolerated_and_counted(broken):
    data = broken("waymo_v2")
    _edit_table("lidar_box", lambda t: t.append_column("[LiDARBoxComponent].colour", pa.array(["red"] * len(t))))(
        data.root
    )
    ingest_scene(data.home, KEY, IngestConfig(max_frames=1, cameras=("FRONT",)))
    assert SceneReader.open(data.home, KEY).attributes["unknown_fields"] == 1


def test_rows_in_another_order_join_all_the_same(broken, v2):
    data = broken("waymo_v2")
    for component in ("camera_image", "lidar", "lidar_pose"):
        _edit_table(component, lambda t: t.take(list(range(len(t)))[::-1]))(data.root)
    ingest_scene(data.home, KEY)
    shuffled = SceneReader.open(data.home, KEY)
    ingest_scene(v2.home, KEY)
    ordered = SceneReader.open(v2.home, KEY)
    for frame in range(2):
        assert len(shuffled.lidar_points(frame)) == len(ordered.lidar_points(frame))
        assert shuffled.image_bytes(frame, 3) == ordered.image_bytes(frame, 3)
