import numpy as np
import pytest

from storage.geometry.voxel_grid import OCC3D_GRID, VoxelGrid


def test_the_grid_of_occ3d_ends_where_it_is_published_to_end():
    assert OCC3D_GRID.maximum == pytest.approx((40.0, 40.0, 5.4), abs=1e-12)
    last = np.array([[199, 199, 15]])
    assert OCC3D_GRID.centres(last) == pytest.approx(np.array([[39.8, 39.8, 5.2]]))


def test_centres_lie_in_their_own_voxels():
    grid = VoxelGrid(minimum=(-1.0, 2.0, 0.5), voxel_size=0.3, shape=(3, 4, 5))
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    found, is_inside = grid.index_of(grid.centres(index).reshape(-1, 3))
    assert is_inside.all()
    assert (found == index.reshape(-1, 3)).all()
