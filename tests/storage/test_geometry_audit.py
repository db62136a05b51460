"""The audit of a real scene passes, and fails for every extrinsic that is off by a degree or a decimetre."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from storage.audits import Finding, audit_geometry
from storage.geometry_audit import MOVE_M, TURN_RAD, Evidence, align_sweeps
from storage.ingest.run import ingest_scene
from storage.ingest.source import SourceConfig, register_source
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.versioned import Home

KEY = SceneKey("nuscenes", "scene-0916")


class PerturbedReader(SceneReader):
    """A scene whose cameras sit somewhere else on the vehicle than they are said to."""

    error = np.eye(4)
    only_camera: int | None = None

    def camera_to_ego(self, camera_index: int) -> np.ndarray:
        mounted = super().camera_to_ego(camera_index)
        if self.only_camera is None:
            return self.error @ mounted
        return mounted @ self.error if camera_index == self.only_camera else mounted


@pytest.fixture(scope="module")
def real(external_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PerturbedReader, Evidence]:
    root = external_data / "nuscenes"
    if not root.is_dir():
        pytest.skip(f"no nuScenes recording at {root}")
    home = Home(tmp_path_factory.mktemp("audit"))
    register_source(home, SourceConfig(dataset="nuscenes", root=root, version="v1.0-mini", licence="CC-BY-NC-SA-4.0"))
    version = ingest_scene(home, KEY).version
    return PerturbedReader(home.open_arrays(version), version), Evidence()


@pytest.fixture
def audit(real, monkeypatch):
    reader, evidence = real

    def of(error: np.ndarray, only_camera: int | None = None) -> dict[str, Finding]:
        monkeypatch.setattr(reader, "error", error)
        monkeypatch.setattr(reader, "only_camera", only_camera)
        return {finding.name: finding for finding in audit_geometry(reader, evidence)}

    return of


def turned(axis: str, sign: int) -> np.ndarray:
    change = np.eye(4)
    change[:3, :3] = Rotation.from_euler(axis, sign * TURN_RAD).as_matrix()
    return change


def moved(axis: str, sign: int) -> np.ndarray:
    change = np.eye(4)
    change["xyz".index(axis), 3] = sign * MOVE_M
    return change


@pytest.mark.external_data
def test_a_calibrated_scene_passes(audit):
    findings = audit(np.eye(4))
    assert [name for name, finding in findings.items() if not finding.passed] == []
    assert findings["lidar_edge_offset_px"].value <= 5.0
    assert findings["sweeps_closer_by_poses"].value >= 2.5


@pytest.mark.external_data
@pytest.mark.parametrize(("axis", "sign"), [("x", 1), ("y", -1), ("z", 1)])
def test_a_degree_is_found(audit, axis, sign):
    findings = audit(turned(axis, sign))
    assert not findings["gain_of_best_change"].passed
    assert findings["gain_of_best_change"].where == f"turn {axis} {'+' if sign > 0 else '-'}1 degree"
    assert not findings["lidar_edge_offset_px"].passed


@pytest.mark.external_data
@pytest.mark.parametrize(("axis", "sign"), [("x", -1), ("y", 1), ("z", 1)])
def test_a_decimetre_is_found(audit, axis, sign):
    assert not audit(moved(axis, sign))["gain_of_best_change"].passed


@pytest.mark.external_data
def test_one_camera_that_is_turned_is_named(audit):
    finding = audit(turned("y", 1), only_camera=4)["gain_of_turning_one_camera"]
    assert not finding.passed
    assert finding.where == "camera CAM_BACK"


class Canyon(SceneReader):
    """Sweeps between two long walls, with a few house ends across the street; no store behind it."""

    def __init__(self, *, error_m: float) -> None:
        self._error_m = error_m

    num_frames = 4  # type: ignore[assignment]

    def ego_to_world(self, frame_index: int) -> np.ndarray:
        pose = np.eye(4)
        pose[0, 3] = 4.0 * frame_index + self._error_m * (frame_index % 2)
        return pose

    def lidar_points(self, frame_index: int) -> np.ndarray:
        azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 900), np.linspace(-0.1, 0.4, 24))
        beams = np.stack(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
        ).reshape(-1, 3)
        at = 4.0 * frame_index
        wall = 8.0 / np.maximum(np.abs(beams[:, 1]), 1e-6)
        ends = []
        for face in (-15.0, 3.0, 21.0, 39.0):  # 2 m deep, on the left side
            reach = np.where(np.abs(beams[:, 0]) > 1e-6, (face - at) / beams[:, 0], np.inf)
            ends.append(np.where((reach > 0) & (reach * beams[:, 1] > 6.0) & (reach < wall), reach, np.inf))
        distance = np.minimum(wall, np.min(ends, axis=0))
        points = beams * distance[:, None] + [0.0, 0.0, 1.5]
        return np.concatenate([points, np.zeros((len(points), 1))], axis=1)[distance < 40].astype(np.float32)


def test_poses_are_told_apart_in_a_street_canyon_too() -> None:
    frames = (0, 1, 2)
    assert align_sweeps(Canyon(error_m=0.0), frames) > 5
    assert align_sweeps(Canyon(error_m=2.0), frames) < 2.5
