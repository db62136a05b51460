import random

import pytest

from storage.errors import SourceDataError
from storage.ingest.waymo.notr import DIVERSE, notr_config, notr_indices, notr_segments


def test_the_splits_are_120_segments_that_do_not_overlap():
    sizes = {split: len(notr_indices(split)) for split in ("static", "dynamic", "diverse")}
    assert sizes == {"static": 32, "dynamic": 32, "diverse": 56}
    every = [number for split in sizes for number in notr_indices(split)]
    assert len(set(every)) == len(every) == 120
    assert {len(numbers) for numbers in DIVERSE.values()} == {8}
    assert min(every) >= 0
    assert max(every) < 798


def test_numbers_count_in_alphabetical_order():
    names = [f"{number:05d}_segment" for number in range(798)]
    random.Random(0).shuffle(names)
    assert notr_segments("static", names)[:3] == ("00003_segment", "00019_segment", "00036_segment")


def test_a_part_of_the_segments_cannot_be_numbered():
    with pytest.raises(SourceDataError, match="120 training segments are known, want all 798"):
        notr_segments("diverse", [str(i) for i in range(120)])


def test_three_forward_cameras():
    assert notr_config().cameras == ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")
