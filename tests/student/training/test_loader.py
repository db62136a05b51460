"""The order of samples: the same for ever, from anywhere, with any number of workers."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from storage.errors import IntegrityError
from student.config import StudentConfig
from student.data.dataset import FrameDataset
from student.data.loader import LoaderState, TrainingLoader
from student.data.sample import TrainingBatch
from student.data.training_set import load_training_set


@pytest.fixture
def dataset(shared_world: Any, student_config: StudentConfig) -> FrameDataset:
    shared_world.freeze("loader", student_config, train_scenes=("yard.a", "yard.b"), validation_scenes=())
    frozen = load_training_set(shared_world.home, "loader")
    return FrameDataset(shared_world.home, frozen, "train", student_config.data, seed=5)


def take(loader: TrainingLoader, number: int) -> list[TrainingBatch]:
    return list(islice(iter(loader), number))


def assert_equal(a: list[TrainingBatch], b: list[TrainingBatch]) -> None:
    assert [batch.keys for batch in a] == [batch.keys for batch in b]
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one.cameras.camera_to_reference_ego, other.cameras.camera_to_reference_ego)
        assert torch.equal(one.view_targets.image, other.view_targets.image)


def test_every_epoch_holds_every_sample_once_in_another_order(dataset: FrameDataset) -> None:
    keys = [batch.keys[0] for batch in take(TrainingLoader(dataset, batch_size=1, seed=1), 24)]
    epochs = [keys[:8], keys[8:16], keys[16:]]
    assert all(sorted(epoch) == sorted(dataset.key(i) for i in range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[1] != epochs[2]


def test_the_seed_decides_the_order(dataset: FrameDataset) -> None:
    first, second = (take(TrainingLoader(dataset, batch_size=1, seed=1), 8) for _ in range(2))
    other = take(TrainingLoader(dataset, batch_size=1, seed=2), 8)
    assert_equal(first, second)
    assert [batch.keys for batch in first] != [batch.keys for batch in other]


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_resumes_in_the_middle_of_an_epoch(dataset: FrameDataset, stop: int) -> None:
    whole = take(TrainingLoader(dataset, batch_size=3, seed=1), 7)  # 8 samples: batches span epochs
    stopped = TrainingLoader(dataset, batch_size=3, seed=1)
    take(stopped, stop)
    assert stopped.state == LoaderState(samples_delivered=3 * stop)
    resumed = TrainingLoader(dataset, batch_size=3, seed=1, state=stopped.state)
    assert_equal(take(resumed, 7 - stop), whole[stop:])


def test_a_data_set_without_samples_is_a_mistake(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("none", student_config, validation_scenes=())
    frozen = load_training_set(shared_world.home, "none")
    data = FrameDataset(shared_world.home, frozen, "validation", student_config.data)
    with pytest.raises(ValueError, match="no samples"):
        TrainingLoader(data, batch_size=1, seed=0)


def test_workers_read_the_same_stream_and_keep_errors_typed(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    """One process start for both, because importing torch in a worker takes seconds."""
    world = make_world()
    config = replace(student_config.data, views=replace(student_config.data.views, virtual=0))
    world.freeze("workers", student_config, validation_scenes=())
    frozen = load_training_set(world.home, "workers")
    data = FrameDataset(world.home, frozen, "train", config, seed=5)
    alone = take(TrainingLoader(data, batch_size=2, seed=1), 3)
    fresh = FrameDataset(world.home, frozen, "train", config, seed=5)
    batches = iter(TrainingLoader(fresh, batch_size=2, seed=1, num_workers=1))
    assert_equal([next(batches) for _ in range(3)], alone)
    shutil.rmtree(world.home.root / "stores" / "teacher_depth" / "yard.a" / "chunks")
    with pytest.raises(IntegrityError) as caught:
        list(islice(batches, 8))  # what was read ahead is still delivered
    assert caught.value.key.startswith("teacher_depth/yard.a")
