"""Configurations refuse nonsense, and their digests cover what determines the content."""

from dataclasses import replace

import pytest

from storage.digests import config_digest
from storage.kinds import FEATURE_SOURCES
from teachers.config import (
    DepthAnythingConfig,
    FeatureBasisConfig,
    InferenceConfig,
    PatchFeatureConfig,
    SkyConfig,
    WeightsConfig,
)
from teachers.image import presets


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WeightsConfig(source=" "), "weights source"),
        (lambda: InferenceConfig(batch_size=0), "batch_size 0"),
        (lambda: SkyConfig(input_short_side=4), "input_short_side 4"),
        (lambda: SkyConfig(threshold=1.0), "threshold"),
        (lambda: SkyConfig(height=0), "sky masks: size 0x"),
        (lambda: SkyConfig(precision="float16", inference=InferenceConfig(device="cpu")), "float16 on the CPU"),
        (lambda: DepthAnythingConfig(grid_width=0), "feature grid"),
        (lambda: DepthAnythingConfig(min_lidar_rank_correlation=2.0), "min_lidar_rank_correlation"),
        (lambda: PatchFeatureConfig(max_clipped=-0.1), "max_clipped"),
        (lambda: FeatureBasisConfig(num_components=65), "num_components 65"),
        (lambda: FeatureBasisConfig(range_quantile=0.5), "range_quantile"),
        (lambda: FeatureBasisConfig(frames_per_scene=0), "frames_per_scene"),
    ],
)
def test_values_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_how_a_model_is_run_is_no_part_of_what_is_stored():
    config = FeatureBasisConfig()
    elsewhere = replace(config, extractor=replace(config.extractor, inference=InferenceConfig(batch_size=64)))
    finer = replace(config, extractor=replace(config.extractor, input_short_side=448))
    assert config_digest(elsewhere.determining()) == config_digest(config.determining())
    assert config_digest(finer.determining()) != config_digest(config.determining())


@pytest.mark.parametrize("name", ["demo", "tiny", "small", "paper"])
def test_every_preset_has_a_basis_for_each_feature_source(name):
    config = getattr(presets, f"{name}_image_teachers")()
    bases = {source: config.basis_of(source) for source in FEATURE_SOURCES}
    assert bases == {"dinov2": config.dinov2_basis, "clip": config.clip_basis}
