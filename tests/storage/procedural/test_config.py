import pytest

from storage.errors import SourceDataError
from storage.procedural.conditions import DEFAULT_CONDITIONS
from storage.procedural.config import ProceduralConfig, WeatherConfig
from storage.taxonomy import Theme


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rig": "airside"}, "other cameras than nuScenes"),
        ({"camera_sweep_rate_hz": 5.0}, "multiple"),
        ({"camera_sweep_rate_hz": 2.0}, "multiple"),
        ({"lidar_sweep_rate_hz": 60.0}, "lidar_sweep_rate_hz"),
        ({"lidar_sweep_rate_hz": 20.0, "source_format": "manifest"}, "whole frames"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ProceduralConfig(**changes)


@pytest.mark.parametrize("bad", [{"wet_share": 1.2}, {"sun_elevation_deg": 0.0}])
def test_weather_that_no_scene_can_have_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        WeatherConfig(**bad)


def test_weather_is_drawn_for_each_scene_from_its_seed():
    weather = WeatherConfig(wet_share=0.5)
    drawn = [weather.of_scene(seed).wetness for seed in range(40)]
    assert drawn == [weather.of_scene(seed).wetness for seed in range(40)]
    wet = [w for w in drawn if w > 0]
    assert 10 < len(wet) < 30
    assert len(set(wet)) == len(wet)
    assert min(wet) >= 0.3
    # More wet scenes, and the light, do not change those that were wet before.
    wetter = WeatherConfig(wet_share=0.9, lighting="dusk")
    assert all(wetter.of_scene(seed).wetness == w for seed, w in enumerate(drawn) if w > 0)
    assert WeatherConfig().of_scene(7) == DEFAULT_CONDITIONS


def test_sweeps_lie_between_keyframes():
    config = ProceduralConfig(camera_sweep_rate_hz=12.0)
    assert config.times_between_us(0, 12.0) == []
    assert config.times_between_us(2, 12.0) == [583_333, 666_667, 750_000, 833_333, 916_667]
    assert config.times_between_us(2, 0.0) == []
