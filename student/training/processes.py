"""Processes that train one student together: a single one, or those that ``torchrun`` started.

They share each batch: every process takes its part of the step's samples, and gradients are averaged. The number of
steps stays the same, and the number of processes is no part of a checkpoint's digest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which alone teaches the occupancy head and publishes. One that dies is
noticed by ``torchrun`` at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Place of this process among those that train together.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        is_first_of_machine: True for the process that fetches files for those of its machine.
        device: Device of this process.
    """

    rank: int
    count: int
    is_first_of_machine: bool
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True for the process that writes files."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of values over processes, detached; every process must call this."""
        total = values.detach().clone()
        if self.count > 1:
            dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - anything that pickles
        """Return every process's value, in the order of ranks; every process must call this."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


def is_under_torchrun() -> bool:
    """Return whether ``torchrun`` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started while the context lasts; without ``torchrun``, be the only one.

    Args:
        device: Device to compute on; with several processes on CUDA, each takes the device of its local rank.
    """
    if not is_under_torchrun():
        yield Processes(rank=0, count=1, is_first_of_machine=True, device=device)
        return
    local_rank = dist.get_node_local_rank()  # pyright: ignore[reportPrivateImportUsage]
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(
            rank=dist.get_rank(), count=dist.get_world_size(), is_first_of_machine=local_rank == 0, device=device
        )
    finally:
        dist.destroy_process_group()
