import numpy as np
import pytest

from storage.geometry.voxel_grid import VoxelGrid
from storage.taxonomy import OCC3D_FREE, OCC3D_NAMES
from student.evaluation.baselines import RunningMean, VoxelPrior, ground_plane_depth
from student.evaluation.config import EvaluationConfig
from student.evaluation.occupancy_cuts import FrameCuts
from student.evaluation.sections.all_sections import AllSections
from student.evaluation.sections.depth import DepthReference
from student.evaluation.sections.images import FeatureScores, ImageScores
from student.evaluation.sections.occupancy import OccupancySample, OccupancyScores, occupancy_sections
from student.evaluation.sections.queries import QueryScores
from student.evaluation.sections.semantics import SemanticScores
from student.evaluation.sections.sky import SkyScores
from student.evaluation.sections.voxels import score_classes


def test_image_scores_name_both_protocols_and_tell_them_apart():
    scores = ImageScores(name="reconstruction", title="t", reference="r", note="n", unavailable="u")
    generator = np.random.default_rng(0)
    for frame in range(3):
        reference = generator.random((2, 12, 14, 3))
        # One camera is far off and too bright: pooling and clamping both matter.
        predicted = reference + np.array([0.05, 0.6])[:, None, None, None]
        black = {"black": np.zeros_like(reference)}
        scores.add("s", predicted, reference, baselines=black, is_paper_frame=frame == 1)
    section = scores.section()
    assert section.quality == "image"
    assert section.figure("psnr").count == 3
    assert section.figure("paper_psnr").count == 1
    pooled = -10 * np.log10((0.05**2 + 0.6**2) / 2)
    assert section.figure("paper_psnr").value == pytest.approx(pooled)
    assert section.figure("psnr").value > pooled + 5
    assert section.figure("psnr").beats_baselines
    assert section.figure("psnr").baselines[0].label == "black"


def test_frames_that_leave_a_mean_are_named_in_it():
    scores = ImageScores(name="reconstruction", title="t", reference="r", note="n", unavailable="u")
    reference = np.full((1, 12, 14, 3), 0.5)
    seen, unseen = np.ones((1, 12, 14), bool), np.zeros((1, 12, 14), bool)
    for predicted, is_valid in (
        (reference + 0.1, seen),
        (reference, seen),
        (reference, seen),
        (reference + 0.2, unseen),
    ):
        scores.add("s", predicted, reference, baselines={}, is_paper_frame=True, is_valid=is_valid)
    figure = scores.section().figure("psnr")
    assert (figure.value, figure.count) == (pytest.approx(20.0), 1)
    told = "The mean leaves out 1 without a pixel to score and 2 equal to the reference, of 4 frames."
    assert figure.definition.endswith(told)
    assert "leaves out 1 without a pixel to score, of 4" in scores.section().figure("ssim").definition

    features = FeatureScores()
    features.add("s", "clip", reference, reference, mean_feature=None)
    features.add("s", "clip", reference + 0.1, reference, mean_feature=None)
    assert "leaves out 1 equal" in features.section(unavailable="").figure("psnr_clip").definition


@pytest.mark.parametrize("knows_words", [True, False])
def test_a_missing_section_blames_what_is_missing(knows_words):
    """A drive of one frame has no next one, which says nothing of the student."""
    scores = AllSections(
        EvaluationConfig(),
        class_names=("car",) if knows_words else (),
        occupancy_fit=None,
        voxel_references=(),
        name_references=(),
    )
    nothing = {section.name: section.unavailable for section in scores.sections()}
    assert nothing["next_frame"] == "not available: this variant renders no images"
    image = np.zeros((1, 12, 14, 3), np.float32)
    scores.reconstruction.add("s", image + np.float32(0.1), image, baselines={}, is_paper_frame=False)
    found = {section.name: section.unavailable for section in scores.sections()}
    assert found["reconstruction"] == ""
    assert found["next_frame"] == "not available: no scored frame has a next one"
    assert ("of these scenes" in found["features"]) == knows_words


def test_a_section_nothing_was_fed_to_says_why():
    images = ImageScores(name="x", title="t", reference="r", note="n", unavailable="no truth").section()
    assert (images.unavailable, images.figures) == ("no truth", ())
    depth = DepthReference(name="x", title="t", reference="r", unavailable="no returns").section()
    assert depth.unavailable == "no returns"
    assert SemanticScores().section(unavailable="no words", reference="r").unavailable == "no words"
    assert FeatureScores().section(unavailable="no head").unavailable == "no head"


def test_feature_scores_are_kept_by_source():
    scores = FeatureScores()
    reference = np.full((2, 4, 5, 3), 0.5)
    scores.add("s", "clip", reference + 0.1, reference, mean_feature=np.full(3, 0.8))
    scores.add("s", "dinov2", reference + 0.01, reference, mean_feature=None)
    section = scores.section(unavailable="")
    assert section.figure("psnr_clip").value == pytest.approx(20.0)
    assert section.figure("psnr_clip").baselines[0].value == pytest.approx(-10 * np.log10(0.09))
    assert section.figure("psnr_dinov2").value == pytest.approx(40.0)


def test_depth_scores_count_pixels_and_skip_frames_without_reference():
    scores = DepthReference(name="depth_lidar", title="t", reference="LiDAR", unavailable="u")
    reference = np.full((2, 3, 4), np.nan)
    scores.add("s", np.ones((2, 3, 4)), reference, baselines={"far": np.full((2, 3, 4), 80.0)}, is_paper_frame=True)
    assert scores.section().unavailable == "u"
    reference[:, 1] = 20.0
    for frame in range(2):
        predicted = np.full((2, 3, 4), 22.0)
        scores.add("s", predicted, reference, baselines={"far": np.full((2, 3, 4), 80.0)}, is_paper_frame=frame == 0)
    section = scores.section()
    assert section.figure("abs_rel").value == pytest.approx(0.1)
    assert section.figure("abs_rel").count == 16
    assert section.figure("paper_abs_rel").count == 8
    assert section.figure("abs_rel").baselines[0].value == pytest.approx(3.0)
    assert section.figure("coverage").value == 1.0
    curve = scores.curve()
    assert sum(curve["count"]) == 16
    assert np.nanmax(curve["series"]["student"]) == pytest.approx(0.1)


def test_images_are_scored_where_the_world_is_shown():
    scores = ImageScores(name="x", title="t", reference="r", note="n", unavailable="u")
    reference = np.full((2, 16, 20, 3), 0.5)
    predicted, is_valid = reference + 0.1, np.ones((2, 16, 20), bool)
    is_valid[0, :, 12:] = is_valid[1] = False  # one view shows nothing but the vehicle
    predicted = np.where(is_valid[..., None], predicted, 0.0)
    baselines = {"still": np.where(is_valid[..., None], reference + 0.01, 1.0)}
    scores.add("s", predicted, reference, baselines=baselines, is_paper_frame=True, is_valid=is_valid)
    for name in ("psnr", "paper_psnr"):
        figure = scores.section().figure(name)
        assert figure.value == pytest.approx(20.0)
        assert figure.baselines[0].value == pytest.approx(40.0)


def test_what_is_far_is_scored_by_itself():
    scores = DepthReference(name="depth_lidar", title="t", reference="LiDAR", unavailable="u")
    reference, predicted = np.full((1, 2, 4), 20.0), np.full((1, 2, 4), 20.0)
    scores.add("s", predicted, reference, baselines={}, is_paper_frame=False)
    with pytest.raises(KeyError):
        scores.section().figure("far_abs_rel")
    reference[0, 1], predicted[0, 1] = 60.0, 45.0
    scores.add("s", predicted, reference, baselines={"cap": np.full((1, 2, 4), 60.0)}, is_paper_frame=False)
    far = scores.section().figure("far_abs_rel")
    assert far.value == pytest.approx(0.25)
    assert far.count == 4
    assert far.baselines[0].value == 0.0


def test_sky_is_scored_where_a_camera_sees_anything():
    is_sky, is_seen = np.zeros((1, 2, 4), bool), np.ones((1, 2, 4), bool)
    is_sky[0, 0], is_seen[0, 1, 2:] = True, False
    called_sky = np.where(is_sky | ~is_seen, 1.0, 0.0)  # outside a fisheye's circle nothing is rendered: opacity 0
    for seen, expected in ((is_seen, 1.0), (None, 4 / 6)):
        scores = SkyScores(reference="r")
        scores.add("s", called_sky, is_sky, is_seen=seen, rivals={})
        assert scores.section().figure("iou").value == pytest.approx(expected)


def test_a_partial_rival_is_scored_where_it_is_defined():
    scores = DepthReference(name="depth_lidar", title="t", reference="LiDAR", unavailable="u")
    reference, teacher = np.full((1, 2, 4), 20.0), np.full((1, 2, 4), 22.0)
    teacher[0, 1] = np.nan
    nowhere = {"nobody": np.full((1, 2, 4), np.nan)}
    student = np.full((1, 2, 4), 30.0)
    scores.add("s", student, reference, baselines={}, partial={"teacher": teacher} | nowhere, is_paper_frame=False)
    (rival,) = scores.section().figure("abs_rel").baselines
    assert rival.label == "teacher, where it is defined"
    assert rival.value == pytest.approx(0.1)
    assert np.nanmax(scores.curve()["series"][rival.label]) == pytest.approx(0.1)


def test_ground_plane_depth_is_where_the_ray_meets_the_ground():
    directions = np.array([[0.6, 0.0, -0.8], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [1.0, 0.0, -0.001]])
    origins = np.tile([0.0, 0.0, 1.6], (4, 1))
    np.testing.assert_allclose(ground_plane_depth(origins, directions, elsewhere=30.0), [2.0, 30.0, 30.0, 30.0])


def test_a_running_mean_is_the_mean_and_has_no_value_before_the_first():
    mean = RunningMean()
    assert mean.value is None
    for value in (1.0, 2.0, 6.0):
        mean.add(np.full((2, 2), value))
    np.testing.assert_allclose(mean.value, 3.0)
    with pytest.raises(ValueError, match="differs"):
        mean.add(np.zeros(3))


def test_the_voxel_prior_is_the_majority_of_what_was_seen():
    prior = VoxelPrior(grid=VoxelGrid(minimum=(0.0, 0.0, 0.0), voxel_size=0.4, shape=(2, 2, 1)))
    for labels in ([4, 17], [4, 17], [11, 16]):
        prior.add(np.array([0, 1]), np.array(labels, dtype=np.uint8))
    index = np.array([0, 1, 3])
    assert prior.label(index).tolist() == [4, 17, 17]
    assert prior.name(index).tolist() == [4, 16, 17], "free most of the time, but a class when it was not"
    np.testing.assert_allclose(prior.occupied_share(index), [1.0, 1 / 3, 0.0])


def test_occupancy_threshold_and_calibration_come_from_training_voxels():
    generator = np.random.default_rng(0)

    def voxels(size):
        is_occupied = generator.random(size) < 0.3
        return np.clip(generator.normal(0.2 + 0.4 * is_occupied, 0.1), 0, 1), is_occupied

    training = OccupancySample(max_per_frame=4000, seed=0)
    training.add(*voxels(20_000), np.ones(20_000, dtype=bool))
    assert len(training.probability) == 4000
    fit = training.fit("isotonic")
    assert 0.3 < fit.threshold < 0.5

    scores = OccupancyScores(fit=fit, sample=OccupancySample(max_per_frame=4000, seed=1))
    for _ in range(6):
        probability, is_occupied = voxels(5000)
        everywhere = np.ones(5000, dtype=bool)
        scores.add(
            "s",
            probability,
            is_occupied,
            is_above_ground=everywhere,
            horizontal_range=np.linspace(0.0, 50.0, 5000),
            baselines={"all occupied": everywhere},
        )
    section, calibration = occupancy_sections(scores, reference="r")
    assert section.figure("iou").value == pytest.approx(fit.training_iou, abs=0.03)
    assert section.figure("iou").baselines[0].value == pytest.approx(0.3, abs=0.02)
    assert section.figure("iou").low <= section.figure("iou").value <= section.figure("iou").high
    assert section.figure("iou").count == 30_000
    assert [section.figure(f"iou_{band}_m").count for band in ("0_10", "10_20", "20_40")] == [6000, 6000, 12_000]
    assert calibration.figure("ece").value < 0.02
    assert calibration.figure("ece").value < calibration.figure("ece").baselines[0].value
    assert calibration.figure("ece").beats_baselines is None, "uncalibrated, it is the student itself"
    assert calibration.figure("brier").beats_baselines
    assert sum(scores.calibration_curve()["raw"]["count"]) == 24_000


def test_voxels_above_the_ground_are_scored_on_their_own_too():
    training = OccupancySample(max_per_frame=10, seed=0)
    # What stands above the ground is less certain, and gets a threshold of its own.
    raw = np.array([0.1, 0.9, 0.5, 0.5, 0.5, 0.2, 0.3])
    training.add(raw, np.isin(raw, [0.9, 0.3]), np.arange(7) > 4)
    scores = OccupancyScores(fit=training.fit("isotonic"), sample=training)
    assert scores.fit.threshold_above_ground == pytest.approx(0.3)
    assert scores.fit.threshold == pytest.approx(0.9)
    probability = np.array([0.95, 0.95, 0.95, 0.95, 0.0, 0.4])  # four voxels of ground and two of a post; one is missed
    truth, is_post = np.ones(6, dtype=bool), np.arange(6) > 3
    scores.add(
        "s",
        probability,
        truth,
        is_above_ground=is_post,
        horizontal_range=np.full(6, 5.0),
        baselines={"ground alone": ~is_post},
    )
    section, _ = occupancy_sections(scores, reference="r")
    assert section.figure("iou").value == pytest.approx(4 / 6)  # the post's 0.4 is no ground
    assert section.figure("iou_above_ground").value == pytest.approx(0.5)
    assert section.figure("iou_above_ground").count == 2
    assert section.figure("iou_above_ground").baselines[0].value == 0.0


def test_a_frame_may_be_cut_elsewhere():
    training = OccupancySample(max_per_frame=10, seed=0)
    training.add(np.array([0.1, 0.9]), np.array([False, True]), np.ones(2, bool))
    scores = OccupancyScores(fit=training.fit("isotonic"), sample=training)
    probability, truth = np.array([0.5, 0.7, 0.3, 0.3, 0.2]), np.array([True, True, True, False, False])
    is_above = np.arange(5) > 1
    near = {"is_above_ground": is_above, "horizontal_range": np.full(5, 5.0), "baselines": {}}
    scores.add("s", probability, truth, cuts=FrameCuts(everywhere=0.6, above_ground=0.25), **near)
    hidden = {"baselines": {}, "cuts": FrameCuts(everywhere=0.4, above_ground=0.0)}
    scores.add_hidden(np.array([0.5, 0.3]), np.array([True, False]), **hidden)
    section, _ = occupancy_sections(scores, reference="r")
    assert section.figure("iou").value == pytest.approx(1 / 3)
    assert section.figure("iou_above_ground").value == pytest.approx(1 / 2)
    assert section.figure("iou_decided").value == pytest.approx(2 / 4)
    assert section.figure("iou_hidden").value == 1.0


def test_what_is_exported_as_unknown_is_not_found():
    training = OccupancySample(max_per_frame=10, seed=0)
    training.add(np.array([0.1, 0.9]), np.array([False, True]), np.ones(2, bool))
    scores = OccupancyScores(fit=training.fit("isotonic"), sample=training)
    near = {"is_above_ground": np.zeros(4, bool), "horizontal_range": np.full(4, 5.0), "baselines": {}}
    truth, is_observed = np.array([True, True, True, False]), np.array([True, False, True, False])
    scores.add("s", np.full(4, 0.95), truth, is_observed=is_observed, **near)
    section, _ = occupancy_sections(scores, reference="r")
    assert section.figure("iou").value == pytest.approx(3 / 4)
    assert section.figure("iou_decided").value == pytest.approx(2 / 3)


def test_falsely_free_and_hidden_voxels_are_counted_on_their_own():
    training = OccupancySample(max_per_frame=10, seed=0)
    training.add(np.array([0.1, 0.9]), np.array([False, True]), np.ones(2, bool))
    scores = OccupancyScores(fit=training.fit("isotonic"), sample=training)
    near = {"is_above_ground": np.ones(4, bool), "horizontal_range": np.full(4, 5.0), "baselines": {}}
    truth = np.array([True, True, False, False])
    scores.add("s", np.array([0.95, 0.0, 0.0, 0.0]), truth, **near)
    section, _ = occupancy_sections(scores, reference="r")
    assert section.figure("false_free").value == pytest.approx(1 / 3)
    assert section.figure("false_free").better == "lower"
    assert "iou_hidden" not in [figure.name for figure in section.figures]
    scores.add("s", np.array([0.95, 0.95, 0.0, 0.0]), truth, **near)
    scores.add_hidden(np.array([0.95, 0.95, 0.0]), np.array([True, False, True]), baselines={"all": np.ones(3, bool)})
    section, _ = occupancy_sections(scores, reference="r")
    assert section.figure("iou_hidden").value == pytest.approx(1 / 3)
    assert section.figure("iou_hidden").baselines[0].value == pytest.approx(2 / 3)
    assert section.figure("iou").value == pytest.approx(3 / 4)


def test_a_world_without_both_outcomes_gives_no_threshold():
    sample = OccupancySample(max_per_frame=10, seed=0)
    assert sample.fit("isotonic") is None
    assert [s.unavailable for s in occupancy_sections(None, reference="r")] == ["not available: no ground truth"] * 2
    sample.add(np.array([0.5, 0.6]), np.array([False, False]), np.array([False, True]))
    assert sample.fit("isotonic") is None


def test_semantics_and_geometry_are_scored_apart():
    scores = SemanticScores()
    truth = np.array([4, 4, 4, 11, 11, 17, 17, 17], dtype=np.uint8)
    words = np.array([4, 4, 4, 11, 4, 4, 11, 4], dtype=np.uint8)
    nothing = np.full(8, OCC3D_FREE, dtype=np.uint8)
    for _ in range(5):
        others = {"training majority": np.full(8, 4, dtype=np.uint8)}
        scores.add("s", nothing, words, truth, baselines=others, baseline_words=others)
    section = scores.section(unavailable="", reference="r")
    # Blind geometry: nothing is called occupied, yet the words are right for four voxels of five.
    assert section.figure("miou_17").value == 0.0
    assert section.figure("accuracy_where_occupied").value == pytest.approx(0.8)
    assert section.figure("accuracy_where_occupied").baselines[0].value == pytest.approx(0.6)
    assert section.figure("miou_17").count == 2
    assert section.figure("iou.bus").value is None
    assert section.figure("iou.car").count == 15
    true = section.figure("miou_true_classes")
    assert true.count == 2
    assert true.baselines[0].value == pytest.approx(0.375 / 2), "the missing barrier counts for it too"
    assert len([f for f in section.figures if f.group]) == len(OCC3D_NAMES)


def test_queries_are_scored_per_class_and_unknown_pixels_are_left_out():
    scores = QueryScores(names=("car", "tree", "sky"), max_pixels_per_frame=100, reference="r")
    truth = np.array([0, 0, 1, 1, 255], dtype=np.uint8)
    good = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.9, 0], [0.6, 0.4, 0], [0, 0, 1.0]])
    teacher = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.9, 0], [0.1, 0.9, 0], [np.nan] * 3])
    scores.add(good, truth, teacher=teacher)
    section = scores.section(unavailable="")
    assert section.figure("ap.car").value == pytest.approx(1.0)
    assert section.figure("ap.car").baselines[0].value == pytest.approx(0.5)
    assert section.figure("iou.tree").value == pytest.approx(0.5)
    assert section.figure("iou.tree").baselines[0].value == pytest.approx(1.0)
    assert section.figure("ap.sky").value is None
    assert section.figure("mean_average_precision").count == 2
    nobody = QueryScores(names=("car",), max_pixels_per_frame=1, reference="r")
    assert nobody.section(unavailable="no clip").unavailable == "no clip"


def test_a_teacher_that_is_missing_somewhere_has_no_figure() -> None:
    truth, seen = np.array([0, 1, 0, 1], np.uint8), np.eye(2)[[0, 1, 0, 1]]
    for missing in (False, True):
        scores = QueryScores(names=("car", "tree"), max_pixels_per_frame=100, reference="r")
        scores.add(seen, truth, teacher=seen)
        scores.add(seen, truth, teacher=np.full_like(seen, np.nan) if missing else seen)
        section = scores.section(unavailable="")
        found = {b.value for figure in section.figures for b in figure.baselines if b.label == "teacher's own features"}
        assert found == ({None} if missing else {1.0})


def test_words_at_points_are_scored_apart_by_whether_a_camera_sees_them():
    scores = QueryScores(names=("car", "tree"), max_pixels_per_frame=100, reference="r")
    pixels = np.array([[0.9, 0.1], [0.1, 0.9]])
    scores.add(pixels, np.array([0, 1], np.uint8), teacher=np.full((2, 2), np.nan))
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [np.nan, np.nan], [0.7, 0.3]])
    truth = np.array([0, 254, 0, 254], np.uint8)  # 254: some class that nobody asked for, so no car and no tree
    scores.add_points(probability, truth, is_seen=np.array([True, True, False, False]))
    section = scores.section(unavailable="")
    assert section.figure("ap_points_seen.car").value == pytest.approx(1.0)
    assert section.figure("ap_points_hidden.car").value == pytest.approx(0.5)  # empty space ranks last
    assert section.figure("ap_points_hidden.tree").value is None
    assert section.figure("mean_ap_points_hidden").count == 1
    assert section.figure("ap_points_seen.car").baselines[0].value == pytest.approx(0.5)


def test_lidar_returns_are_no_sky():
    scores = SkyScores(reference="r")
    is_return = np.array([[[True, True, True, False]]])
    called = np.array([[[0.9, 0.1, 0.2, 0.9]]])
    scores.add_returns("s", called, is_return, rivals={"all": np.ones_like(is_return)})
    section = scores.section()
    assert "no sky" in section.reference
    assert section.figure("returns_called_sky").value == pytest.approx(1 / 3)
    assert section.figure("returns_called_sky").baselines[0].value == 1.0
    assert [figure.name for figure in section.figures] == ["returns_called_sky"]
    scores.add_returns("s", called, np.zeros_like(is_return), rivals={})
    assert scores.section().figure("returns_called_sky").count == 3


def test_things_of_another_class_count_against_the_words_for_them():
    scores = SemanticScores()
    truth = np.array([4, 4, 254, 254, 17], dtype=np.uint8)
    words = np.array([4, 4, 4, 11, 17], dtype=np.uint8)
    for _ in range(2):
        scores.add("s", words, words, truth, baselines={}, baseline_words={})
    section = scores.section(unavailable="", reference="r")
    assert section.figure("iou.car").value == pytest.approx(2 / 3)
    assert section.figure("miou_17").count == 1
    assert section.figure("accuracy_where_occupied").count == 4  # only where the class is known


@pytest.mark.parametrize("names_from_boxes", [True, False])
def test_where_nothing_is_named_no_mean_is_zero(names_from_boxes):
    """A drive without boxes or labelled points knows what is free: every name there would count as wrong."""
    scores = SemanticScores()
    truth, words = np.array([254, 17, 17], np.uint8), np.array([4, 4, 3], np.uint8)
    score_classes(
        scores,
        "s",
        truth,
        words,
        is_occupied=np.ones(3, bool),
        has_all_names=names_from_boxes,
        others={},
        words_of_others={},
    )
    section = scores.section(unavailable="", reference="r")
    assert section.figures == ()
    assert "named" in section.unavailable


def test_words_of_a_rival_are_judged_where_it_would_say_free() -> None:
    """Where words alone are asked for, a prior that says free most of the time still has a word."""
    scores = SemanticScores()
    truth = np.array([4, 4, 17], np.uint8)
    free, cars = np.full(3, OCC3D_FREE, np.uint8), np.full(3, 4, np.uint8)
    for _ in range(5):
        scores.add("s", cars, cars, truth, baselines={"prior": free}, baseline_words={"prior": cars})
    section = scores.section(unavailable="", reference="r")
    assert section.figure("accuracy_where_occupied").baselines[0].value == 1.0
    assert section.figure("iou.car").baselines[0].value == 0.0


@pytest.mark.parametrize("names_from_boxes", [True, False])
def test_a_class_that_boxes_cannot_name_has_no_iou_by_them(names_from_boxes):
    scores = SemanticScores()
    truth = np.array([4, 4, 254, 17, 17, 17], dtype=np.uint8)
    words = np.array([4, 15, 15, 15, 15, 3], dtype=np.uint8)  # a car, walls where nothing stands, and a bus there
    others = {"prior": np.full(6, 4, np.uint8)}
    everywhere = np.ones(6, bool)
    score_classes(
        scores,
        "s",
        truth,
        words,
        is_occupied=everywhere,
        has_all_names=names_from_boxes,
        others=others,
        words_of_others=others,
    )
    section = scores.section(unavailable="", reference="r")
    assert section.figure("iou.car").value == pytest.approx(0.5), "a car that is called a wall is lost"
    assert section.figure("iou.bus").value == 0.0, "boxes would name it"
    assert section.figure("iou.manmade").value == (None if names_from_boxes else 0.0)
    assert section.figure("miou_17").value == pytest.approx(0.5 / (2 if names_from_boxes else 3))
    # Unnamed by boxes, it is no car; unnamed otherwise, nobody knows.
    assert section.figure("iou.car").baselines[0].value == pytest.approx(2 / (6 if names_from_boxes else 5))
