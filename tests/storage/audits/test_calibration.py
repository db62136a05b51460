"""The audit passes what is calibrated, finds what is off by a degree or a decimetre, and says what it cannot tell."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.audits.calibration import (
    CalibrationFit,
    Gain,
    RigFit,
    calibration_frames,
    fit_rig,
    fit_together,
    look_at,
    small_changes,
)
from storage.audits.calibration_evidence import Evidence, RangeJumps
from storage.audits.calibration_picture import Suspect, calibration_picture, suspect_of
from storage.audits.finding import Finding
from storage.audits.misplaced_cameras import MisplacedCameras
from storage.audits.stored_versions import audit_geometry
from storage.audits.trial_scenes import TrialScene
from storage.geometry.cameras import project_camera
from storage.geometry.distortion import LensDistortion
from storage.geometry.transforms import apply_se3, compose, invert_se3
from storage.ingest.run import ingest_scene
from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.keys import SceneKey
from storage.procedural.sensing.render import render_camera
from storage.procedural.sensing.sensors import CAMERAS, lidar_to_ego, simulate_lidar
from storage.procedural.world.world import build_world
from storage.stores.versioned import Home
from storage.taxonomy import Theme

KEY = SceneKey("nuscenes", "scene-0916")
SIZE = (225, 400)
OPPOSITE = str.maketrans("+-", "-+")


class Recording(TrialScene):
    """Eight frames of a procedural world, whose calibration is exact; memory instead of a store behind it."""

    def __init__(self, theme: Theme, seed: int) -> None:
        world, rng = build_world(theme, seed), np.random.default_rng(seed)
        times_us = 100_000 + 500_000 * np.arange(8)  # no exposure lies before the world begins
        exposures_us = times_us[:, None] + [camera.delay_us for camera in CAMERAS]
        self.camera_names = tuple(camera.name for camera in CAMERAS)
        self.attributes = {}
        self.hidden: int | None = None
        self._sizes, self._fisheye = [SIZE] * len(CAMERAS), np.full((len(CAMERAS), 4), np.nan)
        self._arrays = {
            "timestamp_us": times_us,
            "camera_timestamp_us": exposures_us,
            "intrinsics": np.stack([camera.intrinsics(*SIZE) for camera in CAMERAS]),
            "camera_to_ego": np.stack([camera.camera_to_ego() for camera in CAMERAS]),
            "lidar_to_ego": lidar_to_ego(),
            "ego_to_world": np.stack([world.ego_to_world(int(t)) for t in times_us]),
            "camera_ego_to_world": np.stack([[world.ego_to_world(int(t)) for t in row] for row in exposures_us]),
        }
        self._images, self._points = {}, []
        for frame, time_us in enumerate(times_us):
            sweep = simulate_lidar(world, int(time_us), compose(self.ego_to_world(frame), lidar_to_ego()), rng)
            points = apply_se3(lidar_to_ego(), sweep.points.astype(np.float64))
            self._points.append(np.pad(points, ((0, 0), (0, 1))).astype(np.float32))
            for index, at_us in enumerate(exposures_us[frame]):
                pose, intrinsics = self.camera_to_world(frame, index), self.intrinsics(index)
                view = render_camera(world, int(at_us), pose, intrinsics, *SIZE, antialias=False)
                self._images[frame, index] = view.image

    def resized_image(self, frame_index: int, camera_index: int, *, height: int, width: int) -> np.ndarray:
        assert (height, width) == SIZE
        return self._images[frame_index, camera_index]

    def lidar_points(self, frame_index: int) -> np.ndarray:
        return self._points[frame_index]

    def is_valid(self, camera_index: int, *, size: tuple[int, int] | None = None) -> np.ndarray:
        return np.full(SIZE, camera_index != self.hidden)


Audit = Callable[..., dict[str, Finding]]


def audit_of(reader: MisplacedCameras, evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> Audit:
    def audit(error: str | None = None, only_camera: int | None = None, scale: float = 1.0) -> dict[str, Finding]:
        matrix = np.eye(4) if error is None else small_changes(scale)[error]
        monkeypatch.setattr(reader, "error", matrix)
        monkeypatch.setattr(reader, "only_camera", only_camera)
        return {
            finding.name: finding
            for finding in audit_geometry(reader, fit_rig(reader, calibration_frames(reader), evidence))
        }

    return audit


def failed(findings: dict[str, Finding]) -> list[str]:
    return [name for name, finding in findings.items() if finding.outcome == "failed"]


@pytest.fixture(scope="module")
def real(external_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MisplacedCameras, Evidence]:
    root = external_data / "nuscenes"
    if not root.is_dir():
        pytest.skip(f"no nuScenes recording at {root}")
    home = Home(tmp_path_factory.mktemp("audit"))
    register_source(home, SourceConfig(dataset="nuscenes", root=root, version="v1.0-mini", licence="CC-BY-NC-SA-4.0"))
    version = ingest_scene(home, KEY).version
    return MisplacedCameras(home.open_arrays(version), version), Evidence()


@pytest.fixture
def audit_real(real, monkeypatch) -> Audit:
    return audit_of(*real, monkeypatch)


@pytest.mark.external_data
def test_a_calibrated_real_scene_passes(audit_real):
    findings = audit_real()
    assert failed(findings) == []
    assert findings["sweeps_closer_by_poses"].value >= 1.0
    assert findings["small_errors_of_rig_told"].value >= 10 / 12


@pytest.mark.external_data
@pytest.mark.parametrize("error", ["turn x +1 degree", "turn y -1 degree"])
def test_a_degree_is_found_in_a_real_scene(audit_real, error):
    findings = audit_real(error, scale=2.0)
    assert "gain_of_changing_rig" in failed(findings)
    assert findings["gain_of_changing_rig"].where.startswith(error[:8])


@pytest.mark.external_data
@pytest.mark.parametrize("error", ["move x -0.2 m", "move z +0.2 m"])
def test_two_decimetres_are_found_in_a_real_scene(audit_real, error):
    assert "gain_of_changing_rig" in failed(audit_real(error, scale=2.0))


@pytest.mark.external_data
def test_one_real_camera_that_is_turned_is_named(audit_real):
    finding = audit_real("turn y +1 degree", only_camera=4, scale=2.0)["gain_of_changing_one_camera"]
    assert finding.outcome == "failed"
    assert finding.where.startswith("CAM_BACK: turn y +")


@pytest.fixture(scope="module", params=["street", "airside"])
def procedural(request: pytest.FixtureRequest) -> tuple[Recording, Evidence]:
    return Recording(request.param, seed=1), Evidence()


@pytest.fixture
def audit(procedural, monkeypatch) -> Audit:
    return audit_of(*procedural, monkeypatch)


def test_exact_calibration_passes_on_streets_and_aprons(audit):
    findings = audit()
    assert failed(findings) == []
    assert findings["small_errors_of_rig_told"].value >= 5 / 12


def test_what_the_audit_says_it_would_find_is_found(procedural, monkeypatch):
    """Told is no guess: the small errors are made, and those that are told are found."""
    reader, evidence = procedural

    def fit(error: np.ndarray) -> CalibrationFit:
        monkeypatch.setattr(reader, "error", error)
        return fit_together(look_at(reader, calibration_frames(reader), evidence))

    # A change is the opposite of the error that it would put right.
    errors = small_changes(1.5)
    told = set(errors) - {name.translate(OPPOSITE) for name in fit(np.eye(4)).untold}
    found = {name for name, error in errors.items() if fit(error).is_wrong}
    assert len(told - found) <= 1  # one on the edge of what is told
    assert len(found) >= 5
    assert "turn z +0.75 degree" in found


def test_an_error_too_large_for_small_changes_is_found(audit):
    """Ten degrees away no small change helps, but the score is seen to be that of chance."""
    findings = audit("turn z +10 degree", scale=20.0)
    assert "gain_of_turning_rig_away" in failed(findings)
    assert findings["small_errors_of_rig_told"].value <= 0.25


def test_one_camera_that_is_turned_is_named(audit):
    """Eight frames tell which camera; on an apron, a turn may look like a shift."""
    finding = audit("turn y +1 degree", only_camera=1, scale=2.0)["gain_of_changing_one_camera"]
    assert finding.outcome == "failed"
    assert finding.where.startswith("CAM_FRONT: ")


def test_a_camera_that_sees_nothing_is_undecided_and_not_passed(procedural, audit, monkeypatch):
    """All of the front camera shows the vehicle itself, so that no edge counts."""
    before = audit()["small_errors_of_one_camera_told"]
    monkeypatch.setattr(procedural[0], "hidden", 1)
    told = audit()["small_errors_of_one_camera_told"]
    assert "CAM_FRONT 0," in told.where
    assert "CAM_FRONT 0," not in before.where
    assert told.outcome == "undecided"
    assert failed(audit("turn y +1 degree", only_camera=1, scale=2.0)) == []


def test_distortion_given_for_rectified_images_is_found(procedural):
    bent = procedural[0].undistorted_again(LensDistortion(k1=-0.3))
    fit = fit_together(look_at(bent, calibration_frames(bent), Evidence()))
    name, gain = fit.best_bend
    assert fit.is_wrong
    assert gain.at_least > 1.0
    assert name.endswith("farther out")


def uncompressed(image: np.ndarray, **_: Any) -> bytes:
    """Encode an image without loss, which as PNG of this size takes two seconds."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "bmp")
    return encoded.getvalue()


@pytest.mark.parametrize("camera", [pytest.param(None, marks=[pytest.mark.slow, pytest.mark.nightly]), "CAM_FRONT"])
def test_the_picture_shows_the_change_that_puts_an_error_right(procedural, monkeypatch, camera):
    """What is drawn below of a wrong calibration is what is drawn above of the right one."""
    reader, name = procedural[0], "turn y +0.75 degree"
    suspect = Suspect(camera="CAM_FRONT", change=name, is_of_rig=camera is None, gain=1.1)
    monkeypatch.setattr("storage.audits.calibration_picture.encode_image", uncompressed)

    def panels() -> np.ndarray:
        with Image.open(io.BytesIO(calibration_picture(reader, suspect))) as picture:
            drawn = np.asarray(picture).astype(np.float64)
        assert drawn.shape[1] == 3 * SIZE[1]  # so small an image is enlarged
        return drawn.reshape(2, -1, *drawn.shape[1:])[:, -3 * SIZE[0] :]

    right = panels()
    monkeypatch.setattr(reader, "error", small_changes(1.5)[name])
    monkeypatch.setattr(reader, "only_camera", None if camera is None else reader.camera_names.index(camera))
    wrong = panels()
    below, above = ((panel != right[0]).any(axis=-1).mean() for panel in (wrong[1], wrong[0]))
    assert below < 0.2 * above  # rounding puts a point aside, and the rig turns about where it was at the exposure
    assert above > 0.02


def test_the_worst_camera_is_drawn_or_any_if_the_rig_is_off():
    def fit(gain: float, *, limit: float, num_jumps: int = 10, bent: float = 0.9) -> CalibrationFit:
        told = {"move x +0.15 m": Gain(ratio=gain, uncertainty=0.0)}
        lens = {"corners 4 % farther out": Gain(ratio=bent, uncertainty=0.0)}
        away = Gain(ratio=0.4, uncertainty=0.0)
        return CalibrationFit(limit=limit, num_jumps=num_jumps, score=0.5, gains=told, larger={}, away=away, bent=lens)

    cameras = {"left": fit(1.01, limit=1.02, num_jumps=99), "right": fit(1.03, limit=1.02)}
    suspect = suspect_of(RigFit(rig=fit(0.9, limit=1.0), cameras=cameras))
    assert (suspect.camera, suspect.is_of_rig, suspect.gain) == ("right", False, 1.03)
    suspect = suspect_of(RigFit(rig=fit(1.05, limit=1.0), cameras=cameras))
    assert (suspect.camera, suspect.is_of_rig) == ("left", True)
    suspect = suspect_of(RigFit(rig=fit(0.9, limit=1.0, bent=1.2), cameras=cameras))
    assert (suspect.change, suspect.is_of_rig) == ("corners 4 % farther out", True)


class Empty(Recording):
    """A LiDAR that never returns anything."""

    def lidar_points(self, frame_index: int) -> np.ndarray:
        return np.zeros((0, 4), np.float32)


@pytest.mark.parametrize(("num_beams", "is_proved"), [(1, False), (12, True)], ids=["one bridge", "many edges"])
def test_one_long_edge_between_two_beams_proves_nothing(num_beams, is_proved):
    """All jumps along a bridge are as far below its edge as each other: it lies anywhere between the same two beams."""
    front, frames, azimuth = CAMERAS[1], range(8), np.radians(np.linspace(-25, 25, 200))
    poses = np.tile(np.eye(4), (len(frames), 1, 1))
    poses[:, 0, 3] = frames
    reader = Recording.__new__(Recording)
    reader.camera_names, reader.hidden, reader._sizes = (front.name,), None, [SIZE]
    reader._fisheye = np.full((1, 4), np.nan)
    reader._arrays = {
        "timestamp_us": 500_000 * np.arange(len(frames)),
        "camera_timestamp_us": 500_000 * np.arange(len(frames))[:, None],
        "intrinsics": front.intrinsics(*SIZE)[None],
        "camera_to_ego": front.camera_to_ego()[None],
        "lidar_to_ego": lidar_to_ego(),
        "ego_to_world": poses,
        "camera_ego_to_world": poses[:, None],
    }

    def bridge(elevation_deg: float) -> np.ndarray:
        rise = np.full_like(azimuth, np.tan(np.radians(elevation_deg)))
        return lidar_to_ego()[:3, 3] + 30 * np.stack([np.cos(azimuth), np.sin(azimuth), rise], axis=-1)

    rows, edges, evidence = np.arange(SIZE[0])[:, None] + 0.5, np.zeros((2, *SIZE), np.float32), Evidence()
    for beam in range(num_beams):
        pixels = project_camera(
            apply_se3(invert_se3(reader.camera_to_reference_ego(0, 0)), bridge(beam + 1.2)), reader.intrinsics(0), None
        )[0][::-1]
        edge = np.interp(np.arange(SIZE[1]) + 0.5, *pixels.T)
        edges[1] = np.maximum(edges[1], np.exp(-((rows - edge) ** 2) / 8))
    for frame in frames:
        hit, passed = (np.concatenate([bridge(beam + up) for beam in range(num_beams)]) for up in (0.3, 1.3))
        evidence.jumps[frame], evidence.edges[frame, 0] = RangeJumps(hit=hit, passed=passed), edges
    name, gain = fit_together(look_at(reader, frames, evidence)).best_change
    assert (gain.at_least > 1.0) == is_proved, f"{name}: {gain}"


def test_without_range_jumps_nothing_passes_and_nothing_fails(procedural):
    reader = procedural[0]
    empty = Empty.__new__(Empty)
    empty.__dict__.update(reader.__dict__)
    findings = audit_geometry(empty)
    assert {finding.outcome for finding in findings} == {"undecided"}
    assert findings[2].name == "small_errors_of_rig_told"
    assert findings[2].value == 0.0


@pytest.mark.parametrize(
    ("value", "otherwise", "outcome"),
    [
        (1.0, "failed", "passed"),
        (1.1, "failed", "failed"),
        (math.nan, "undecided", "undecided"),
        (math.nan, "failed", "failed"),
    ],
)
def test_an_undefined_value_never_passes(value, otherwise, outcome):
    finding = Finding(name="x", value=value, threshold=1.0, wanted="at_most", otherwise=otherwise)
    assert finding.outcome == outcome
