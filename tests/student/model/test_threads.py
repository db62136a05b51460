"""Shares of work: all of it is done, in the modes of the caller, and the caller's threads are left as they were."""

import threading
from collections.abc import Iterable, Iterator

import pytest
import torch

from student.model.threads import each_share


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_item_is_in_one_share_and_shares_run_at_the_same_time():
    together = threading.Barrier(3, timeout=30)

    def work(share: Iterable[int]) -> list[int]:
        together.wait()  # breaks unless three are here
        return list(share)

    assert each_share(work, range(7)) == [[0, 3, 6], [1, 4], [2, 5]]
    assert torch.get_num_threads() == 3


def test_whoever_is_free_takes_the_next_item():
    one_is_busy = threading.Event()

    def work(share: Iterable[int]) -> list[int]:
        done = []
        for item in share:
            if item == 0:
                assert one_is_busy.wait(timeout=30)  # until the last item has been taken by another
            if item == 6:
                one_is_busy.set()
            done.append(item)
        return done

    shares = each_share(work, range(7), as_they_come=True)
    assert [0] in shares
    assert sorted(item for share in shares for item in share) == list(range(7))


def test_a_single_item_is_left_to_the_threads_of_every_operation():
    assert each_share(lambda share: (list(share), torch.get_num_threads()), [5]) == [([5], 3)]
    assert each_share(lambda share: torch.get_num_threads(), range(2)) == [1, 1]


def test_modes_of_the_caller_hold_in_every_share():
    def modes(_: Iterable[int]) -> tuple[bool, bool, torch.dtype]:
        product = torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)
        return product.requires_grad, product.is_inference(), product.dtype

    assert set(each_share(modes, range(3))) == {(True, False, torch.float32)}
    with torch.no_grad():
        assert set(each_share(modes, range(3))) == {(False, False, torch.float32)}
    with torch.inference_mode():
        assert set(each_share(modes, range(3))) == {(False, True, torch.float32)}
    with torch.autocast("cpu", torch.bfloat16):
        assert set(each_share(modes, range(3))) == {(True, False, torch.bfloat16)}


def test_an_error_in_any_share_is_raised_and_threads_are_restored():
    def work(share: Iterable[int]) -> None:
        if 1 in share:
            raise ValueError("item 1")

    with pytest.raises(ValueError, match="item 1"):
        each_share(work, range(3))
    assert torch.get_num_threads() == 3
