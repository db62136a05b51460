"""Poisoned renderings are caught, and told where they are wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from storage.scenes.store import SceneReader
from teachers.nerf.config import ConfidenceConfig, TeacherDepthConfig, VirtualViewsConfig
from teachers.nerf.evidence import FrameViews, RenderEvidence, SampledReturns, places_of
from teachers.nerf.experiments.gate_power import power
from teachers.nerf.experiments.poisons import POISONS, Rendered
from teachers.nerf.gates import depth_metrics, view_metrics
from teachers.nerf.rendered_views import RecordedViews, judge_frame
from teachers.nerf.scene_rays import read_sky_mask
from teachers.quality import at_least, at_most

SIZE = (36, 64)
SHIFTS = np.tile(np.eye(4), (3, 1, 1))
SHIFTS[:, :3, 3] = VirtualViewsConfig().camera_shifts_m


@pytest.fixture(scope="module")
def recorded(wall_home, wall_scene, render_wall) -> RecordedViews:
    return _recorded(wall_home, wall_scene, render_wall)


def _recorded(wall_home, wall_scene, render_wall, scene_key: str = "test.wall") -> RecordedViews:
    return RecordedViews(
        wall_scene,
        render_wall,
        is_sky=read_sky_mask(wall_home, scene_key, None),
        fitted_frames=range(5),
        max_lidar_m=50.0,
        map_size=SIZE,
        image_size=SIZE,
        config=ConfidenceConfig(),
    )


@pytest.fixture(scope="module")
def render(wall_scene, render_wall) -> Callable[..., Rendered]:
    def render(moved: np.ndarray, aside: np.ndarray | None = None) -> Rendered:
        return [
            [
                replace(
                    render_wall(
                        f, c, wall_scene.camera_to_world(f, c) @ moved @ (np.eye(4) if aside is None else aside), SIZE
                    ),
                    poses=wall_scene.camera_to_world(f, c) @ moved,
                )
                for c in range(2)
            ]
            for f in range(5)
        ]

    return render


def judge(recorded: RecordedViews, rendered: Rendered, *, is_recorded: bool) -> dict[str, Any]:
    names = ("recorded",) if is_recorded else VirtualViewsConfig().view_names
    evidence = RenderEvidence.of_scene(recorded.scene, names, ratio=1.3)
    for frame in rendered:
        evidence.add(judge_frame(recorded, frame, is_recorded=is_recorded))
    if is_recorded:
        return depth_metrics(evidence, True, TeacherDepthConfig())
    return view_metrics(evidence, True, VirtualViewsConfig())


def shifted(axis: int) -> np.ndarray:
    aside = np.eye(4)
    aside[axis, 3] = 0.3
    return aside


def test_frames_of_a_vehicle_that_stands_are_one_piece_of_evidence(lacking_home, render_wall) -> None:
    """What one view has wrong, all have: by chance a pose aside may explain it better, in every frame."""
    scene = SceneReader.open(lacking_home, "test.still")
    recorded = _recorded(lacking_home, scene, render_wall, scene_key="test.still")
    aside = shifted(0)
    rendered = [
        [
            replace(render_wall(f, c, (pose @ aside)[None], SIZE), poses=pose[None])
            for c, pose in enumerate(scene.camera_to_world(f, c) for c in range(2))
        ]
        for f in range(5)
    ]
    quality = judge(recorded, rendered, is_recorded=True)["quality"]
    for name in ("depth_shifted", "colour_shifted"):
        assert "stands" in quality["checks"][name]["undecided"]
        assert np.isnan(quality["checks"][name]["value"])
    assert quality["checks"]["depth_misplaced_once"]["value"] < 0.75


def test_a_new_place_begins_a_hand_away() -> None:
    along = np.array([0.0, 0.1, 0.25, 0.31, 0.5, 0.62, 5.0, 5.0])
    assert places_of(np.stack([along, 0 * along, 0 * along], axis=1)).tolist() == [0, 0, 0, 1, 1, 2, 3, 3]


# A drive along an even wall looks the same in depth from frame to frame; only its colours tell frames apart.
NAMED = {
    "depth times 1.1": "depth_bias",
    "depth over 1.1": "depth_bias",
    "two cameras exchanged": "depth_misplaced",
    "frames late by one": "colour_misplaced",
    "one frame of one camera is another's": "colour_misplaced_once",
    "depth not a number": "depth_bias",
    "opacity inverted": "valid_share",
    "images black": "colour_explained",
    "views exchanged": "depth_misplaced",
}


def test_exact_renderings_pass(recorded: RecordedViews, render: Callable[..., Rendered]) -> None:
    for moved, is_recorded in ((np.eye(4)[None], True), (SHIFTS, False)):
        metrics = judge(recorded, render(moved), is_recorded=is_recorded)
        assert metrics["quality"]["passed"], metrics["quality"]
        assert metrics["valid_share"] > 0.85
        assert abs(metrics["depth_bias"]) < 0.01
        assert max(metrics["depth_shifted"], metrics["colour_shifted"]) < 0.02
        assert not any("hint" in check for check in metrics["quality"]["checks"].values())


@pytest.mark.parametrize("poison", NAMED)
@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_poisoned_rendering_is_caught(
    recorded: RecordedViews, render: Callable[..., Rendered], poison: str, is_recorded: bool
) -> None:
    if poison == "views exchanged" and is_recorded:
        pytest.skip("recorded cameras have one view")
    rendered = POISONS[poison](render(np.eye(4)[None] if is_recorded else SHIFTS))
    quality = judge(recorded, rendered, is_recorded=is_recorded)["quality"]
    failed = {name: check for name, check in quality["checks"].items() if not check["passed"]}
    assert not quality["passed"]
    assert NAMED[poison] in failed
    assert all(check["hint"] for check in failed.values())


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_pose_that_is_off_by_a_hand_is_caught(
    recorded: RecordedViews, render: Callable[..., Rendered], axis: int, is_recorded: bool
) -> None:
    rendered = render(np.eye(4)[None] if is_recorded else SHIFTS, shifted(axis))
    checks = judge(recorded, rendered, is_recorded=is_recorded)["quality"]["checks"]
    assert not (checks["depth_shifted"]["passed"] and checks["colour_shifted"]["passed"])


@pytest.mark.parametrize("is_recorded", [True, False])
def test_nothing_vouches_for_depth_without_lidar(
    wall_home, lacking_home, render_wall, render: Callable[..., Rendered], is_recorded: bool
) -> None:
    """Even exact renderings do not pass: a field of images alone that agrees with itself looks just as good."""
    recorded = _recorded(wall_home, SceneReader.open(lacking_home, "test.no-lidar"), render_wall)
    quality = judge(recorded, render(np.eye(4)[None] if is_recorded else SHIFTS), is_recorded=is_recorded)["quality"]
    assert not quality["passed"]
    decided = {name: check for name, check in quality["checks"].items() if "undecided" not in check}
    assert {name: check["passed"] for name, check in decided.items()} == {"lidar_returns": False, "fit_passed": True}
    assert decided["lidar_returns"]["value"] == 0
    assert "clip_without_field" in decided["lidar_returns"]["hint"]


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_van_that_drives_by_does_not_misplace_a_view(
    wall_scene, render_wall, render: Callable[..., Rendered], monkeypatch, wall_home, is_recorded: bool
) -> None:
    """In one frame a van hides the wall from the beams; the field, rightly, has the wall alone."""
    returns = [wall_scene.lidar_points(frame).copy() for frame in range(5)]
    origin, van = wall_scene.lidar_to_ego[:3, 3], returns[2]
    hidden = (van[:, 1] > 5.9) & (np.abs(van[:, 0]) < 3.0)
    van[hidden, :3] = origin + (van[hidden, :3] - origin) * 0.6
    monkeypatch.setattr(wall_scene, "lidar_points", lambda frame: returns[frame])
    recorded = _recorded(wall_home, wall_scene, render_wall)
    metrics = judge(recorded, render(np.eye(4)[None] if is_recorded else SHIFTS), is_recorded=is_recorded)
    assert metrics["depth_shifted"] < 0.05
    assert metrics["depth_misplaced_once"] < 0.2
    assert metrics["quality"]["passed"], metrics["quality"]


def test_another_pose_must_explain_what_is_nearer_too() -> None:
    """A passer-by excuses a view at its own pose alone: a rival that misses what is nearer explains nothing."""

    def seen(depth_m: np.ndarray) -> list[SampledReturns]:
        pixels = np.tile([32.0, 18.0], (7, len(depth_m), 1))
        depth = np.tile(depth_m, (7, 1))
        return [SampledReturns(pixels=pixels, termination_depth=depth, rgb=np.full((len(depth_m), 3), 0.5, np.float32))]

    own, rival = np.full(100, 10.5), np.where(np.arange(100) < 60, 5.0, 10.0)
    views = FrameViews(
        frame=0,
        verdict=np.zeros((2, 1, *SIZE), np.uint8),
        distance=np.full((2, 1, *SIZE), 10.0, np.float32),
        rgb=np.full((2, 1, *SIZE, 3), 0.5, np.float32),
        returns=[seen(own), seen(rival)],
    )
    evidence = RenderEvidence(np.zeros(1, np.int64), camera_names=("A", "B"), view_names=("recorded",), ratio=1.3)
    evidence.add(views)
    assert evidence.depth_own[0, 0, 0] == pytest.approx(np.log(1.05), abs=1e-3)
    assert evidence.depth_rival[0, 0, 0] == pytest.approx(0.6 * 0.5)


def test_the_worst_camera_and_frame_are_named(recorded: RecordedViews, render: Callable[..., Rendered]) -> None:
    check = judge(recorded, POISONS["one frame of one camera is another's"](render(np.eye(4)[None])), is_recorded=True)[
        "quality"
    ]["checks"]
    assert check["colour_misplaced_once"]["where"] == "frame 1, LEFT"
    assert "render it again" in check["colour_misplaced_once"]["hint"]


def test_a_hint_is_for_those_who_need_it() -> None:
    assert at_most(1.0, 2.0, where="here", hint="do this") == {
        "value": 1.0,
        "threshold": 2.0,
        "passed": True,
        "where": "here",
    }
    assert at_least(float("nan"), 2.0, hint="do this")["hint"] == "do this"


def test_power_counts_scenes_and_names_false_alarms():
    clean = {"clean": {}, "depth x 1.1": {"bias": "0.1 ", "outliers": "0.4 CAM_0"}}
    stopped = {"clean": {"shifted": "0.26 CAM_1"}, "depth x 1.1": {}}
    found = power({"a.scene-0001 teacher_depth": clean, "a.scene-0002 teacher_depth": stopped})
    assert found["teacher_depth: clean"] == {
        "scenes": 2,
        "caught": 1,
        "checks": {"shifted": 1},
        "where": ["a.scene-0002: shifted 0.26 CAM_1"],
    }
    assert found["teacher_depth: depth x 1.1"] == {
        "scenes": 2,
        "caught": 1,
        "checks": {"bias": 1, "outliers": 1},
        "where": [],
    }
