"""Patch features of self-supervised vision transformers: DINOv2, with registers too, DINOv3 and C-RADIO.

They differ in where things stand, so a family is one entry of a table. Published is the last block's tokens after the
model's own norm; keys, and tokens of any block, are what other extractors take.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, PreTrainedModel, RadioModel

from teachers.config import PatchFeatureConfig
from teachers.image.patch_features import PatchFeatureModel
from teachers.image.weights import TeacherModel, WeightsFolder, load_model, square_patch_size

KEYS = "attention.k_proj"
"""Path of the layer that makes the keys in a block, of all families."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFamily:
    """Where the parts of a vision transformer stand.

    Attributes:
        model: Its class.
        blocks: Path of the list of blocks in the model.
        norm: Path of the norm after the last block; empty where there is none.
        other_tokens: Numbers in its configuration of tokens that are no patches; they come first.
        class_tokens: Number of class tokens that no configuration states.
        is_told_to_interpolate: Whether position embeddings are fitted to the image only if the model is told to.
    """

    model: type[PreTrainedModel]
    blocks: str
    norm: str
    other_tokens: tuple[str, ...] = ()
    class_tokens: int = 1
    is_told_to_interpolate: bool = False


FAMILIES: dict[TeacherModel, VisionFamily] = {
    TeacherModel.DINOV2: VisionFamily(
        model=Dinov2Model,
        blocks="encoder.layer",
        norm="layernorm",
    ),
    TeacherModel.DINOV2_REGISTERS: VisionFamily(
        model=Dinov2WithRegistersModel,
        blocks="encoder.layer",
        norm="layernorm",
        other_tokens=("num_register_tokens",),
    ),
    TeacherModel.DINOV3: VisionFamily(
        model=DINOv3ViTModel,
        blocks="model.layer",
        norm="norm",
        other_tokens=("num_register_tokens",),
    ),
    TeacherModel.RADIO: VisionFamily(
        model=RadioModel,
        blocks="encoder.layer",
        norm="",
        other_tokens=("num_cls_tokens", "num_registers"),
        class_tokens=0,
    ),
}


class Dinov2Features(PatchFeatureModel):
    """A vision transformer that gives one feature vector per patch.

    Args:
        config: Resolution, precision, block and facet.
        weights: The checkpoint.

    Raises:
        ValueError: If the model has no such block.
    """

    feature_source = "dinov2"
    families = tuple(FAMILIES)

    def __init__(self, config: PatchFeatureConfig, weights: WeightsFolder) -> None:
        super().__init__(config, weights)
        self._family = family = FAMILIES[weights.model]
        self._model = load_model(family.model, weights, device=self._device, dtype=self._dtype)
        blocks: Any = self._model.get_submodule(family.blocks)
        index = len(blocks) - 1 if config.block is None else config.block
        if index >= len(blocks):
            raise ValueError(f"block {index}: {weights.source} has blocks 0 to {len(blocks) - 1}")
        self._watched: nn.Module = blocks[index] if config.facet == "token" else blocks[index].get_submodule(KEYS)
        self._norm = self._model.get_submodule(family.norm) if family.norm else nn.Identity()
        settings: Any = self._model.config
        self._num_others = family.class_tokens + sum(int(getattr(settings, name)) for name in family.other_tokens)

    @property
    def multiple(self) -> int:
        """Return the patch size, pixels."""
        settings: Any = self._model.config
        return square_patch_size(settings.patch_size, self.weights)

    @property
    def num_features(self) -> int:
        """Return the length of a feature vector."""
        settings: Any = self._model.config
        return int(settings.hidden_size)

    def embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features patch_rows patch_columns"]:
        """Return the tokens, or keys, of every patch. The model's own norm is applied to tokens."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: Any) -> None:  # noqa: ANN401 - a tensor, or a tuple with it first
            seen.append(output[0] if isinstance(output, tuple) else output)

        handle = self._watched.register_forward_hook(keep)
        try:
            self._model(pixels, **({"interpolate_pos_encoding": True} if self._family.is_told_to_interpolate else {}))
        finally:
            handle.remove()
        (tokens,) = seen
        if self.config.facet == "token":
            tokens = self._norm(tokens)
        rows, columns = (side // self.multiple for side in pixels.shape[-2:])
        return tokens[:, self._num_others :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
