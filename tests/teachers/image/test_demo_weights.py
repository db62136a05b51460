"""The shipped checkpoints are small, complete, and see what worlds they were never shown hold."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from teachers.config import DepthAnythingConfig, PatchFeatureConfig, SkyConfig, WeightsConfig
from teachers.demo_training import architectures, held_out
from teachers.demo_training.captions import build_tokenizer
from teachers.demo_training.cards import save_checkpoint
from teachers.demo_training.renders import HELD_OUT, TRAINING, load_render_set
from teachers.demo_training.train_dinov2 import dinov2_processor
from teachers.image.clip import ClipFeatures
from teachers.image.depth_anything import DepthAnything
from teachers.image.dinov2 import Dinov2Features
from teachers.image.sky import SkySegmenter
from teachers.image.weights import DEMO_WEIGHTS, TeacherModel, resolve_weights

SHIPPED = [model for model in TeacherModel if (DEMO_WEIGHTS / model).is_dir()]
MAX_BYTES = 14_000_000
# Neither trained on nor used for the figures in the cards.
SAMPLE = replace(HELD_OUT, name="test", first_seed=730_000, worlds_per_theme=1, views_per_world=5)


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return tmp_path_factory.mktemp("renders")


@pytest.fixture(scope="module")
def views(renders):
    return load_render_set(SAMPLE, renders)


@pytest.mark.parametrize("model", SHIPPED)
def test_each_checkpoint_is_complete_half_precision_and_licensed(model):
    weights = resolve_weights(WeightsConfig(), model)
    assert weights.licence == "apache-2.0"
    with safe_open(weights.path / "model.safetensors", framework="pt") as tensors:
        loaded = [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118 - no mapping
    assert {tensor.dtype for tensor in loaded if tensor.is_floating_point()} == {torch.float16}
    card = (weights.path / "README.md").read_text()
    for wanted in (
        "Held-out figures",
        "chance",
        "procedural worlds",
        str(TRAINING.first_seed),
        str(HELD_OUT.first_seed),
    ):
        assert wanted in card


def test_all_checkpoints_together_stay_small():
    files = [path for path in DEMO_WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".npy"}]


def test_training_held_out_and_test_worlds_are_different_ones():
    def seeds(config):
        return set(range(config.first_seed, config.first_seed + config.worlds_per_theme))

    assert not seeds(TRAINING) & seeds(HELD_OUT)
    assert not seeds(TRAINING) & seeds(SAMPLE)
    assert not seeds(HELD_OUT) & seeds(SAMPLE)


def test_the_shipped_tokenizer_is_the_one_the_code_builds():
    shipped = ClipFeatures.from_config(PatchFeatureConfig())._tokenizer
    assert shipped.get_vocab() == build_tokenizer().get_vocab()


@pytest.mark.slow
def test_the_sky_is_found(views):
    figures = held_out.sky_figures(SkySegmenter.from_config(SkyConfig(height=112, width=200)), views)
    assert figures["sky_iou"] > 0.85
    assert figures["mean_iou"] > 3 * figures["chance_mean_iou"]


@pytest.mark.slow
def test_depth_is_ordered(views):
    model = DepthAnything.from_config(DepthAnythingConfig(grid_height=112, grid_width=196))
    figures = held_out.depth_figures(model, views)
    assert figures["abs_rel"] < 0.75 * figures["chance_abs_rel"]
    assert figures["delta_1"] > 1.8 * figures["chance_delta_1"]


@pytest.fixture(scope="module")
def dinov2(renders, views, tmp_path_factory):
    """Figures of the shipped DINOv2 and of its random start."""
    scratch = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    save_checkpoint(scratch, architectures.dinov2(), dinov2_processor())
    trained = Dinov2Features.from_config(PatchFeatureConfig())
    untrained = Dinov2Features.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(scratch))))
    remembered = load_render_set(replace(SAMPLE, first_seed=740_000), renders)
    return held_out.dinov2_figures(trained, untrained, remembered, views)


@pytest.mark.slow
def test_patches_of_one_class_lie_together(dinov2):
    assert dinov2["knn_accuracy"] > 1.3 * dinov2["chance_knn_accuracy"]
    assert dinov2["knn_class_accuracy"] > 2 * dinov2["chance_knn_class_accuracy"]


@pytest.mark.slow
def test_training_put_patches_of_one_class_closer_together(dinov2):
    assert dinov2["knn_class_accuracy"] > 1.2 * dinov2["untrained_knn_class_accuracy"]


@pytest.mark.slow
def test_words_find_their_patches(views):
    figures = held_out.clip_figures(ClipFeatures.from_config(PatchFeatureConfig()), views)
    for theme in ("street", "airside"):
        assert figures[f"{theme}_accuracy"] > 1.3 * figures[f"{theme}_majority_accuracy"]
        assert figures[f"{theme}_class_accuracy"] > 5 * figures[f"{theme}_chance_accuracy"]
        assert figures[f"{theme}_mean_iou"] > 3 * figures[f"{theme}_chance_accuracy"]


def test_synonyms_lie_closer_than_other_things():
    model = ClipFeatures.from_config(PatchFeatureConfig())
    words = ["car", "automobile", "tree", "vegetation", "building", "house"]
    similarity = model.text_embeddings([f"a photo of a {word}" for word in words])
    similarity = similarity @ similarity.T
    for index in range(0, len(words), 2):
        others = [j for j in range(len(words)) if j not in (index, index + 1)]
        assert similarity[index, index + 1] > similarity[index, others].max()
