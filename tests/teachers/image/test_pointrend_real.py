"""The real detectron2, where it is built (``make pointrend``): what is converted answers as the original does."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from teachers.config import SkyConfig, WeightsConfig
from teachers.image.convert_weights import convert_pointrend
from teachers.image.pointrend import NUM_CLASSES, SKY_CLASS, PointRendSegmenter
from teachers.image.weights import TeacherModel, resolve_weights

pytest.importorskip("detectron2", reason="detectron2 is on no package index")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is older than the rest

# The published semantic configuration, with a smaller backbone.
SETTINGS = f"""
MODEL:
  META_ARCHITECTURE: SemanticSegmentor
  BACKBONE: {{NAME: build_resnet_fpn_backbone}}
  RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}}
  FPN: {{IN_FEATURES: [res2, res3, res4, res5]}}
  SEM_SEG_HEAD:
    NAME: PointRendSemSegHead
    NUM_CLASSES: {NUM_CLASSES}
  POINT_HEAD:
    NUM_CLASSES: {NUM_CLASSES}
    FC_DIM: 256
    NUM_FC: 3
    IN_FEATURES: [p2]
    TRAIN_NUM_POINTS: 2048
    SUBDIVISION_STEPS: 2
    SUBDIVISION_NUM_POINTS: 8192
    COARSE_SEM_SEG_HEAD_NAME: SemSegFPNHead
    COARSE_PRED_EACH_LAYER: false
INPUT: {{FORMAT: BGR}}
"""


def test_a_converted_checkpoint_answers_as_detectron2_does(tmp_path: Path) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.projects.point_rend import add_pointrend_config

    path = tmp_path / "pointrend.yaml"
    path.write_text(SETTINGS)
    settings = get_cfg()
    add_pointrend_config(settings)
    settings.merge_from_file(str(path))
    settings.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    original = build_model(settings).eval()
    tensors = {name: value.numpy() for name, value in original.state_dict().items()}
    # Checkpoints of before 2021 hold these; today's networks take them from the configuration.
    tensors |= {name: np.zeros((3, 1, 1), np.float32) for name in ("pixel_mean", "pixel_std")}
    source = tmp_path / "model_final.pkl"
    source.write_bytes(pickle.dumps({"model": tensors, "__author__": "test"}))
    done = convert_pointrend(source, tmp_path / "out", config=path)
    assert set(done.dropped) == {"pixel_mean", "pixel_std"}
    config = SkyConfig(segmenter="pointrend", height=96, width=160, weights=WeightsConfig(source=str(tmp_path / "out")))
    segmenter = PointRendSegmenter(config, resolve_weights(config.weights, TeacherModel.SKY_POINTREND))
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), dtype=np.uint8)
    found = segmenter.sky(images)
    with torch.inference_mode():
        own = torch.stack(
            [
                original([{"image": torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()}])[0]["sem_seg"]
                for image in images
            ]
        )
    torch.testing.assert_close(found.probability, own.softmax(dim=1)[:, SKY_CLASS])
    is_sky = own.argmax(dim=1) == SKY_CLASS
    assert torch.equal(found.is_sky, is_sky)
    assert float(found.probability.std()) > 1e-4
