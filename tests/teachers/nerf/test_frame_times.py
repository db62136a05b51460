import pytest
import torch

from teachers.nerf.frame_times import FrameTimes

SECONDS = (0.0, 0.5, 1.5, 2.0, 4.0)


def test_an_instant_lies_between_its_fitted_neighbours_by_seconds():
    times = FrameTimes(SECONDS, (0, 2, 3))
    near = times.neighbours(torch.tensor([1.0, 2.5]))
    assert near.previous.tolist() == [0, 2]
    assert near.next.tolist() == [2, 3]
    assert not near.is_fitted.any()
    assert torch.allclose(near.seconds_since_previous, torch.tensor([0.5, 0.25]))
    assert torch.allclose(near.seconds_to_next, torch.tensor([1.0, 0.25]))
    assert torch.allclose(near.next_share(), torch.tensor([1 / 3, 0.5]))


def test_a_fitted_frame_has_the_fitted_frames_beside_it():
    near = FrameTimes(SECONDS, (0, 2, 4)).neighbours(torch.tensor([2.0]))
    assert (near.previous.item(), near.next.item(), near.is_fitted.item()) == (0, 4, True)


def test_at_the_ends_one_side_stands_for_both():
    near = FrameTimes(SECONDS, (1, 3)).neighbours(torch.tensor([0.0, 1.0, 3.0, 4.0]))
    assert near.previous.tolist() == [1, 3, 1, 3]
    assert near.next.tolist() == [1, 3, 1, 3]
    assert near.seconds_since_previous[0] == -0.5, "the neighbour lies later"
    assert near.seconds_to_next[3] == -2.0
    alone = FrameTimes(SECONDS, (2,)).neighbours(torch.tensor([2.0, 0.0]))
    assert alone.previous.tolist() == alone.next.tolist() == [2, 2]
    assert torch.isfinite(alone.next_share()).all()


def test_what_is_fitted_may_grow_and_travels_with_the_tensors():
    times = FrameTimes(SECONDS, (0, 4))
    times.set_fitted((0, 2, 4))
    loaded = FrameTimes((0.0,) * 5, ())
    loaded.load_state_dict(times.state_dict())
    near = loaded.neighbours(torch.tensor([2.0]))
    assert near.is_fitted.item()
    assert near.seconds_to_next.item() == 2.5


def test_without_any_fitted_frame_there_is_no_neighbour():
    with pytest.raises(ValueError, match="no frame is fitted"):
        FrameTimes(SECONDS, ()).neighbours(torch.tensor([1.0]))
