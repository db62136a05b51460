"""Which frames are kept as the worst, and in what order."""

import numpy as np
import pytest

from student.evaluation import worst
from student.evaluation.evaluator import ScoredFrame
from student.evaluation.results import FrameRecord
from student.evaluation.worst import ABS_REL, PSNR, WorstFrames, _goodness


def record(**figures: float | None) -> FrameRecord:
    named = {"psnr": PSNR, "abs_rel": ABS_REL}
    return FrameRecord(scene="s", frame=0, camera="c", figures={named[k]: v for k, v in figures.items()})


def test_images_decide_and_without_them_depth_does():
    assert _goodness(record(psnr=20.0, abs_rel=0.9)) < _goodness(record(psnr=25.0, abs_rel=0.1))
    assert _goodness(record(abs_rel=0.3)) < _goodness(record(abs_rel=0.1))
    assert _goodness(record(abs_rel=0.3)) < _goodness(record(abs_rel=None))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ten_worst_of_many_are_kept_worst_first(seed, tmp_path, monkeypatch):
    values = np.random.default_rng(seed).permutation(25).astype(float)
    calls = iter(values.tolist())
    monkeypatch.setattr(worst, "_measured", lambda *_: (record(psnr=next(calls)), lambda: b"picture"))
    kept = WorstFrames(width=8)
    for frame in range(len(values)):
        kept.offer("s", frame, ("c",), object.__new__(ScoredFrame))
    found = kept.write(tmp_path)
    assert [one.figures[PSNR] for one in found] == list(range(10))
    assert [(tmp_path / one.picture).read_bytes() for one in found] == [b"picture"] * 10
