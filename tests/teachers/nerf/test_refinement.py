import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from teachers.nerf.config import RefinementConfig
from teachers.nerf.experiments.refine_poses import disturb, mounting_errors
from teachers.nerf.refinement import PoseRefinement, camera_motion, rigid
from teachers.nerf.scene_rays import SceneRays, measure_bounds

FRAMES = (0, 1, 2, 3, 4)
SPEED = 0.8 / 0.5
"""Metres per second of the wall scene's vehicle, along x."""


def refinement_of(scene, **config) -> PoseRefinement:
    on = RefinementConfig(**({"poses": True, "time_offsets": True} | config))
    return PoseRefinement(on, num_frames=scene.num_frames, num_cameras=scene.num_cameras, motion=camera_motion(scene))


def rays_of(scene, bounds=None) -> SceneRays:
    return SceneRays(scene, FRAMES, bounds or measure_bounds(scene, FRAMES), image_size=(18, 32))


def every(rays: SceneRays):
    image = torch.arange(len(rays.pixels)).repeat_interleave(50)
    return rays.pixel_rays(image, torch.arange(50).repeat(len(rays.pixels)))


def test_rotations_are_those_of_rotation_vectors():
    twists = torch.randn(20, 6, dtype=torch.float64)
    rotation, translation = rigid(twists)
    assert np.allclose(rotation.numpy(), Rotation.from_rotvec(twists[:, :3].numpy()).as_matrix())
    assert torch.equal(translation, twists[:, 3:])


def test_nothing_learned_changes_nothing(wall_scene):
    rays = rays_of(wall_scene)
    before = every(rays)
    rays.refinement = refinement_of(wall_scene)
    after = every(rays)
    assert torch.equal(before.origins, after.origins)
    assert torch.allclose(before.directions, after.directions, atol=1e-7)
    assert float(rays.refinement.loss().detach()) == 0.0


def test_a_late_exposure_stands_further_along_the_trajectory(wall_scene):
    refinement = refinement_of(wall_scene, usual_time_offset_s=0.05)
    with torch.no_grad():
        refinement.time_offsets[1] = 2.0  # LEFT exposes 0.1 s late
    corrected = refinement.corrected(wall_scene)
    for frame in FRAMES:
        moved = corrected.camera_to_world(frame, 1) - wall_scene.camera_to_world(frame, 1)
        assert moved[:3, 3] == pytest.approx([0.1 * SPEED, 0, 0], abs=1e-5)
        assert np.abs(moved[:3, :3]).max() < 1e-6
        assert np.array_equal(corrected.camera_to_world(frame, 0), wall_scene.camera_to_world(frame, 0))
    assert refinement.summary(("FRONT", "LEFT"))["LEFT"]["time_offset_ms"] == pytest.approx(100.0)


def test_corrections_are_the_same_while_fitting_and_afterwards(wall_scene):
    """The rays that a step draws are those of the scene as the renderer will see it, and the recording stays."""
    refinement = refinement_of(wall_scene)
    with torch.no_grad():
        refinement.camera_twists.copy_(torch.randn(2, 6))
        refinement.time_offsets.copy_(torch.randn(2))
    original = wall_scene.camera_to_world(2, 1).copy()
    live, fixed = rays_of(wall_scene), rays_of(refinement.corrected(wall_scene), measure_bounds(wall_scene, FRAMES))
    live.refinement = refinement
    for a, b in ((every(live).origins, every(fixed).origins), (every(live).directions, every(fixed).directions)):
        assert torch.allclose(a, b, atol=1e-5)
    assert np.array_equal(wall_scene.camera_to_world(2, 1), original)
    assert not torch.allclose(every(rays_of(wall_scene)).directions, every(fixed).directions, atol=1e-3)


def test_returns_are_no_depths_of_pixels_while_their_pixels_are_in_doubt(wall_scene):
    rays = rays_of(wall_scene)
    rays.refinement = refinement_of(wall_scene)
    batch = rays.draw(torch.Generator().manual_seed(0), pixel_rays=10, lidar_pixel_rays=20, lidar_rays=30)
    assert batch.num_camera_rays == 30
    assert bool(batch.lidar_depth[:30].isnan().all())
    assert bool(batch.lidar_depth[30:].isfinite().all())


def test_gradients_lead_a_disturbed_camera_back(wall_scene):
    """Rays are compared with true ones instead of colours: whether a field's colours lead there is an experiment."""
    true = every(rays_of(wall_scene))
    mountings = np.stack([wall_scene.camera_to_ego(c) for c in range(2)])
    disturbed = disturb(mountings, rotation_deg=0.5, translation_m=0.1, seed=1)
    poses = np.stack([[wall_scene.camera_ego_to_world(f, c) @ disturbed[c] for c in range(2)] for f in FRAMES])
    wrong = wall_scene.with_cameras_at(poses)
    before = mounting_errors(wrong, wall_scene)
    assert before["position_error_m"] == pytest.approx(0.1, abs=1e-6)
    assert before["rotation_error_deg"] == pytest.approx(0.5, abs=1e-4)
    rays = rays_of(wrong, measure_bounds(wall_scene, FRAMES))
    rays.refinement = refinement = refinement_of(wrong, time_offsets=False)
    optimizer = torch.optim.Adam([p for p in refinement.parameters() if p.requires_grad], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        batch = every(rays)
        error = (batch.origins - true.origins).square().mean() * 400 + (
            batch.directions - true.directions
        ).square().mean()
        error.backward()
        optimizer.step()
    after = mounting_errors(refinement.corrected(wrong), wall_scene)
    assert after["position_error_m"] < 0.02
    assert after["rotation_error_deg"] < 0.1
    assert float(refinement.time_offsets.abs().max()) == 0.0, "not asked for"


@pytest.mark.parametrize(
    "wrong", [{"start_share": 1.0}, {"learning_rate": 0.0}, {"weight": -1.0}, {"usual_translation_m": 0.0}]
)
def test_impossible_refinements_are_refused(wrong):
    with pytest.raises(ValueError, match="want"):
        RefinementConfig(**wrong)
