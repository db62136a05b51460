"""Endless, exactly repeatable stream of training batches that can be stopped and resumed anywhere."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from storage.errors import PipelineError
from student.data.dataset import FrameDataset, SampleRequest
from student.data.sample import TrainingBatch, concatenate

# A process that forks after an Icechunk store was opened inherits its locks and hangs.
_WORKER_CONTEXT = "forkserver"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """Position of a stream.

    Attributes:
        samples_delivered: Samples handed out since the start, over all epochs and all processes. Worker processes may
            have read more.
    """

    samples_delivered: int = 0


class _EpochStream(Sampler[list[SampleRequest]]):
    """Endless permutations of the samples, cut into batches that may span two epochs."""

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, state: LoaderState, share: tuple[int, int]
    ) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._seed = seed
        self._start = state.samples_delivered
        rank, size = share[0], batch_size // share[1]
        self._own = slice(rank * size, (rank + 1) * size)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        position = self._start
        epoch, order = -1, np.zeros(0, np.int64)
        while True:
            batch = []
            for number in range(position, position + self._batch_size):
                if number // self._num_samples != epoch:
                    epoch = number // self._num_samples
                    order = np.random.default_rng((self._seed, epoch)).permutation(self._num_samples)
                batch.append(SampleRequest(epoch, int(order[number % self._num_samples])))
            position += self._batch_size
            yield batch[self._own]


class _CarryErrors(Dataset[TrainingBatch | PipelineError]):
    """Data set that returns typed errors instead of raising them, because workers reduce raised ones to text."""

    def __init__(self, dataset: FrameDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, request: SampleRequest) -> TrainingBatch | PipelineError:
        try:
            return self._dataset[request]
        except PipelineError as error:
            return error


def _collate(samples: list[TrainingBatch | PipelineError]) -> TrainingBatch | PipelineError:
    batches = []
    for sample in samples:
        if isinstance(sample, PipelineError):
            return sample
        batches.append(sample)
    return concatenate(batches)


class TrainingLoader:
    """Endless stream of batches.

    The order depends on the seed and the epoch; a sample's views depend on the seed, the epoch and its index. So the
    stream is the same for any number of workers and after any interruption.

    Args:
        dataset: Samples to draw from.
        batch_size: Samples per batch.
        share: Index and number of the equal shares of every batch: this one is handed out, the others go to other
            processes.
        seed: Seed of the order.
        num_workers: Number of reading processes; 0 reads in this one.
        state: Position to continue from; None starts anew.

    Raises:
        ValueError: If the data set is empty, or a batch cannot be shared evenly.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        *,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        state: LoaderState | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("the training set holds no samples to learn from")
        if batch_size % share[1]:
            raise ValueError(f"a batch of {batch_size} samples cannot be shared evenly by {share[1]} processes")
        self.num_samples = len(dataset)
        self.batch_size = batch_size
        self.state = state or LoaderState()
        self._loader = DataLoader(
            _CarryErrors(dataset),
            batch_sampler=_EpochStream(len(dataset), batch_size, seed, self.state, share),
            collate_fn=_collate,
            num_workers=num_workers,
            multiprocessing_context=_WORKER_CONTEXT if num_workers else None,
            # Starting to iterate draws a number: from here, not from the stream that the model draws from.
            generator=torch.Generator().manual_seed(seed),
        )

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Yield batches for ever; ``state`` counts the samples that were taken."""
        for batch in self._loader:
            if isinstance(batch, PipelineError):
                raise batch
            delivered = self.state.samples_delivered + self.batch_size
            self.state = dataclasses.replace(self.state, samples_delivered=delivered)
            yield batch
