import pytest
import torch

from teachers.nerf.error_map import ErrorMap

SIZE = (6, 10)


def made() -> ErrorMap:
    """Two images of 6 by 10 pixels, the second without its last row, in tiles of 4."""
    return ErrorMap([torch.arange(60), torch.arange(50)], SIZE, tile_px=4)


def test_draws_are_uniform_until_errors_are_known():
    image, pixel = made().draw(torch.Generator().manual_seed(0), 22_000)
    counts = torch.bincount(60 * image + pixel, minlength=120)
    assert (counts[110:] == 0).all(), "pixels that may not be seen are never drawn"
    assert (counts[:110] - 200).abs().max() < 6 * 200**0.5


def test_draws_follow_the_errors():
    errors = made()
    pixel = torch.arange(60).repeat(2)[:110]
    image = torch.arange(110) // 60
    wrong = (image == 1) & (pixel % 10 < 4) & (pixel < 40)
    errors.observe(torch.stack([image, pixel], dim=-1), torch.where(wrong, 0.9, 0.1))
    errors.refresh()
    drawn_image, drawn = errors.draw(torch.Generator().manual_seed(1), 20_000)
    hit = (drawn_image == 1) & (drawn % 10 < 4) & (drawn < 40)
    assert abs(hit.float().mean().item() - 16 * 0.9 / (16 * 0.9 + 94 * 0.1)) < 0.02


def test_what_was_not_seen_keeps_its_error_or_has_the_mean():
    errors = made()
    errors.observe(torch.tensor([[0, 0], [0, 9]]), torch.tensor([0.2, 0.4]))
    errors.refresh()
    assert errors.state()["error"][0].item() == pytest.approx(0.2)
    assert errors.state()["error"][7].item() == pytest.approx(0.3)
    errors.observe(torch.tensor([[0, 9]]), torch.tensor([0.8]))
    errors.refresh()
    assert errors.state()["error"][0].item() == pytest.approx(0.2)
    assert errors.state()["error"][2].item() == pytest.approx(0.8)


def test_a_resumed_map_draws_the_same():
    errors, other = made(), made()
    errors.observe(torch.tensor([[0, 3], [1, 20]]), torch.tensor([0.5, 0.1]))
    errors.refresh()
    errors.observe(torch.tensor([[1, 7]]), torch.tensor([0.7]))
    other.load_state({name: tensor.clone() for name, tensor in errors.state().items()})
    for each in (errors, other):
        each.refresh()
    drawn = [each.draw(torch.Generator().manual_seed(2), 100) for each in (errors, other)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
