"""PointRend's adapter: nothing in its configuration runs, and its mask is the published one.

detectron2 is on no package index. Where it is not installed, a stand-in has its interface and its unsafe reader of
YAML, so that a configuration that runs something would run it here too.
"""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from teachers.config import SkyConfig, WeightsConfig
from teachers.image.detectron_config import MAX_BYTES, read_detectron_config
from teachers.image.pointrend import NUM_CLASSES, SKY_CLASS, PointRendSegmenter
from teachers.image.weights import TeacherModel, resolve_weights

PUBLISHED = f"MODEL:\n  SEM_SEG_HEAD:\n    NUM_CLASSES: {NUM_CLASSES}\nINPUT:\n  FORMAT: BGR\n"


class _CfgNode(dict):
    """Names as attributes, strict merging, and detectron2's default of unsafe YAML."""

    def __init__(self, values):
        super().__init__({n: _CfgNode(v) if isinstance(v, dict) else v for n, v in values.items()})

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__

    def merge_from_file(self, path):
        with open(path) as file:
            self.merge_from_other_cfg(_CfgNode(yaml.unsafe_load(file)))

    def merge_from_other_cfg(self, other):
        for name, value in other.items():
            if name not in self:
                raise KeyError(f"Non-existent config key: {name}")
            if isinstance(self[name], dict) != isinstance(value, dict):
                raise ValueError(f"Type mismatch for config key: {name}")
            if isinstance(value, dict):
                self[name].merge_from_other_cfg(value)
            else:
                self[name] = value


class _Segmenter(nn.Module):
    """Scores each class by the distance of the blue channel, as first in BGR, to ten times its index."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, requests):
        centres = 10.0 * torch.arange(NUM_CLASSES)[:, None, None]
        return [{"sem_seg": -self.scale * (r["image"][0] - centres).abs()} for r in requests]


@pytest.fixture
def detectron2(monkeypatch):
    """A stand-in where detectron2 is not installed; the settings of the built model are kept in it."""
    modules = {
        n: ModuleType(n) for n in ("detectron2", "detectron2.config", "detectron2.modeling", "detectron2.projects")
    }
    modules["detectron2.projects.point_rend"] = point_rend = ModuleType("detectron2.projects.point_rend")
    built = []

    def build_model(settings):
        built.append(settings)
        return _Segmenter()

    modules["detectron2.config"].CfgNode = _CfgNode
    modules["detectron2.config"].get_cfg = lambda: _CfgNode(
        {"MODEL": {"DEVICE": "cuda", "SEM_SEG_HEAD": {"NUM_CLASSES": 54}}, "INPUT": {"FORMAT": "BGR"}}
    )
    modules["detectron2.modeling"].build_model = build_model
    point_rend.add_pointrend_config = lambda settings: None
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return built


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.yaml").write_text(PUBLISHED)
    save_file({"scale": torch.ones(1)}, folder / "model.safetensors")
    return folder


def open_segmenter(folder, **size):
    config = SkyConfig(
        segmenter="pointrend", weights=WeightsConfig(source=str(folder)), **({"height": 4, "width": 8} | size)
    )
    return PointRendSegmenter(config, resolve_weights(config.weights, TeacherModel.SKY_POINTREND))


HOSTILE = [
    "MODEL: !!python/object/apply:os.system ['touch {canary}']",
    "MODEL: !!python/object/new:subprocess.Popen [['touch', '{canary}']]",
    "MODEL: !!python/name:os.system",
    "? !!python/object/apply:os.system ['touch {canary}']\n: 1",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("place", ["config.yaml", "base.yaml"])
def test_a_tag_that_would_run_a_command_is_refused(folder, tmp_path, detectron2, hostile, place):
    canary = tmp_path / "canary"
    if place == "base.yaml":
        (folder / "config.yaml").write_text("_BASE_: base.yaml\n" + PUBLISHED)
    weights = resolve_weights(WeightsConfig(source=str(write_sound(folder))), TeacherModel.SKY_POINTREND)
    (folder / place).write_text(hostile.format(canary=canary))
    with pytest.raises(
        IntegrityError, match=rf"{place}: is no plain YAML: could not determine a constructor"
    ) as caught:
        PointRendSegmenter(SkyConfig(segmenter="pointrend", height=4, width=8), weights)
    assert caught.value.kind is ErrorKind.WEIGHTS_INVALID
    assert not canary.exists()
    assert not detectron2


def write_sound(folder):
    """Make the folder whole, so that the hostile file is met when the model is loaded."""
    if not (folder / "base.yaml").is_file():
        (folder / "base.yaml").write_text("INPUT:\n  FORMAT: RGB\n")
    return folder


def test_the_stand_in_would_run_it(tmp_path, detectron2):
    (tmp_path / "config.yaml").write_text(HOSTILE[0].format(canary=tmp_path / "canary"))
    with pytest.raises(KeyError):
        _CfgNode({}).merge_from_file(tmp_path / "config.yaml")
    assert (tmp_path / "canary").exists()


def test_bases_are_merged_below_and_are_part_of_the_digest(folder, detectron2):
    (folder / "common").mkdir()
    (folder / "config.yaml").write_text("_BASE_: common/base.yaml\n" + PUBLISHED)
    (folder / "common" / "base.yaml").write_text("MODEL:\n  DEVICE: 'no'\n  SEM_SEG_HEAD:\n    NUM_CLASSES: 3\n")
    open_segmenter(folder)
    assert detectron2[0] == {
        "MODEL": {"DEVICE": "cpu", "SEM_SEG_HEAD": {"NUM_CLASSES": NUM_CLASSES}},
        "INPUT": {"FORMAT": "BGR"},
    }
    digests = resolve_weights(WeightsConfig(source=str(folder)), TeacherModel.SKY_POINTREND).digests
    assert set(digests) == {f"pointrend/{name}" for name in ("config.yaml", "common/base.yaml", "model.safetensors")}


def test_the_mask_is_the_most_probable_class_and_the_probability_is_kept(folder, detectron2):
    """Beside its neighbours, sky is the best of 19 classes with a probability under one half."""
    images = np.zeros((1, 32, 64, 3), np.uint8)
    images[:, :, :32, 2] = 10 * SKY_CLASS  # the last channel of RGB is the first of BGR
    images[:, :, 32:, 2] = 10 * (SKY_CLASS - 7)
    save_file({"scale": torch.full((1,), 0.1)}, folder / "model.safetensors")
    reading = open_segmenter(folder).sky(images)
    assert reading.is_sky[0, :, :4].all()
    assert not reading.is_sky[0, :, 4:].any()
    expected = torch.softmax(-0.1 * (100.0 - 10.0 * torch.arange(NUM_CLASSES)).abs(), 0)[SKY_CLASS]
    assert 0.3 < float(expected) < 0.5
    torch.testing.assert_close(reading.probability[0, :, :3], torch.full((4, 3), float(expected)))


def test_a_network_of_other_classes_is_refused(folder, detectron2):
    (folder / "config.yaml").write_text(PUBLISHED.replace(f"{NUM_CLASSES}", "54"))
    with pytest.raises(IntegrityError, match="NUM_CLASSES 54, want Cityscapes' 19"):
        open_segmenter(folder)


@pytest.mark.parametrize("content", ["NOBODY: 1\n", "MODEL: 3\n"])
def test_a_configuration_of_something_else_is_refused(folder, detectron2, content):
    (folder / "config.yaml").write_text(content)
    with pytest.raises(IntegrityError, match=r"config\.yaml: "):
        open_segmenter(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 30_000, "no plain YAML: RecursionError"),
        ("a: " * 10_000, "no plain YAML"),
        ("a: &x [1]\nb: *x\n", "aliases are not read"),
        ("- 1\n", "holds list, want a mapping"),
        ("1: 2\n", "mappings of names"),
        ("a: 2020-01-01\n", "want numbers"),
        ("a: !!binary aGVsbG8=\n", "want numbers"),
        ("a: !!set {x}\n", "want numbers"),
        ("a: " + "[" * 40 + "]" * 40, "want numbers"),
        ("_BASE_: 3\n", "want names of files"),
        ("_BASE_: [[]]\n", "want names of files"),
        ("_BASE_: config.yaml\n", "leads back to it"),
        ("_BASE_: ../elsewhere.yaml\n", "lies outside"),
        ("_BASE_: /etc/hostname\n", "lies outside"),
        ("_BASE_: link.yaml\n", "lies outside"),
        ("a: '\\ud800'\n", "WEIGHTS"),
        ("#" * (MAX_BYTES + 1), "want <= 32768"),
    ],
)
def test_what_is_no_plain_configuration_is_refused(tmp_path, content, message):
    (tmp_path / "elsewhere.yaml").write_text("a: 1\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    if message == "WEIGHTS":
        (folder / "config.yaml").write_bytes(b"a: '\xff'\n")
        message = "no plain YAML"
    else:
        (folder / "config.yaml").write_text(content)
    with pytest.raises(IntegrityError, match=message):
        read_detectron_config(folder / "config.yaml")


def test_a_base_that_is_missing_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\n")
    with pytest.raises(MissingTargetError, match=r"base\.yaml: no such file"):
        read_detectron_config(tmp_path / "config.yaml")


def test_a_root_lets_bases_lie_beside_the_folder_and_several_are_merged_in_order(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "a.yaml").write_text("A: {x: 1, y: [1, 2]}\nB: 1\n")
    (tmp_path / "b.yaml").write_text("A: {x: 2}\nB: 2\n")
    (tmp_path / "project" / "config.yaml").write_text("_BASE_: [../a.yaml, ../b.yaml]\nA: {y: []}\nC: (1, 2)\n")
    read = read_detectron_config(tmp_path / "project" / "config.yaml", root=tmp_path)
    assert read.values == {"A": {"x": 2, "y": []}, "B": 2, "C": "(1, 2)"}
    assert [file.name for file in read.files] == ["a.yaml", "b.yaml", "config.yaml"]


def test_a_mapping_over_a_value_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("A: 1\n")
    (tmp_path / "config.yaml").write_text("_BASE_: a.yaml\nA: {x: 1}\n")
    with pytest.raises(IntegrityError, match="A is a mapping, in its base it is 1"):
        read_detectron_config(tmp_path / "config.yaml")
