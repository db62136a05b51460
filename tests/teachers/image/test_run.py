"""Every extractor, end to end on a tiny scene, with real transformers classes."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Model

from storage.errors import IntegrityError, MissingTargetError, ProvenanceMismatchError
from storage.kinds import FEATURE_SOURCES
from storage.stores.arrays import check_target, read_features, read_target
from storage.stores.versioned import Home
from teachers.config import (
    DepthAnythingConfig,
    FeatureBasisConfig,
    ImageTeachersConfig,
    InferenceConfig,
    PatchFeatureConfig,
    SkyConfig,
    WeightsConfig,
)
from teachers.image.depth_anything import DepthAnything
from teachers.image.feature_basis import FeatureBasis
from teachers.image.run import (
    extract_depth_anything,
    extract_patch_features,
    extract_sky_mask,
    fit_feature_basis,
    patch_feature_model,
)

# Sums run in another order for another batch size; in float16 that is at most one unit in the last place.
FLOAT16_STEP = 2e-3


@pytest.fixture
def configs(random_weights):
    def weights(name):
        return WeightsConfig(source=str(random_weights / name))

    small = dict(input_short_side=42, inference=InferenceConfig(batch_size=3))
    grid = dict(grid_height=4, grid_width=6)
    return {
        "sky_mask": SkyConfig(weights=weights("segformer"), height=9, width=16, input_short_side=64),
        "depth_anything_features": DepthAnythingConfig(weights=weights("depth_anything"), **grid, **small),
        "dinov2_features": PatchFeatureConfig(weights=weights("dinov2"), **grid, **small),
        "clip_features": PatchFeatureConfig(weights=weights("clip"), **grid, **small),
    }


def extract_dinov2(home, scene_key, config, on_progress=None):
    return extract_patch_features(home, scene_key, "dinov2", config, on_progress)


def extract_clip(home, scene_key, config, on_progress=None):
    return extract_patch_features(home, scene_key, "clip", config, on_progress)


EXTRACTORS = {
    "sky_mask": extract_sky_mask,
    "depth_anything_features": extract_depth_anything,
    "dinov2_features": extract_dinov2,
    "clip_features": extract_clip,
}
SHAPES = {
    "sky_mask": ("sky_probability", (2, 2, 9, 16)),
    "depth_anything_features": ("features", (2, 2, 4, 6, 8)),
    "dinov2_features": ("features", (2, 2, 4, 6, 5)),
    "clip_features": ("features", (2, 2, 4, 6, 5)),
}


def run(home, kind, scene_key, config, **arguments):
    source = kind.removesuffix("_features")
    if source in ("dinov2", "clip"):
        fit_feature_basis(home, source, [scene_key], FeatureBasisConfig(extractor=config, num_components=5))
    return EXTRACTORS[kind](home, scene_key, config, **arguments)


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_extraction_writes_the_declared_arrays_and_is_found_again(home, scene_key, configs, kind):
    reports = []
    made = run(home, kind, scene_key, configs[kind], on_progress=lambda *report: reports.append(report))
    assert not made.reused
    group = home.open_arrays(made.version)
    check_target(group, kind)
    name, shape = SHAPES[kind]
    values = read_target(group, kind, name)
    assert values.shape == shape
    assert np.isfinite(values).all()
    assert values.astype(np.float64).std() > 0
    assert made.metrics["coverage"] == 1.0
    assert made.metrics["quality"]["checks"]["non_finite"]["passed"]
    assert reports[-1][1] == 1.0
    provenance = home.provenance(made.version)
    assert provenance.inputs[0].kind == "scene"
    assert any(key.endswith(".safetensors") for key in provenance.weights_digests)
    assert "CC0-1.0" in provenance.licence
    again = EXTRACTORS[kind](home, scene_key, configs[kind])
    assert again.reused
    assert again.version == made.version
    assert again.metrics == made.metrics


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_batch_size_changes_neither_the_digest_nor_the_values(tmp_path, configs, kind, make_scene, publish):
    results = []
    for batch_size in (1, 4):
        home = Home(tmp_path / str(batch_size))
        key = publish(home, make_scene())
        config = dataclasses.replace(configs[kind], inference=InferenceConfig(batch_size=batch_size))
        made = run(home, kind, key, config)
        results.append((made.version.digest, read_target(home.open_arrays(made.version), kind, SHAPES[kind][0])))
    assert results[0][0] == results[1][0]
    difference = np.abs(results[0][1].astype(float) - results[1][1].astype(float)).max()
    assert difference <= FLOAT16_STEP * max(1.0, np.abs(results[0][1]).max())


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_extraction_is_deterministic(tmp_path, configs, kind, make_scene, publish):
    values = []
    for name in ("a", "b"):
        home = Home(tmp_path / name)
        made = run(home, kind, publish(home, make_scene()), configs[kind])
        values.append(read_target(home.open_arrays(made.version), kind, SHAPES[kind][0]))
    assert np.array_equal(values[0], values[1])


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_cameras_of_different_size_and_aspect_share_one_grid(home, configs, kind, make_scene, publish):
    scene = make_scene(sizes=((30, 90), (64, 48), (50, 50)))
    made = run(home, kind, publish(home, scene), configs[kind])
    name, (_, _, *rest) = SHAPES[kind]
    assert read_target(home.open_arrays(made.version), kind, name).shape == (2, 3, *rest)


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_a_scene_that_was_never_ingested_is_missing(home, configs, kind):
    with pytest.raises(MissingTargetError, match=r"scene/test\.nowhere"):
        EXTRACTORS[kind](home, "test.nowhere", configs[kind])


def test_features_need_a_basis(home, scene_key, configs):
    with pytest.raises(MissingTargetError, match="feature_basis/dinov2"):
        extract_dinov2(home, scene_key, configs["dinov2_features"])


def test_a_basis_of_other_weights_is_refused(home, scene_key, configs, tmp_path, random_weights):
    run(home, "dinov2_features", scene_key, configs["dinov2_features"])
    other = shutil.copytree(random_weights / "dinov2", tmp_path / "other")
    model = Dinov2Model.from_pretrained(other)
    model.embeddings.cls_token.data += 1
    model.save_pretrained(other)
    with pytest.raises(ProvenanceMismatchError, match="fit the basis again"):
        extract_dinov2(
            home, scene_key, dataclasses.replace(configs["dinov2_features"], weights=WeightsConfig(source=str(other)))
        )


def test_a_new_basis_makes_a_new_version_of_the_features(home, scene_key, configs):
    config = configs["clip_features"]
    first = run(home, "clip_features", scene_key, config)
    fit_feature_basis(home, "clip", [scene_key], FeatureBasisConfig(extractor=config, num_components=4))
    second = extract_clip(home, scene_key, config)
    assert second.version.digest != first.version.digest
    assert read_target(home.open_arrays(second.version), "clip_features", "features").shape[-1] == 4


def test_reduced_features_lie_in_the_unit_range_and_explain_the_scene_they_were_fitted_on(home, scene_key, configs):
    made = run(home, "clip_features", scene_key, configs["clip_features"])
    values = read_target(home.open_arrays(made.version), "clip_features", "features")
    assert values.min() >= 0
    assert values.max() <= 1
    basis = home.metrics(home.require("feature_basis", "clip"))
    assert made.metrics["retained_variance"] == pytest.approx(basis["explained_variance"], abs=1e-3)


def test_a_basis_asks_for_scenes_and_for_directions_that_exist(home, scene_key, configs):
    with pytest.raises(ValueError, match="at least one scene"):
        fit_feature_basis(home, "clip", [], FeatureBasisConfig())
    with pytest.raises(ValueError, match="within"):
        fit_feature_basis(
            home, "clip", [scene_key], FeatureBasisConfig(extractor=configs["clip_features"], num_components=13)
        )
    assert home.latest("feature_basis", "clip") is None


def test_an_untrained_sky_model_that_calls_the_ground_sky_fails_its_gate(home, scene_key, configs):
    config = dataclasses.replace(configs["sky_mask"], threshold=1e-6)
    made = extract_sky_mask(home, scene_key, config)
    check = made.metrics["quality"]["checks"]["lidar_on_sky"]
    assert check["value"] == pytest.approx(1.0)
    assert not check["passed"]
    assert not made.metrics["quality"]["passed"]


def test_a_depth_model_that_orders_nothing_fails_its_gate(home, scene_key, configs):
    config = dataclasses.replace(configs["depth_anything_features"], min_lidar_rank_correlation=0.99)
    assert not extract_depth_anything(home, scene_key, config).metrics["quality"]["passed"]


@pytest.mark.parametrize("source", FEATURE_SOURCES)
def test_every_feature_source_has_a_model_and_a_basis_of_its_own(source):
    model = patch_feature_model(source)
    assert model.feature_source == source
    assert model.__module__ == f"teachers.image.{source}"  # what assets declare to be its code
    assert isinstance(ImageTeachersConfig().basis_of(source), FeatureBasisConfig)


@pytest.mark.parametrize("inverted", [(), (1,), (0, 1)])
def test_an_inverted_sky_is_caught_in_one_camera_too(home, scene_key, configs, monkeypatch, inverted):
    from teachers.image.segmenter import SkyReading
    from teachers.image.sky import SkySegmenter

    config, images_seen = configs["sky_mask"], []

    def upper_half(self, images):
        probability = torch.zeros(len(images), config.height, config.width)
        probability[:, : config.height // 2] = 1.0
        for index in range(len(images)):
            if len(images_seen) % 2 in inverted:  # cameras of a frame follow each other
                probability[index] = 1.0 - probability[index]
            images_seen.append(index)
        return SkyReading(probability, probability > config.threshold)

    monkeypatch.setattr(SkySegmenter, "sky", upper_half)
    checks = run(home, "sky_mask", scene_key, config).metrics["quality"]["checks"]
    assert checks["lidar_on_sky_of_a_camera"]["passed"] is not bool(inverted)
    if inverted == (1,):
        assert checks["lidar_on_sky_of_a_camera"]["where"] == "CAM_1"


class TestBasisOfTheWeights:
    """A basis that comes with the weights, in place of one fitted to the home's own frames."""

    @pytest.fixture
    def config(self, configs, tmp_path, random_weights):
        folder = shutil.copytree(random_weights / "clip", tmp_path / "clip")
        return dataclasses.replace(configs["clip_features"], weights=WeightsConfig(source=str(folder)))

    @pytest.fixture
    def fitted(self, tmp_path, config, make_scene, publish):
        """The basis of another scene, put beside the weights."""
        home = Home(tmp_path / "elsewhere")
        key = publish(home, make_scene(seed=3), "elsewhere")
        made = fit_feature_basis(home, "clip", [key], FeatureBasisConfig(extractor=config, num_components=5))
        basis = FeatureBasis.read(home.open_arrays(made.version))
        basis.save(Path(config.weights.source))
        return basis

    def test_it_is_taken_as_it_is_and_judged_on_these_frames(self, home, scene_key, config, fitted):
        given = FeatureBasisConfig(extractor=config, source="weights")
        made = fit_feature_basis(home, "clip", [scene_key], given)
        found = FeatureBasis.read(home.open_arrays(made.version))
        for field in dataclasses.fields(FeatureBasis):
            assert np.array_equal(getattr(found, field.name), getattr(fitted, field.name)), field.name
        features = extract_clip(home, scene_key, config)  # all of this scene's frames: the basis was judged on the same
        assert made.metrics["explained_variance"] == pytest.approx(features.metrics["retained_variance"], abs=1e-3)
        assert made.metrics["explained_variance"] != pytest.approx(float(fitted.explained_variance_ratio.sum()))
        assert made.metrics["num_components"] == 5

    def test_weights_without_one_and_one_of_other_features_are_refused(self, home, scene_key, config, configs, fitted):
        without = FeatureBasisConfig(extractor=configs["clip_features"], source="weights")
        with pytest.raises(MissingTargetError, match="without a basis"):
            fit_feature_basis(home, "clip", [scene_key], without)
        dataclasses.replace(fitted, mean=fitted.mean[1:], components=fitted.components[1:]).save(
            Path(config.weights.source)
        )
        with pytest.raises(IntegrityError, match="reduces 11 features, the model has 12"):
            fit_feature_basis(home, "clip", [scene_key], FeatureBasisConfig(extractor=config, source="weights"))


class TestMaskedRig:
    """Lower half of one camera shows the own vehicle: what a model says there is neither judged, learned nor found."""

    @pytest.fixture
    def masked_key(self, home, make_scene, publish):
        shows_world = np.ones((45, 80), bool)
        shows_world[22:] = False
        return publish(home, dataclasses.replace(make_scene(), is_valid=(None, shows_world)), "masked")

    @pytest.mark.parametrize("kind", EXTRACTORS)
    def test_its_cells_are_marked(self, home, masked_key, scene_key, configs, kind):
        group = home.open_arrays(run(home, kind, masked_key, configs[kind]).version)
        check_target(group, kind)
        is_valid = read_target(group, kind, "is_valid")
        rows = is_valid.shape[1]
        assert is_valid[0].all()
        assert is_valid[1, : rows // 2 - 1].all()
        assert not is_valid[1, (rows + 1) // 2 :].any()
        assert "is_valid" not in home.open_arrays(run(home, kind, scene_key, configs[kind]).version)

    def test_it_is_no_sky_and_changes_no_share(self, home, masked_key, scene_key, configs, monkeypatch):
        from teachers.image.segmenter import SkyReading
        from teachers.image.sky import SkySegmenter

        monkeypatch.setattr(
            SkySegmenter,
            "sky",
            lambda self, images: SkyReading(torch.ones(len(images), 9, 16), torch.ones(len(images), 9, 16) > 0),
        )
        made = run(home, "sky_mask", masked_key, configs["sky_mask"])
        group = home.open_arrays(made.version)
        is_valid = np.broadcast_to(read_target(group, "sky_mask", "is_valid"), (2, 2, 9, 16))
        assert np.array_equal(read_target(group, "sky_mask", "is_sky"), is_valid)
        assert np.array_equal(read_target(group, "sky_mask", "sky_probability"), is_valid)
        assert made.metrics["sky_fraction"] == 1.0
        assert made.metrics["sky_fraction_by_camera"] == {"CAM_0": 1.0, "CAM_1": 1.0}

    @pytest.mark.parametrize("kind", ["depth_anything_features", "dinov2_features"])
    def test_no_figure_depends_on_it(self, home, tmp_path, make_scene, publish, configs, kind, monkeypatch):
        """Two models that differ in the vehicle's cells alone have equal figures and equal bases."""
        model = patch_feature_model("dinov2") if kind == "dinov2_features" else DepthAnything
        name = "dense_features" if kind == "dinov2_features" else "features_and_inverse_depth"
        real, figures = getattr(model, name), []
        for spoil in (1.0, 1e4):

            def spoilt(self, images, real=real, spoil=spoil):
                answer = real(self, images)
                if isinstance(answer, torch.Tensor):
                    return torch.cat([answer[:, :, :2], answer[:, :, 2:] * spoil], dim=2)
                features, inverse_depth = answer
                return torch.cat([features[:, :2], features[:, 2:] * spoil], dim=1), inverse_depth

            home = Home(tmp_path / str(spoil))
            shows_world = np.ones((45, 80), bool)
            shows_world[20:] = False
            key = publish(home, dataclasses.replace(make_scene(), is_valid=(shows_world, shows_world)))
            config = dataclasses.replace(configs[kind], grid_height=3) if kind == "dinov2_features" else configs[kind]
            monkeypatch.setattr(model, name, spoilt)
            made = run(home, kind, key, config)
            wanted = ("dead_channels", "feature_std", "clipped_fraction", "retained_variance")
            figures.append({each: made.metrics[each] for each in wanted if each in made.metrics})
        assert figures[0] == figures[1]

    def test_it_is_read_as_undefined(self, home, masked_key, configs):
        group = home.open_arrays(run(home, "clip_features", masked_key, configs["clip_features"]).version)
        is_valid = read_target(group, "clip_features", "is_valid")
        whole, image = read_features(group, "clip_features", (0,)), read_features(group, "clip_features", (1, 1))
        assert np.array_equal(np.isfinite(whole).all(axis=-1), is_valid)
        assert np.array_equal(np.isfinite(image).all(axis=-1), is_valid[1])
