"""A film holds the pictures that were given to it, in order and at their speed."""

import av
import numpy as np
import pytest

from storage.previews.video import write_mp4

COLOURS = ((220, 30, 30), (30, 200, 40), (40, 50, 220), (230, 230, 230))


def pictures(height=36, width=48):
    for colour in COLOURS:
        yield np.tile(np.array(colour, np.uint8), (height, width, 1))


def test_a_film_shows_the_pictures_in_order(tmp_path):
    path = tmp_path / "film.mp4"
    assert write_mp4(path, pictures(), frames_per_second=2.5) == 4
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(2.5)
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(shown) == 4
    for picture, colour in zip(shown, COLOURS, strict=True):
        assert picture.shape == (36, 48, 3)
        assert np.abs(picture.reshape(-1, 3).mean(axis=0) - colour).max() < 8
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


def test_an_odd_size_loses_its_last_row_and_column(tmp_path):
    write_mp4(tmp_path / "odd.mp4", pictures(37, 49), frames_per_second=10.0)
    with av.open(str(tmp_path / "odd.mp4")) as film:
        assert (film.streams.video[0].height, film.streams.video[0].width) == (36, 48)


def test_what_is_no_film_leaves_no_file(tmp_path):
    path = tmp_path / "film.mp4"
    with pytest.raises(ValueError, match="at least one picture"):
        write_mp4(path, iter(()), frames_per_second=2.0)
    with pytest.raises(ValueError, match="picture 1 is"):
        write_mp4(path, iter([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)]), frames_per_second=2.0)
    with pytest.raises(ValueError, match="more than 0"):
        write_mp4(path, pictures(), frames_per_second=0.0)
    assert not list(tmp_path.iterdir())
