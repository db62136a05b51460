"""A head learns labels that a student never saw, is judged beside it, and is read back as it was."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from pipeline.cli import main
from storage.errors import ErrorKind, IntegrityError, MissingTargetError, ProvenanceMismatchError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.references.config import LidarOccupancyConfig, VoteRules
from storage.references.lidar_occupancy import make_lidar_occupancy
from storage.stores.versioned import Home
from storage.taxonomy import OCC3D_FREE, OCC3D_UNNAMED
from student.applications.finetune import finetune_head, label_error, start_from
from student.applications.finetuned_head import HEAD_CONFIG_FILE, HEAD_FILE, FinetunedHead, open_finetuned
from student.config import FinetuneConfig
from student.data.dataset import FrameDataset
from student.data.training_set import load_training_set
from student.experiments.few_shot import FewShot
from student.inference.predictor import Predictor
from student.model.config import OccupancyHeadConfig
from student.model.occupancy_head import OccupancyHead, read_grid

SMALL = FinetuneConfig(head=OccupancyHeadConfig(width=4, column_width=8, num_levels=2), steps=20, learning_rate=2e-2)
ROAD = 11


@pytest.fixture
def home(world, tmp_path):
    """A copy of the world's home, whose scenes have labels."""
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)
    world.publish_labels(home, unlabelled=[("yard.b", 2)])
    return home


def field_of(home, predictor):
    data = FrameDataset(home, load_training_set(home, "clip"), "validation", predictor.config.data)
    return predictor.encode(data[0].inputs)


def test_a_head_learns_what_the_student_was_never_told(home):
    seen = []
    made = finetune_head(home, "clip", "segmentation", SMALL, lambda *event: seen.append(event))
    metrics = made.metrics
    assert (metrics["train_frames"], metrics["calibration_frames"], metrics["unlabelled_frames"]) == (2, 1, 1)
    assert metrics["train_scenes"] == ["yard.a"]
    sections = {section["name"]: section for section in metrics["evaluation"]["sections"]}
    assert list(sections) == ["occupancy", "calibration", "semantic_occupancy"]
    (iou,) = (figure for figure in sections["occupancy"]["figures"] if figure["name"] == "iou")
    beside = {baseline["label"]: baseline["value"] for baseline in iou["baselines"]}
    # Half of what stands there is road, and a head sees at once how high it lies; an untrained student knows nothing.
    assert iou["value"] > 0.5 > 3 * beside["the student without labels"]
    assert metrics["evaluation"]["num_frames"] == 2
    assert metrics["evaluation"]["scenes"] == ["yard.b"]
    assert metrics["headline"]["semantic_occupancy.miou_17"] > 0.2
    assert [event[1] for event in seen] == sorted(event[1] for event in seen)
    assert seen[-1][1] == 1.0
    assert finetune_head(home, "clip", "segmentation", replace(SMALL, device="cpu")).reused
    kinds = {item.kind for item in home.provenance(made.version).inputs}
    assert {"student_checkpoint", "occupancy_labels", "scene", "input_images"} <= kinds
    assert "scene_truth" not in kinds
    card = (home.open_files(made.version) / "README.md").read_text()
    assert "yard.a" in card
    assert "occupancy.iou" in card

    student, head = open_finetuned(home, "clip", "segmentation")
    labels = head.label(field_of(home, student))
    assert labels.shape == OCC3D_GRID.shape
    road = labels[60:, 40:160] == ROAD
    assert list(np.flatnonzero(road.any(axis=(0, 1)))) == [1]  # the layer under z = 0
    assert np.mean(road[:, :, 1]) > 0.5
    assert head.task == "segmentation"
    assert (head.label(field_of(home, student)) == labels).all()


def test_a_head_learns_from_the_recordings_own_lidar(world, tmp_path):
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)  # it has no labels
    by_lidar = replace(SMALL, labels="lidar", steps=8)
    with pytest.raises(MissingTargetError, match="materialise lidar_occupancy"):
        finetune_head(home, "clip", "occupancy", by_lidar)
    for key in ("yard.a", "yard.b"):
        make_lidar_occupancy(home, SceneKey.parse(key), LidarOccupancyConfig(rules=VoteRules(min_passes=1)))
    made = finetune_head(home, "clip", "occupancy", by_lidar)
    kinds = {item.kind for item in home.provenance(made.version).inputs}
    assert "lidar_occupancy" in kinds
    assert not kinds & {"occupancy_labels", "scene_truth"}
    section = made.metrics["evaluation"]["sections"][0]
    assert section["reference"].startswith("the beams of the recording's own LiDAR")
    iou = next(figure for figure in section["figures"] if figure["name"] == "iou")
    beside = {baseline["label"]: baseline["value"] for baseline in iou["baselines"]}
    assert iou["value"] > beside["the student without labels"]
    card = (home.open_files(made.version) / "README.md").read_text()
    assert "labelled by the beams of the recording's own LiDAR" in card


def test_things_without_a_class_teach_no_classes(world, tmp_path):
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)
    labels = np.full(OCC3D_GRID.shape, OCC3D_FREE, np.uint8)
    labels[..., :2] = OCC3D_UNNAMED
    world.publish_labels(home, everything=labels)
    with pytest.raises(IntegrityError, match="want task occupancy, or labels with classes"):
        finetune_head(home, "clip", "segmentation", SMALL)


def test_a_thing_without_a_class_may_be_of_any_but_is_not_free():
    logits = torch.randn(3, OCC3D_FREE + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, weight = torch.tensor([4, OCC3D_FREE, OCC3D_FREE + 1]), torch.arange(1.0, OCC3D_FREE + 3).double()
    probability = logits.softmax(dim=1)
    chance = torch.stack([probability[0, 4], probability[1, OCC3D_FREE], 1 - probability[2, OCC3D_FREE]])
    share = weight[labels] / weight[labels].sum()
    assert float(label_error(logits, labels, weight)) == pytest.approx(float(-(share * chance.log()).sum()))
    named = label_error(logits[:2], labels[:2], weight)
    assert float(named) == pytest.approx(float(cross_entropy(logits[:2], labels[:2], weight=weight[:-1])))


def test_a_head_starts_from_the_students_own_where_that_is_as_wide():
    def head(labels, width=4):
        config = OccupancyHeadConfig(width=width, column_width=8, num_levels=2)
        return OccupancyHead(config, OCC3D_GRID, feature_width=6, num_labels=labels)

    own = head(1)
    same, classes, wider = head(1), head(18), head(1, width=5)
    last = classes.label.weight.clone()
    assert [start_from(one, own) for one in (same, classes, wider)] == [True, True, False]
    assert not start_from(head(1), None)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in same.state_dict().items())
    assert torch.equal(classes.around.weight, own.around.weight)
    assert torch.equal(classes.label.weight, last)


def test_a_head_of_two_outcomes_names_no_class(home):
    made = finetune_head(home, "clip", "occupancy", replace(SMALL, steps=2))
    names = [section["name"] for section in made.metrics["evaluation"]["sections"]]
    assert names == ["occupancy", "calibration"]
    assert made.version.partition == "clip-occupancy"
    student, head = open_finetuned(home, "clip", "occupancy")
    assert set(np.unique(head.label(field_of(home, student)))) <= {0, OCC3D_FREE}


@pytest.mark.parametrize("part", ["voxels", "from_nothing"])
def test_what_of_the_student_learns_is_kept_with_the_head(home, part):
    made = finetune_head(home, "clip", "occupancy", replace(SMALL, steps=2, student=part))
    folder = home.open_files(made.version)
    own = load_file(home.open_files(home.require("student_checkpoint", "clip")) / "model.safetensors")
    kept = load_file(folder / "model.safetensors")
    changed = {name.split(".")[0] for name, value in kept.items() if not torch.equal(value, own[name])}
    assert "voxel_network" in changed
    assert (changed == {"voxel_network"}) == (part == "voxels")
    student, head = open_finetuned(home, "clip", "occupancy")
    assert torch.equal(student.model.state_dict()["voxel_network.down.weight"].cpu(), kept["voxel_network.down.weight"])
    assert head.checkpoint_digest == home.require("student_checkpoint", "clip").digest


def test_a_field_is_read_where_it_has_cells(home):
    predictor = Predictor.open(home, "clip")
    field = field_of(home, predictor)
    reading = read_grid(field, OCC3D_GRID)
    every = np.arange(int(np.prod(OCC3D_GRID.shape)))
    centres = OCC3D_GRID.centres(np.stack(np.unravel_index(every, OCC3D_GRID.shape), axis=1))
    density = [predictor._density(field, centres + np.array([0.0, 0.0, offset])) for offset in (-0.1, 0.1)]
    held = np.flatnonzero((np.stack(density) > 0).any(axis=0))
    np.testing.assert_array_equal(reading.held.numpy(), held)
    opacity = 1 - np.exp(-np.stack(density, axis=1)[held] * OCC3D_GRID.voxel_size)
    np.testing.assert_allclose(reading.values[:, :2].numpy(), opacity, atol=1e-5)


def test_gradients_reach_the_cells_that_a_head_reads(home):
    predictor = Predictor.open(home, "clip")
    field = field_of(home, predictor)
    logits = field.fine.logits.clone().requires_grad_()
    field = replace(field, fine=field.fine._replace(logits=logits))
    head = OccupancyHead(SMALL.head, OCC3D_GRID, feature_width=field.feature_width, num_labels=1)
    head(read_grid(field, OCC3D_GRID)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_curves_over_few_scenes_are_drawn_beside_what_they_should_beat(home, tmp_path):
    run = FewShot(home=home.root, variant="clip", task="occupancy", shots=(1,), steps=1, output=tmp_path / "out")
    record = run.run()
    assert [(row["start"], row["scenes"], row["frames"]) for row in record["rows"]] == [
        ("frozen", 1, 2),
        ("from_nothing", 1, 2),
    ]
    for row in record["rows"]:
        assert set(row["figures"]) == {"occupancy.iou", "occupancy.iou_above_ground", "calibration.ece"}
        assert set(row["beside"]) == {"the student without labels", "all occupied", "training prior per voxel", "raw"}
    assert json.loads((tmp_path / "out" / "few_shot-occupancy.json").read_text())["rows"] == record["rows"]
    assert "training prior per voxel" in (tmp_path / "out" / "few_shot-occupancy.svg").read_text()


def test_the_command_tells_scores_beside_what_they_should_beat(home, capsys):
    command = ["finetune", "occupancy", "--home", str(home.root), "--variant", "clip", "--steps", "1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "occupancy.iou" in out
    assert "the student without labels" in " ".join(out.split())
    assert "learned from 2 frames of 1 scene, calibrated on 1 others; 1 frames have no labels" in out
    assert home.require("finetuned_head", "clip-occupancy").digest in out
    assert main(["finetune", "occupancy", "--home", str(home.root), "--variant", "dinov2"]) == 1
    assert "student_checkpoint/dinov2" in capsys.readouterr().err


class TestBadInput:
    """Labels and files that cannot be used are named."""

    @pytest.fixture
    def bare(self, world, tmp_path):
        """A copy of the world's home without labels."""
        bare = Home(tmp_path / "bare")
        shutil.copytree(world.home.root, bare.root)
        return bare

    def test_labels_of_one_outcome_teach_nothing(self, world, bare):
        world.publish_labels(bare, everything=OCC3D_FREE)
        with pytest.raises(IntegrityError, match=r"yard\.a: all \d+ labelled voxels are free") as caught:
            finetune_head(bare, "clip", "occupancy", SMALL)
        assert caught.value.kind == ErrorKind.LABELS_INVALID

    def test_too_few_frames(self, world, bare):
        with pytest.raises(MissingTargetError, match="0 labelled frames to learn from and 0 held out"):
            finetune_head(bare, "clip", "occupancy", SMALL)
        world.publish_labels(bare, unlabelled=[("yard.a", 0), ("yard.a", 1)])
        with pytest.raises(MissingTargetError, match="1 labelled frames to learn from"):
            finetune_head(bare, "clip", "occupancy", SMALL)

    def test_labels_of_another_version_of_a_scene(self, world, bare):
        world.publish_labels(bare, scene_digest="0" * 64)
        with pytest.raises(ProvenanceMismatchError, match=r"yard\.a"):
            finetune_head(bare, "clip", "occupancy", SMALL)

    def test_no_student(self, home):
        with pytest.raises(MissingTargetError, match="student_checkpoint/dinov2"):
            finetune_head(home, "dinov2", "occupancy", SMALL)

    def test_damaged_files(self, home, tmp_path):
        made = finetune_head(home, "clip", "occupancy", replace(SMALL, steps=1))
        folder = tmp_path / "head"
        shutil.copytree(home.open_files(made.version), folder)
        record = json.loads((folder / HEAD_CONFIG_FILE).read_text())
        for change, message in (
            ({"task": "colour"}, "task is 'colour'"),
            ({"fit": "high"}, "fit is 'high', want dict"),
            ({"fit": record["fit"] | {"threshold": "high"}}, "fit.threshold.*is 'high'"),
            ({"format": "x"}, "want format"),
            ({"feature_width": 3}, "cannot be read"),
        ):
            (folder / HEAD_CONFIG_FILE).write_text(json.dumps(record | change))
            with pytest.raises(IntegrityError, match=message):
                FinetunedHead.load(folder)
        (folder / HEAD_CONFIG_FILE).write_text(json.dumps(record))
        (folder / HEAD_FILE).write_bytes((folder / HEAD_FILE).read_bytes()[:100])
        with pytest.raises(IntegrityError, match="cannot be read"):
            FinetunedHead.load(folder)
        (folder / HEAD_FILE).unlink()
        with pytest.raises(MissingTargetError, match=HEAD_FILE):
            FinetunedHead.load(folder)

    def test_settings_out_of_range(self):
        for wrong in ({"max_scenes": 0}, {"calibration_share": 1.0}, {"steps": 0}, {"student_rate": 0.0}):
            with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
                FinetuneConfig(**wrong)
        with pytest.raises(ValueError, match="width"):
            OccupancyHeadConfig(width=0)
