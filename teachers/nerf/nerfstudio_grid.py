"""nerfstudio's hash grids behind the interface of this project's: tiny-cuda-nn on a GPU, plain torch as reference.

They know one resolution for all three axes, so inside a box that is longer than high, cells are not cubes: each level
has as many cells along its longest axis as ours has there. A grid per frame, which the dynamic branch wants, they do
not know at all; that branch keeps this project's grids.
"""

import dataclasses
from typing import Literal

from jaxtyping import Float, Int32
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor, nn

from storage.errors import EnvironmentMissingError, ErrorKind
from teachers.nerf.config import NerfConfig

Backend = Literal["tcnn", "torch"]


class NerfstudioGrid(nn.Module):
    """Interpolate learned features at points of the unit cube, level by level.

    Args:
        resolutions: Cells along x, y, z of each level, coarse to fine.
        features_per_level: Channels of each level.
        log2_table_size: Rows of each level's table.
        backend: tiny-cuda-nn, or nerfstudio's own torch implementation.

    Raises:
        EnvironmentMissingError: If tiny-cuda-nn is asked for and cannot be imported.
    """

    def __init__(
        self,
        resolutions: list[tuple[int, int, int]],
        *,
        features_per_level: int,
        log2_table_size: int,
        backend: Backend,
    ) -> None:
        super().__init__()
        if backend == "tcnn":
            require_tcnn()
        self.output_width = len(resolutions) * features_per_level
        self.encoding = HashEncoding(
            num_levels=len(resolutions),
            min_res=max(resolutions[0]),
            max_res=max(resolutions[-1]),
            log2_hashmap_size=log2_table_size,
            features_per_level=features_per_level,
            hash_init_scale=1e-4,
            implementation=backend,
        )

    def forward(
        self, positions: Float[Tensor, "points 3"], slices: Int32[Tensor, " points"] | None = None
    ) -> Float[Tensor, "points features"]:
        """Return the interpolated features of positions in [0, 1]; positions get no gradient.

        Raises:
            ValueError: If slices are asked for.
        """
        if slices is not None:
            raise ValueError("nerfstudio's grids have no slices: a grid per frame needs this project's own")
        # tiny-cuda-nn computes in half precision; what follows does not.
        return self.encoding(positions.detach()).float()


def require_tcnn() -> None:
    """Check that tiny-cuda-nn can be imported.

    Raises:
        EnvironmentMissingError: If it cannot.
    """
    if not TCNN_EXISTS:
        raise EnvironmentMissingError(
            ErrorKind.ENVIRONMENT_MISSING,
            "tinycudann",
            "cannot be imported in nerfstudio's environment: install tiny-cuda-nn's torch bindings there, or set "
            "nerf.field.implementation to 'torch' or 'auto'",
        )


def settle_implementation(nerf: NerfConfig, device: str) -> NerfConfig:
    """Return the configuration with the grids that this machine will use in place of ``auto``.

    Raises:
        EnvironmentMissingError: If tiny-cuda-nn is asked for and cannot be imported.
        ValueError: If it is asked for on another device than CUDA.
    """
    wanted = nerf.field.implementation
    if wanted == "tcnn":
        require_tcnn()
        if device != "cuda":
            raise ValueError(f"implementation 'tcnn' was asked for on device {device!r}, want 'cuda'")
    if wanted != "auto":
        return nerf
    taken: Literal["tcnn", "torch"] = "tcnn" if device == "cuda" and TCNN_EXISTS else "torch"
    return dataclasses.replace(nerf, field=dataclasses.replace(nerf.field, implementation=taken))
