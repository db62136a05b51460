"""What a sample holds: poses, ranges, masks, and where they come from."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from storage.errors import IntegrityError, MissingTargetError, ProvenanceMismatchError
from storage.geometry.cameras import project, project_camera
from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.moving import MovingBoxes
from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from student.config import StudentConfig
from student.data.dataset import FrameDataset
from student.data.frames import StoreFrames
from student.data.lidar import rasterise_lidar
from student.data.sample import concatenate
from student.data.training_set import load_training_set
from student.data.views import TargetView, ViewChoice, draw_views
from student.experiments.overfit import psnr_of_cells

INTRINSICS = np.array([[10.0, 0, 8], [0, 10.0, 6], [0, 0, 1]])


@pytest.fixture
def dataset(shared_world: Any, student_config: StudentConfig) -> FrameDataset:
    shared_world.freeze("samples", student_config)
    frozen = load_training_set(shared_world.home, "samples")
    return FrameDataset(shared_world.home, frozen, "train", student_config.data, seed=3)


# --- LiDAR ---------------------------------------------------------------------------------------------------------


def rasterise(points: list[list[float]]) -> np.ndarray:
    return rasterise_lidar(
        np.array(points), np.eye(4), INTRINSICS, height=12, width=16, min_camera_depth=1.0, max_range=50.0
    )


def test_lidar_depth_is_the_range_and_not_z() -> None:
    point = [-6.4, 4.0, 8.0]  # projects to pixel corner (0, 11), where range and z differ most
    seen = rasterise([point])
    assert seen[11, 0] == pytest.approx(np.linalg.norm(point))
    assert seen[11, 0] / 8.0 > 1.35
    assert np.isfinite(seen).sum() == 1


def test_nearest_return_wins_and_the_rest_stays_undefined() -> None:
    seen = rasterise([[0, 0, 20.0], [0, 0, 7.0], [0, 0, 30.0]])
    assert seen[6, 8] == pytest.approx(7.0)
    assert np.isnan(seen).sum() == seen.size - 1


@pytest.mark.parametrize(
    "point", [[0, 0, 0.5], [0, 0, -5.0], [0, 0, 60.0], [30.0, 0, 5.0], [np.nan, 0, 5.0]],
    ids=["on the car", "behind", "too far", "outside", "not a number"],
)  # fmt: skip
def test_returns_that_a_camera_cannot_see_are_dropped(point: list[float]) -> None:
    assert np.isnan(rasterise([point])).all()


def test_each_return_falls_where_the_camera_model_projects_it() -> None:
    """Culling before dividing must keep exactly what the general projection keeps."""
    generator = np.random.default_rng(0)
    points = generator.normal(0, 12, (4000, 3))
    turn = Rotation.from_euler("xyz", [0.3, -0.8, 0.2]).as_matrix()
    camera_to_ego = np.block([[turn, np.array([[1.0], [-0.5], [1.6]])], [np.zeros((1, 3)), np.ones((1, 1))]])
    intrinsics = np.array([[11.0, 0.4, 7.3], [0, 9.0, 6.2], [0, 0, 1]])
    size = {"height": 12, "width": 16, "min_camera_depth": 1.0, "max_range": 30.0}
    seen = rasterise_lidar(points, camera_to_ego, intrinsics, **size)
    wanted = np.full((12, 16), np.inf)
    points_camera = apply_se3(invert_se3(camera_to_ego), points)
    pixels, camera_depth = project_camera(points_camera, intrinsics, None)
    for (u, v), depth, distance in zip(pixels, camera_depth, np.linalg.norm(points_camera, axis=1), strict=True):
        if depth >= 1.0 and 0 <= u < 16 and 0 <= v < 12 and distance <= 30.0:
            wanted[int(v), int(u)] = min(wanted[int(v), int(u)], distance)
    assert np.isfinite(wanted).sum() > 50
    np.testing.assert_allclose(seen, np.where(np.isinf(wanted), np.nan, wanted), rtol=1e-5)


def test_no_returns_is_an_empty_map() -> None:
    empty = rasterise_lidar(
        np.zeros((0, 3)), np.eye(4), INTRINSICS, height=3, width=4, min_camera_depth=1.0, max_range=9.0
    )
    assert empty.shape == (3, 4)
    assert np.isnan(empty).all()


# --- views ---------------------------------------------------------------------------------------------------------


def test_lidar_and_teacher_agree_on_every_real_view(dataset: FrameDataset) -> None:
    """Two independent paths to the same distance; a wrong frame, pose or depth convention would part them."""
    ratios = []
    for index in range(len(dataset)):
        targets = dataset[index].view_targets
        both = torch.isfinite(targets.lidar_depth) & torch.isfinite(targets.teacher_depth)
        ratios.append((targets.lidar_depth / targets.teacher_depth)[both])
    ratio = torch.cat(ratios)
    assert len(ratio) > 500
    assert ratio.median().item() == pytest.approx(1.0, abs=0.02)
    # In a small picture of flat ground, the nearest return and the centre of a pixel see different things.
    assert (ratio.log().abs() < 0.1).float().mean() > 0.9


def test_every_view_is_posed_in_the_ego_frame_of_the_inputs(shared_world: Any, dataset: FrameDataset) -> None:
    reader = SceneReader.open(shared_world.home, "yard.a")
    world_to_reference = invert_se3(reader.ego_to_world(1))
    choice = ViewChoice(
        real=(TargetView(frame_index=1, camera_index=2), TargetView(frame_index=2, camera_index=0), None),
        virtual=(TargetView(frame_index=1, camera_index=1, virtual_index=0),),
    )
    batch = dataset.sample("yard.a", 1, choice)
    poses = batch.cameras.camera_to_reference_ego[0].numpy()
    np.testing.assert_allclose(poses[0], world_to_reference @ reader.camera_to_world(1, 2), atol=1e-6)
    np.testing.assert_allclose(poses[1], world_to_reference @ reader.camera_to_world(2, 0), atol=1e-6)
    left = np.eye(4)
    left[0, 3] = -1.0
    np.testing.assert_allclose(poses[3], world_to_reference @ reader.camera_to_world(1, 1) @ left, atol=1e-6)
    # The camera's own exposure, and not the reference instant, decides.
    assert not np.allclose(poses[0], reader.camera_to_ego(2), atol=1e-3)
    assert batch.cameras.target_is_present.tolist() == [[True, True, False, True]]


def test_a_fisheye_sees_returns_beside_and_behind_itself() -> None:
    lens = np.array([-0.1, 0.0, 0.0, 0.0])
    intrinsics = np.array([[12.0, 0, 20], [0, 12.0, 20], [0, 0, 1]])
    # In the camera's own frame: ahead, right beside it, a little behind its plane, straight behind, and on its glass.
    points = np.array([[0.0, 0, 5], [8, 0, 0.01], [0, 6, -0.6], [0, 0, -5], [0, 0, 0.3]], np.float32)
    size = {"height": 40, "width": 40, "min_camera_depth": 1.0, "max_range": 50.0}
    seen = rasterise_lidar(points, np.eye(4), intrinsics, lens, **size)
    np.testing.assert_allclose(sorted(seen[np.isfinite(seen)]), [5.0, 6.03, 8.0], atol=0.01)
    assert seen[20, 20] == 5.0
    pinhole = rasterise_lidar(points, np.eye(4), intrinsics, np.full(4, np.nan), **size)
    assert np.isfinite(pinhole).sum() == 1


def test_lenses_reach_the_model(shared_world: Any, student_config: StudentConfig) -> None:
    lens = np.array([-0.1, 0.01, 0.0, 0.0])

    class WithLens(StoreFrames):
        def fisheye(self) -> Any:
            lenses = super().fisheye()
            assert np.isnan(lenses).all()  # as stored
            return np.concatenate([lenses[:1], [lens], lenses[2:]])

    shared_world.freeze("lens", student_config)
    frozen = load_training_set(shared_world.home, "lens")
    data = FrameDataset(shared_world.home, frozen, "train", student_config.data, open_frames=WithLens)
    choice = ViewChoice(
        real=(TargetView(frame_index=1, camera_index=1), TargetView(frame_index=1, camera_index=0), None),
        virtual=(TargetView(frame_index=1, camera_index=1, virtual_index=0),),
    )
    batch = data.sample("yard.a", 1, choice)
    assert batch.inputs.fisheye is not None
    assert batch.cameras.fisheye is not None
    assert torch.isnan(batch.inputs.fisheye[0, :, 0]).tolist() == [True, False, True]
    assert torch.isnan(batch.cameras.fisheye[0, :, 0]).tolist() == [False, True, True, False]
    np.testing.assert_allclose(batch.cameras.fisheye[0, 3], lens, rtol=1e-6)


def test_padding_and_virtual_views_claim_nothing_they_do_not_know(dataset: FrameDataset) -> None:
    choice = ViewChoice(real=(None,), virtual=(TargetView(frame_index=0, camera_index=0, virtual_index=1),))
    targets = dataset.sample("yard.a", 0, choice).view_targets
    assert torch.isnan(targets.lidar_depth).all()
    assert torch.isnan(targets.teacher_depth[0, 0]).all()
    assert not targets.is_sky_known[0, 0].any()
    assert torch.isfinite(targets.teacher_depth[0, 1]).any()
    assert torch.equal(torch.isnan(targets.teacher_depth[0, 1]), targets.is_sky[0, 1])


def test_virtual_view_shows_what_the_teacher_rendered(shared_world: Any, dataset: FrameDataset) -> None:
    version = shared_world.home.latest("virtual_views", "yard.a")
    stored = shared_world.home.open_arrays(version)["image"][2, 1, 0]
    choice = ViewChoice(real=(None,), virtual=(TargetView(frame_index=2, camera_index=1, virtual_index=0),))
    image = dataset.sample("yard.a", 2, choice).view_targets.virtual_image[0, 0]
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy() * 255, stored, atol=1e-3)


def test_what_is_not_valid_in_a_virtual_view_is_no_target(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()
    group = world.home.open_arrays(world.home.latest("virtual_views", "yard.a"))
    arrays = {name: group[name][...] for name in group.array_keys()}
    is_valid = np.random.default_rng(0).random(arrays["opacity"].shape) < 0.6
    choice = ViewChoice(real=(None,), virtual=(TargetView(frame_index=1, camera_index=0, virtual_index=1),))
    found = []
    for code in ("2", "3"):
        world.publish("virtual_views", "yard.a", {**arrays, "is_valid": is_valid}, code=code)
        world.freeze(f"valid-{code}", student_config, validation_scenes=())
        data = FrameDataset(
            world.home, load_training_set(world.home, f"valid-{code}"), "train", student_config.data
        ).sample("yard.a", 1, choice)
        found.append(data.view_targets)
        arrays["image"][~is_valid] = 255
        arrays["termination_depth"][~is_valid] = 3.0
        arrays["opacity"][~is_valid] = 0.0
    clean, poisoned = found
    own = torch.from_numpy(is_valid[1, 0, 1])
    assert torch.equal(clean.virtual_is_valid[0, 0], own)
    assert torch.equal(poisoned.is_sky_known[0, 1], own)
    for name in ("teacher_depth", "is_sky", "is_sky_known"):
        torch.testing.assert_close(getattr(clean, name), getattr(poisoned, name), rtol=0, atol=0, equal_nan=True)
    assert torch.isfinite(clean.teacher_depth[0, 1]).any()


@pytest.mark.usefixtures("unsound_targets_are_frozen")
def test_a_return_overrules_the_sky_mask(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    everywhere = np.ones((4, 3, 16, 24), bool)
    world.publish(
        "sky_mask", "yard.a", {"is_sky": everywhere, "sky_probability": everywhere.astype(np.float16)}, code="2"
    )
    world.freeze("sky", student_config, validation_scenes=())
    data = FrameDataset(world.home, load_training_set(world.home, "sky"), "train", student_config.data)
    targets = data[0].input_targets
    has_return = torch.isfinite(targets.lidar_depth)
    assert has_return.any()
    assert torch.equal(targets.is_sky_known, ~has_return)


def test_views_are_drawn_without_repetition_and_never_from_held_out_frames(
    shared_world: Any, student_config: StudentConfig
) -> None:
    shared_world.freeze("draw", student_config, validation_scenes=(), held_out_stride=2)
    (scene,) = load_training_set(shared_world.home, "draw").scenes  # frames 1 and 3 are held out
    views = replace(student_config.data.views, same_frame=3, neighbour=2, virtual=4)
    for seed in range(20):
        choice = draw_views(scene, 2, views, num_cameras=3, num_virtual_views=2, generator=np.random.default_rng(seed))
        assert choice.real[3:] == (None, None)
        assert sorted(view.camera_index for view in choice.real[:3]) == [0, 1, 2]
        assert len(set(choice.virtual)) == 4


def test_no_camera_has_a_second_view_before_each_has_one(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("strata", student_config, validation_scenes=())
    (scene,) = load_training_set(shared_world.home, "strata").scenes
    views = replace(student_config.data.views, same_frame=3, neighbour=3, virtual=4)
    drawn = set()
    for seed in range(20):
        choice = draw_views(scene, 2, views, num_cameras=3, num_virtual_views=3, generator=np.random.default_rng(seed))
        assert sorted(view.camera_index for view in choice.real[3:] if view) == [0, 1, 2]
        cameras = [view.camera_index for view in choice.virtual if view]
        assert sorted(cameras[:3]) == [0, 1, 2]
        drawn |= {(view.camera_index, view.virtual_index) for view in choice.virtual[:3] if view}
    assert len(drawn) == 9  # chance still gives every view its turn


def test_views_change_with_the_epoch_and_repeat_with_the_seed(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("epochs", student_config)
    frozen = load_training_set(shared_world.home, "epochs")

    def poses(seed: int, epoch: int) -> torch.Tensor:
        data = FrameDataset(shared_world.home, frozen, "train", student_config.data, seed=seed)
        from student.data.dataset import SampleRequest

        return data[SampleRequest(epoch, 1)].cameras.camera_to_reference_ego

    assert torch.equal(poses(1, 5), poses(1, 5))
    drawn = [poses(seed, epoch) for seed in range(2) for epoch in range(4)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:4])
    assert any(not torch.equal(drawn[0], other) for other in drawn[4:])


def test_validation_shows_every_camera_of_the_held_out_frame(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("validation", student_config)
    frozen = load_training_set(shared_world.home, "validation")
    data = FrameDataset(shared_world.home, frozen, "validation", student_config.data)
    assert data.key(2) == "yard.b/000002"
    batch = data[2]
    assert batch.keys == ("yard.b/000002",)
    assert batch.cameras.target_is_present.all()
    assert torch.equal(batch.cameras.camera_to_reference_ego, batch.inputs.camera_to_reference_ego)
    assert torch.equal(batch.view_targets.image, batch.inputs.images)


def test_batches_concatenate(dataset: FrameDataset) -> None:
    batch = concatenate([dataset[0], dataset[1]])
    assert batch.keys == ("yard.a/000000", "yard.a/000001")
    assert batch.inputs.images.shape[0] == batch.view_targets.features["clip"].shape[0] == 2
    assert torch.equal(batch.to("cpu").view_targets.image, batch.view_targets.image)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_lost_chunk_is_named_and_not_read_as_zero(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    world.freeze("lost", student_config, validation_scenes=())
    chunks = world.home.root / "stores" / "teacher_depth" / "yard.a" / "chunks"
    assert chunks.is_dir()
    shutil.rmtree(chunks)
    data = FrameDataset(world.home, load_training_set(world.home, "lost"), "train", student_config.data)
    with pytest.raises(IntegrityError) as caught:
        data[0]
    assert caught.value.key.startswith("teacher_depth/yard.a")


def test_lost_frame_is_named_when_several_are_read_at_once(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()
    world.freeze("one", student_config, validation_scenes=())
    scene = load_training_set(world.home, "one").scenes[0]
    whole = StoreFrames(world.home, scene).teacher_depth(range(scene.num_frames))
    chunks = world.home.root / "stores" / "teacher_depth" / "yard.a" / "chunks"
    next(path for path in sorted(chunks.rglob("*")) if path.is_file() and path.stat().st_size > 1000).unlink()
    with pytest.raises(IntegrityError) as caught:
        StoreFrames(world.home, scene).teacher_depth(range(scene.num_frames))
    lost = [f for f in range(scene.num_frames) if caught.value.key == f"teacher_depth/yard.a/{f:06d}/termination_depth"]
    assert len(lost) == 1
    for frame in set(range(scene.num_frames)) - set(lost):
        alone = StoreFrames(world.home, scene).teacher_depth(range(frame, frame + 1))
        np.testing.assert_array_equal(alone[0], whole[frame])


def test_kind_outside_the_training_set_is_refused(shared_world: Any, student_config: StudentConfig) -> None:
    kinds = tuple(kind for kind in student_config.data.kinds if kind != "teacher_depth")
    shared_world.freeze("few", student_config, kinds=kinds)
    frozen = load_training_set(shared_world.home, "few")
    data = FrameDataset(shared_world.home, frozen, "train", student_config.data)
    with pytest.raises(MissingTargetError) as caught:
        data[0]
    assert caught.value.key == "teacher_depth/yard.a"


def test_images_of_another_size_are_refused(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("size", student_config)
    frozen = load_training_set(shared_world.home, "size")
    config = replace(student_config.data, image_height=64)
    with pytest.raises(ProvenanceMismatchError, match="configured are"):
        FrameDataset(shared_world.home, frozen, "train", config)[0]


@pytest.mark.usefixtures("unsound_targets_are_frozen")
def test_target_of_another_calibration_is_refused(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    version = world.home.latest("teacher_depth", "yard.a")
    group = world.home.open_arrays(version)
    arrays = {name: group[name][...] for name in ("termination_depth", "opacity", "intrinsics")}
    arrays["intrinsics"][:, 0, 2] += 0.5  # half a pixel: the usual slip
    world.publish("teacher_depth", "yard.a", arrays, code="2")
    world.freeze("calibration", student_config, validation_scenes=())
    data = FrameDataset(world.home, load_training_set(world.home, "calibration"), "train", student_config.data)
    with pytest.raises(IntegrityError, match="intrinsics differ"):
        data[0]


def test_nothing_is_known_where_a_camera_sees_its_own_vehicle(shared_world: Any, student_config: StudentConfig) -> None:
    class WithMask(StoreFrames):
        def is_valid(self, height: int, width: int) -> Any:
            seen = super().is_valid(height, width).copy()
            assert seen.all()  # as stored
            seen[0, height // 2 :] = False
            return seen

    shared_world.freeze("mask", student_config)
    frozen = load_training_set(shared_world.home, "mask")
    data = FrameDataset(shared_world.home, frozen, "train", student_config.data, open_frames=WithMask)
    choice = ViewChoice(
        real=(TargetView(frame_index=1, camera_index=0), TargetView(frame_index=1, camera_index=1)),
        virtual=(TargetView(frame_index=1, camera_index=0, virtual_index=0),),
    )
    batch = data.sample("yard.a", 1, choice)
    assert batch.cameras.is_valid is not None
    hidden = ~batch.cameras.is_valid
    assert hidden[0, 0].any()
    assert not hidden[0, 1:].any()  # neither the other camera, nor a virtual view, which has no vehicle in it
    for name in ("lidar_depth", "teacher_depth"):
        depth = getattr(batch.view_targets, name)
        assert torch.isnan(depth[hidden]).all()
        assert torch.isfinite(depth[0, 0][~hidden[0, 0]]).any()
        of_input = getattr(batch.input_targets, name)[0, 0]
        assert torch.isnan(of_input[of_input.shape[0] // 2 :]).all()
    assert not batch.view_targets.is_sky_known[hidden].any()
    assert batch.inputs.is_valid is not None
    assert not batch.inputs.is_valid[0, 0, student_config.data.image_height // 2 :].any()


# --- what moves ----------------------------------------------------------------------------------------------------


def test_what_moved_is_left_out_of_neighbouring_frames(dataset: FrameDataset) -> None:
    key, frame = next(sample for sample in dataset.samples if sample[1] == 1)
    frames = dataset._open(key)
    assert isinstance(frames, StoreFrames)
    reader = frames.reader
    # A van that stands 8 m ahead of the first camera, and a metre and a half beside that place a frame later.
    ahead = reader.camera_to_world(frame, 0) @ np.array([0.0, 0.0, 8.0, 1.0])
    beside = reader.camera_to_world(frame, 0) @ np.array([1.5, 0.0, 8.0, 1.0])
    van = SceneBoxes(
        frame_index=np.array([frame, frame + 1]),
        centre=np.stack([ahead[:3], beside[:3]]),
        size=np.full((2, 3), 0.8),
        quat_wxyz=np.tile([1.0, 0, 0, 0], (2, 1)),
        category=("van",) * 2,
        instance=("van",) * 2,
        num_lidar_points=np.full(2, 9),
    )
    frames.__dict__["_moving"] = MovingBoxes(van, reader.frame_seconds())
    choice = ViewChoice(
        real=(TargetView(frame_index=frame, camera_index=0), TargetView(frame_index=frame + 1, camera_index=0))
    )

    def masks_and_targets(kind: str) -> tuple[np.ndarray, Any]:
        dataset.config = replace(dataset.config, dynamic_masks=kind)  # type: ignore[arg-type]
        batch = dataset.sample(key, frame, choice)
        assert batch.cameras.is_valid is not None
        return batch.cameras.is_valid[0].numpy(), batch.view_targets

    everything, _ = masks_and_targets("none")
    assert everything.all()
    (own, ahead_in_time), targets = masks_and_targets("boxes")
    assert own.all()  # the field is of this very moment
    assert 0.5 < ahead_in_time.mean() < 1.0
    height, width = ahead_in_time.shape
    world_to_camera = invert_se3(reader.camera_to_world(frame + 1, 0))
    for point in (ahead, beside):
        pixel, _ = project((world_to_camera @ point)[:3], reader.intrinsics(0, size=(height, width)))
        assert not ahead_in_time[int(pixel[1]), int(pixel[0])]
    left_out = torch.from_numpy(~ahead_in_time)
    for name in ("lidar_depth", "teacher_depth"):
        assert torch.isnan(getattr(targets, name)[0, 1][left_out]).all()
    assert not targets.is_sky_known[0, 1][left_out].any()
    assert torch.isfinite(targets.teacher_depth[0, 0]).any()


def test_what_moves_cannot_be_left_out_of_a_scene_without_annotations(dataset: FrameDataset) -> None:
    key, frame = dataset.samples[0]
    frames = dataset._open(key)
    assert isinstance(frames, StoreFrames)
    frames.__dict__.pop("_moving", None)
    assert not len(frames.reader.boxes().instance)
    dataset.config = replace(dataset.config, dynamic_masks="boxes")
    choice = ViewChoice(
        real=(TargetView(frame_index=frame, camera_index=0), TargetView(frame_index=frame + 1, camera_index=0))
    )
    with pytest.raises(MissingTargetError, match="has no annotations"):
        dataset.sample(key, frame, choice)


# --- what cells can hold -------------------------------------------------------------------------------------------


def test_finer_cells_hold_more_of_an_image(dataset: FrameDataset, student_config: StudentConfig) -> None:
    key, frame = dataset.samples[0]
    batch = dataset.sample(key, frame, ViewChoice(real=(TargetView(frame_index=frame, camera_index=0),)))
    held = []
    for level in (2, 4, 6, 8):
        voxels = replace(student_config.model.voxels, coarse_level=level)
        held.append(
            psnr_of_cells(batch.view_targets.teacher_depth, batch, replace(student_config.model, voxels=voxels))
        )
    assert held == sorted(held)
    assert held[0] < 30 < 45 < held[-1]


def test_features_can_come_from_the_scenes_field(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    world.add_scene("yard.b")
    home = world.home
    images = read_target(home.open_arrays(home.require("clip_features", "yard.a")), "clip_features", "features")
    for key in ("yard.a", "yard.b"):
        world.publish("teacher_features", key, {"clip": (1 - images).astype(np.float16)})
    config = replace(student_config.data, features_from="field")
    assert "teacher_features" in config.kinds
    assert "clip_features" not in config.kinds
    taught = {}
    for name, data in (("images", student_config.data), ("field", config)):
        run = replace(student_config, data=data)
        world.freeze(name, run)
        frozen = load_training_set(home, name)
        assert ("teacher_features" in frozen.scenes[0].stores) == (name == "field")
        assert ("clip_features" in frozen.scenes[0].stores) == (name == "images")
        sample = FrameDataset(home, frozen, "train", data)[0]
        taught[name] = sample.view_targets.features["clip"]
    known = taught["images"] != 0  # a view that the sample does not have is blank
    assert known.any()
    assert torch.allclose(taught["field"][known], 1 - taught["images"][known], atol=2e-3)
