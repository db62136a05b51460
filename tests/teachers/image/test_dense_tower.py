"""A CLIP checkpoint may bring a dense image tower; it is read whole, or refused by name."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from encoders.efficientnet import imagenet_weights
from storage.errors import IntegrityError
from storage.taxonomy import SKY_ID
from teachers.config import PatchFeatureConfig, WeightsConfig
from teachers.demo_training import train_tower
from teachers.demo_training.captions import caption_classes
from teachers.demo_training.renders import RenderSet
from teachers.demo_training.train_lite import lite_processor
from teachers.image.clip import PROMPT_TEMPLATE, ClipFeatures
from teachers.image.dense_tower import SETTINGS, WEIGHTS, load_dense_tower, remove_dense_tower, save_dense_tower
from teachers.image.image_batches import normalise, normalised
from teachers.image.lite import DenseTower, LiteConfig, LiteTeacher
from teachers.image.weights import DEMO_WEIGHTS, TeacherModel, load_model, resolve_weights

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def clip_of(folder) -> ClipFeatures:
    return ClipFeatures.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(folder))))


@pytest.fixture(scope="module")
def tower() -> DenseTower:
    torch.manual_seed(0)
    tower = DenseTower(LiteConfig(widths=(16, 16, 8, 8), context_layers=1, projection_dim=96))
    encoder = load_model(
        LiteTeacher, resolve_weights(WeightsConfig(), TeacherModel.LITE), device=CPU, dtype=torch.float
    )
    tower.trunk.load_state_dict(encoder.trunk.state_dict())
    return tower.eval()


@pytest.fixture
def folder(tmp_path, tower):
    """A CLIP checkpoint with a small tower."""
    path = tmp_path / "clip"
    shutil.copytree(DEMO_WEIGHTS / "clip", path)
    save_dense_tower(path, tower)
    return path


def test_features_are_those_of_the_tower_that_was_saved(folder, tower):
    model = clip_of(folder)
    maps = model.dense_features(IMAGES)
    halved = DenseTower(tower.config)
    halved.load_state_dict(
        {name: v if name.startswith("trunk.") else v.half().float() for name, v in tower.state_dict().items()}
    )
    with torch.inference_mode():
        wanted = functional.normalize(halved.eval()(normalise(model._processor, IMAGES)), dim=1)
    assert maps.shape == (2, 96, 16, 24)
    torch.testing.assert_close(maps, wanted, rtol=0, atol=1e-5)


def test_texts_are_those_of_the_checkpoint_with_and_without_a_tower(folder):
    with_tower = clip_of(folder).text_embeddings(["a photo of a car"])
    remove_dense_tower(folder)
    without = clip_of(folder)
    assert torch.equal(with_tower, without.text_embeddings(["a photo of a car"]))
    assert without.multiple == 14


def test_a_tower_has_a_stride_of_its_own(folder):
    config = PatchFeatureConfig(weights=WeightsConfig(source=str(folder)), stride=8)
    with pytest.raises(ValueError, match="stride 8: want none"):
        ClipFeatures.from_config(config)


def test_the_encoder_is_not_stored_again(folder):
    assert not [name for name in load_file(folder / WEIGHTS) if name.startswith("trunk.")]
    assert (folder / WEIGHTS).stat().st_size < 200_000


def test_another_tower_is_another_checkpoint(folder, tower):
    before = resolve_weights(WeightsConfig(source=str(folder)), TeacherModel.CLIP)
    torch.manual_seed(1)
    save_dense_tower(folder, DenseTower(tower.config))
    after = resolve_weights(WeightsConfig(source=str(folder)), TeacherModel.CLIP)
    assert before.digest != after.digest
    assert before.digests["clip/model.safetensors"] == after.digests["clip/model.safetensors"]


def _without_a_tensor(folder):
    decoder = load_file(folder / WEIGHTS)
    decoder.pop("embedding_head.0.weight")
    save_file(decoder, folder / WEIGHTS)


def _with_a_tensor_more(folder):
    decoder = load_file(folder / WEIGHTS)
    save_file(decoder | {"trunk.stranger": torch.zeros(1)}, folder / WEIGHTS)


def _wider(folder):
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | {"widths": [16, 16, 8, 16]}))


def _immense(folder):
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | {"context_layers": 10**9}))


def _other_encoder(folder):
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | {"encoder_sha256": "0" * 64}))


def _cut_off(folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_a_tensor, "lacks 1, such as 'embedding_head.0.weight'"),
        (_with_a_tensor_more, "has 1 that no tower has, such as 'trunk.stranger'"),
        (_wider, "cannot be loaded"),
        (_immense, "context_layers 1000000000: want whole numbers from 1 to 4096"),
        (_other_encoder, "was trained on the encoder 0000"),
        (_cut_off, "dense_tower.safetensors"),
        (lambda folder: (folder / SETTINGS).unlink(), "states no dense tower"),
        (lambda folder: (folder / SETTINGS).write_text("{}"), "states no dense tower"),
        (lambda folder: (folder / SETTINGS).write_text("[1"), "states no dense tower"),
    ],
)
def test_a_tower_that_is_not_whole_is_refused(folder, damage, message):
    weights = resolve_weights(WeightsConfig(source=str(folder)), TeacherModel.CLIP)
    damage(folder)
    with pytest.raises(IntegrityError, match=message):
        load_dense_tower(weights, device=CPU, dtype=torch.float32)


def painted(count: int = 8) -> RenderSet:
    """Views of large patches of four classes, each of one colour."""
    classes = np.array([4, 11, 16, SKY_ID], np.uint8)  # car, road, trees, sky
    colours = np.array([[200, 30, 30], [90, 90, 90], [30, 160, 40], [150, 190, 250]], np.uint8)
    chosen = np.random.default_rng(0).integers(0, 4, (count, 2, 3)).repeat(32, 1).repeat(32, 2)
    semantics = classes[chosen]
    return RenderSet(
        image=colours[chosen],
        camera_depth=np.where(semantics == SKY_ID, np.float16(np.nan), np.float16(20)),
        semantics=semantics,
        instance=np.zeros(semantics.shape, np.uint16),
        is_airside=np.zeros(count, bool),
    )


def test_training_brings_places_to_their_sentences_and_leaves_the_encoder(monkeypatch):
    monkeypatch.setattr(train_tower, "_WIDTHS", (16, 16, 8, 8))
    monkeypatch.setattr(train_tower, "_ESTRANGED_SHARE", 0.0)
    clip, views = clip_of(DEMO_WEIGHTS / "clip"), painted()
    trained = train_tower.train_tower(clip, views, seed=0, steps=30)
    wanted = imagenet_weights()
    assert all(torch.equal(value, wanted[name]) for name, value in trained.trunk.state_dict().items())
    images = torch.from_numpy(views.image).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        places = functional.normalize(trained(normalised(images, lite_processor())), dim=1)
    words = clip.text_embeddings([PROMPT_TEMPLATE.format(word=word) for word in ("car", "road", "tree", "sky")])
    named = torch.einsum("bchw,nc->bnhw", places, words).argmax(dim=1)
    truth = torch.from_numpy(np.searchsorted([4, 11, 16, SKY_ID], views.semantics[:, 2::4, 2::4]))
    assert float((named == truth).float().mean()) > 0.5  # one in four is right by chance


def test_every_class_has_sentences_of_its_own():
    classes = caption_classes()
    clip = clip_of(DEMO_WEIGHTS / "clip")
    sentences = train_tower.Sentences(clip, classes)
    drawn = sentences.draw(torch.Generator().manual_seed(0))
    assert drawn.shape == (len(classes), sentences.length)
    car = next(index for index, entry in enumerate(classes) if entry.name == "car")
    assert int(sentences.class_index[classes[car].class_id]) == car
    plain = clip.text_embeddings([PROMPT_TEMPLATE.format(word="car")])[0]
    assert int((drawn @ plain).argmax()) == car
