"""What is in sight in a grid, against walls whose shadows are known and against dense walking."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.geometry.voxel_grid import VoxelGrid
from storage.references.camera_visibility import is_in_sight

GRID = VoxelGrid(minimum=(-4.0, -4.0, -1.0), voxel_size=0.4, shape=(20, 20, 8))
EVERY = np.arange(int(np.prod(GRID.shape)))


def centres() -> np.ndarray:
    return GRID.centres(np.moveaxis(np.indices(GRID.shape), 0, -1))


def test_a_wall_hides_what_is_behind_it_and_is_seen_itself():
    solid = np.zeros(GRID.shape, bool)
    solid[10] = True
    seen = is_in_sight(GRID, solid, np.array([-3.9, 0.0, 0.5]), EVERY).reshape(GRID.shape)
    assert seen[:11].all()
    assert not seen[11:].any()


def test_flat_ground_does_not_hide_itself():
    solid = np.zeros(GRID.shape, bool)
    solid[:, :, 0] = True
    seen = is_in_sight(GRID, solid, np.array([-3.9, 0.1, 0.2]), EVERY).reshape(GRID.shape)
    assert seen.all()


def test_a_post_casts_a_shadow():
    solid = np.zeros(GRID.shape, bool)
    solid[8:10, 9:11] = True
    seen = is_in_sight(GRID, solid, np.array([-3.9, 0.0, 0.5]), EVERY).reshape(GRID.shape)
    assert not seen[14, 10, 4]
    assert seen[14, 2, 4]


@given(seed=st.integers(0, 1000), eye=st.tuples(*(st.floats(-3.5, 3.5),) * 2, st.floats(-0.8, 2.0)))
def test_free_voxels_are_in_sight_if_a_walk_to_them_meets_nothing(seed, eye):
    generator = np.random.default_rng(seed)
    solid = generator.random(GRID.shape) < 0.03
    start = np.array(eye)
    free = np.flatnonzero(~solid.reshape(-1))
    chosen = generator.choice(free, 30, replace=False)
    seen = is_in_sight(GRID, solid, start, chosen)
    targets = centres().reshape(-1, 3)[chosen]
    walk = start + np.linspace(0, 1, 2000)[:, None, None] * (targets - start)
    scaled = (walk - GRID.minimum) / GRID.voxel_size
    inside = np.floor(scaled).astype(int)
    met = solid[tuple(np.moveaxis(inside, -1, 0))]
    # A step of half a voxel may jump over a corner, never over a whole voxel.
    deep = met & np.all(np.abs(scaled - inside - 0.5) < 0.15, axis=-1)
    assert not (seen & deep.any(axis=0)).any()
    assert seen[~met.any(axis=0)].all()
