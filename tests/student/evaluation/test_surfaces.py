import numpy as np
import pytest

from storage.taxonomy import NO_SURFACE, SurfaceKind
from student.evaluation.sections.depth import DepthReference
from student.evaluation.surfaces import MATERIAL, REFLECTANCE, TEXTURE, by_material, by_reflectance, by_texture


def section_of(frames):
    scores = DepthReference(name="depth_truth", title="t", reference="r", unavailable="u")
    for predicted, reference, surface in frames:
        shape = (1, 1, len(surface))
        scores.add(
            "s",
            np.array(predicted, float).reshape(shape),
            np.array(reference, float).reshape(shape),
            baselines={"ten": np.full(shape, 10.0)},
            is_paper_frame=False,
            surfaces=by_material(np.array(surface, np.uint8).reshape(shape)),
        )
    return scores.section()


GLASS, BODY, OTHER = SurfaceKind.GLASS, SurfaceKind.FUSELAGE, SurfaceKind.OTHER


def test_each_kind_is_scored_on_its_own_pixels_pooled_over_frames():
    section = section_of(
        [
            ([20.0, np.nan, 10.0, 5.0], [10.0, 20.0, 10.0, np.nan], [GLASS, GLASS, OTHER, GLASS]),
            ([11.0, 10.0], [10.0, 10.0], [GLASS, OTHER]),
        ]
    )
    glass = section.figure("abs_rel_glass")
    # A hundred percent, a ray through the pane to 80 m, and ten percent; the pixel without a reference is none.
    assert glass.value == pytest.approx((1.0 + 3.0 + 0.1) / 3)
    assert (glass.count, glass.counted, glass.group) == (3, "pixels", "AbsRel by surface")
    assert glass.baselines[0].value == pytest.approx((0.0 + 0.5 + 0.0) / 3)
    assert section.figure("coverage_glass").value == pytest.approx(2 / 3)
    assert section.figure("abs_rel_other_surface").value == 0.0


def test_a_kind_without_a_pixel_is_counted_and_not_averaged():
    section = section_of([([20.0], [10.0], [GLASS])])
    assert (section.figure("abs_rel_fuselage").value, section.figure("abs_rel_fuselage").count) == (None, 0)
    assert "No pixel was of the kind fuselage, wet ground, other surface." in section.note
    assert section.figure("abs_rel").value == 1.0


def test_frames_that_tell_no_material_leave_those_of_others_alone():
    scores = DepthReference(name="depth_truth", title="t", reference="r", unavailable="u")
    ones = np.ones((1, 1, 2))
    scores.add("s", 2 * ones, ones, baselines={}, is_paper_frame=False)
    scores.add("s", 3 * ones, ones, baselines={}, is_paper_frame=False, surfaces={(MATERIAL, "glass"): ones > 0})
    assert scores.section().figure("abs_rel_glass").value == pytest.approx(2.0)
    assert scores.section().figure("abs_rel_glass").count == 2


def test_sky_is_of_no_material():
    assert not any(pixels.any() for pixels in by_material(np.full((1, 2, 2), NO_SURFACE, np.uint8)).values())


def test_texture_is_told_where_it_is():
    images = np.full((1, 64, 64, 3), 0.5, np.float32)
    images[:, :, 32:] += (0.2 * (np.arange(64) // 2 % 2)[None, :, None, None]).astype(np.float32)
    found = by_texture(images, (32, 32))
    assert found[TEXTURE, "low texture"][0, :, :14].all()
    assert found[TEXTURE, "rich texture"][0, :, 18:].all()
    assert np.sum(list(found.values()), axis=0).max() == np.sum(list(found.values()), axis=0).min() == 1


def test_reflectance_goes_by_the_order_of_a_frames_returns():
    intensity = np.full((1, 4, 5), np.nan)
    intensity[0, :2] = np.arange(10.0).reshape(2, 5)
    for scale in (1.0, 1 / 255):  # whatever the sensor's scale is
        found = by_reflectance(scale * intensity)
        assert np.flatnonzero(found[REFLECTANCE, "dark"]).tolist() == [0, 1]
        assert np.flatnonzero(found[REFLECTANCE, "middling"]).tolist() == [2, 3, 4, 5, 6, 7]
        assert np.flatnonzero(found[REFLECTANCE, "bright"]).tolist() == [8, 9]


@pytest.mark.parametrize("value", [np.nan, 7.0], ids=["no returns", "one intensity"])
def test_intensities_that_tell_nothing_are_of_no_kind(value):
    assert not any(pixels.any() for pixels in by_reflectance(np.full((1, 2, 2), value)).values())
