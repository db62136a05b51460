"""Beams through cells, against beams followed one by one in small steps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.geometry.voxel_grid import VoxelGrid
from storage.references.beams import BeamPasses, Beams, flat_of_lattice

GRID = VoxelGrid(minimum=(-4.0, -4.0, -1.0), voxel_size=0.5, shape=(16, 16, 4))
CELLS = GRID
positions = st.floats(-3.9, 3.9)


def followed(beams: Beams, clearance: float, reach: float) -> np.ndarray:
    """Count the beams through each cell by walking a millimetre at a time."""
    counts = np.zeros(CELLS.shape, int)
    for end in beams.ends:
        distance = np.linalg.norm(end - beams.origin)
        length = min(distance - clearance, reach)
        if length <= 0:
            continue
        steps = np.arange(0, length, 1e-3)[:, None] / distance
        cells = np.unique(np.floor(CELLS.in_voxels(beams.origin + steps * (end - beams.origin))).astype(int), axis=0)
        inside = cells[np.all((cells >= 0) & (cells < CELLS.shape), axis=1)]
        counts[tuple(inside.T)] += 1
    return counts


@given(
    ends=arrays(np.float64, (5, 3), elements=positions),
    clearance=st.sampled_from([0.0, 0.3]),
    reach=st.sampled_from([2.0, 60.0]),
)
def test_passes_are_those_of_beams_that_are_walked_along(ends, clearance, reach):
    beams = Beams(origin=np.array([0.1, 0.2, 0.3]), ends=ends)
    passes = BeamPasses(grid=CELLS, reach_m=reach, clearance_m=clearance)
    passes.add(beams)
    found, walked = passes.at_centres(GRID, np.eye(4)), followed(beams, clearance, reach)
    own = tuple(np.floor(CELLS.in_voxels(beams.origin)).astype(int))
    found[own] = walked[own]  # the cell in which all beams start is counted once
    # Walking may step over the corner of a cell; it never finds a cell that no beam crosses.
    assert (walked <= found).all()
    assert (found != walked).mean() < 0.01


def test_what_was_added_can_be_taken_away():
    generator = np.random.default_rng(0)
    sweeps = [Beams(origin=generator.uniform(-1, 1, 3), ends=generator.uniform(-6, 6, (200, 3))) for _ in range(3)]
    passes = BeamPasses(grid=CELLS, reach_m=60.0, clearance_m=0.2)
    passes.add(sweeps[0])
    only_first = passes.at_centres(GRID, np.eye(4)).copy()
    for sweep in sweeps[1:]:
        passes.add(sweep)
    assert (passes.at_centres(GRID, np.eye(4)) > only_first).any()
    for sweep in sweeps[1:]:
        passes.add(sweep, sign=-1)
    np.testing.assert_array_equal(passes.at_centres(GRID, np.eye(4)), only_first)


@given(angle=st.floats(-3, 3), shift=arrays(np.float64, 3, elements=positions))
def test_a_lattice_is_looked_up_point_by_point(angle, shift):
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    pose[:3, 3] = shift
    flat = flat_of_lattice(CELLS, GRID, pose).reshape(-1)
    centres = GRID.centres(np.moveaxis(np.indices(GRID.shape), 0, -1)).reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]
    scaled = CELLS.in_voxels(centres)
    clear = np.all(np.abs(scaled - np.round(scaled)) > 1e-9, axis=1)
    cells = np.floor(scaled).astype(int)
    inside = np.all((cells >= 0) & (cells < CELLS.shape), axis=1)
    expected = np.full(len(cells), CELLS.num_voxels)
    expected[inside] = np.ravel_multi_index(tuple(cells[inside].T), CELLS.shape)
    np.testing.assert_array_equal(flat[clear], expected[clear])
