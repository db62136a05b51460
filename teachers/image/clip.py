"""Dense CLIP features that share the space of text embeddings, and the text embeddings themselves.

CLIP gives one embedding per image. As in MaskCLIP, the last attention layer is used without its query and key: each
patch's value vector goes through the layer's output projection and the visual projection. So every patch has its own
embedding, which can be compared with text.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from storage.errors import ErrorKind, IntegrityError
from teachers.config import PatchFeatureConfig
from teachers.image.image_batches import normalise
from teachers.image.patch_features import PatchFeatureModel
from teachers.image.weights import TeacherModel, WeightsFolder, load_model, square_patch_size

_NUM_BYTES = 256
PROMPT_TEMPLATE = "a photo of a {word}"


class ClipFeatures(PatchFeatureModel):
    """CLIP model that gives one embedding per patch and one per text.

    Args:
        config: Resolution and precision.
        weights: The checkpoint, tokenizer included.

    Raises:
        IntegrityError: If the weights or the tokenizer cannot be loaded.
    """

    feature_source = "clip"
    teacher_model = TeacherModel.CLIP

    def __init__(self, config: PatchFeatureConfig, weights: WeightsFolder) -> None:
        super().__init__(config, weights)
        self._model = load_model(CLIPModel, weights, device=self._device, dtype=self._dtype)
        self._processor = CLIPImageProcessorPil.from_pretrained(weights.path, local_files_only=True)
        self._tokenizer = _load_tokenizer(weights, num_tokens=self._model.text_model.config.vocab_size)

    @property
    def multiple(self) -> int:
        """Return the patch size, pixels."""
        return square_patch_size(self._model.vision_model.config.patch_size, self.weights)

    @property
    def num_features(self) -> int:
        """Return the length of an embedding."""
        return self._model.visual_projection.out_features

    @property
    def logit_scale(self) -> float:
        """Return the factor by which the model was trained to multiply cosines before a softmax."""
        return float(torch.as_tensor(self._model.logit_scale).exp())

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return the logit scale, which is needed to turn stored features into probabilities of words."""
        return {"logit_scale": self.logit_scale}

    @torch.inference_mode()
    def dense_features(
        self, images: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[Tensor, "batch features patch_rows patch_columns"]:
        """Return the unit embedding of every patch, float32 on the CPU.

        The images' sides are multiples of the patch size; position embeddings are interpolated to the patch grid.
        """
        pixels = normalise(self._processor, images).to(self._device, self._dtype)
        return functional.normalize(dense_embeddings(self._model, pixels).float(), dim=1).cpu()

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Return the unit embedding of each text, float32 on the CPU.

        Raises:
            ValueError: If a text has more tokens than the model reads.
        """
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(self._device)
        text_config: Any = self._model.config.text_config
        most = text_config.max_position_embeddings
        if (longest := tokens.input_ids.shape[1]) > most:
            raise ValueError(f"a text of {longest} tokens, want <= {most}")
        embeddings = text_embeddings(self._model, tokens.input_ids, tokens.attention_mask)
        return functional.normalize(embeddings.float(), dim=-1).cpu()


def text_embeddings(
    model: CLIPModel, input_ids: Int[Tensor, "texts tokens"], attention_mask: Int[Tensor, "texts tokens"]
) -> Float[Tensor, "texts features"]:
    """Return the unnormalised embedding of every tokenised text, differentiably."""
    return model.text_projection(model.text_model(input_ids, attention_mask=attention_mask).pooler_output)


def dense_embeddings(
    model: CLIPModel, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch features patch_rows patch_columns"]:
    """Return the unnormalised embedding of every patch, differentiably, for training."""
    vision: Any = model.vision_model  # torch types the attributes of a module list as tensors
    hidden = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=True))
    *layers, last = vision.encoder.layers
    for layer in layers:
        hidden = layer(hidden, None)
    values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(hidden[:, 1:])))
    embeddings = model.visual_projection(vision.post_layernorm(values))
    patch = vision.embeddings.patch_size
    return embeddings.unflatten(1, (pixels.shape[-2] // patch, pixels.shape[-1] // patch)).permute(0, 3, 1, 2)


def _load_tokenizer(weights: WeightsFolder, *, num_tokens: int) -> CLIPTokenizer:
    # transformers makes an empty tokenizer of a folder without one, and every word would become "unknown".
    try:
        tokenizer = CLIPTokenizer.from_pretrained(weights.path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID, str(weights.path), f"its tokenizer cannot be loaded: {error}"
        ) from error
    if not _NUM_BYTES < len(tokenizer) <= num_tokens:
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID,
            str(weights.path),
            f"its tokenizer has {len(tokenizer)} tokens, the model has {num_tokens}",
        )
    return tokenizer
