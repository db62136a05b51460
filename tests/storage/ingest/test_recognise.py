"""A user who names the wrong format, or a folder beside the right one, is told which."""

from pathlib import Path

import pytest

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.recognise import check_format
from storage.ingest.source import usual_source


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for file in (
        "apron/rig_manifest.json",
        "nuscenes/v1.0-trainval/scene.json",
        "waymo/training/vehicle_pose/segment.parquet",
        "records/segment.tfrecord",
        "photos/0001.jpg",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("source_format", "folder", "said"),
    [
        ("manifest", "nuscenes", "it looks like nuscenes"),
        ("nuscenes", "apron", "it looks like manifest"),
        ("waymo_v2", "records", "it looks like waymo_v1"),
        ("nuscenes", "nuscenes/v1.0-trainval", "{root}/nuscenes looks like one"),
        ("waymo_v1", "records/segment.tfrecord", "{root}/records looks like one"),
        ("waymo_v2", "waymo", "{root}/waymo/training looks like one"),
        ("manifest", ".", "{root}/apron looks like one"),  # also a folder above recordings of another format
    ],
)
def test_what_a_folder_looks_like_is_said(recordings, source_format, folder, said):
    with pytest.raises(SourceDataError, match=f"no recording of format {source_format}, but ") as caught:
        check_format(source_format, recordings / folder)
    assert caught.value.kind == ErrorKind.FILE_MISSING
    assert caught.value.message.endswith(said.format(root=recordings))


@pytest.mark.parametrize(
    ("source_format", "folder"),
    [
        ("nuscenes", "nuscenes"),
        ("waymo_v2", "waymo/training"),
        ("waymo_v1", "."),
        ("manifest", "photos"),
        ("nuscenes", "nowhere"),
    ],
)
def test_what_may_be_right_is_left_to_its_reader(recordings, source_format, folder):
    check_format(source_format, recordings / folder)


def test_a_command_asks_first(recordings):
    with pytest.raises(SourceDataError, match="it looks like nuscenes"):
        usual_source("waymo_v1", recordings / "nuscenes")
