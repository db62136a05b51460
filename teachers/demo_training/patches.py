"""Class of each patch of an image: the one that most of its pixels have."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

MIXED = -1
"""Label of a patch whose largest class has less than the wanted share of pixels."""


def patch_labels(
    semantics: UInt8[Tensor, "batch height width"], patch_size: int, *, min_share: float = 0.6
) -> Int[Tensor, "batch patch_rows patch_columns"]:
    """Return each patch's class id, or ``MIXED``."""
    rows, columns = (side // patch_size for side in semantics.shape[-2:])
    cells = semantics[:, : rows * patch_size, : columns * patch_size].unfold(1, patch_size, patch_size)
    cells = cells.unfold(2, patch_size, patch_size).flatten(3)
    present = torch.unique(cells)
    # One pass per class that occurs: a few tens of comparisons are cheaper than 256-bin histograms of every patch.
    shares = torch.stack([(cells == value).float().mean(dim=-1) for value in present], dim=-1)
    share, index = shares.max(dim=-1)
    return torch.where(share >= min_share, present[index].long(), MIXED)
