"""A tiny published scene and tiny random checkpoints of the real architectures."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    DPTImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)

from encoders.efficientnet import imagenet_weights
from storage.scenes.schema import SceneData
from storage.scenes.store import write_scene
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from teachers.demo_training.captions import build_tokenizer
from teachers.demo_training.train_lite import lite_processor
from teachers.image.lite import LiteConfig, LiteTeacher

FORWARD_CAMERA_TO_EGO = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])


def make_scene(sizes: tuple[tuple[int, int], ...] = ((45, 80), (45, 80)), frames: int = 2, seed: int = 0) -> SceneData:
    """Blue sky above brown ground with noise; LiDAR returns lie on the ground, so never in the upper half."""
    random = np.random.default_rng(seed)
    cameras = len(sizes)
    jpegs, intrinsics = [], []
    for height, width in sizes:
        intrinsics.append([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]])
    for _ in range(frames):
        row = []
        for height, width in sizes:
            image = np.zeros((height, width, 3))
            image[: height // 2] = (120, 170, 240)
            image[height // 2 :] = (110, 90, 70)
            image += random.normal(0, 12, image.shape)
            buffer = io.BytesIO()
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
            row.append(buffer.getvalue())
        jpegs.append(tuple(row))
    ground = np.stack(
        [random.uniform(4, 40, 400), random.uniform(-10, 10, 400), np.zeros(400), np.ones(400)], axis=1
    ).astype(np.float32)
    pose = np.tile(np.eye(4), (frames, 1, 1))
    pose[:, 0, 3] = np.arange(frames)
    times = 1_000_000 * np.arange(1, frames + 1)
    return SceneData(
        camera_names=tuple(f"CAM_{index}" for index in range(cameras)),
        image_sizes=sizes,
        intrinsics=np.array(intrinsics, float),
        camera_to_ego=np.tile(FORWARD_CAMERA_TO_EGO, (cameras, 1, 1)),
        timestamp_us=times,
        ego_to_world=pose,
        camera_timestamp_us=np.tile(times[:, None], (1, cameras)),
        camera_ego_to_world=np.tile(pose[:, None], (1, cameras, 1, 1)),
        jpegs=tuple(jpegs),
        lidar_points=(ground,) * frames,
        lidar_to_ego=np.eye(4),
    )


def publish(home: Home, scene: SceneData, name: str = "scene-1") -> str:
    """Publish a scene and return its key."""

    def write(group):
        write_scene(group, scene)
        return {}

    key = f"test.{name}"
    materialize_arrays(home, Provenance(kind="scene", partition=key, licence="CC0-1.0"), write)
    return key


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", name="make_scene")
def _make_scene():
    return make_scene


@pytest.fixture(scope="session", name="publish")
def _publish():
    return publish


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def scene_key(home: Home) -> str:
    return publish(home, make_scene())


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory) -> Path:
    """A folder with one untrained checkpoint per teacher, by model type."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    backbone = dict(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    vit = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    tokenizer = build_tokenizer()
    text = dict(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    labels = {0: "road", 1: "building", 2: "sky"}
    models = {
        "segformer": (
            SegformerForSemanticSegmentation(
                SegformerConfig(
                    depths=(1, 1, 1, 1),
                    hidden_sizes=(8, 8, 16, 16),
                    num_attention_heads=(1, 1, 2, 2),
                    mlp_ratios=(2, 2, 2, 2),
                    decoder_hidden_size=16,
                    id2label=labels,
                    label2id={v: k for k, v in labels.items()},
                )
            ),
            SegformerImageProcessorPil(),
        ),
        "depth_anything": (
            DepthAnythingForDepthEstimation(
                DepthAnythingConfig(
                    backbone_config=Dinov2Config(
                        **backbone, out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False
                    ),
                    patch_size=14,
                    reassemble_hidden_size=16,
                    neck_hidden_sizes=[8, 8, 8, 8],
                    fusion_hidden_size=8,
                    head_hidden_size=4,
                )
            ),
            DPTImageProcessorPil(),
        ),
        "efficientnet_lite0": (
            LiteTeacher(LiteConfig(widths=(8, 8, 8, 8), context_layers=1, context_heads=2, id2label=labels)),
            lite_processor(),
        ),
        "dinov2": (Dinov2Model(Dinov2Config(**backbone)), BitImageProcessorPil()),
        "clip": (
            CLIPModel(
                CLIPConfig(
                    text_config={**vit, **text, "max_position_embeddings": 32},
                    vision_config={**vit, "image_size": 56, "patch_size": 14},
                    projection_dim=12,
                )
            ),
            CLIPImageProcessorPil(),
        ),
    }
    models["efficientnet_lite0"][0].trunk.load_state_dict(imagenet_weights())  # a random one is all but constant
    models["segformer"][0].decode_head.classifier.weight.data *= 200  # else every probability is a third
    models["depth_anything"][0].head.conv3.weight.data *= 1e7  # else depth is all but constant,
    models["depth_anything"][0].head.conv3.bias.data += 1  # and the head's end closed
    for name, (model, processor) in models.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    tokenizer.save_pretrained(root / "clip")
    return root
