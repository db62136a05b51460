"""Images reach a network whole, once each, at a size it can take."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPImageProcessorPil

from storage.scenes.store import SceneReader
from teachers.config import InferenceConfig
from teachers.image.image_batches import iterate_batches, network_size, normalise, normalised, resample, resolve_device


@given(
    image_size=st.tuples(st.integers(8, 4000), st.integers(8, 4000)),
    short_side=st.integers(16, 600),
    multiple=st.integers(1, 32),
)
def test_network_sizes_are_whole_patches_of_about_the_same_aspect(image_size, short_side, multiple):
    size = network_size(image_size, short_side=short_side, multiple=multiple)
    scale = short_side / min(image_size)
    for side, stored in zip(size, image_size, strict=True):
        assert side % multiple == 0
        assert side >= multiple
        assert abs(side - stored * scale) <= max(multiple / 2, multiple - stored * scale) + 1e-6


def test_the_published_sizes_come_out():
    assert network_size((900, 1600), short_side=518, multiple=14) == (518, 924)
    assert network_size((225, 400), short_side=224, multiple=14) == (224, 392)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_every_image_comes_once_and_batches_hold_one_size(home, make_scene, publish, batch_size):
    key = publish(home, make_scene(sizes=((30, 60), (60, 30), (30, 60)), frames=3))
    reader = SceneReader.open(home, key)
    batches = list(iterate_batches(reader, range(3), short_side=28, multiple=14, batch_size=batch_size))
    seen = [index for batch in batches for index in batch.indices]
    assert sorted(seen) == [(frame, camera) for frame in range(3) for camera in range(3)]
    for batch in batches:
        assert len(batch.images) == len(batch.indices) <= batch_size
        wide = batch.images.shape[2] > batch.images.shape[1]
        assert all((camera != 1) == wide for _, camera in batch.indices)


def test_both_ways_to_normalise_agree():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 42, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil()
    ours = normalised(torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0, processor)
    assert torch.allclose(ours, normalise(processor, images), atol=1e-5)


def test_resampling_keeps_the_mean_and_leaves_an_equal_grid_alone():
    maps = torch.rand(1, 3, 16, 24)
    assert torch.equal(resample(maps, height=16, width=24), maps)
    assert resample(maps, height=4, width=6).mean() == pytest.approx(float(maps.mean()), abs=0.02)


def test_half_precision_needs_cuda():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="float16 needs CUDA"):
        resolve_device(InferenceConfig(), "float16")
    with pytest.raises(ValueError, match="none is available"):
        resolve_device(InferenceConfig(device="cuda"), "float32")
