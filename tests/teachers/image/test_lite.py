"""The project's own network for sky and depth: it is read as any family is, and training leaves its encoder alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from encoders.efficientnet import imagenet_weights
from storage.taxonomy import CLASSES, SKY_ID
from teachers.config import DepthAnythingConfig, SkyConfig, WeightsConfig
from teachers.demo_training import renders
from teachers.demo_training.estrange import Scenery, _Draws, _holes_in_crowns, estranged
from teachers.demo_training.renders import HELD_OUT, RenderSet, load_render_set
from teachers.demo_training.train_lite import lite_processor, lite_teacher, train_lite
from teachers.image.depth_anything import DepthAnything
from teachers.image.image_batches import normalised
from teachers.image.lite import LiteTeacher
from teachers.image.sky import SkySegmenter
from teachers.image.weights import TeacherModel, resolve_weights

VEGETATION = next(entry.class_id for entry in CLASSES if entry.name == "vegetation")


@pytest.fixture
def folder(random_weights):
    return random_weights / "efficientnet_lite0"


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


def reading_of(folder, images):
    model = LiteTeacher.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(normalised(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, lite_processor()))


def test_sky_is_read_from_it_at_a_quarter_of_the_size(folder, images):
    model = SkySegmenter.from_config(SkyConfig(weights=WeightsConfig(source=str(folder)), height=16, width=24))
    assert model.weights.model is TeacherModel.LITE
    own = reading_of(folder, images)
    assert_close(model.logits(images), own.logits, rtol=1e-4, atol=1e-4)
    assert_close(model.sky(images).probability, own.logits.softmax(dim=1)[:, 2], rtol=1e-4, atol=1e-4)


def test_depth_and_features_are_read_from_it(folder, images):
    config = DepthAnythingConfig(weights=WeightsConfig(source=str(folder)), grid_height=16, grid_width=24)
    model = DepthAnything.from_config(config)
    assert (model.multiple, model.num_features) == (32, 8)
    features, inverse_depth = model.features_and_inverse_depth(images)
    own = reading_of(folder, images)
    assert_close(features, own.fusion_map.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    assert_close(inverse_depth, own.inverse_depth, rtol=1e-4, atol=1e-4)
    assert float(inverse_depth.min()) > 0


def test_an_image_is_read_alike_beside_any_other(folder, images):
    both, alone = reading_of(folder, images), reading_of(folder, images[:1])
    for one, two in zip(alone, both, strict=True):
        assert_close(one, two[:1], rtol=1e-3, atol=1e-3)  # other shapes add up in another order


def test_the_shipped_one_has_the_encoder_of_imagenet():
    model = LiteTeacher.from_pretrained(resolve_weights(WeightsConfig(), TeacherModel.LITE).path, dtype=torch.float32)
    for name, value in imagenet_weights().items():
        assert_close(model.trunk.state_dict()[name].float(), value.float(), rtol=1e-3, atol=1e-6)


def some_renders(count: int = 8) -> RenderSet:
    random = np.random.default_rng(0)
    semantics = (
        random.choice(np.array([11, 15, VEGETATION, SKY_ID], np.uint8), (count, 32, 48)).repeat(2, 1).repeat(2, 2)
    )
    depth = random.uniform(1, 60, semantics.shape).astype(np.float16)
    return RenderSet(
        image=random.integers(0, 256, (*semantics.shape, 3), np.uint8),
        camera_depth=np.where(semantics == SKY_ID, np.float16(np.nan), depth),
        semantics=semantics,
        instance=np.zeros(semantics.shape, np.uint16),
        is_airside=np.zeros(count, bool),
    )


def test_training_moves_the_decoder_and_not_the_encoder():
    torch.manual_seed(0)
    before = dict(lite_teacher().named_parameters())
    model = train_lite(some_renders(), seed=0, steps=2)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if not name.startswith("trunk.")} == moved
    wanted = imagenet_weights()
    assert all(torch.equal(value, wanted[name]) for name, value in model.trunk.state_dict().items())


def scenery() -> Scenery:
    views = some_renders(2)
    semantics = torch.from_numpy(views.semantics).long()
    return Scenery(
        images=torch.from_numpy(views.image).permute(0, 3, 1, 2).float() / 255,
        semantics=semantics,
        instance=torch.zeros_like(semantics),
        camera_depth=torch.from_numpy(views.camera_depth.astype(np.float32)),
        is_sky=semantics == SKY_ID,
    )


@pytest.mark.parametrize("seed", range(4))
def test_another_appearance_is_an_image_and_comes_from_the_seed(seed):
    given = scenery()
    first, second = (estranged(given, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == given.images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert not torch.allclose(first, given.images, atol=0.05)


def test_nothing_but_trees_has_holes():
    given = scenery()
    holes = [_holes_in_crowns(given, _Draws(torch.Generator().manual_seed(seed), 2)) for seed in range(20)]
    everywhere = torch.stack(holes).amax(dim=(0, 2)) > 0
    assert everywhere.any()
    assert not (everywhere & (given.semantics != VEGETATION)).any()


def test_a_render_that_fails_leaves_nothing_and_another_training_may_be_first(tmp_path, monkeypatch):
    config = replace(HELD_OUT, worlds_per_theme=1, views_per_world=1, height=16, width=28)

    def fails(*_):
        raise RuntimeError("out of paint")

    monkeypatch.setattr(renders, "_fill", fails)
    with pytest.raises(RuntimeError, match="out of paint"):
        load_render_set(config, tmp_path)
    assert list(tmp_path.iterdir()) == []

    def paints(_, arrays, *__):
        if len(others) == 0:
            others.append(None)
            others.append(load_render_set(config, tmp_path))
        arrays["image"][:] = 7

    others: list[RenderSet | None] = []
    monkeypatch.setattr(renders, "_fill", paints)
    ours = load_render_set(config, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    for found in (ours, others[1]):
        assert found is not None
        assert (found.image == 7).all()
