"""Small networks for photographs: ImageNet features of EfficientNet-Lite0, decoded.

The encoder has seen photographs and stays as it is; what is above it is small enough to be trained on renders alone.
One decoder tells sky and depth (``teachers.demo_training.train_lite``), another gives embeddings in the space of a
CLIP's texts (``teachers.demo_training.train_clip``).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from encoders.efficientnet import WIDTHS, EfficientNetLite0

_NORM_GROUPS = 8


class LiteConfig(PretrainedConfig):
    """Sizes of a decoder; ``id2label`` names the semantic labels of :class:`LiteTeacher`.

    Args:
        widths: Channels of the decoder at strides 32, 16, 8 and 4; the last are those of the fusion map.
        context_layers: Transformer layers between all places at stride 32.
        context_heads: Attention heads of each.
        projection_dim: Length of an embedding of :class:`DenseTower`.
        **kwargs: Settings of every model of transformers.
    """

    model_type = "efficientnet_lite0"

    def __init__(
        self,
        widths: Sequence[int] = (96, 96, 64, 32),
        context_layers: int = 2,
        context_heads: int = 4,
        projection_dim: int = 96,
        **kwargs: Any,  # noqa: ANN401 - transformers' own settings
    ) -> None:
        self.widths, self.context_layers, self.context_heads = list(widths), context_layers, context_heads
        self.projection_dim = projection_dim
        super().__init__(**kwargs)


class LiteReading(NamedTuple):
    """What the network says about a batch, on maps of stride 4.

    Attributes:
        logits: Score of every label.
        inverse_depth: Inverse depth, up to one scale and shift per image; sky is nearest to 0, larger is nearer.
        fusion_map: What both are read from.
    """

    logits: Float[Tensor, "batch labels rows columns"]
    inverse_depth: Float[Tensor, "batch rows columns"]
    fusion_map: Float[Tensor, "batch features rows columns"]


class LiteModel(PreTrainedModel):
    """EfficientNet-Lite0, which is not trained, and a decoder with attention over the whole image.

    Args:
        config: Sizes.
    """

    multiple = 32
    """Total stride of the encoder. Image sides are multiples of it."""
    config_class = LiteConfig
    main_input_name = "pixels"

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        widths = config.widths
        self.trunk = EfficientNetLite0().requires_grad_(False)
        self.fuse = nn.ModuleList(_Fuse(*each) for each in zip(reversed(WIDTHS[1:]), widths, strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(wide, narrow, 1) for wide, narrow in pairwise(widths))
        layer = nn.TransformerEncoderLayer(
            widths[0],
            config.context_heads,
            2 * widths[0],
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.context = nn.TransformerEncoder(layer, config.context_layers, enable_nested_tensor=False)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the modules as PyTorch initialises them."""

    def fusion_map(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features rows columns"]:
        """Return the decoder's map, of stride 4, of images scaled by ImageNet's mean and deviation."""
        maps = self.trunk.maps(pixels)[:0:-1]
        y = self.fuse[0](maps[0], None)
        rows, columns = y.shape[-2:]
        y = self.context(y.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (rows, columns))
        for fuse, narrow, finer in zip(self.fuse[1:], self.narrow, maps[1:], strict=True):
            y = fuse(finer, narrow(y))
        return y


class LiteTeacher(LiteModel):
    """Semantic labels, of which the sky is one, and depth.

    Args:
        config: Sizes and labels.
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.semantic_head = _head(config.widths[-1], len(config.id2label or {}))
        self.depth_head = _head(config.widths[-1], 1)
        self.post_init()

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> LiteReading:
        """Return what the network says about images scaled by ImageNet's mean and deviation."""
        y = self.fusion_map(pixels)
        return LiteReading(self.semantic_head(y), functional.softplus(self.depth_head(y))[:, 0], y)


class DenseTower(LiteModel):
    """Embeddings of places of an image, in the space of a CLIP's texts.

    Args:
        config: Sizes; ``projection_dim`` is the length of an embedding.
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.embedding_head = _head(config.widths[-1], config.projection_dim)
        self.post_init()

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features rows columns"]:
        """Return unnormalised embeddings, on a map of stride 4, of images scaled by ImageNet's mean and deviation."""
        return self.embedding_head(self.fusion_map(pixels))


class _Fuse(nn.Module):
    """One level of the decoder: the encoder's map, the coarser level, and a residual block of two convolutions."""

    def __init__(self, encoder_width: int, width: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(encoder_width, width, 1)
        self.norm = nn.GroupNorm(_NORM_GROUPS, width)
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_NORM_GROUPS, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_NORM_GROUPS, width),
        )

    def forward(
        self, finer: Float[Tensor, "batch _ rows columns"], coarser: Float[Tensor, "batch width _ _"] | None
    ) -> Float[Tensor, "batch width rows columns"]:
        y = self.lateral(finer)
        if coarser is not None:
            y = y + functional.interpolate(coarser, size=y.shape[-2:], mode="bilinear", align_corners=False)
        y = self.norm(y)
        return y + self.block(y)


def _head(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, channels, 1))
