"""Objects of an answer, its files and the name of its folder."""

import numpy as np
import pytest
from PIL import Image

from student.applications.answers import (
    RegionConfig,
    connected_objects,
    shown_from,
    write_heat_maps,
    write_ply,
)


def test_the_best_object_is_the_group_with_the_most_probability():
    positions = np.array([[0.0, 0, 0], [0.5, 0, 0], [1.2, 0, 0], [9.0, 0, 0], [2.5, 0, 0]])
    probability = np.array([0.6, 0.7, 0.5, 0.9, np.nan])
    floor = RegionConfig(min_share=0.5).floor(probability, None)
    assert floor == pytest.approx(0.45, abs=1e-3)
    rank, found = connected_objects(positions, probability, floor=floor, reach_m=1.0, cell_m=0.5)
    assert rank.tolist() == [1, 1, 1, 2, 0]
    assert found[0].centre == pytest.approx((0.6, 0.0, 0.0))
    assert found[0].extent == pytest.approx((1.7, 0.5, 0.5))
    assert found[0].volume == pytest.approx(3 * 0.125)
    assert (found[0].mean_score, found[0].peak_score, found[0].num_cells) == (pytest.approx(0.6), 0.7, 3)
    alone, _ = connected_objects(positions, probability, floor=floor, reach_m=0.1, cell_m=0.5)
    assert alone.tolist() == [3, 2, 4, 1, 0]
    by_score, _ = connected_objects(
        positions, probability, floor=0.65, reach_m=0.1, cell_m=0.5, score=np.array([0, 0.9, 0, 0.1, 0])
    )
    assert by_score.tolist() == [0, 1, 0, 2, 0]
    nothing, none = connected_objects(positions, probability, floor=0.95, reach_m=1.0, cell_m=0.5)
    assert not nothing.any()
    assert none == ()


def test_a_threshold_counts_where_there_is_one_and_else_a_share_of_the_peak():
    heat = np.full(10_000, 0.1)
    heat[:50] = 0.6
    heat[50] = 1.0  # one odd voxel does not decide
    assert shown_from(heat, None) == pytest.approx(0.3)
    assert shown_from(heat, 0.05) == 0.05
    assert RegionConfig(min_share=0.5).floor(heat, 0.2) == 0.2
    with pytest.raises(ValueError, match="min_share"):
        RegionConfig(min_share=0.0)


def test_what_lies_under_the_floor_stays_grey(tmp_path):
    images = np.full((1, 4, 4, 3), 120, np.uint8)
    heat = np.array([[[0.8, 0.39], [0.41, np.nan]]])
    (path,) = write_heat_maps(tmp_path, ["front"], images, heat, 0.4)
    picture = np.asarray(Image.open(path)).astype(int)
    half = len(picture) // 2
    colourful = np.ptp(picture, axis=-1) > 20
    assert colourful[:half, :half].all()
    assert not colourful[:half, half:].any()
    assert colourful[half:, :half].all()
    assert not colourful[half:, half:].any()


def test_a_ply_holds_what_was_written(tmp_path):
    positions = np.array([[1.0, 2, 3], [4, 5, 6]])
    colours = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    write_ply(tmp_path / "p.ply", positions, colours, probability=np.array([0.25, np.nan]), label=np.array([7, -1]))
    header, _, body = (tmp_path / "p.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 2\n" in header
    row = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3), ("p", "<f4"), ("label", "<i4")])
    assert row["xyz"].tolist() == positions.tolist()
    assert row["rgb"].tolist() == colours.tolist()
    assert row["label"].tolist() == [7, -1]
    assert row["p"][0] == 0.25
    assert np.isnan(row["p"][1])
