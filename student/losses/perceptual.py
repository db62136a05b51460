"""Distances between images that forgive what people do not see.

``MultiScaleDissimilarity`` needs no weights and is the declared default. ``Lpips`` is the published distance; its
backbone and linear layers come from a local file, because nothing here downloads.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from storage.errors import ErrorKind, MissingTargetError, SourceDataError
from storage.stores.integrity import reading_weights

_LUMINANCE_FLOOR, _CONTRAST_FLOOR = 0.01**2, 0.03**2

# VGG-16 up to its fifth block; LPIPS compares the activations at the end of each.
_VGG_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_IMAGENET_SHIFT = (-0.030, -0.088, -0.188)  # LPIPS' own normalisation of inputs in [-1, 1]
_IMAGENET_SCALE = (0.458, 0.448, 0.450)


class PerceptualDistance(nn.Module):
    """A distance between images, the perceptual term of (DistillNeRF Eq. 6); 0 for equal ones."""

    def forward(
        self, predicted: Float[Tensor, "n 3 height width"], target: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, " n"]:
        """Return the distance of each pair of RGB images around [0, 1]."""
        raise NotImplementedError


class MultiScaleDissimilarity(PerceptualDistance):
    """One minus structural similarity, averaged over scales.

    It stands in for LPIPS in (DistillNeRF Eq. 6) where no weights are given. The usual product over scales has no
    gradient where one factor is negative, which untrained renderings reach; the mean has.

    Args:
        num_scales: Scales, each half the size of the one before; those smaller than the window are left out.
        window: Odd side of the uniform window, pixels.
    """

    def __init__(self, num_scales: int = 3, window: int = 7) -> None:
        super().__init__()
        if num_scales < 1 or window < 3 or window % 2 == 0:
            raise ValueError(f"want num_scales >= 1 and an odd window >= 3, got {num_scales} and {window}")
        self.num_scales = num_scales
        self.window = window

    def forward(
        self, predicted: Float[Tensor, "n 3 height width"], target: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, " n"]:
        """Return the dissimilarity of each pair, in [0, 2].

        Raises:
            ValueError: If the images are smaller than the window.
        """
        if min(predicted.shape[-2:]) < self.window:
            raise ValueError(f"images of {tuple(predicted.shape[-2:])} do not hold a window of {self.window}")
        distances = []
        for scale in range(self.num_scales):
            if scale:
                predicted, target = F.avg_pool2d(predicted, 2), F.avg_pool2d(target, 2)
            if min(predicted.shape[-2:]) < self.window:
                break
            distances.append(1.0 - self._similarity(predicted, target))
        return torch.stack(distances).mean(dim=0)

    def _similarity(self, x: Tensor, y: Tensor) -> Tensor:
        # One pooling of the stacked moments is several times faster than five.
        moments = F.avg_pool2d(torch.cat([x, y, x * x, y * y, x * y], dim=1), self.window, stride=1)
        mean_x, mean_y, square_x, square_y, product = moments.chunk(5, dim=1)
        variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
        covariance = product - mean_x * mean_y
        similarity = (
            (2 * mean_x * mean_y + _LUMINANCE_FLOOR)
            * (2 * covariance + _CONTRAST_FLOOR)
            / ((mean_x.square() + mean_y.square() + _LUMINANCE_FLOOR) * (variance_x + variance_y + _CONTRAST_FLOOR))
        )
        return similarity.mean(dim=(1, 2, 3))


class Lpips(PerceptualDistance):
    """Learned perceptual distance over VGG-16, frozen: the LPIPS of (DistillNeRF Eq. 6).

    Args:
        weights: Safetensors file with ``features.<i>.{weight,bias}`` of torchvision's VGG-16 (convolutions only) and
            ``lin<k>.model.1.weight`` of the LPIPS distribution's ``vgg`` linear layers.

    Raises:
        MissingTargetError: If there is no such file.
        SourceDataError: If it is damaged, or its tensors are not exactly those.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        if not weights.is_file():
            raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(weights), "no LPIPS weights there")
        self.blocks = nn.ModuleList(_vgg_blocks())
        self.linear = nn.ModuleList(nn.Conv2d(block[-1], 1, 1, bias=False) for block in _VGG_BLOCKS)
        self.register_buffer("shift", torch.tensor(_IMAGENET_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_IMAGENET_SCALE)[:, None, None])
        self._load(weights)
        self.requires_grad_(False)
        self.eval()

    def _load(self, weights: Path) -> None:
        try:
            with reading_weights(weights):
                stored = load_file(weights)
        except (SafetensorError, OSError) as error:
            raise SourceDataError(ErrorKind.WEIGHTS_INVALID, str(weights), f"cannot be read: {error}") from error
        convolutions = [layer for block in self.blocks for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        wanted: dict[str, Tensor] = {}
        for index, layer in zip(_vgg_layer_indices(), convolutions, strict=True):
            assert layer.bias is not None
            wanted |= {f"features.{index}.weight": layer.weight.data, f"features.{index}.bias": layer.bias.data}
        for index, layer in enumerate(self.linear):
            assert isinstance(layer, nn.Conv2d)
            wanted[f"lin{index}.model.1.weight"] = layer.weight.data
        wrong = set(stored) ^ set(wanted) or {n for n in wanted if stored[n].shape != wanted[n].shape}
        if wrong:
            raise SourceDataError(ErrorKind.WEIGHTS_INVALID, str(weights), f"tensors {sorted(wrong)[:4]} do not fit")
        for name, parameter in wanted.items():
            parameter.copy_(stored[name])

    def forward(
        self, predicted: Float[Tensor, "n 3 height width"], target: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, " n"]:
        """Return the distance of each pair; images of at least 16 pixels a side."""
        pair = torch.cat([predicted, target]) * 2 - 1
        pair = (pair - self.shift) / self.scale
        total = predicted.new_zeros(len(predicted))
        for block, linear in zip(self.blocks, self.linear, strict=True):
            pair = block(pair)
            x, y = (pair / (pair.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
            total = total + linear((x - y).square()).mean(dim=(1, 2, 3))
        return total


def _vgg_blocks() -> Sequence[nn.Sequential]:
    blocks, width = [], 3
    for index, widths in enumerate(_VGG_BLOCKS):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
        for next_width in widths:
            layers += [nn.Conv2d(width, next_width, 3, padding=1), nn.ReLU()]
            width = next_width
        blocks.append(nn.Sequential(*layers))
    return blocks


def _vgg_layer_indices() -> list[int]:
    """Return where the convolutions stand in torchvision's flat list of convolutions, activations and poolings."""
    indices, position = [], 0
    for index, widths in enumerate(_VGG_BLOCKS):
        position += 1 if index else 0  # the pooling before this block
        for _ in widths:
            indices.append(position)
            position += 2
    return indices


def perceptual_distance(lpips_weights: Path | None) -> PerceptualDistance:
    """Return the distance of (DistillNeRF Eq. 6): LPIPS if given weights, else the multi-scale dissimilarity."""
    return MultiScaleDissimilarity() if lpips_weights is None else Lpips(lpips_weights)
