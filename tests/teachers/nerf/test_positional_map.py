"""What a vision transformer adds by place in the image is taken out by a map of the image."""

import pytest
import torch
from torch.nn import functional

from teachers.nerf.positional_map import PositionalMap, pixel_places


def test_places_are_pixel_centres_row_major():
    places = pixel_places((2, 4))
    assert places[0].tolist() == [0.125, 0.25]
    assert places[1].tolist() == [0.375, 0.25]
    assert places[-1].tolist() == [0.875, 0.75]


@pytest.mark.parametrize("num_maps", [1, 3])
def test_a_map_is_interpolated_between_its_nodes_and_has_no_mean(num_maps):
    torch.manual_seed(0)
    pattern = PositionalMap(2, num_maps=num_maps, height=3, width=5)
    torch.nn.init.normal_(pattern.nodes, mean=4.0)
    size = (6, 9)
    places, camera = pixel_places(size), torch.full((54,), num_maps - 1)
    nodes = pattern.nodes - pattern.nodes.mean(dim=(2, 3), keepdim=True)
    assert nodes.mean(dim=(2, 3)).abs().max() < 1e-6  # the features' common part stays with the field
    twin = functional.grid_sample(nodes[-1:], 2 * places.view(1, *size, 2) - 1, align_corners=True)
    found = pattern(camera, places)
    assert torch.allclose(found, twin[0].flatten(1).T, atol=1e-5)
    if num_maps > 1:
        assert not torch.allclose(found, pattern(torch.zeros_like(camera), places), atol=0.1)


def test_a_new_map_adds_nothing():
    assert not PositionalMap(4, num_maps=1, height=2, width=2)(
        torch.zeros(8, dtype=torch.int64), torch.rand(8, 2)
    ).any()
