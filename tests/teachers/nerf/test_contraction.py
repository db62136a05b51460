import torch
from hypothesis import given
from hypothesis import strategies as st

from teachers.nerf.contraction import contract

coordinates = st.floats(-1e3, 1e3, allow_nan=False, width=32)
points = st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=8).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64)
)


@given(points)
def test_image_is_the_open_cube(p):
    assert bool((contract(p).abs() < 2.0).all())


def test_box_is_unchanged_and_outside_is_monotone():
    inside = torch.rand(64, 3) * 2 - 1
    assert torch.equal(contract(inside), inside)
    along = torch.linspace(0.1, 500.0, 2000)[:, None] * torch.tensor([0.3, -1.0, 0.7])
    image = contract(along)
    assert bool((image[1:, 1] < image[:-1, 1]).all())
    assert torch.allclose(image / image[:, 1:2], along / along[:, 1:2], atol=1e-5), "directions are kept"
