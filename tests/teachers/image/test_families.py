"""Every family of image teachers against transformers' own forward pass, with random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModel,
    BitImageProcessorPil,
    CLIPModel,
    DepthAnythingForDepthEstimation,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    RadioConfig,
    RadioModel,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

from storage.errors import IntegrityError
from storage.stores.arrays import read_target
from storage.taxonomy import CITYSCAPES_LABELS
from student.inference.open_vocabulary import TextEncoder
from teachers.config import DepthAnythingConfig, FeatureBasisConfig, PatchFeatureConfig, SkyConfig, WeightsConfig
from teachers.demo_training.captions import build_tokenizer
from teachers.image.clip import ClipFeatures
from teachers.image.depth_anything import DepthAnything
from teachers.image.dinov2 import FAMILIES, Dinov2Features
from teachers.image.extract_depth import align_inverse_depth
from teachers.image.image_batches import normalise
from teachers.image.patch_features import overlapping
from teachers.image.run import extract_depth_anything, extract_patch_features, extract_sky_mask, fit_feature_basis
from teachers.image.segmenter import SkyReading
from teachers.image.sky import SkySegmenter, class_scores

_VIT = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2)
_LABELS = {0: "road", 1: "building", 2: "sky"}


def _vision_models():
    yield Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**_VIT, mlp_ratio=2, image_size=32, patch_size=16, num_register_tokens=3)
    )
    yield DINOv3ViTModel(
        DINOv3ViTConfig(**_VIT, intermediate_size=32, image_size=32, patch_size=16, num_register_tokens=2)
    )
    yield RadioModel(RadioConfig(**_VIT, mlp_ratio=2.0, patch_size=16, max_img_size=64))


def _siglip(tokenizer):
    sizes = dict(**_VIT, intermediate_size=32)
    return SiglipModel(
        SiglipConfig(
            text_config={**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 16},
            vision_config={**sizes, "image_size": 32, "patch_size": 16},
        )
    )


def _universal():
    """Small relatives of the published Mask2Former and OneFormer, with a Swin backbone."""
    swin = dict(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, image_size=64)
    swin["out_features"] = ["stage1", "stage2", "stage3", "stage4"]
    sizes = dict(hidden_dim=32, num_queries=5, num_attention_heads=2, dim_feedforward=16, id2label=_LABELS)
    yield Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=SwinConfig(**swin),
            feature_size=32,
            mask_feature_size=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_feedforward_dim=16,
            **sizes,
        )
    )
    yield OneFormerForUniversalSegmentation(
        OneFormerConfig(
            backbone_config=SwinConfig(**swin),
            conv_dim=32,
            mask_dim=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_feedforward_dim=16,
            query_dec_layers=1,
            text_encoder_width=16,
            text_encoder_num_layers=1,
            text_encoder_vocab_size=1200,
            is_training=False,
            task_seq_len=16,
            **sizes,
        )
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with one untrained checkpoint per family, by model type."""
    torch.manual_seed(0)
    root, tokenizer = tmp_path_factory.mktemp("families"), build_tokenizer()
    for model in (*_vision_models(), _siglip(tokenizer), *_universal()):
        name = model.config.model_type
        model.save_pretrained(root / name)
        BitImageProcessorPil(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.2]).save_pretrained(root / name)
        if name in ("siglip", "oneformer"):
            tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)


def patch_config(folder, **settings):
    return PatchFeatureConfig(weights=WeightsConfig(source=str(folder)), **settings)


def pixels_of(folder, images):
    return normalise(BitImageProcessorPil.from_pretrained(folder), images)


@pytest.fixture
def folder_of(folders, random_weights):
    return lambda name: random_weights / name if (random_weights / name).is_dir() else folders / name


@pytest.mark.parametrize("name", [family.value for family in FAMILIES])
class TestVisionTransformers:
    """DINOv2 (with registers), DINOv3 and C-RADIO."""

    def test_features_are_the_models_own(self, folder_of, name):
        folder = folder_of(name)
        model = Dinov2Features.from_config(patch_config(folder))
        images = np.random.default_rng(0).integers(0, 256, (2, 2 * model.multiple, 3 * model.multiple, 3), np.uint8)
        own = AutoModel.from_pretrained(folder).eval()
        with torch.no_grad():
            output = own(pixels_of(folder, images))
        tokens = output.features if name == "radio" else output.last_hidden_state[:, -6:]
        expected = tokens.unflatten(1, (2, 3)).permute(0, 3, 1, 2)
        torch.testing.assert_close(model.dense_features(images), expected)
        unit = Dinov2Features.from_config(patch_config(folder, unit_length=True)).dense_features(images)
        torch.testing.assert_close(unit, functional.normalize(expected, dim=1))

    @pytest.mark.parametrize("block", [0, 1])
    def test_any_block_and_its_keys(self, folder_of, name, block):
        folder, family = folder_of(name), FAMILIES[next(each for each in FAMILIES if each.value == name)]
        model = Dinov2Features.from_config(patch_config(folder, block=block, facet="key"))
        images = np.random.default_rng(0).integers(0, 256, (1, 2 * model.multiple, 3 * model.multiple, 3), np.uint8)
        own = AutoModel.from_pretrained(folder).eval()
        with torch.no_grad():
            hidden = own(pixels_of(folder, images), output_hidden_states=True).hidden_states
            layer = own.get_submodule(family.blocks)[block]
            keys = layer.attention.k_proj(layer.norm1(hidden[block]))[:, -6:]
            norm = own.get_submodule(family.norm) if family.norm else torch.nn.Identity()
            tokens = norm(hidden[block + 1])[:, -6:]
        for features, expected in (
            (model.dense_features(images), keys),
            (Dinov2Features.from_config(patch_config(folder, block=block)).dense_features(images), tokens),
        ):
            torch.testing.assert_close(features, expected.unflatten(1, (2, 3)).permute(0, 3, 1, 2))

    def test_a_block_that_is_not_there(self, folder_of, name):
        with pytest.raises(ValueError, match="has blocks 0 to"):
            Dinov2Features.from_config(patch_config(folder_of(name), block=9))


def test_sliding_windows_lie_where_their_stride_says():
    """The mean of each window is the image blurred, read at the windows' centres."""
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    windows = overlapping(lambda p: functional.avg_pool2d(p, 16), pixels, patch_size=16, stride=8)
    assert windows.shape == (2, 3, 4, 6)
    inner = functional.avg_pool2d(pixels[:, :, 4:-4, 4:-4], 16, 8)
    torch.testing.assert_close(windows[:, :, 1:-1, 1:-1], inner)


def test_a_stride_that_divides_no_patch_is_refused(folders, images):
    model = Dinov2Features.from_config(patch_config(folders / "radio", stride=5))
    with pytest.raises(ValueError, match="stride 5: want one that divides the patch size, 16 pixels"):
        model.dense_features(images)


def test_overlapping_features_of_a_model_hold_its_own(folders, images):
    """The shift that moves nothing is there, at its own places, wherever the margin allows it: here, none is wider."""
    folder = folders / "dinov3_vit"
    features = Dinov2Features.from_config(patch_config(folder, stride=4)).dense_features(images)
    assert features.shape == (2, 16, 8, 12)
    model, before = Dinov2Features.from_config(patch_config(folder)), 6
    pixels = functional.pad(pixels_of(folder, images), (before,) * 4, mode="reflect")
    with torch.no_grad():
        expected = model.embed(pixels[..., 4 : 4 + 32, 8 : 8 + 48])
    torch.testing.assert_close(features[:, :, 1::4, 2::4], expected)


class TestWords:
    """CLIP and SigLIP."""

    def test_clips_values_come_from_its_own_last_layer(self, random_weights):
        folder = random_weights / "clip"
        images = np.random.default_rng(0).integers(0, 256, (1, 56, 56, 3), np.uint8)
        own = CLIPModel.from_pretrained(folder).eval()
        with torch.no_grad():
            vision = own.vision_model
            hidden = vision(pixels_of(folder, images), output_hidden_states=True).hidden_states[-2]
            last = vision.encoder.layers[-1]
            values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(hidden[:, 1:])))
            expected = functional.normalize(own.visual_projection(vision.post_layernorm(values)), dim=-1)
        features = ClipFeatures.from_config(patch_config(folder)).dense_features(images)
        torch.testing.assert_close(features, expected.unflatten(1, (4, 4)).permute(0, 3, 1, 2))

    def test_one_patch_of_siglip_is_its_own_embedding(self, folders):
        folder = folders / "siglip"
        images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
        with torch.no_grad():
            vision = SiglipModel.from_pretrained(folder).eval().vision_model
            expected = vision(pixels_of(folder, images), interpolate_pos_encoding=True).pooler_output
        features = ClipFeatures.from_config(patch_config(folder)).dense_features(images)
        torch.testing.assert_close(features[:, :, 0, 0], functional.normalize(expected, dim=-1))

    def test_words_of_siglip_are_its_own_for_teacher_and_student(self, folders):
        folder, texts = folders / "siglip", ["a photo of a car", "the sky"]
        own, tokenizer = SiglipModel.from_pretrained(folder).eval(), build_tokenizer()
        tokens = tokenizer(texts, padding="max_length", max_length=24, return_tensors="pt")
        with torch.no_grad():
            expected = functional.normalize(own.get_text_features(tokens.input_ids).pooler_output, dim=-1)
        torch.testing.assert_close(ClipFeatures.from_config(patch_config(folder)).text_embeddings(texts), expected)
        encoder = TextEncoder(str(folder))
        np.testing.assert_allclose(encoder.embed(texts), expected.numpy(), rtol=1e-5, atol=1e-6)
        assert encoder.temperature == pytest.approx(float(torch.exp(-own.logit_scale.detach())))

    def test_a_block_of_it_is_refused(self, folders):
        with pytest.raises(ValueError, match="block 1"):
            ClipFeatures.from_config(patch_config(folders / "siglip", block=1))


class TestDepth:
    """Depth Anything, relative and metric."""

    @pytest.fixture
    def model(self, random_weights):
        weights = WeightsConfig(source=str(random_weights / "depth_anything"))
        return DepthAnything.from_config(DepthAnythingConfig(weights=weights, grid_height=28, grid_width=42))

    def test_the_features_are_what_the_head_reads(self, model, random_weights):
        folder = random_weights / "depth_anything"
        images = np.random.default_rng(0).integers(0, 256, (1, 28, 42, 3), np.uint8)
        own, read = DepthAnythingForDepthEstimation.from_pretrained(folder).eval(), []
        own.head.conv1.register_forward_hook(lambda _, given, __: read.append(given[0]))
        with torch.no_grad():
            depth = own(pixels_of(folder, images)).predicted_depth
        maps, inverse_depth = model.fusion_map_and_inverse_depth(pixels_of(folder, images))
        torch.testing.assert_close(maps, read[0])
        torch.testing.assert_close(inverse_depth, depth)

    def test_metric_depth_is_inverted(self, model, monkeypatch):
        images = np.random.default_rng(0).integers(0, 256, (1, 28, 42, 3), np.uint8)
        _, relative = model.features_and_inverse_depth(images)
        assert float(relative.min()) > 1e-3
        monkeypatch.setattr(model._model.config, "depth_estimation_type", "metric")
        _, inverse = model.features_and_inverse_depth(images)
        torch.testing.assert_close(inverse, 1.0 / relative)

    def test_scale_shift_and_error(self):
        depth = np.linspace(2.0, 60.0, 50)
        predicted = (1.0 / depth - 0.01) / 0.5
        np.testing.assert_allclose(align_inverse_depth(predicted, depth), [0.5, 0.01, 0.0], atol=1e-5)
        assert align_inverse_depth(np.ones(50), depth)[0] == 0.0
        assert align_inverse_depth(np.ones(50), depth)[2] > 0.2

    def test_what_makes_metres_is_stored(self, home, scene_key, random_weights):
        weights = WeightsConfig(source=str(random_weights / "depth_anything"))
        config = DepthAnythingConfig(weights=weights, input_short_side=42, grid_height=4, grid_width=6)
        made = extract_depth_anything(home, scene_key, config)
        group = home.open_arrays(made.version)
        inverse_depth = read_target(group, "depth_anything_features", "inverse_depth")
        alignment = read_target(group, "depth_anything_features", "alignment")
        assert inverse_depth.shape == (2, 2, 4, 6)
        assert inverse_depth.std() > 0
        assert np.isfinite(alignment).all()
        assert made.metrics["aligned_relative_error"] == pytest.approx(float(np.median(alignment[..., 2])))


class TestSky:
    """Segmenters of transformers."""

    def config(self, folder, **settings):
        weights = WeightsConfig(source=str(folder))
        return SkyConfig(weights=weights, height=9, width=16, input_short_side=64, **settings)

    @pytest.mark.parametrize("name", ["mask2former", "oneformer"])
    def test_masks_become_probabilities(self, folders, name):
        images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
        model = SkySegmenter.from_config(self.config(folders / name, keep_semantics=True))
        probability = model.logits(images).softmax(dim=1)
        assert model.labels == ("road", "building", "sky")
        torch.testing.assert_close(probability.sum(dim=1), torch.ones(2, *probability.shape[2:]))
        assert float(probability.std(dim=(2, 3)).max()) > 0
        reading = model.sky(images)
        assert reading.semantics is not None
        assert torch.equal(reading.is_sky, reading.probability > 0.5)

    def test_scores_are_those_of_transformers(self):
        generator = torch.Generator().manual_seed(0)
        classes = torch.randn(2, 5, 4, generator=generator) * 3
        masks = torch.randn(2, 5, 384, 384, generator=generator) * 3  # the size to which transformers resizes
        output = Mask2FormerForUniversalSegmentationOutput(class_queries_logits=classes, masks_queries_logits=masks)
        expected = Mask2FormerImageProcessorPil().post_process_semantic_segmentation(output)
        assert torch.equal(class_scores(classes, masks).argmax(dim=1), torch.stack(expected))

    def test_the_stored_mask_is_the_segmenters_own(self, home, scene_key, random_weights, monkeypatch):
        """Pixel by pixel, semantics too: a mask that is moved by one pixel fails."""
        generator = torch.Generator().manual_seed(0)
        probability = torch.rand(4, 9, 16, generator=generator)
        semantics = torch.randint(0, 3, (4, 9, 16), generator=generator, dtype=torch.uint8)
        monkeypatch.setattr(
            SkySegmenter, "sky", lambda self, images: SkyReading(probability, probability > 0.5, semantics)
        )
        config = self.config(random_weights / "segformer", keep_semantics=True)
        group = home.open_arrays(extract_sky_mask(home, scene_key, config).version)
        shape = (2, 2, 9, 16)
        assert np.array_equal(read_target(group, "sky_mask", "is_sky"), (probability > 0.5).reshape(shape).numpy())
        assert np.array_equal(read_target(group, "sky_mask", "image_semantics"), semantics.reshape(shape).numpy())
        assert group.attrs["labels"] == ["road", "building", "sky"]

    def test_the_real_segmenters_mask_is_not_moved(self, random_weights, monkeypatch):
        """Where one of a network's cells alone is sky, so is its place in the mask."""
        model = SkySegmenter.from_config(replace(self.config(random_weights / "segformer"), height=16, width=32))
        logits = torch.zeros(1, 3, 16, 32)
        logits[0, 2, 5, 9] = 20.0
        monkeypatch.setattr(model, "logits", lambda images: logits)
        assert model.sky(np.zeros((1, 64, 128, 3), np.uint8)).is_sky.nonzero().tolist() == [[0, 5, 9]]


def test_cityscapes_sky_is_class_ten():
    from teachers.image.pointrend import NUM_CLASSES, SKY_CLASS

    assert CITYSCAPES_LABELS[SKY_CLASS] == "sky"
    assert (SKY_CLASS, NUM_CLASSES) == (10, 19)


@pytest.mark.parametrize(("source", "name"), [("dinov2", "dinov3_vit"), ("dinov2", "radio"), ("clip", "siglip")])
def test_a_family_is_chosen_by_its_weights(home, scene_key, folders, source, name):
    config = patch_config(
        folders / name, input_short_side=32, grid_height=2, grid_width=4, min_retained_variance=0.0, stride=8
    )
    fit_feature_basis(home, source, [scene_key], FeatureBasisConfig(extractor=config, num_components=4))
    made = extract_patch_features(home, scene_key, source, config)
    assert read_target(home.open_arrays(made.version), f"{source}_features", "features").shape == (2, 2, 2, 4, 4)
    assert {key.partition("/")[0] for key in home.provenance(made.version).weights_digests} == {name}


def test_a_model_of_another_kind_is_refused(folders):
    with pytest.raises(IntegrityError, match="model_type 'siglip', want 'dinov2' or 'dinov2_with_registers' or"):
        Dinov2Features.from_config(patch_config(folders / "siglip"))
