"""The benchmark of the field against nerfacto, on races whose outcome is known and on photographs that are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import teacher_benchmark
from pipeline.benchmarks import run_benchmark
from pipeline.photographs import publish_photographs, undistort
from storage.errors import SourceDataError
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.nerf.race import Mark, Race

KEY = SceneKey("photographs", "box")
INTRINSICS = np.array([[50.0, 0, 32.0], [0, 50.0, 24.0], [0, 0, 1]])


def mark(seconds: float, psnr: float, abs_rel: float) -> Mark:
    return Mark(steps=round(seconds), processor_s=float(seconds), wall_s=float(seconds), psnr=psnr, abs_rel=abs_rel)


def test_a_record_says_how_much_sooner_and_how_much_truer(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Race(
        ours=(mark(5, 14.0, 0.5), mark(10, 18.0, 0.2), mark(20, 22.0, 0.1)),
        reference=(mark(6, 12.0, 0.9), mark(12, 17.0, 0.6), mark(20, 16.0, 0.5)),
    )
    monkeypatch.setattr(teacher_benchmark, "_race", lambda *_: outcome)
    monkeypatch.setattr(teacher_benchmark, "ingest_scene", lambda *_: None)
    monkeypatch.setattr(teacher_benchmark, "generate_dataset", lambda *_: [KEY])
    record = run_benchmark("teacher", quick=True)
    assert (record["ratio"], record["ours"], record["reference"]) == (1.2, 10.0, 12.0)
    assert record["details"]["time_share"] == pytest.approx(10 / 12)
    assert record["details"]["abs_rel_share"] == pytest.approx(0.2)
    assert record["details"]["fox"] == "left out"
    with pytest.raises(ValueError, match="has no quick version"):
        run_benchmark("pooling", quick=True)


def write_photographs(folder: Path, **changes: Any) -> None:
    (folder / "images").mkdir(parents=True)
    image = np.zeros((48, 64, 3), np.uint8)
    image[12:36, 16:48] = (200, 100, 50)
    Image.fromarray(image).save(folder / "images" / "1.png")
    pose = np.eye(4)
    pose[:3, 3] = [1.0, 2.0, 3.0]
    told = {"w": 64, "h": 48, "fl_x": 50.0, "fl_y": 50.0, "cx": 32.0, "cy": 24.0}
    told |= {"frames": [{"file_path": "images/1.png", "transform_matrix": pose.tolist()}], **changes}
    (folder / "transforms.json").write_text(json.dumps(told))


def test_photographs_become_a_scene_with_opencv_axes(tmp_path: Path) -> None:
    write_photographs(tmp_path / "box")
    home = Home(tmp_path / "home")
    publish_photographs(home, tmp_path / "box", KEY, height=24)
    scene = SceneReader.open(home, str(KEY))
    assert (scene.num_frames, scene.num_cameras) == (1, 1)
    np.testing.assert_allclose(scene.intrinsics(0), [[25.0, 0, 16.0], [0, 25.0, 12.0], [0, 0, 1]])
    pose = scene.camera_to_world(0, 0)
    np.testing.assert_allclose(pose[:3, 3], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(pose[:3, :3], np.diag([1.0, -1.0, -1.0]))  # y down, z forward
    assert len(scene.lidar_points(0)) == 0
    image = scene.resized_image(0, 0, height=24, width=32)
    np.testing.assert_allclose(image[12, 16], (200, 100, 50), atol=6)


def test_a_folder_without_poses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceDataError, match="no posed photographs"):
        publish_photographs(Home(tmp_path / "home"), tmp_path, KEY, height=24)


def test_undistorting_puts_a_point_where_a_pinhole_sees_it() -> None:
    rows, columns = np.meshgrid(np.arange(48) + 0.5, np.arange(64) + 0.5, indexing="ij")
    x, y = (columns - 32.0) / 50.0, (rows - 24.0) / 50.0
    wanted = np.stack([columns, rows, np.zeros_like(rows)], axis=-1)  # every pixel says where it is
    distortion = (0.25, -0.1, 0.001, -0.002)
    k1, k2, p1, p2 = distortion
    # The photograph: at each of its pixels, the place that a pinhole has for the same ray, found by iteration.
    u, v = x.copy(), y.copy()
    for _ in range(30):
        r2 = u * u + v * v
        radial = 1 + k1 * r2 + k2 * r2 * r2
        u = (x - 2 * p1 * u * v - p2 * (r2 + 2 * u * u)) / radial
        v = (y - p1 * (r2 + 2 * v * v) - 2 * p2 * u * v) / radial
    photograph = np.stack([50 * u + 32, 50 * v + 24, np.zeros_like(u)], axis=-1).round().clip(0, 255).astype(np.uint8)
    seen = undistort(photograph, INTRINSICS, distortion).astype(float)
    assert np.abs(seen - wanted)[4:-4, 4:-4].max() <= 1.0  # both are rounded
    assert np.abs(photograph - wanted)[4:-4, 4:-4].max() > 2.0
    assert np.array_equal(undistort(photograph, INTRINSICS, (0.0, 0.0, 0.0, 0.0)), photograph)
