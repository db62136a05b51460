"""Random views of a batch: mirrored, cropped, and with changed colours, blur and noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Position of a crop, which is the same for all images of a batch.

    Attributes:
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.
        mirrored: True if the order of the columns is reversed.
    """

    top: int
    left: int
    height: int
    width: int
    mirrored: bool

    def of(self, maps: Shaped[Tensor, "batch *channels rows columns"]) -> Tensor:
        """Return the crop of maps whose last two axes are rows and columns."""
        cut = maps[..., self.top : self.top + self.height, self.left : self.left + self.width]
        return cut.flip(-1) if self.mirrored else cut


def random_crop(size: tuple[int, int], *, smallest: float, generator: torch.Generator) -> Crop:
    """Return a crop with the image's aspect whose sides are at least ``smallest`` of the image's."""
    scale = smallest + (1 - smallest) * float(torch.rand((), generator=generator))
    height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top = int(torch.randint(size[0] - height + 1, (), generator=generator))
    left = int(torch.randint(size[1] - width + 1, (), generator=generator))
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    return Crop(top=top, left=left, height=height, width=width, mirrored=mirrored)


def jitter_colours(
    images: Float[Tensor, "batch 3 height width"], generator: torch.Generator, *, strength: float = 1.0
) -> Float[Tensor, "batch 3 height width"]:
    """Return images in [0, 1] with other brightness, contrast, saturation, white balance, gamma, blur and noise.

    Each image has its own random changes; ``strength`` scales their size.
    """

    def draw(spread: float, channels: int = 1) -> Tensor:
        return (torch.rand((len(images), channels, 1, 1), generator=generator) * 2 - 1) * spread * strength

    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (1 + draw(0.6))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + draw(0.3))
    images = (images * (1 + draw(0.3)) * (1 + draw(0.08, 3))).clamp(0, 1)
    images = images ** torch.exp(draw(0.35))
    if float(torch.rand((), generator=generator)) < 0.3 * strength:
        height, width = images.shape[-2:]
        small = functional.interpolate(images, size=(height // 2, width // 2), mode="bilinear", antialias=True)
        images = functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.randn(images.shape, generator=generator) * (
        0.02 * strength * float(torch.rand((), generator=generator))
    )
    return (images + noise).clamp(0, 1)
