"""The image encoder of both depth stages: residual stages and a top-down path back to full resolution.

It is the feature pyramid of the paper's single-view encoding (DistillNeRF Sec. A.7).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import group_norm, interpolate, leaky_relu, relu

from encoders.efficientnet import WIDTHS, EfficientNetLite0
from student.model.config import PyramidConfig

LEAKY_SLOPE = 0.2


def resize(
    values: Float[Tensor, "n channels height width"], size: tuple[int, int]
) -> Float[Tensor, "n channels new_height new_width"]:
    """Resize bilinearly about pixel centres; shrinking averages over all it covers."""
    if values.shape[-2:] == size:
        return values
    shrinks = size[0] < values.shape[-2] or size[1] < values.shape[-1]
    return interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=shrinks)


def instance_norm(x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
    """Normalise every channel of every image by itself.

    On a processor PyTorch's own takes three to five times as long as groups of one channel do, which are the same.
    Under mixed precision on an accelerator groups would be normalised into single precision.
    """
    return nn.functional.instance_norm(x) if x.is_cuda else group_norm(x, x.shape[1])


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with instance normalisation, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.spatial = nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.expand = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes_shape else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Transform a feature map."""
        y = relu(instance_norm(self.reduce(x)))
        y = relu(instance_norm(self.spatial(y)))
        y = instance_norm(self.expand(y))
        return relu(y + (x if self.shortcut is None else instance_norm(self.shortcut(x))))


class Pyramid(nn.Module):
    """An encoder, and a path from its coarsest map back up that adds each map's features on the way.

    Every camera is normalised by itself, so what one camera sees never depends on the others.
    """

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.stem_stride = config.stem_stride
        self.trunk = EfficientNetLite0() if config.encoder == "efficientnet-lite0" else None
        if self.trunk is None:
            self._build_stages(config)
        widths = config.stage_widths if self.trunk is None else WIDTHS
        self.top = nn.Conv2d(widths[-1], config.lateral_width, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(width, config.lateral_width, 1) for width in widths[:-1])
        self.output = nn.Conv2d(config.lateral_width, config.output_width, 3, padding=1)

    def _build_stages(self, config: PyramidConfig) -> None:
        # A strided 4x4 kernel is centred on the pixel corner that its output pixel is centred on; a strided
        # 3x3 kernel would shift the map by half an input pixel.
        kernel = 4 if config.stem_stride == 2 else 3
        self.stem = nn.Conv2d(3, config.stem_width, kernel, stride=config.stem_stride, padding=1, bias=False)
        stages: list[nn.Module] = []
        width = config.stem_width
        for stage_width, blocks, stride in zip(
            config.stage_widths, config.stage_blocks, config.stage_strides, strict=True
        ):
            layers = [Bottleneck(width, stage_width, stride)]
            layers += [Bottleneck(stage_width, stage_width) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*layers))
            width = stage_width
        self.stages = nn.ModuleList(stages)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the feature map of an image."""
        return height // self.stem_stride, width // self.stem_stride

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n channels map_height map_width"]:
        """Encode images into a feature map at the stem's resolution.

        Args:
            images: RGB in [-1, 1].

        Raises:
            ValueError: If the image is so small that a residual stage's map would be a single cell, over which nothing
                can be normalised.
        """
        maps = self._stage_maps(images) if self.trunk is None else self.trunk(images)
        y = self.top(maps[-1])
        for lateral, x in zip(reversed(self.laterals), reversed(maps[:-1]), strict=True):
            upsampled = interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
            y = upsampled + leaky_relu(lateral(x), LEAKY_SLOPE)
        return leaky_relu(self.output(y), LEAKY_SLOPE)

    def _stage_maps(self, images: Float[Tensor, "n 3 height width"]) -> list[Float[Tensor, "n _ _ _"]]:
        x = relu(instance_norm(self.stem(images)))
        maps: list[Tensor] = []
        for stage in self.stages:
            if min(x.shape[-2:]) < 4:
                raise ValueError(f"images of {images.shape[-2]}x{images.shape[-1]} are too small for the encoder")
            x = stage(x)
            maps.append(x)
        return maps


def soft_clamp(values: Float[Tensor, "*shape"], limit: float) -> Float[Tensor, "*shape"]:
    """Bound values smoothly by ``limit``: ``limit tanh(values / limit)``, the identity near zero."""
    return limit * torch.tanh(values / limit)
