"""Architectures of the demo models DINOv2 and CLIP: a few hundred times smaller, randomly initialised."""

from typing import Any

from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
)

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
"""Sizes of DINOv2."""


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
