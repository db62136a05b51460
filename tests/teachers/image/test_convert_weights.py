"""Published checkpoints become folders that teachers read; a hostile pickle runs nothing."""

import json
import os
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from transformers import DepthAnythingForDepthEstimation

from storage.digests import file_digest
from storage.errors import IntegrityError, MissingTargetError
from teachers.config import DepthAnythingConfig, WeightsConfig
from teachers.image.convert_weights import convert_depth_anything, convert_pointrend
from teachers.image.depth_anything import DepthAnything
from teachers.image.plain_pickle import read_pickled_arrays
from teachers.image.weights import CONVERSION_FILE, TeacherModel, resolve_weights

ARRAYS = {
    "backbone.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "backbone.transposed": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "head.bias": np.array([1.5, -2.0], np.float16),
    "head.big_endian": np.array([1, 2], ">i4"),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "pixel_mean": np.full((3, 1, 1), 100, np.float32),
    "pixel_std": np.ones((3, 1, 1), np.float32),
}


def write_pickle(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_arrays_of_every_protocol_are_read_as_pickle_reads_them(tmp_path, protocol):
    stored = {"model": OrderedDict(ARRAYS), "__author__": "somebody", "iteration": 3}
    read = read_pickled_arrays(write_pickle(tmp_path / "model.pkl", stored, protocol), "model")
    assert set(read) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


class _Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, np.fromfile, torch.load, open], ids=lambda f: f.__name__
)
def test_a_pickle_that_names_a_function_is_refused(tmp_path, function, protocol):
    canary = tmp_path / "canary"
    argument = f"touch {canary}" if function is os.system else f"open({str(canary)!r}, 'w')"
    stored = {"model": {"weight": ARRAYS["empty"], "other": _Runs(function, argument)}}
    path = write_pickle(tmp_path / "model.pkl", stored, protocol)
    with pytest.raises(IntegrityError, match=r"names [\w.]+, which is not among what arrays need"):
        read_pickled_arrays(path, "model")
    assert not canary.exists()


class _Forged(np.ndarray):
    state = (1, (3,), np.dtype("f4"), False, b"")

    def __reduce__(self):
        return np.core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state


def forged(**changes):
    state = dict(
        zip(
            ("version", "shape", "dtype", "is_fortran", "content"),
            (1, (3,), np.dtype("f4"), False, bytes(12)),
            strict=True,
        )
    )
    array = np.zeros(1).view(_Forged)
    array.state = tuple((state | changes).values())
    return array


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (1 << 40,)},
        {"shape": (1 << 20, 1 << 20)},
        {"shape": (2,)},
        {"shape": "abc"},
        {"shape": None},
        {"content": b""},
        {"content": [1, 2, 3]},
        {"dtype": np.dtype("O")},
        {"dtype": np.dtype("V12")},
        {"dtype": np.dtype([("a", "f4")])},
        {"dtype": "f4"},
    ],
)
def test_an_array_that_claims_what_it_does_not_hold_is_refused(tmp_path, changes):
    path = write_pickle(tmp_path / "model.pkl", {"model": {"w": forged(**changes)}})
    with pytest.raises(IntegrityError, match="is no pickle of plain arrays under 'model'"):
        read_pickled_arrays(path, "model")


def test_the_forged_array_is_read_where_its_claims_hold(tmp_path):
    path = write_pickle(tmp_path / "model.pkl", {"model": {"w": forged()}})
    np.testing.assert_array_equal(read_pickled_arrays(path, "model")["w"], np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        pickle.dumps({"model": ARRAYS}, 4)[:-30],
        pickle.dumps([1, 2]),
        pickle.dumps({"blobs": {}}),
        pickle.dumps({"model": {"w": "text"}}),
        pickle.dumps({"model": [1]}),
        b"\x80\x04" + b"(" * 100_000 + b".",
        b"\x80\x04]" + b"\x94r\xff\xff\xff\x7f" + b".",  # LONG_BINPUT to a place far away
        b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.",  # BINBYTES8 of a terabyte
        b"\x80\x02}X\x05\x00\x00\x00modelcos\nsystem\nX\x02\x00\x00\x00lsbs.",
        b"(S'ls'\nios\nsystem\n.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",  # a state for a class
    ],
)
def test_what_is_no_pickle_of_arrays_is_refused(tmp_path, content):
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(IntegrityError, match="is no pickle of plain arrays"):
        read_pickled_arrays(tmp_path / "model.pkl", "model")


def test_one_array_under_a_thousand_names_is_refused(tmp_path):
    array = np.zeros(1000, np.float32)
    path = write_pickle(tmp_path / "model.pkl", {"model": {str(i): array for i in range(1000)}})
    with pytest.raises(IntegrityError, match="arrays of 4000000 bytes in a file of"):
        read_pickled_arrays(path, "model")


@pytest.fixture
def published(tmp_path):
    """A checkpoint and configuration as detectron2 publishes them: the bases lie four folders up."""
    project = tmp_path / "detectron2" / "projects" / "PointRend" / "configs" / "SemanticSegmentation"
    project.mkdir(parents=True)
    (tmp_path / "detectron2" / "configs").mkdir()
    (tmp_path / "detectron2" / "configs" / "Base.yaml").write_text("MODEL:\n  FPN:\n    IN_FEATURES: ['res2']\n")
    (project / "Middle.yaml").write_text("_BASE_: '../../../../configs/Base.yaml'\nMODEL:\n  HEAD: a\n")
    (project / "config.yaml").write_text("_BASE_: Middle.yaml\nMODEL:\n  HEAD: b\nSOLVER:\n  STEPS: (1, 2)\n")
    write_pickle(tmp_path / "model_final.pkl", {"model": ARRAYS, "__author__": "somebody"})
    return tmp_path, project / "config.yaml"


def test_a_published_pointrend_becomes_a_folder_that_the_adapter_reads(published):
    root, config = published
    done = convert_pointrend(root / "model_final.pkl", root / "out", config=config, config_root=root / "detectron2")
    assert done.dropped == ("pixel_mean", "pixel_std")
    stored = load_file(root / "out" / "model.safetensors")
    assert set(stored) == set(ARRAYS) - {"pixel_mean", "pixel_std"}
    for name, array in stored.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    weights = resolve_weights(WeightsConfig(source=str(root / "out")), TeacherModel.SKY_POINTREND)
    assert set(weights.digests) == {f"pointrend/{n}" for n in ("config.yaml", "model.safetensors", CONVERSION_FILE)}
    record = json.loads((root / "out" / CONVERSION_FILE).read_text())
    assert record["source_sha256"] == done.source_sha256 == file_digest(root / "model_final.pkl")
    assert record["model_sha256"] == file_digest(root / "out" / "model.safetensors")
    assert set(record["config_sha256"]) == {"Base.yaml", "Middle.yaml", "config.yaml"}
    text = (root / "out" / "config.yaml").read_text()
    assert "_BASE_" not in text
    assert "HEAD: b" in text
    assert "res2" in text


def test_bases_outside_the_root_are_refused_and_nothing_is_left(published):
    root, config = published
    with pytest.raises(IntegrityError, match="--config-root"):
        convert_pointrend(root / "model_final.pkl", root / "out", config=config)
    assert not list(root.glob("*out*"))


def test_a_folder_that_exists_is_left_alone(published):
    root, config = published
    (root / "out").mkdir()
    with pytest.raises(ValueError, match="exists"):
        convert_pointrend(root / "model_final.pkl", root / "out", config=config, config_root=root)
    assert not list((root / "out").iterdir())


def _as_published(model, folder):
    """Return the tensors of a model of transformers under the names of Depth Anything's authors."""
    model.save_pretrained(folder)
    heads = {"head.conv1": "output_conv1", "head.conv2": "output_conv2.0", "head.conv3": "output_conv2.2"}
    renamed, qkv = {}, {}
    for name, value in load_tensors(folder / "model.safetensors").items():
        if match := re.fullmatch(r"(.+)\.attention\.attention\.(query|key|value)\.(\w+)", name):
            qkv.setdefault((match[1], match[3]), {})[match[2]] = value
            continue
        new = name
        for old, replacement in (
            (r"backbone\.embeddings\.position_embeddings", "pretrained.pos_embed"),
            (r"backbone\.embeddings\.patch_embeddings\.projection", "pretrained.patch_embed.proj"),
            (r"backbone\.embeddings\.", "pretrained."),
            (r"backbone\.layernorm\.", "pretrained.norm."),
            (r"backbone\.encoder\.layer\.", "pretrained.blocks."),
            (r"attention\.output\.dense", "attn.proj"),
            (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
            (r"neck\.reassemble_stage\.layers\.(\d)\.projection", r"depth_head.projects.\1"),
            (r"neck\.reassemble_stage\.layers\.(\d)\.resize", r"depth_head.resize_layers.\1"),
        ):
            new = re.sub(old, replacement, new)
        if match := re.fullmatch(r"neck\.convs\.(\d)\.weight", name):
            new = f"depth_head.scratch.layer{int(match[1]) + 1}_rn.weight"
        elif match := re.fullmatch(r"neck\.fusion_stage\.layers\.(\d)\.(.+)", name):
            rest = re.sub(r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2", match[2])
            new = f"depth_head.scratch.refinenet{4 - int(match[1])}.{rest.replace('projection', 'out_conv')}"
        elif name.startswith("head."):
            part, kind = name.rsplit(".", 1)
            new = f"depth_head.scratch.{heads[part]}.{kind}"
        renamed[new] = value
    assert len(qkv) == 2 * model.config.backbone_config.num_hidden_layers
    for (at, kind), parts in qkv.items():
        block = at.replace("backbone.encoder.layer.", "pretrained.blocks.")
        renamed[f"{block}.attn.qkv.{kind}"] = torch.cat([parts[which] for which in ("query", "key", "value")])
    return renamed


@pytest.fixture
def small_depth_anything():
    """A model with the published layout of blocks, and random weights."""
    from transformers import DepthAnythingConfig as Architecture
    from transformers import Dinov2Config

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=12,
        num_attention_heads=1,
        image_size=56,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    architecture = Architecture(
        backbone_config=backbone,
        reassemble_hidden_size=64,
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    model = DepthAnythingForDepthEstimation(architecture).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_a_published_depth_anything_gives_the_same_depth(tmp_path, small_depth_anything):
    torch.save(_as_published(small_depth_anything, tmp_path / "hub"), tmp_path / "model.pth")
    done = convert_depth_anything(tmp_path / "model.pth", tmp_path / "v2", release="v2")
    config = DepthAnythingConfig(weights=WeightsConfig(source=str(tmp_path / "v2")), input_short_side=56)
    model = DepthAnything(config, resolve_weights(config.weights, TeacherModel.DEPTH_ANYTHING))
    pixels = torch.rand(1, 3, 56, 70)
    with torch.inference_mode():
        _, found = model.fusion_map_and_inverse_depth(pixels)
        torch.testing.assert_close(found, small_depth_anything(pixels).predicted_depth)
    record = json.loads((tmp_path / "v2" / CONVERSION_FILE).read_text())
    assert record["source_sha256"] == done.source_sha256 == file_digest(tmp_path / "model.pth")

    convert_depth_anything(tmp_path / "model.pth", tmp_path / "v1", release="v1")
    assert json.loads((tmp_path / "v1" / "config.json").read_text())["backbone_config"]["out_indices"] == [
        9,
        10,
        11,
        12,
    ]


def test_a_depth_anything_that_is_none_is_refused(tmp_path, small_depth_anything):
    tensors = _as_published(small_depth_anything, tmp_path / "hub")
    dropped = dict(list(tensors.items())[:-1])
    short = tensors | {"depth_head.scratch.output_conv1.bias": torch.zeros(3)}
    unknown = tensors | {"teacher.weight": torch.zeros(3)}
    for wrong in (dropped, short, unknown, {"weight": torch.zeros(3)}, {"a": 1}, [1]):
        torch.save(wrong, tmp_path / "model.pth")
        with pytest.raises(IntegrityError, match=r"model\.pth"):
            convert_depth_anything(tmp_path / "model.pth", tmp_path / "out", release="v1")
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingTargetError, match="no such file"):
        convert_depth_anything(tmp_path / "nowhere.pth", tmp_path / "out", release="v1")


def test_a_hostile_pth_runs_nothing(tmp_path):
    canary = tmp_path / "canary"
    torch.save({"model": _Runs(os.system, f"touch {canary}")}, tmp_path / "model.pth")
    with pytest.raises(IntegrityError, match="is no file of tensors"):
        convert_depth_anything(tmp_path / "model.pth", tmp_path / "out", release="v2")
    assert not canary.exists()
