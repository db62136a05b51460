"""``distillnerf validate`` says of a recording what an ingest and an audit would, and keeps nothing."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline import cli
from pipeline.run_config import HomeSelection
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.stores.versioned import Home


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drive") / "manifest"
    config = ProceduralConfig(
        num_scenes=1, frames_per_scene=3, image_height=72, image_width=128, source_format="manifest", antialias=False
    )
    generate_dataset(Home(root.parent / "home"), root, config)
    return root


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    code = cli.main(["validate", "manifest", *arguments, "--json"])
    (report,) = json.loads(capsys.readouterr().out)
    return code, {row["name"]: row for row in report["checks"]}


def test_every_check_of_a_sound_recording_has_a_row(recording, capsys, tmp_path):
    _, rows = rows_of(capsys, str(recording), "--scratch", str(tmp_path))
    assert rows["ingest"]["outcome"] == "passed"
    assert rows["frames"]["value"] == 3
    assert rows["driving_direction_off_x_deg"]["outcome"] == "passed"
    assert rows["ground_tilt_deg"]["value"] < 3
    assert rows["lidar_height_over_ground_m"]["value"] == pytest.approx(1.84, abs=0.1)
    assert rows["ground_off_ego_z0_m"]["outcome"] == "passed"
    assert "gain_of_changing_rig" in rows
    assert list(tmp_path.iterdir()) == []  # nothing is kept


def test_what_an_ingest_refuses_is_said_in_the_table(recording, capsys, tmp_path):
    (image,) = [path for path in sorted(recording.rglob("*.jpg"))][:1]
    before = image.read_bytes()
    Image.new("RGB", (10, 10)).save(image)
    try:
        code, rows = rows_of(capsys, str(recording))
        assert code == 1
        assert rows["ingest"]["value"] == "image_invalid"
        assert "10 x 10" in rows["ingest"]["where"]
        assert cli.main(["validate", "manifest", str(recording)]) == 1
        assert "1 failed; nothing was kept" in capsys.readouterr().out
    finally:
        image.write_bytes(before)


def test_a_file_that_names_no_scene_is_said_on_the_console_too(tmp_path, capsys):
    (tmp_path / "a.tfrecord").write_bytes(b"cut")
    assert cli.main(["validate", "waymo_v1", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "file_corrupt" in shown
    assert "a.tfrecord" in shown
    assert "1 failed; nothing was kept" in shown


def test_an_ego_frame_that_floats_is_pointed_at(recording, capsys):
    """An ego frame on the roof: depth, heights and occupancy grids would all take the roof for the ground."""
    path = recording / "rig_manifest.json"
    before = path.read_text()
    manifest = json.loads(before)
    for rig in manifest["rigs"].values():
        for mounted in (*(camera["camera_to_ego"] for camera in rig["cameras"]), rig["lidar"]["lidar_to_ego"]):
            mounted["translation_m"][2] -= 1.8
    path.write_text(json.dumps(manifest))
    try:
        _, rows = rows_of(capsys, str(recording))
        assert rows["ground_off_ego_z0_m"]["value"] == pytest.approx(1.8, abs=0.1)
        assert rows["ground_off_ego_z0_m"]["outcome"] == "undecided"
    finally:
        path.write_text(before)


def test_blobs_on_another_disk_need_a_word(recording, capsys, tmp_path):
    folder = sorted(recording.rglob("*.jpg"))[0].parent
    elsewhere = tmp_path / "disk" / folder.name
    elsewhere.parent.mkdir()
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    try:
        code, rows = rows_of(capsys, str(recording))
        assert code == 1
        assert rows["ingest"]["value"] == "file_unsafe"
        assert "--link-roots" in rows["ingest"]["where"]
        _, rows = rows_of(capsys, str(recording), "--link-roots", str(tmp_path / "disk"))
        assert rows["ingest"]["outcome"] == "passed"
    finally:
        folder.unlink()
        elsewhere.rename(folder)


@pytest.mark.parametrize("flag", [(), ("True",), ("False",)])
def test_a_boolean_field_is_a_flag(flag):
    command = cli.parse(["ingest", "manifest", "somewhere", "--ingest.allow-missing-lidar", *flag, "--seed", "3"])
    selection = HomeSelection.on_top_of(None, preset="tiny", overrides=command.set)  # type: ignore[attr-defined]
    assert selection.resolve().ingest.allow_missing_lidar is (flag != ("False",))
