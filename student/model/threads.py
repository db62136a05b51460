"""Share work among threads of which each computes for itself.

PyTorch cuts every operation among its threads, so that what one thread has just gathered another one reads: too little
for each when there are many short operations. Here each thread does all operations of its own share.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST_SHARES = 8
"""Python runs one thread at a time between operations: more shares would wait for it."""


def num_shares() -> int:
    """Return how many shares work is best cut into for the calling thread."""
    return min(torch.get_num_threads(), _MOST_SHARES)


def each_share(
    work: Callable[[Iterable[_Item]], _Result], items: Sequence[_Item], *, as_they_come: bool = False
) -> list[_Result]:
    """Call ``work`` with every share of the items, at the same time, and return its results in order.

    Modes of the calling thread (gradients, inference, automatic mixed precision) hold in all.

    Args:
        work: What to do with a share; must not write what another share's call reads or writes.
        items: Cut into shares by taking turns: the same shares for the same number of items and of threads.
        as_they_come: Whoever is free takes the next item instead. So a slow processor does less, but which share an
            item is in is left to chance: for work whose result does not depend on it.
    """
    threads = torch.get_num_threads()
    shares = min(num_shares(), len(items))
    if shares < 2:
        return [work(items)]
    of_each = threads // shares
    with_gradients, for_inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    mixed, mixed_dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    cut = [iter(items)] * shares if as_they_come else [items[share::shares] for share in range(shares)]

    def elsewhere(share: Iterable[_Item]) -> _Result:
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(for_inference))
            modes.enter_context(torch.set_grad_enabled(with_gradients))
            modes.enter_context(torch.autocast("cpu", dtype=mixed_dtype, enabled=mixed))
            return work(share)

    # A setting of the calling thread, and what threads that start later begin with.
    torch.set_num_threads(of_each)
    try:
        with ThreadPoolExecutor(shares - 1, initializer=torch.set_num_threads, initargs=(of_each,)) as pool:
            others = [pool.submit(elsewhere, share) for share in cut[1:]]
            return [work(cut[0]), *[other.result() for other in others]]
    finally:
        torch.set_num_threads(threads)
