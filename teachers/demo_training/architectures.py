"""Architectures of the four demo models: the published ones, a few hundred times smaller, randomly initialised."""

from typing import Any

from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from storage.taxonomy import CITYSCAPES_LABELS
from teachers.demo_training.captions import MAX_TOKENS

PATCH_SIZE = 14
POSITION_GRID = 224
"""Side in pixels of the square image that position embeddings are learned for; other sizes interpolate them."""

_VIT: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "mlp_ratio": 4,
    "image_size": POSITION_GRID,
    "patch_size": PATCH_SIZE,
}
"""Sizes of DINOv2 and of Depth Anything's backbone, which starts from it."""


def segformer() -> SegformerForSemanticSegmentation:
    """Return an untrained Segformer with Cityscapes' 19 labels."""
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            depths=(1, 1, 2, 1),
            sr_ratios=(8, 4, 2, 1),
            hidden_sizes=(24, 48, 96, 128),
            num_attention_heads=(1, 2, 4, 4),
            mlp_ratios=(4, 4, 4, 3),
            decoder_hidden_size=96,
            drop_path_rate=0.0,
            classifier_dropout_prob=0.0,
            id2label=dict(enumerate(CITYSCAPES_LABELS)),
            label2id={label: index for index, label in enumerate(CITYSCAPES_LABELS)},
        )
    )


def depth_anything() -> DepthAnythingForDepthEstimation:
    """Return an untrained Depth Anything: DINOv2 backbone, DPT neck with 32 channels, relative-depth head."""
    backbone = Dinov2Config(**_VIT, reshape_hidden_states=False)
    backbone.out_features = ["stage1", "stage2", "stage3", "stage4"]
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            patch_size=PATCH_SIZE,
            reassemble_hidden_size=backbone.hidden_size,
            reassemble_factors=[4, 2, 1, 0.5],
            neck_hidden_sizes=[24, 32, 48, 64],
            fusion_hidden_size=32,
            head_hidden_size=16,
        )
    )


def dinov2() -> Dinov2Model:
    """Return an untrained DINOv2."""
    return Dinov2Model(Dinov2Config(**_VIT))


def clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIP whose text side fits a tokenizer."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": POSITION_GRID,
        "patch_size": PATCH_SIZE,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))
