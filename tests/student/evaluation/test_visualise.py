import base64
import io

import numpy as np
import pytest
from PIL import Image

from storage.previews.pictures import (
    UNDEFINED_COLOUR,
    FeatureColours,
    data_uri,
    depth_bar,
    depth_image,
    encode_image,
    from_uint8,
    heat_overlay,
    label_image,
    to_uint8,
    unit_image,
)


def test_undefined_depth_is_grey_and_no_defined_depth_is():
    depth = np.array([[np.nan, 0.1, 2.0, 20.0, 80.0, 500.0]])
    image = depth_image(depth)
    assert tuple(image[0, 0]) == UNDEFINED_COLOUR
    assert not any(tuple(colour) == UNDEFINED_COLOUR for colour in image[0, 1:])
    assert tuple(image[0, 1]) == tuple(image[0, 2])  # saturates
    assert tuple(image[0, 4]) == tuple(image[0, 5])
    with pytest.raises(ValueError, match="minimum"):
        depth_image(depth, minimum=3.0, maximum=2.0)


def test_the_bar_and_the_picture_use_one_scale():
    bar = depth_bar(width=101)
    # A quarter along, and not half: there the colour changes, and the last bit of a logarithm would choose it.
    quarter = depth_image(np.array([[2.0 * (80.0 / 2.0) ** 0.25]]))
    np.testing.assert_array_equal(bar[0, 25], quarter[0, 0])


def test_feature_colours_are_shared_stable_and_robust():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(500, 3)) * [5.0, 2.0, 1.0] @ generator.normal(size=(3, 16))
    colours = FeatureColours.fit(features)
    outliers = np.concatenate([features, np.full((5, 16), 200.0)])
    spread = FeatureColours.fit(features).image(features.reshape(20, 25, 16)).std()
    assert FeatureColours.fit(outliers).image(features.reshape(20, 25, 16)).std() > 0.1 * spread
    again = FeatureColours.fit(features[::-1])
    np.testing.assert_allclose(np.abs(colours.directions.T @ again.directions), np.eye(3), atol=1e-6)
    holed = features.reshape(20, 25, 16).copy()
    holed[3, 4] = np.nan
    assert tuple(colours.image(holed)[3, 4]) == UNDEFINED_COLOUR
    with pytest.raises(ValueError, match="at least 2 features"):
        FeatureColours.fit(np.zeros((1, 4)))


def test_features_of_one_dimension_are_drawn_in_grey():
    image = FeatureColours.fit(np.arange(100.0)[:, None]).image(np.arange(100.0).reshape(10, 10, 1))
    assert image[0, 0].max() < 10 < 245 < image[9, 9].min()
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_constant_features_do_not_divide_by_zero():
    image = FeatureColours.fit(np.ones((10, 4))).image(np.ones((2, 2, 4)))
    assert image.shape == (2, 2, 3)


def test_images_round_trip_and_encode():
    image = np.random.default_rng(0).integers(0, 256, size=(6, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(from_uint8(image)), image)
    decoded = np.asarray(Image.open(io.BytesIO(encode_image(image, quality=None))))
    np.testing.assert_array_equal(decoded, image)
    header, _, payload = data_uri(b"abc", "image/jpeg").partition(",")
    assert (header, base64.b64decode(payload)) == ("data:image/jpeg;base64", b"abc")


def test_labels_take_the_colour_of_their_occ3d_class():
    image = label_image(np.array([[4, 35, 10, 255, 200]], dtype=np.uint8))
    np.testing.assert_array_equal(image[0, 1], image[0, 2])  # catering truck is a truck
    assert tuple(image[0, 4]) == UNDEFINED_COLOUR
    assert len({tuple(colour) for colour in image[0]}) == 4


def test_heat_stands_out_where_the_probability_is_high():
    image = np.full((4, 4, 3), 128, dtype=np.uint8)
    probability = np.zeros((4, 4))
    probability[1, 1] = 1.0
    overlay = heat_overlay(image, probability)
    np.testing.assert_array_equal(overlay[1, 1], unit_image(np.ones((1, 1)), name="inferno")[0, 0])
    assert np.ptp(overlay[0, 0].astype(int)) < 30
