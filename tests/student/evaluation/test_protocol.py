"""The published protocol, and the perceptual distance beside PSNR and SSIM."""

from dataclasses import replace

import numpy as np
import pytest

from storage.errors import MissingTargetError
from student.evaluation.config import EvaluationConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.evaluation.operating_point import evaluation_of
from student.evaluation.protocol import PAPER_NOTES, of_the_paper, perceptual_of, resized_as_published
from student.evaluation.results import EvaluationResult, Figure, Section
from student.evaluation.sections.images import ImageScores

SMALL = EvaluationConfig(max_lateral_frames=0, num_training_frames=1, panel_frames=0, max_frames_per_scene=3)


def test_the_published_resize_reads_four_pixels_and_no_more():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    found = resized_as_published(image, 6, 8).astype(np.float64)
    rows, columns = (np.arange(6) + 0.5) * 4 - 0.5, (np.arange(8) + 0.5) * 5 - 0.5
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[:, None, None], (columns - left)[None, :, None]
    at = lambda y, x: image[y[:, None], x[None]].astype(np.float64)  # noqa: E731
    wanted = (1 - down) * ((1 - right) * at(top, left) + right * at(top, left + 1)) + down * (
        (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    )
    assert np.abs(found - wanted).max() <= 0.5 + 1e-6
    stripes = np.zeros((24, 40, 3), np.uint8)
    stripes[:, ::5] = 255  # no new centre lies beside a stripe: what lies between is not seen
    assert resized_as_published(stripes, 6, 8).max() == 0


def test_only_what_the_paper_defines_is_left():
    def figure(name, protocol):
        return Figure(name=name, label=name, value=1.0, definition="d", better="higher", protocol=protocol)

    both = Section(
        name="a", title="a", quality="image", reference="r", figures=(figure("x", "full"), figure("y", "paper"))
    )
    assert [f.name for f in of_the_paper(both).figures] == ["y"]
    none = Section(name="b", title="b", quality="image", reference="r", figures=(figure("x", "full"),))
    assert "defines no such figure" in of_the_paper(none).unavailable
    absent = Section(name="c", title="c", quality="image", reference="r", unavailable="not available: no LiDAR")
    assert of_the_paper(absent) == absent


def test_the_substitute_for_lpips_is_named_and_leaves_out_what_is_not_shown(tmp_path):
    scores = ImageScores(name="x", title="t", reference="r", note="n", unavailable="u", perceptual=perceptual_of(""))
    generator = np.random.default_rng(1)
    reference, is_valid = generator.random((1, 32, 40, 3)), np.ones((1, 32, 40), bool)
    is_valid[:, :, 30:] = False
    predicted = np.where(is_valid[..., None], reference, 1.0 - reference)
    scores.add("s", predicted, reference, baselines={"noise": generator.random((1, 32, 40, 3))},
               is_paper_frame=False, is_valid=is_valid)  # fmt: skip
    figure = scores.section().figure("dissimilarity")
    assert figure.value == pytest.approx(0.0, abs=1e-6)
    assert figure.baselines[0].value > 0.3
    assert figure.better == "lower"
    assert "no LPIPS" in figure.definition
    with pytest.raises(MissingTargetError, match="no LPIPS weights"):
        perceptual_of(str(tmp_path / "none.safetensors"))


def test_the_papers_protocol_scores_one_frame_and_labels_every_figure(world):
    full = evaluate_checkpoint(world.home, "depth", SMALL)
    made = evaluate_checkpoint(world.home, "depth", replace(SMALL, protocol="paper"))
    result, whole = (EvaluationResult.from_json(one.metrics) for one in (made, full))
    assert (result.num_frames, whole.num_frames) == (1, 3)
    assert {f.protocol for section in result.sections for f in section.figures} == {"paper"}
    assert {f.protocol for section in whole.sections for f in section.figures} == {"full", "paper"}
    for section in whole.sections:
        for figure in section.figures:
            assert (figure.protocol == "paper") == figure.name.startswith("paper_")
    assert "defines no such figure" in result.section("occupancy").unavailable
    assert set(PAPER_NOTES) <= set(result.notes)
    assert not set(PAPER_NOTES) & set(whole.notes)
    # The images are others: neither the reference nor what the student read was averaged.
    mine, theirs = (of.section("reconstruction").figure("paper_psnr").value for of in (result, whole))
    assert mine != theirs
    found = evaluation_of(world.home, world.home.require("student_checkpoint", "depth"))
    assert found is not None  # other tests evaluate this student too, but none by the paper's protocol
    assert found != made.version
