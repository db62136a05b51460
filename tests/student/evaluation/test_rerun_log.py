"""Recordings for Rerun's viewer. What the SDK is given is read off a stand-in; the SDK itself is tried where it is."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from storage.errors import EnvironmentMissingError
from student.applications.rerun_log import RerunRecording, log_view, record_scene
from tests.student.evaluation.conftest import GRID, NUM_FRAMES, scaled_intrinsics, shift_of


class Sdk(SimpleNamespace):
    """Keeps what is logged."""

    def __init__(self) -> None:
        logged, clock = [], {}

        class RecordingStream:
            def __init__(self, name):
                self.name = name

            def save(self, path):
                self.path = path

            def set_time(self, timeline, **at):
                clock[timeline] = next(iter(at.values()))

            def log(self, entity, content, static=False):
                logged.append((dict(clock), entity, content))

            def flush(self):
                Path(self.path).write_text("whole")

            def disconnect(self):
                pass

        def keep(name):
            return lambda *values, **named: SimpleNamespace(kind=name, values=values, **named)

        kinds = ("Transform3D", "Pinhole", "EncodedImage", "Points3D", "Boxes3D")
        super().__init__(RecordingStream=RecordingStream, **{name: keep(name) for name in kinds})
        self.ViewCoordinates = SimpleNamespace(RIGHT_HAND_Z_UP="up", RDF="rdf")
        self.logged = logged

    def of(self, entity, kind):
        return [
            (at, content)
            for at, name, content in self.logged
            if name == entity and getattr(content, "kind", "") == kind
        ]


@pytest.fixture
def sdk(monkeypatch):
    made = Sdk()
    monkeypatch.setitem(sys.modules, "rerun", made)
    return made


def test_a_scene_is_recorded_frame_by_frame(sdk, oracle, scene_reader, tmp_path):
    shares = []
    assert record_scene(oracle.home, "yard.b", "oracle", tmp_path / "scene.rrd", on_frame=shares.append) == NUM_FRAMES
    assert shares[-1] == 1.0
    assert (tmp_path / "scene.rrd").read_text() == "whole"
    poses = sdk.of("world/vehicle", "Transform3D")
    assert [at for at, _ in poses] == [{"step": f, "time": 0.5 * f} for f in range(NUM_FRAMES)]
    np.testing.assert_array_equal(poses[2][1].translation, scene_reader.ego_to_world(2)[:3, 3])
    for frame, (_, points) in enumerate(sdk.of("world/vehicle/points", "Points3D")):
        (positions,) = points.values
        on_front = np.abs(positions[:, 0] - (12.0 - shift_of(1, frame))) < 1e-3  # the near wall of the building
        assert on_front.sum() > 10
        assert len(points.colors) == len(positions)
    (_, cubes), *_ = sdk.of("world/vehicle/voxels", "Boxes3D")
    assert np.unique(cubes.half_sizes).tolist() == [pytest.approx(0.2)]
    (_, lens), *_ = sdk.of("world/vehicle/CAM_1", "Pinhole")
    np.testing.assert_allclose(lens.image_from_camera, scaled_intrinsics(*GRID))
    assert lens.resolution == [GRID[1], GRID[0]]


def test_a_view_is_points_in_the_world(sdk, tmp_path):
    pose = np.array([[0.0, 0, 1, 3], [-1, 0, 0, 2], [0, -1, 0, 1], [0, 0, 0, 1]])  # looks along x
    depth = np.full(GRID, np.nan, np.float32)
    depth[8, 14] = 5.0
    tiles = {"words: car": np.zeros((2, 2, 3), np.uint8)}
    intrinsics = scaled_intrinsics(*GRID)
    intrinsics[:2, 2] = 14.5, 8.5  # the one pixel with a surface looks straight ahead
    with RerunRecording(tmp_path / "view.rrd") as recording:
        recording.at(4, 2.0)
        log_view(recording, "world/student/CAM", pose, intrinsics, None, depth, None, tiles)
    ((at, points),) = sdk.of("world/student/CAM_points", "Points3D")
    assert at == {"step": 4, "time": 2.0}
    np.testing.assert_allclose(points.values[0], [[8.0, 2.0, 1.0]], atol=1e-6)
    assert len(sdk.of("pictures/student/CAM/words_car", "EncodedImage")) == 1
    with RerunRecording(tmp_path / "fisheye.rrd") as recording:
        log_view(recording, "world/f/CAM", pose, intrinsics, np.zeros(4), depth, None, {})
    assert not sdk.of("world/f/CAM", "Pinhole")


def test_a_recording_that_failed_leaves_no_file(sdk, tmp_path):
    with pytest.raises(KeyError), RerunRecording(tmp_path / "a.rrd"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_recorded_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"ends in \.rrd"):
        RerunRecording(tmp_path / "scene.mp4")
    (tmp_path / "old.rrd").write_text("old")
    with pytest.raises(ValueError, match="exists"):
        RerunRecording(tmp_path / "old.rrd")
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(EnvironmentMissingError, match="pip install rerun-sdk"):
        RerunRecording(tmp_path / "new.rrd")


def test_the_sdk_takes_what_it_is_given(tmp_path):
    pytest.importorskip("rerun")
    depth = np.full(GRID, 4.0, np.float32)
    colours = np.full((5, 3), 9, np.uint8)
    with RerunRecording(tmp_path / "real.rrd") as recording:
        recording.at(0, 0.0)
        tiles = {"depth": np.zeros((4, 4, 3), np.uint8)}
        log_view(recording, "world/student/CAM", np.eye(4), scaled_intrinsics(*GRID), None, depth, None, tiles)
        recording.voxels("world/voxels", np.zeros((5, 3)), colours, 0.4)
    assert (tmp_path / "real.rrd").read_bytes()[:3] == b"RRF"
    assert (tmp_path / "real.rrd").stat().st_size > 2000
