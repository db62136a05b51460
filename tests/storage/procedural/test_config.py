import pytest

from storage.errors import SourceDataError
from storage.procedural.classes import Theme
from storage.procedural.config import ProceduralConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_scenes", 0),
        ("airside_share", -0.1),
        ("airside_share", 1.5),
        ("airside_share", float("nan")),
        ("frames_per_scene", 0),
        ("keyframe_rate_hz", 0.0),
        ("keyframe_rate_hz", 50.0),
        ("image_height", 8),
        ("image_width", 100_000),
        ("jpeg_quality", 100),
        ("seed", -1),
        ("version", "../v1.0-mini"),
        ("version", ""),
    ],
)
def test_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        ProceduralConfig(**{field: value})


def test_dataset_name_must_fit_a_key():
    with pytest.raises(SourceDataError, match="holds no"):
        ProceduralConfig(dataset="a.b")


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_share_of_airside_scenes_is_kept(share, expected):
    config = ProceduralConfig(num_scenes=8, airside_share=share)
    assert sum(config.theme(i) is Theme.AIRSIDE for i in range(8)) == expected


def test_first_four_scenes_hold_one_airside_scene():
    themes = [ProceduralConfig().theme(i) for i in range(4)]
    assert themes.count(Theme.AIRSIDE) == 1


def test_scenes_have_their_own_seeds():
    a, b = ProceduralConfig(seed=1), ProceduralConfig(seed=2)
    seeds = {c.scene_seed(i) for c in (a, b) for i in range(100)}
    assert len(seeds) == 200


def test_keyframes_are_half_a_second_apart():
    config = ProceduralConfig()
    assert [config.keyframe_time_us(i) for i in range(3)] == [0, 500_000, 1_000_000]
