"""Checkpoints that are missing, broken or of the wrong kind are refused by name."""

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Model

from storage.digests import file_digest
from storage.errors import EnvironmentMissingError, ErrorKind, IntegrityError, MissingTargetError
from teachers.config import PatchFeatureConfig, SkyConfig, WeightsConfig
from teachers.image.clip import ClipFeatures
from teachers.image.dinov2 import Dinov2Features
from teachers.image.pointrend import PointRendSegmenter
from teachers.image.sky import SkySegmenter
from teachers.image.weights import CONVERSION_FILE, TeacherModel, load_model, resolve_weights


@pytest.fixture
def folder(random_weights, tmp_path):
    """A copy of the DINOv2 checkpoint, free to be broken."""
    return shutil.copytree(random_weights / "dinov2", tmp_path / "dinov2")


def resolve(folder, model=TeacherModel.DINOV2):
    return resolve_weights(WeightsConfig(source=str(folder)), model)


def test_every_file_that_is_read_has_its_digest(random_weights):
    weights = resolve(random_weights / "clip", TeacherModel.CLIP)
    assert {"clip/config.json", "clip/model.safetensors", "clip/tokenizer.json"} <= set(weights.digests)
    assert weights.digests["clip/config.json"] == file_digest(random_weights / "clip" / "config.json")


def test_one_changed_number_changes_the_digest(folder):
    before = resolve(folder)
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert resolve(folder).digest != before.digest


def test_the_licence_is_read_from_the_model_card(folder):
    assert resolve(folder).licence == "unknown"
    (folder / "README.md").write_text("---\nlicense: 'apache-2.0'\n---\n# A model\n")
    assert resolve(folder).licence == "apache-2.0"


def test_a_name_that_is_neither_folder_nor_model_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in (str(tmp_path / "nowhere"), "nobody/such-a-model"):
        with pytest.raises(MissingTargetError, match="no folder, and no model") as caught:
            resolve(source)
        assert caught.value.kind is ErrorKind.WEIGHTS_MISSING
        assert caught.value.key == source


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_checkpoint_without_its_config_or_weights_is_missing(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(MissingTargetError, match=r"config\.json" if missing == "config.json" else "safetensors"):
        resolve(folder)


def test_pickled_weights_are_not_read(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingTargetError, match=r"pickled weights are never read.*refs/pr"):
        resolve(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b'{"not": "safetensors"}'])
def test_corrupt_weights_are_named(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors: is no safetensors file"):
        resolve(folder)


def test_truncated_weights_are_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        resolve(folder)


def test_another_architecture_is_named(random_weights):
    with pytest.raises(
        IntegrityError, match=r"config\.json: model_type 'dinov2', want 'efficientnet_lite0' or 'segformer'"
    ):
        SkySegmenter.from_config(SkyConfig(weights=WeightsConfig(source=str(random_weights / "dinov2"))))


def test_a_config_that_is_no_json_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"config\.json: is no JSON object"):
        resolve(folder)


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "image_size"])
def test_a_config_that_asks_for_a_million_is_refused_before_anything_is_built(folder, name):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: 10**6}))
    message = "want no more than the" if name == "num_hidden_layers" else "cannot be loaded"
    with pytest.raises(IntegrityError, match=message):
        load_model(Dinov2Model, resolve(folder), device=torch.device("cpu"), dtype=torch.float32)


def test_a_config_of_a_million_levels_is_named(folder):
    (folder / "config.json").write_text("[" * 1_000_000)
    with pytest.raises(IntegrityError, match=r"config\.json: is no JSON object: nested deeper"):
        resolve(folder)


def test_a_missing_parameter_is_an_error_and_not_a_random_number(folder):
    tensors = load_file(folder / "model.safetensors")
    dropped = next(name for name in tensors if name.endswith("fc1.weight"))
    del tensors[dropped]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="missing or misshapen"):
        load_model(Dinov2Model, resolve(folder), device=torch.device("cpu"), dtype=torch.float32)


def test_a_parameter_of_another_shape_is_an_error(folder):
    config = json.loads((folder / "config.json").read_text())
    config["mlp_ratio"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match=str(folder)):
        Dinov2Features.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(folder))))


def test_a_segmenter_without_a_sky_label_is_refused(random_weights, tmp_path):
    folder = shutil.copytree(random_weights / "segformer", tmp_path / "segformer")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "road", "1": "building", "2": "tree"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match=r"config\.json: has no label 'sky' among its 3"):
        SkySegmenter.from_config(SkyConfig(weights=WeightsConfig(source=str(folder))))


def test_a_clip_without_its_tokenizer_is_refused(random_weights, tmp_path):
    folder = shutil.copytree(random_weights / "clip", tmp_path / "clip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(IntegrityError, match="its tokenizer has 2 tokens, the model has 854"):
        ClipFeatures.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(folder))))


def test_pointrend_without_detectron2_names_what_is_missing(tmp_path):
    if find_spec("detectron2"):
        pytest.skip("detectron2 is installed")
    (tmp_path / "config.yaml").write_text("MODEL: {}")
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = SkyConfig(segmenter="pointrend", weights=WeightsConfig(source=str(tmp_path)))
    with pytest.raises(EnvironmentMissingError, match="detectron2: PointRend needs it"):
        PointRendSegmenter.from_config(config)


def test_pointrend_has_no_shipped_weights():
    with pytest.raises(MissingTargetError, match="pointrend"):
        PointRendSegmenter.from_config(SkyConfig(segmenter="pointrend"))


def test_weights_without_their_scaling_of_images_are_missing(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(MissingTargetError, match=r"preprocessor_config\.json: a checkpoint needs it") as caught:
        Dinov2Features.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(folder))))
    assert caught.value.kind is ErrorKind.WEIGHTS_MISSING
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"preprocessor_config\.json: cannot be read"):
        Dinov2Features.from_config(PatchFeatureConfig(weights=WeightsConfig(source=str(folder))))


def test_a_file_that_is_not_what_its_conversion_wrote_is_named_with_both_digests(folder):
    path = folder / "model.safetensors"
    wanted = file_digest(path)
    (folder / CONVERSION_FILE).write_text(json.dumps({"model_sha256": wanted}))
    resolve(folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=f"SHA-256 {file_digest(path)}, want {wanted} as {CONVERSION_FILE}"):
        resolve(folder)
    (folder / CONVERSION_FILE).write_text("{}")
    with pytest.raises(IntegrityError, match="states no model_sha256"):
        resolve(folder)


def test_a_file_of_the_hubs_cache_that_is_not_what_its_name_says_is_named(folder, tmp_path):
    """The cache keeps ``blobs/<SHA-256>`` and links to it."""
    path = folder / "model.safetensors"
    wanted = file_digest(path)
    path.rename(tmp_path / wanted)
    path.symlink_to(tmp_path / wanted)
    resolve(folder)
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, tmp_path / "changed", metadata={"format": "pt"})
    (tmp_path / "changed").rename(tmp_path / wanted)
    with pytest.raises(IntegrityError, match=f"SHA-256 {file_digest(path)}, want {wanted} as the hub"):
        resolve(folder)
