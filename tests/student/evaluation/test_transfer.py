"""A student on scenes outside its training set: from this home, from another one, and packed."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from storage.errors import IntegrityError, MissingTargetError, ProvenanceMismatchError
from storage.stores.arrays import write_target
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, materialize_arrays
from student.config import SHIPPED
from student.evaluation.config import EvaluationConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.evaluation.evidence import EVIDENCE_FILE, StudentEvidence
from student.evaluation.frames import whole_scene
from student.evaluation.operating_point import operating_point_of
from student.evaluation.results import EvaluationResult
from student.evaluation.subject import Subject, open_subject
from student.evaluation.transfer import check_depth_model, check_unseen, evaluate_elsewhere, unseen_scenes
from student.inference.open_vocabulary import StoredFeatureBasis
from student.inference.rigs import rig_change
from student.training.initial import initial_folder
from teachers.image.weights import clip_folder

SMALL_EVALUATION = EvaluationConfig(max_lateral_frames=0, num_training_frames=1, panel_frames=0, max_frames_per_scene=1)


@pytest.fixture(scope="module")
def home(world, tmp_path_factory):
    """The world's home with a student that brings its bases, evaluated on its own split."""
    home = Home(tmp_path_factory.mktemp("transfer") / "home")
    shutil.copytree(world.home.root, home.root)
    evaluate_checkpoint(home, "clip", SMALL_EVALUATION)
    return home


@pytest.fixture(scope="module")
def subject(home):
    own = Subject.of_home(home, home.require("student_checkpoint", "clip"))
    basis = StoredFeatureBasis.read(home.open_arrays(home.require("feature_basis", "clip")))
    return replace(own, bases={"clip": basis})


def result_of(made):
    return EvaluationResult.from_json(made.metrics)


def test_a_student_is_scored_on_a_whole_scene_by_what_its_own_training_chose(home, subject):
    made = evaluate_elsewhere(home, subject, ["yard.b"], SMALL_EVALUATION)
    result = result_of(made)
    own = result_of(evaluate_checkpoint(home, "clip", SMALL_EVALUATION))
    assert result.num_frames == own.num_frames
    assert result.settings == own.settings
    for name in ("reconstruction.psnr", "depth_truth.abs_rel", "occupancy.iou", "semantic_occupancy.miou_17"):
        section, figure = name.split(".")
        here, there = (of.section(section).figure(figure) for of in (result, own))
        assert here.value == there.value
        assert [b.label for b in here.baselines] == [b.label for b in there.baselines]
        for one, other in zip(here.baselines, there.baselines, strict=True):
            assert one.value == pytest.approx(other.value, rel=1e-3)  # images of the evidence are rounded
    assert "outside the student's training set (yard.b)" in result.scored_on
    assert "nothing was fitted" in result.notes[0]
    assert not any("rig" in note.split() or "basis" in note for note in result.notes)  # both are the student's own
    assert any("never exceeds 0." in note for note in result.notes)  # it was never trained


def test_a_student_that_brings_its_calibration_alone_is_scored_without_statistics(home, subject):
    """As the shipped one, whose drives nobody keeps: its own figures are the same, and no prior is invented."""
    point = operating_point_of(home, home.require("student_checkpoint", "clip"), clip_temperature=0.07)
    alone = replace(subject, evidence=StudentEvidence.of_operating_point(point), evidence_digest="c" * 64)
    config = replace(SMALL_EVALUATION, seed=4)
    result, whole = (result_of(evaluate_elsewhere(home, of, ["yard.b"], config)) for of in (alone, subject))
    assert "no statistics of its training frames" in result.notes[0]
    for name in ("reconstruction.psnr", "depth_truth.abs_rel", "occupancy.iou", "calibration.ece"):
        section, figure = name.split(".")
        assert result.section(section).figure(figure).value == whole.section(section).figure(figure).value

    def beside(of: EvaluationResult) -> set[str]:
        return {b.label for section in of.sections for figure in section.figures for b in figure.baselines}

    drawn_from_frames = {"training prior per voxel", "mean training image", "median training return"}
    assert drawn_from_frames <= beside(whole)
    assert not drawn_from_frames & beside(result)
    assert "all occupied" in beside(result)


def test_the_shipped_student_is_one_to_be_judged(tmp_path):
    found = open_subject(Home(tmp_path), str(initial_folder(SHIPPED)), "clip", encoder_folder=clip_folder)
    assert found.evidence.occupancy is not None
    assert found.evidence.prior.is_empty
    assert len(found.learned_from) > 50
    assert found.space is not None


def test_the_artefact_names_the_student_and_every_scene(home, subject):
    made = evaluate_elsewhere(home, subject, ["yard.b"], SMALL_EVALUATION)
    provenance = home.provenance(made.version)
    named = {(item.kind, item.partition) for item in provenance.inputs}
    assert subject.checkpoint in provenance.inputs
    assert {("scene", "yard.b"), ("input_images", "yard.b"), ("scene_truth", "yard.b")} <= named
    assert provenance.weights_digests["student"] == subject.weights_digest
    assert evaluate_elsewhere(home, subject, ["yard.b"], SMALL_EVALUATION).reused


def test_a_scene_that_was_learned_from_is_refused(home, subject):
    with pytest.raises(MissingTargetError, match=r"learned from yard\.a"):
        evaluate_elsewhere(home, subject, ["yard.b", "yard.a"], SMALL_EVALUATION)
    assert unseen_scenes(home, subject) == ("yard.b",)
    scene = whole_scene(home, "yard.a", ["input_images"])
    other_files = {"yard.a": replace(subject.learned_from["yard.a"], raw_files=frozenset({"e" * 64}))}
    check_unseen(home, replace(subject, learned_from=other_files), scene)  # only the name is the same
    renamed = {"another.name": subject.learned_from["yard.a"]}
    with pytest.raises(MissingTargetError, match="1 raw files are the same"):
        check_unseen(home, replace(subject, learned_from=renamed), scene)
    unknown = {"yard.a": replace(subject.learned_from["yard.a"], raw_files=None)}
    with pytest.raises(MissingTargetError, match="the names are the same"):
        check_unseen(home, replace(subject, learned_from=unknown), scene)


def test_scenes_are_named_once(home, subject):
    for wrong in ([], ["yard.b", "yard.b"]):
        with pytest.raises(ValueError, match="want at least one, each once"):
            evaluate_elsewhere(home, subject, wrong, SMALL_EVALUATION)


def test_another_rig_is_named(home, subject):
    low = tuple(replace(c, height_m=c.height_m - 1.0) for c in subject.rigs[0])
    result = result_of(
        evaluate_elsewhere(home, replace(subject, rigs=(low[:1],)), ["yard.b"], replace(SMALL_EVALUATION, seed=2))
    )
    changed = "Another rig than the student learned from: 2 cameras of 112 x 64 pixels, seeing 86 degrees, 1.5 m"
    assert any(note.startswith(changed) and "It learned from 1 camera" in note for note in result.notes)
    assert rig_change((low, subject.rigs[0]), subject.rigs[0]) == ""
    assert rig_change((low,), subject.rigs[0]) != ""
    small = tuple(replace(c, image_size=(c.image_size[0] // 2, c.image_size[1] // 2)) for c in subject.rigs[0])
    assert rig_change((small,), subject.rigs[0]) == "", "a student reads images at its own size"
    tall = tuple(replace(c, image_size=(2 * c.image_size[0], c.image_size[1])) for c in subject.rigs[0])
    assert "from 1 other rig" in rig_change((low, tall), subject.rigs[0])


def test_features_of_another_basis_are_no_reference(home, subject):
    basis = subject.bases["clip"]
    turned = replace(subject, bases={"clip": replace(basis, minimum=basis.minimum + np.float32(0.1))})
    result = result_of(evaluate_elsewhere(home, turned, ["yard.b"], replace(SMALL_EVALUATION, seed=1)))
    assert result.section("features").unavailable
    assert any("another basis than the student's" in note for note in result.notes)
    other = replace(SMALL_EVALUATION, seed=3)
    without = result_of(evaluate_elsewhere(home, replace(subject, bases={}), ["yard.b"], other))
    assert without.section("features").unavailable
    assert any("brings no basis" in note for note in without.notes)


def test_depth_features_of_another_model_are_refused(home, subject):
    made_with = {"depth_anything/model.safetensors": "a" * 64}
    provenance = Provenance(kind="depth_anything_features", partition="yard.b", weights_digests=made_with)
    features = np.zeros((3, 2, 4, 7, 5), np.float16)
    materialize_arrays(
        home, provenance, lambda group: write_target(group, "depth_anything_features", "features", features) or {}
    )
    scene = whole_scene(home, "yard.b", ["input_images", "depth_anything_features"])
    check_depth_model(home, replace(subject, depth_weights=made_with), scene)
    learned_with = {"depth_anything/model.safetensors": "b" * 64}
    with pytest.raises(ProvenanceMismatchError, match=r"made with depth_anything/model.safetensors aaaaaaaaaaaa, the"):
        check_depth_model(home, replace(subject, depth_weights=learned_with), scene)
    with pytest.raises(MissingTargetError, match=r"depth_anything_features/yard\.a"):
        whole_scene(home, "yard.a", ["input_images", "depth_anything_features"])


def test_the_evidence_is_read_back_as_it_was(home, tmp_path):
    folder = home.open_files(home.require("student_evaluation", "clip"))
    evidence = StudentEvidence.load(folder)
    assert dict(evidence.frames) == {"yard.a": (0,)}  # no frame that is held out
    evidence.save(tmp_path)
    again = StudentEvidence.load(tmp_path)
    assert (again.occupancy, again.temperature, again.median_return) == (
        evidence.occupancy,
        evidence.temperature,
        evidence.median_return,
    )
    everywhere = np.arange(200 * 200 * 16)
    assert np.array_equal(again.prior.label(everywhere), evidence.prior.label(everywhere))
    assert np.array_equal(again.prior.occupied_share(everywhere), evidence.prior.occupied_share(everywhere))
    assert len(again.mean_images) == len(evidence.mean_images) == 1
    assert (tmp_path / EVIDENCE_FILE).stat().st_size < 4e6
    (tmp_path / EVIDENCE_FILE).write_bytes(b"x")
    with pytest.raises(IntegrityError, match="cannot be read"):
        StudentEvidence.load(tmp_path)


def test_a_student_without_evidence_says_what_to_do(world):
    with pytest.raises(MissingTargetError, match="no evaluation on its own split"):
        Subject.of_home(world.home, world.home.require("student_checkpoint", "never_evaluated"))


def test_a_folder_in_another_home_is_a_student_and_any_other_folder_is_none(home, tmp_path):
    other = Home(tmp_path / "other")
    version = home.require("student_checkpoint", "clip")
    found = open_subject(other, home.url(version), "clip", encoder_folder=lambda *_: tmp_path)
    assert found.checkpoint == InputVersion("student_checkpoint", "clip", version.digest)
    assert found.learned_from["yard.a"].digest == home.require("scene", "yard.a").digest
    with pytest.raises(MissingTargetError, match="neither a packed student"):
        open_subject(other, str(tmp_path), "clip", encoder_folder=lambda *_: tmp_path)
    with pytest.raises(MissingTargetError, match="student_checkpoint/clip"):
        open_subject(other, "", "clip", encoder_folder=lambda *_: tmp_path)
