"""Sheets are read on screens and phones: pictures are wrapped, and every one says above it what it is."""

import numpy as np
import pytest

from student.applications.render_pictures import Row, sheet, word_title

TILE = np.full((45, 80, 3), 200, np.uint8)
WIDTH = 160


def sheet_of(*columns: str, rows: int = 1, title: str = "scene") -> np.ndarray:
    made = [
        Row(camera="front", source="student", photo=TILE if row == 0 else None, tiles=dict.fromkeys(columns, TILE))
        for row in range(rows)
    ]
    return sheet(title, "recorded", made, tile_width=WIDTH)


def pictures_in(page: np.ndarray) -> int:
    """Return how many tiles a page holds, by the area of their own grey."""
    return round(int((page == TILE[0, 0]).all(axis=-1).sum()) / (WIDTH * WIDTH * 45 / 80))


@pytest.mark.parametrize(
    ("num_columns", "wide"), [(1, 2), (3, 4), (4, 3), (5, 3), (6, 4)], ids=["2", "4", "5 in 2 lines", "6", "7"]
)
def test_more_than_four_pictures_are_wrapped(num_columns, wide):
    page = sheet_of(*[word_title(str(i)) for i in range(num_columns)])
    assert page.shape[1] // WIDTH == wide
    assert pictures_in(page) == 1 + num_columns


def test_a_row_without_a_photo_keeps_the_places_of_the_first():
    page = sheet_of("rgb", "depth", rows=2)
    above, below = page[25 : 25 + 115, WIDTH + 12 :], page[25 + 115 : 25 + 230, WIDTH + 12 :]
    np.testing.assert_array_equal(above, below)
    assert pictures_in(page) == 5


def test_a_long_text_does_not_run_over_the_scale_of_its_picture():
    scale = np.s_[25:50, 2 * WIDTH - 90 : 2 * WIDTH + 12]
    short, long = (sheet_of(word_title(text))[scale] for text in ("a", "a very long text " * 9))
    np.testing.assert_array_equal(short, long)
    assert (short != short[0, 0]).any()  # there is a scale


def test_letters_that_the_font_lacks_are_given_by_number_and_stay_apart():
    """As boxes, all words without Latin letters would look the same."""
    pages = [sheet_of("rgb", title=text) for text in ("車", "人", "\\u8eca")]
    assert (pages[0] != pages[1]).any()
    np.testing.assert_array_equal(pages[0], pages[2])
