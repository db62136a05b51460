"""The pattern that a vision transformer adds to its features by their place in the image, whatever it sees.

It does not hold together in space, so a field cannot learn it and must not: a map in the image takes it
(EmerNeRF Sec. 3.3).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class PositionalMap(nn.Module):
    """A learned map of image positions, added to rendered features while they are distilled (EmerNeRF Eq. 11).

    The mean over the image is taken out of it, so that it cannot take the features' common part from the field: what
    words are compared with is the field's features alone.

    Args:
        num_channels: Channels of the features.
        num_maps: One for all cameras, or one for each.
        height: Nodes along the image's height.
        width: Nodes along its width.
    """

    def __init__(self, num_channels: int, *, num_maps: int, height: int, width: int) -> None:
        super().__init__()
        self.nodes = nn.Parameter(torch.zeros(num_maps, num_channels, height, width))

    def forward(
        self, camera_index: Int64[Tensor, " rays"], places: Float[Tensor, "rays 2"]
    ) -> Float[Tensor, "rays channels"]:
        """Return what is added at places in the image, interpolated between its nodes.

        Args:
            camera_index: Camera of each ray; of no account if all share one map.
            places: Right and down, each in [0, 1] over the image.
        """
        num_maps, _, height, width = self.nodes.shape
        nodes = (self.nodes - self.nodes.mean(dim=(2, 3), keepdim=True)).permute(0, 2, 3, 1)
        of_map = camera_index if num_maps > 1 else torch.zeros_like(camera_index)
        column, row = places[:, 0].clamp(0, 1) * (width - 1), places[:, 1].clamp(0, 1) * (height - 1)
        left, top = column.long().clamp(max=width - 2), row.long().clamp(max=height - 2)
        right_share, lower_share = (column - left)[:, None], (row - top)[:, None]
        upper = torch.lerp(nodes[of_map, top, left], nodes[of_map, top, left + 1], right_share)
        lower = torch.lerp(nodes[of_map, top + 1, left], nodes[of_map, top + 1, left + 1], right_share)
        return torch.lerp(upper, lower, lower_share)


def pixel_places(size: tuple[int, int]) -> Float[Tensor, "pixels 2"]:
    """Return where the pixel centres of an image lie, right and down in [0, 1], row-major."""
    height, width = size
    down, right = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack([right, down], dim=-1).reshape(-1, 2)
