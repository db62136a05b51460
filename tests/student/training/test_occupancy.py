"""The occupancy head: taught last, by beams of the training frames alone, without touching anything else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from storage.errors import StudentDivergedError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.scenes.schema import SceneBoxes, SceneData
from storage.scenes.store import SceneReader, write_scene
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from student.config import OccupancyFitConfig, StudentConfig
from student.data.dataset import FrameDataset
from student.data.training_set import FrozenScene, load_training_set
from student.inference.checkpoint import from_pretrained, save_pretrained
from student.inference.occupancy import occupancy_probability
from student.inference.predictor import Predictor
from student.model.config import OccupancyHeadConfig
from student.model.distillnerf import DistillNeRF
from student.model.occupancy_head import GridReading, KeptReadings, mirrored, read_grid
from student.training import occupancy
from student.training.fit import fit_student
from student.training.initial import take_weights
from student.training.occupancy import KnownVoxels, Lesson, beam_error, votes_to_learn_from
from student.training.seen_through import seen_through
from student.training.voxel_features import FeatureWitnesses, KnownFeatures

HEAD = OccupancyHeadConfig(width=4, column_width=8, num_levels=2)


def with_head(config: StudentConfig, **occupancy: Any) -> StudentConfig:
    fit = replace(config.fit, occupancy=OccupancyFitConfig(**occupancy))
    heads = tuple(replace(head, voxel_width=16) for head in config.model.feature_heads)
    return replace(config, model=replace(config.model, occupancy_head=HEAD, feature_heads=heads), fit=fit)


@pytest.fixture(scope="module")
def taught(shared_world: Any) -> Any:
    """A fit whose head had three dozen steps."""
    state: dict[str, Any] = {}

    def make(config: StudentConfig) -> Any:
        if not state:
            config = with_head(config, steps=36, learning_rate=1e-2)
            shared_world.freeze("taught", config)
            calls: list[Any] = []
            done = fit_student(shared_world.home, "taught", config, lambda *call: calls.append(call))
            state.update(done=done, calls=calls, folder=shared_world.home.open_files(done.version))
        return state

    return make


def test_the_rest_of_the_student_is_what_it_is_without_heads(student_config: StudentConfig, shared_world: Any) -> None:
    """Without the occupancy head, and without what names voxels by it."""

    def fitted(config: StudentConfig) -> dict[str, Any]:
        shared_world.freeze("named", config)
        done = fit_student(shared_world.home, "named", config)
        return load_file(shared_world.home.open_files(done.version) / "model.safetensors")

    def with_names(width: int) -> StudentConfig:
        config = with_head(student_config, steps=3, max_frames=2)
        heads = tuple(replace(head, voxel_width=width) for head in config.model.feature_heads)
        return replace(config, model=replace(config.model, feature_heads=heads))

    named, unnamed, headless = (fitted(config) for config in (with_names(16), with_names(0), student_config))
    assert {name.partition(".")[0] for name in set(named) - set(unnamed)} == {"voxel_feature_heads"}
    assert {name.partition(".")[0] for name in set(unnamed) - set(headless)} == {"occupancy_head"}
    assert set(headless) < set(unnamed) < set(named)
    assert all(torch.equal(named[name], value) for name, value in unnamed.items())
    assert all(torch.equal(unnamed[name], value) for name, value in headless.items())


def test_says_what_it_learned_from(taught: Any, student_config: StudentConfig) -> None:
    state = taught(student_config)
    lesson = state["done"].metrics["occupancy"]
    assert (lesson["frames"], lesson["frames_without_beams"], lesson["steps"]) == (4, 0, 36)
    assert 0.01 < lesson["occupied_share"] < 0.5
    assert 0.1 < lesson["seen_through_share"] < 0.9
    stages = [(stage, share) for stage, share, _ in state["calls"] if stage in {"beams", "occupancy"}]
    assert stages[:4] == [("beams", 0.25), ("beams", 0.5), ("beams", 0.75), ("beams", 1.0)]
    assert stages[-1] == ("occupancy", 1.0)


def test_tells_occupied_from_free_in_a_scene_it_never_saw(
    taught: Any, student_config: StudentConfig, shared_world: Any
) -> None:
    predictor = Predictor.from_folder(taught(student_config)["folder"])
    frozen = load_training_set(shared_world.home, "taught")
    held_out = FrameDataset(shared_world.home, frozen, "validation", predictor.config.data)
    version = frozen.scenes[1].stores[Kind.SCENE]
    reader = SceneReader(shared_world.home.open_arrays(version), version)
    own = replace(frozen.scenes[1], train_frames=(1,), validation_frames=())
    (_, voxels), *_ = votes_to_learn_from(reader, own, {1})
    said = predictor.occupancy(predictor.encode(held_out.inputs(1)), voxels.flat)
    order = said.probability.argsort().argsort() + 1.0
    number = int(voxels.is_occupied.sum())
    above = (order[voxels.is_occupied].sum() - number * (number + 1) / 2) / (number * (len(order) - number))
    assert above > 0.8  # the area under its ROC curve; a guess has 0.5


def test_names_voxels_better_than_the_nearest_cell_does_in_a_scene_it_never_saw(
    taught: Any, student_config: StudentConfig, shared_world: Any
) -> None:
    state = taught(student_config)
    assert 0 < state["done"].metrics["occupancy"]["feature_errors"]["clip"] < 0.1
    predictor = Predictor.from_folder(state["folder"])
    frozen, home = load_training_set(shared_world.home, "taught"), shared_world.home
    scene = frozen.scenes[1]
    reader = SceneReader(home.open_arrays(scene.stores[Kind.SCENE]), scene.stores[Kind.SCENE])
    maps = home.open_arrays(scene.stores[Kind.CLIP_FEATURES])
    (_, voxels), *_ = votes_to_learn_from(reader, replace(scene, train_frames=(1,), validation_frames=()), {1})
    witnesses = FeatureWitnesses(reader, maps, Kind.CLIP_FEATURES, "features", (1,))
    known = witnesses.at(1, voxels.flat[voxels.is_occupied])
    assert len(known.flat) > 200
    held_out = FrameDataset(home, frozen, "validation", predictor.config.data)
    field = predictor.encode(held_out.inputs(1))
    answer = predictor.occupancy(field, known.flat)
    told = predictor.voxel_features(field, "clip", answer, np.arange(len(known.flat)))
    nearest = predictor.point_features(field, "clip", answer.points)
    error, before = (np.square(values - known.features).mean() for values in (told, nearest))
    assert error < 0.9 * before
    some = np.arange(0, len(known.flat), 7)
    np.testing.assert_allclose(predictor.voxel_features(field, "clip", answer, some), told[some], atol=1e-5)


def test_what_no_beam_tells_cameras_tell_and_only_what_no_beam_tells() -> None:
    beams = KnownVoxels(np.array([2, 5]), np.array([True, False]))
    is_free = np.zeros(9, bool)
    is_free[[0, 2, 5, 8]] = True
    known = beams.also_free(is_free)
    assert known.flat.tolist() == [0, 2, 5, 8]
    assert known.is_occupied.tolist() == [False, True, False, False]
    assert is_free.sum() == 4


def test_air_that_no_beam_crosses_is_free_to_a_student_that_learned_by_sight_too(
    taught: Any, student_config: StudentConfig, shared_world: Any
) -> None:
    """The yard's scanner looks up no higher than its wall, and returns nothing from beyond it."""
    config = with_head(student_config, steps=36, learning_rate=1e-2, seen_through=False)
    shared_world.freeze("by-beams", config)
    by_beams = fit_student(shared_world.home, "by-beams", config)
    assert by_beams.metrics["occupancy"]["seen_through_share"] == 0.0
    frozen = load_training_set(shared_world.home, "by-beams")
    samples = FrameDataset(shared_world.home, frozen, "validation", student_config.data)
    version = frozen.scenes[1].stores[Kind.SCENE]
    reader = SceneReader(shared_world.home.open_arrays(version), version)
    own = replace(frozen.scenes[1], train_frames=(1,), validation_frames=())
    (_, voxels), *_ = votes_to_learn_from(reader, own, {1})
    is_free = seen_through(*samples.with_depth(1))
    is_free[voxels.flat] = False
    air = np.flatnonzero(is_free)
    assert len(air) > 1_000
    wrong = {}
    for name, folder in (
        ("both", taught(student_config)["folder"]),
        ("beams", shared_world.home.open_files(by_beams.version)),
    ):
        predictor = Predictor.from_folder(folder)
        wrong[name] = predictor.occupancy(predictor.encode(samples.inputs(1)), air).probability.mean()
    assert wrong["both"] < 0.7 * wrong["beams"]


def test_a_student_without_a_head_goes_by_its_density(student_config: StudentConfig, shared_world: Any) -> None:
    shared_world.freeze("density", student_config)
    torch.manual_seed(0)
    predictor = Predictor(DistillNeRF(student_config.model), student_config)
    data = FrameDataset(
        shared_world.home, load_training_set(shared_world.home, "density"), "train", student_config.data
    )
    field = predictor.encode(data.inputs(0))
    voxels = np.arange(0, OCC3D_GRID.num_voxels, 7)
    density, points = predictor.voxel_density(field, OCC3D_GRID, voxels)
    said = predictor.occupancy(field, voxels)
    np.testing.assert_array_equal(said.probability, occupancy_probability(density, OCC3D_GRID.voxel_size))
    np.testing.assert_array_equal(said.points, points)
    np.testing.assert_array_equal(said.has_features, density > 0)
    np.testing.assert_array_equal(
        predictor.voxel_features(field, "clip", said, np.arange(50, 90)),
        predictor.point_features(field, "clip", points[50:90]),
    )


def test_what_a_head_fills_is_called_what_stands_nearest(
    taught: Any, student_config: StudentConfig, shared_world: Any
) -> None:
    predictor = Predictor.from_folder(taught(student_config)["folder"])
    data = FrameDataset(shared_world.home, load_training_set(shared_world.home, "taught"), "train", student_config.data)
    field = predictor.encode(data.inputs(0))
    voxels = np.arange(0, OCC3D_GRID.num_voxels, 997)
    said = predictor.occupancy(field, voxels)
    empty = said.density == 0
    assert empty.sum() > 100
    assert said.has_features.all()
    features = predictor.point_features(field, "clip", said.points)
    assert np.isfinite(features).all()
    held = read_grid(field, OCC3D_GRID).held.numpy()
    centres = OCC3D_GRID.centres(np.stack(np.unravel_index(held, OCC3D_GRID.shape), 1))
    at = OCC3D_GRID.centres(np.stack(np.unravel_index(voxels, OCC3D_GRID.shape), 1))
    for index in np.flatnonzero(empty)[::40]:
        nearest = np.linalg.norm(centres - at[index], axis=1).min()
        assert np.linalg.norm(said.points[index] - at[index]) < nearest + 0.5 * OCC3D_GRID.voxel_size


def test_a_loss_that_is_not_finite_names_the_frame(
    student_config: StudentConfig, shared_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_head(student_config, steps=2)
    shared_world.freeze("diverged", config)
    monkeypatch.setattr(occupancy, "beam_error", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(StudentDivergedError, match=r"yard\.a/0000.*occupancy head at step 0"):
        fit_student(shared_world.home, "diverged", config)


# --- what beams know --------------------------------------------------------------------------------------------------


def scene_with(tmp_path: Path, name: str, data: SceneData) -> SceneReader:
    home = Home(tmp_path / name)
    provenance = Provenance(kind="scene", partition=f"yard.{name}", code_digest="1")
    done = materialize_arrays(home, provenance, lambda group: write_scene(group, data) or {})
    return SceneReader(home.open_arrays(done.version), done.version)


def frozen_scene(num_frames: int, held_out: tuple[int, ...]) -> FrozenScene:
    train = tuple(frame for frame in range(num_frames) if frame not in held_out)
    return FrozenScene(
        key="yard.a", num_frames=num_frames, num_cameras=3, train_frames=train, validation_frames=held_out, stores={}
    )


def a_block_in(sweep: np.ndarray) -> np.ndarray:
    block = np.stack(np.meshgrid(*[np.linspace(4, 6, 12)] * 2, np.linspace(0.5, 1.5, 8)), -1).reshape(-1, 3)
    return np.concatenate([sweep, np.concatenate([block, np.ones((len(block), 1))], 1)]).astype(np.float32)


def test_held_out_sweeps_do_not_testify(make_scene_data: Any, tmp_path: Path) -> None:
    data = make_scene_data(0)
    sweeps = [a_block_in(sweep) if frame == 2 else sweep for frame, sweep in enumerate(data.lidar_points)]
    changed = replace(data, lidar_points=tuple(sweeps))
    of = {n: scene_with(tmp_path, n, d) for n, d in (("plain", data), ("changed", changed))}
    frozen = frozen_scene(4, held_out=(2,))
    plain, other = (dict(votes_to_learn_from(of[name], frozen, {0, 1, 3})) for name in ("plain", "changed"))
    assert sorted(plain) == [0, 1, 3]
    for frame, voxels in plain.items():
        np.testing.assert_array_equal(voxels.flat, other[frame].flat)
        np.testing.assert_array_equal(voxels.is_occupied, other[frame].is_occupied)
    everyone = frozen_scene(4, held_out=())
    seen, changed_votes = (dict(votes_to_learn_from(of[n], everyone, {1}))[1] for n in ("plain", "changed"))
    assert changed_votes.is_occupied.sum() > seen.is_occupied.sum()


def test_boxes_are_not_read(make_scene_data: Any, tmp_path: Path) -> None:
    data = make_scene_data(0)
    frames = np.arange(4)
    boxes = SceneBoxes(
        frame_index=frames,
        category=("vehicle.car",) * 4,
        instance=("one",) * 4,
        centre=np.stack([[8.0 + 2 * frame, 0.0, 0.5] for frame in frames]),
        size=np.full((4, 3), 6.0),
        quat_wxyz=np.tile([1.0, 0, 0, 0], (4, 1)),
        num_lidar_points=np.full(4, 50),
    )
    readers = (scene_with(tmp_path, "bare", data), scene_with(tmp_path, "boxed", replace(data, boxes=boxes)))
    assert len(readers[1].boxes().category) == 4
    bare, boxed = (dict(votes_to_learn_from(reader, frozen_scene(4, ()), {1}))[1] for reader in readers)
    np.testing.assert_array_equal(bare.flat, boxed.flat)
    np.testing.assert_array_equal(bare.is_occupied, boxed.is_occupied)


def test_without_beams_an_untaught_head_is_not_published(
    student_config: StudentConfig, shared_world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = KnownVoxels(np.zeros(0, np.int64), np.zeros(0, bool))
    monkeypatch.setattr(occupancy, "votes_to_learn_from", lambda _r, _s, frames: ((f, nothing) for f in sorted(frames)))
    config = with_head(student_config, steps=5)
    shared_world.freeze("blind", config)
    done = fit_student(shared_world.home, "blind", config)
    assert done.metrics["occupancy"] == {
        "frames": 0,
        "frames_without_beams": 4,
        "occupied_share": None,
        "steps": 0,
        "loss": None,
        "feature_errors": {},
        "seen_through_share": None,
    }
    model, stored = from_pretrained(shared_world.home.open_files(done.version))
    assert model.occupancy_head is None
    assert not model.voxel_feature_heads
    assert stored.model.occupancy_head is None
    # One that an earlier student was taught stays, as it was.
    torch.manual_seed(3)
    earlier = DistillNeRF(config.model)
    save_pretrained(tmp_path / "earlier", earlier, config, variant="clip")
    config = replace(config, fit=replace(config.fit, initial=str(tmp_path / "earlier")))
    model, _ = from_pretrained(shared_world.home.open_files(fit_student(shared_world.home, "blind", config).version))
    assert earlier.occupancy_head is not None
    assert model.occupancy_head is not None
    wanted = earlier.occupancy_head.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.occupancy_head.state_dict().items())


def test_a_checkpoint_may_lack_the_head_or_bring_one_that_is_not_wanted(
    student_config: StudentConfig, tmp_path: Path
) -> None:
    headed = with_head(student_config).model
    for name, config in (("without", student_config.model), ("with", headed)):
        run = replace(student_config, model=config)
        save_pretrained(tmp_path / name, DistillNeRF(config), run, variant="clip")
    report = take_weights(DistillNeRF(headed), tmp_path / "without")
    assert report.fresh_parts == ("occupancy_head", "voxel_feature_heads.clip")
    assert take_weights(DistillNeRF(headed), tmp_path / "with").fresh_parts == ("voxel_feature_heads.clip",)
    assert take_weights(DistillNeRF(student_config.model), tmp_path / "with").fresh_parts == ()


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_error_is_a_weighted_mean_over_known_voxels() -> None:
    logits = torch.full((*OCC3D_GRID.shape, 1), 50.0)
    flat = logits.view(-1)
    flat[[3, 10, 11]] = torch.tensor([0.0, 2.0, -1.0])
    voxels = KnownVoxels(np.array([3, 10, 11]), np.array([True, False, False]))
    terms = [4.0 * np.log(2.0), np.log1p(np.exp(2.0)), np.log1p(np.exp(-1.0))]
    assert float(beam_error(logits, voxels, 4.0)) == pytest.approx(sum(terms) / 6.0, rel=1e-6)


def test_a_mirror_image_exchanges_left_and_right() -> None:
    random = np.random.default_rng(0)
    held = np.sort(random.choice(OCC3D_GRID.num_voxels, 500, replace=False))
    reading = GridReading(torch.from_numpy(held), torch.from_numpy(random.random((500, 3), np.float32)))
    there = mirrored(reading, OCC3D_GRID)
    assert bool((there.held[1:] > there.held[:-1]).all())
    values = {tuple(np.round(p * [1, -1, 1], 3)): v for p, v in zip(places(held), reading.values.numpy(), strict=True)}
    for place, value in zip(places(there.held.numpy()), there.values.numpy(), strict=True):
        np.testing.assert_array_equal(value, values[tuple(np.round(place, 3))])
    back = mirrored(there, OCC3D_GRID)
    assert torch.equal(back.held, reading.held)
    assert torch.equal(back.values, reading.values)
    lesson = Lesson(
        KnownVoxels(held, random.random(500) < 0.5),
        {"clip": KnownFeatures(held[::2], reading.values[::2].numpy().astype(np.float16))},
    )
    other = occupancy._mirrored(lesson)
    np.testing.assert_array_equal(other.voxels.flat, there.held.numpy())
    assert other.voxels.is_occupied.sum() == lesson.voxels.is_occupied.sum()
    for place, value in zip(places(other.features["clip"].flat), other.features["clip"].features, strict=True):
        np.testing.assert_array_equal(value, values[tuple(np.round(place, 3))].astype(np.float16))
    again = occupancy._mirrored(other)
    np.testing.assert_array_equal(again.voxels.is_occupied, lesson.voxels.is_occupied)
    np.testing.assert_array_equal(again.features["clip"].flat, held[::2])


def places(flat: np.ndarray) -> np.ndarray:
    return OCC3D_GRID.centres(np.stack(np.unravel_index(flat, OCC3D_GRID.shape), 1))


def test_a_grid_that_is_not_even_has_no_mirror_image() -> None:
    uneven = replace(OCC3D_GRID, minimum=(-40.0, -39.0, -1.0))
    with pytest.raises(ValueError, match="the same to both sides"):
        mirrored(GridReading(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3)), uneven)


def test_readings_are_kept_as_far_as_there_is_room() -> None:
    asked: list[int] = []

    def read(number: int) -> GridReading:
        asked.append(number)
        return GridReading(torch.arange(10), torch.full((10, 4), float(number)))

    kept = KeptReadings(max_bytes=10 * (8 + 8) + 1)
    for number in (1, 2, 1, 2):
        assert kept.get(number, lambda n=number: read(n)).values.unique().tolist() == [number]
    assert asked == [1, 2, 2]
