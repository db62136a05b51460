"""Let voxels talk to their neighbours: both levels are convolved, fine informs coarse, coarse informs fine.

The paper convolves both octrees and hands the fine one's features down to the coarse one (DistillNeRF Sec. 3.1).
Published code convolves both levels but renders the fine one raw, and its strided convolution reads 8 of
a coarse cell's 64 children. Here every child is read, and what the coarse level learns about the scene's
layout flows back to its children before either is rendered.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from student.model.backbone import LEAKY_SLOPE, soft_clamp
from student.model.config import VoxelConfig
from student.model.depth_head import LOGIT_LIMIT
from student.model.lifting import LevelFeatures
from student.model.products import apply_linear
from student.model.sparse_conv import ConvolutionMap, SparseConv, children_map, neighbour_maps
from student.model.sparse_voxels import CHILDREN_PER_CELL, SparseGrid

_LOGIT_SCALE = 10.0
"""Logits reach 30, features 5: inside the network they share one scale."""


class VoxelNetwork(nn.Module):
    """Sparse convolutions over a two-level grid (DistillNeRF Sec. 3.1).

    Their result corrects what was pooled. It does not replace it.
    """

    def __init__(self, config: VoxelConfig) -> None:
        super().__init__()
        own, width, down = config.feature_width + 1, config.convolution_width, config.down_width
        self.fine_input = SparseConv(own, width)
        self.fine_blocks = nn.ModuleList([_NormedConv(width, width), _NormedConv(width, width)])
        self.down = SparseConv(width, down, num_taps=CHILDREN_PER_CELL)
        self.coarse_input = SparseConv(own, width)
        self.coarse_blocks = nn.ModuleList([_NormedConv(width + down, width), _NormedConv(width, width)])
        self.coarse_output = SparseConv(width, own)
        self.from_fine, self.from_parent = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.fine_output = nn.Linear(width, own)
        for parameter in (self.coarse_output.weight, self.fine_output.weight):
            nn.init.normal_(parameter, std=1e-3)  # the first steps see the pooled values, not noise
        nn.init.zeros_(self.fine_output.bias)

    def forward(
        self, grid: SparseGrid, fine: LevelFeatures, coarse: LevelFeatures
    ) -> tuple[LevelFeatures, LevelFeatures]:
        """Return the corrected fine and coarse level; logits bounded by +-30."""
        width = self.fine_output.in_features
        fine_map, coarse_map = neighbour_maps(grid, width=width)
        fine_hidden = self.fine_input(_network_input(fine), fine_map, _activate)
        for block in self.fine_blocks:
            fine_hidden = block(fine_hidden, fine_map)
        from_children = self.down(fine_hidden, children_map(grid, width=width), _activate)
        own = self.coarse_input(_network_input(coarse), coarse_map, _activate)
        coarse_hidden = torch.cat([from_children, own], dim=1)
        for block in self.coarse_blocks:
            coarse_hidden = block(coarse_hidden, coarse_map)
        from_parent = apply_linear(self.from_parent, coarse_hidden).index_select(0, grid.parent_row)
        fine_hidden = _activate(apply_linear(self.from_fine, fine_hidden) + from_parent)
        return (
            _correct(fine, apply_linear(self.fine_output, fine_hidden)),
            _correct(coarse, self.coarse_output(coarse_hidden, coarse_map)),
        )


class _NormedConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = SparseConv(in_channels, out_channels)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, features: Tensor, convolution_map: ConvolutionMap) -> Tensor:
        return self.convolution(features, convolution_map, lambda rows: self.norm(_activate(rows)))


def _activate(rows: Tensor) -> Tensor:
    """Activate in place: its gradient is told from its result, so the argument, the size of a level, is not kept."""
    return leaky_relu(rows, LEAKY_SLOPE, inplace=True)


def _network_input(level: LevelFeatures) -> Float[Tensor, "cells channels_and_one"]:
    return torch.cat([level.features, level.logits[:, None] / _LOGIT_SCALE], dim=1)


def _correct(level: LevelFeatures, correction: Float[Tensor, "cells channels_and_one"]) -> LevelFeatures:
    return LevelFeatures(
        level.features + correction[:, :-1],
        soft_clamp(level.logits + _LOGIT_SCALE * correction[:, -1], LOGIT_LIMIT),
    )
