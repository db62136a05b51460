import numpy as np

from storage.geometry.resize import resize_nearest


def test_nothing_is_averaged_and_no_nan_spreads():
    values = np.array([[1.0, np.nan], [3.0, 100.0]])
    up = resize_nearest(values, 4, 4)
    assert set(up[np.isfinite(up)]) == {1.0, 3.0, 100.0}
    assert np.isnan(up).sum() == 4
    assert resize_nearest(np.arange(16.0).reshape(4, 4), 2, 2).tolist() == [[5.0, 7.0], [13.0, 15.0]]


def test_colours_stay_whole():
    image = np.random.default_rng(1).integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_nearest(image, 9, 12)[1::3, 1::3], image)


def test_many_maps_are_resized_at_once():
    mask = np.zeros((1, 2, 4, 8), bool)
    mask[:, 1, :2] = True
    small = resize_nearest(mask, 2, 4, axis=2)
    assert small.shape == (1, 2, 2, 4)
    assert not small[0, 0].any()
    assert small[0, 1].tolist() == [[True] * 4, [False] * 4]
    assert np.array_equal(resize_nearest(small, 4, 8, axis=2), mask)
