"""Dense CLIP features that share the space of text embeddings, and the text embeddings themselves.

CLIP gives one embedding per image. As in MaskCLIP, the last attention layer is used without its query and key: each
patch's value vector goes through the layer's output projection and the visual projection. So every patch has its own
embedding, which can be compared with text. SigLIP and SigLIP 2 pool patches by one more attention layer; the same is
done there. A checkpoint that brings a dense image tower (:mod:`teachers.image.dense_tower`) is read through that.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel, CLIPTokenizer, PreTrainedTokenizerBase, SiglipModel

from storage.errors import ErrorKind, IntegrityError
from teachers.config import PatchFeatureConfig
from teachers.image.dense_tower import has_dense_tower, load_dense_tower
from teachers.image.lite import DenseTower
from teachers.image.patch_features import PatchFeatureModel
from teachers.image.weights import TeacherModel, WeightsFolder, load_model, load_tokenizer, square_patch_size

_NUM_BYTES = 256
PROMPT_TEMPLATE = "a photo of a {word}"


class ClipFeatures(PatchFeatureModel):
    """CLIP or SigLIP model that gives one embedding per patch and one per text.

    Args:
        config: Resolution and precision.
        weights: The checkpoint, tokenizer included.

    Raises:
        IntegrityError: If the weights or the tokenizer cannot be loaded.
        ValueError: If a block or a facet is asked for, which embeddings do not have, or a stride of a dense tower.
    """

    feature_source = "clip"
    families = (TeacherModel.CLIP, TeacherModel.SIGLIP)

    def __init__(self, config: PatchFeatureConfig, weights: WeightsFolder) -> None:
        if config.block is not None or config.facet != "token":
            raise ValueError(
                f"block {config.block}, facet {config.facet!r}: want neither, embeddings come from the end"
            )
        super().__init__(config, weights)
        self._is_clip = weights.model is TeacherModel.CLIP
        model: Any = load_model(
            CLIPModel if self._is_clip else SiglipModel, weights, device=self._device, dtype=self._dtype
        )
        self._model = model
        tokenizer = CLIPTokenizer if self._is_clip else AutoTokenizer
        self._tokenizer = _load_tokenizer(tokenizer, weights, num_tokens=model.text_model.config.vocab_size)
        self._tower: DenseTower | None = None
        if has_dense_tower(weights):
            if config.stride is not None:
                raise ValueError(f"stride {config.stride}: want none, {weights.path} has a tower with its own")
            self._tower, self._processor = load_dense_tower(weights, device=self._device, dtype=self._dtype)

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which image sides are multiples: the patch size, or a dense tower's stride."""
        if self._tower is not None:
            return self._tower.multiple
        return square_patch_size(self._model.vision_model.config.patch_size, self.weights)

    @property
    def num_features(self) -> int:
        """Return the length of an embedding."""
        model = self._model
        return model.visual_projection.out_features if self._is_clip else model.vision_model.config.hidden_size

    @property
    def logit_scale(self) -> float:
        """Return the factor by which the model was trained to multiply cosines before a softmax."""
        return float(torch.as_tensor(self._model.logit_scale).exp())

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return the logit scale, which is needed to turn stored features into probabilities of words."""
        return {"logit_scale": self.logit_scale}

    def embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features patch_rows patch_columns"]:
        """Return the unit embedding of every patch; position embeddings are interpolated to the patch grid.

        A dense tower gives one every four pixels.
        """
        if self._tower is not None:
            return functional.normalize(self._tower(pixels).float(), dim=1)
        dense = dense_embeddings if self._is_clip else dense_siglip_embeddings
        return functional.normalize(dense(self._model, pixels).float(), dim=1)

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Return the unit embedding of each text, float32 on the CPU.

        Raises:
            ValueError: If a text has more tokens than the model reads.
        """
        most = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(self._device)
        if (longest := tokens.input_ids.shape[1]) > most:
            raise ValueError(f"a text of {longest} tokens, want <= {most}")
        if self._is_clip:
            embeddings = text_embeddings(self._model, tokens.input_ids, tokens.attention_mask)
        else:  # SigLIP reads the last of a fixed number of tokens, and was trained without a mask
            padded = self._tokenizer(texts, padding="max_length", max_length=most, return_tensors="pt")
            embeddings = self._model.text_model(padded.input_ids.to(self._device)).pooler_output
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


def dense_siglip_embeddings(
    model: SiglipModel, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch features patch_rows patch_columns"]:
    """Return what SigLIP's pooling would return if it attended to one patch alone, for every patch."""
    vision: Any = model.vision_model
    hidden = vision.embeddings(pixels, interpolate_pos_encoding=True)
    hidden = vision.post_layernorm(vision.encoder(inputs_embeds=hidden).last_hidden_state)
    pooling = vision.head.attention
    weight, bias = pooling.in_proj_weight.chunk(3)[2], pooling.in_proj_bias.chunk(3)[2]
    values = pooling.out_proj(functional.linear(hidden, weight, bias))
    embeddings = values + vision.head.mlp(vision.head.layernorm(values))
    patch = vision.embeddings.patch_size
    return embeddings.unflatten(1, (pixels.shape[-2] // patch, pixels.shape[-1] // patch)).permute(0, 3, 1, 2)


def _load_tokenizer(tokenizer_class: Any, weights: WeightsFolder, *, num_tokens: int) -> PreTrainedTokenizerBase:  # noqa: ANN401 - a class of transformers, or its chooser
    # transformers makes an empty tokenizer of a folder without one, and every word would become "unknown".
    tokenizer = load_tokenizer(tokenizer_class, weights)
    if not _NUM_BYTES < len(tokenizer) <= num_tokens:
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID,
            str(weights.path),
            f"its tokenizer has {len(tokenizer)} tokens, the model has {num_tokens}",
        )
    return tokenizer
