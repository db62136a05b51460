"""Where a fit still errs, so that it looks there more often: a share of its rays is drawn by error.

EmerNeRF renders its training images every 2,000 steps to know where it errs. Here every training ray leaves its error
in its tile of its image, which costs nothing; from time to time the probabilities are made from what has gathered.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class ErrorMap:
    """Mean squared error of tiles of images, and draws of pixels by it.

    A tile's probability is the sum of its pixels' errors; until they are known, all pixels are alike.

    Args:
        seen_pixels: Per image, the pixels (row-major) that may be drawn.
        image_size: Height and width of images.
        tile_px: Height and width of a tile.
    """

    def __init__(
        self, seen_pixels: Sequence[Int64[Tensor, " _"]], image_size: tuple[int, int], *, tile_px: int
    ) -> None:
        height, self.width = image_size
        self.tile_px = tile_px
        self.tiles_across = math.ceil(self.width / tile_px)
        self.num_tiles = math.ceil(height / tile_px) * self.tiles_across
        tiles = [image * self.num_tiles + self._tile(pixels) for image, pixels in enumerate(seen_pixels)]
        tile, pixel = torch.cat(tiles), torch.cat(list(seen_pixels))
        order = torch.argsort(tile, stable=True)
        self._pixels = pixel[order]
        self._count = torch.bincount(tile, minlength=len(seen_pixels) * self.num_tiles)
        self._start = torch.cumsum(self._count, dim=0) - self._count
        self._error = torch.full((len(self._count),), torch.nan, dtype=torch.float64)  # NaN: nothing is known yet
        self._sum = torch.zeros_like(self._error)
        self._observed = torch.zeros_like(self._error)

    def observe(self, place: Int64[Tensor, "rays 2"], squared_error: Float[Tensor, " rays"]) -> None:
        """Take in the errors of rays through (image, pixel)."""
        image, pixel = place.cpu().unbind(dim=-1)
        tile = image * self.num_tiles + self._tile(pixel)
        self._sum.index_add_(0, tile, squared_error.detach().cpu().to(torch.float64))
        self._observed.index_add_(0, tile, torch.ones(len(tile), dtype=torch.float64))

    def refresh(self) -> None:
        """Draw by what was observed since the last time; tiles that no ray went through keep their error."""
        seen = self._observed > 0
        if bool(seen.any()):
            mean = self._sum / self._observed.clamp_min(1.0)
            known = torch.where(seen, mean, self._error)
            # A tile that no ray went through so far is worth as much as the average one.
            self._error = torch.where(known.isnan(), mean[seen].mean(), known)
        self._sum.zero_()
        self._observed.zero_()

    def draw(self, generator: torch.Generator, count: int) -> tuple[Int64[Tensor, " rays"], Int64[Tensor, " rays"]]:
        """Draw image and pixel of rays, with replacement."""
        total = torch.cumsum(self._error.nan_to_num(1.0) * self._count, dim=0)
        chance = torch.rand(count, generator=generator, dtype=torch.float64) * total[-1]
        tile = torch.searchsorted(total, chance, right=True).clamp_max(len(total) - 1)
        within = torch.rand(count, generator=generator, dtype=torch.float64)
        pixel = self._pixels[self._start[tile] + (within * self._count[tile]).long()]
        return tile // self.num_tiles, pixel

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed fit needs."""
        return {"error": self._error, "sum": self._sum, "observed": self._observed}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what ``state`` returned."""
        self._error, self._sum, self._observed = state["error"], state["sum"], state["observed"]

    def _tile(self, pixel: Int64[Tensor, " pixels"]) -> Int64[Tensor, " pixels"]:
        row, column = pixel // self.width, pixel % self.width
        return (row // self.tile_px) * self.tiles_across + column // self.tile_px
