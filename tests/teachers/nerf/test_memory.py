import dataclasses
import json
import multiprocessing
import os
import time

import psutil
import pytest

from storage.errors import OutOfCapacityError
from teachers.nerf.config import ExecutionConfig, NerfConfig
from teachers.nerf.limits import Limits, typed_out_of_memory
from teachers.nerf.memory import available_bytes, bytes_to_come, memory_reserved

MIB = 1 << 20


def hold(folder, needed, ready, release):
    with memory_reserved(needed, "test.other", on_wait=lambda _: None, folder=folder, available=lambda: 1000 * MIB):
        ready.set()
        release.wait(30)


@pytest.fixture
def other(tmp_path):
    """Another process that has reserved 600 MiB of the machine's 1000 MiB and not taken them yet."""
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, 600 * MIB, ready, release))
    process.start()
    assert ready.wait(30)
    yield process, release
    if process.is_alive():  # an event would wait for the one that was killed
        release.set()
    process.join(30)


def reserve(folder, needed, waited):
    return memory_reserved(
        needed, "test.own", on_wait=waited.append, folder=folder, available=lambda: 1000 * MIB, poll_s=0.05
    )


def test_what_fits_beside_the_others_starts_at_once(tmp_path, other):
    waited = []
    with reserve(tmp_path, 300 * MIB, waited):
        assert not waited
        assert len(list(tmp_path.glob("*.json"))) == 2
    assert len(list(tmp_path.glob("*.json"))) == 1, "given back"


def test_what_does_not_fit_waits_and_says_for_what(tmp_path, other):
    process, release = other
    waited = []

    def told(message):
        waited.append(message)
        release.set()

    with memory_reserved(
        700 * MIB, "test.own", on_wait=told, folder=tmp_path, available=lambda: 1000 * MIB, poll_s=0.05
    ):
        pass
    assert "test.own waits" in waited[0]
    assert "700 MiB" in waited[0]
    assert "test.other" in waited[0]
    process.join(30)


def test_a_killed_fit_holds_nothing(tmp_path, other):
    process, _ = other
    process.kill()
    process.join(30)
    assert len(list(tmp_path.glob("*.json"))) == 1
    waited = []
    with reserve(tmp_path, 900 * MIB, waited):
        assert not waited


def test_what_another_fit_has_taken_is_not_counted_twice(tmp_path, other):
    process, _ = other
    path = tmp_path / f"{process.pid}.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "rss": psutil.Process(process.pid).memory_info().rss - 500 * MIB}))
    waited = []
    with reserve(tmp_path, 800 * MIB, waited):  # 600 were reserved, 500 of them taken: they are not available any more
        assert not waited


def test_what_never_fits_is_refused(tmp_path):
    with (
        pytest.raises(OutOfCapacityError, match=r"need 2000 MiB more and 1000 MiB are free.*log2_table_size"),
        reserve(tmp_path, 2000 * MIB, []),
    ):
        raise AssertionError
    with reserve(tmp_path, 1000 * MIB, []):
        pass


def test_the_machine_has_memory():
    assert 0 < available_bytes() <= psutil.virtual_memory().total


def test_more_rays_more_data_and_a_second_phase_need_more():
    small = NerfConfig()
    base = bytes_to_come(small, parameter_bytes=MIB, scene_bytes=MIB)
    assert bytes_to_come(dataclasses.replace(small, pixel_rays=9000), parameter_bytes=MIB, scene_bytes=MIB) > base
    assert bytes_to_come(small, parameter_bytes=2 * MIB, scene_bytes=MIB) == base + 3 * MIB
    assert bytes_to_come(small, parameter_bytes=MIB, scene_bytes=4 * MIB) == base + MIB
    whole = dataclasses.replace(small, fit_all_frames=True)
    assert bytes_to_come(whole, parameter_bytes=MIB, scene_bytes=3 * MIB) > base + 4 * MIB


class TestLimits:
    def test_none_are_never_exceeded(self):
        assert Limits(ExecutionConfig(), "a.b").exceeded("step 1 of 2") is None

    def test_wall_time_says_how_far_it_came_and_how_to_go_on(self):
        limits = Limits(ExecutionConfig(max_wall_s=0.01), "a.b")
        time.sleep(0.02)
        error = limits.exceeded("step 3 of 9")
        assert isinstance(error, OutOfCapacityError)
        assert error.key == "a.b"
        for said in ("step 3 of 9", "max_wall_s is 0.01", "run it again"):
            assert said in error.message

    def test_memory_says_what_to_change(self):
        limit = psutil.Process(os.getpid()).memory_info().rss // 2
        error = Limits(ExecutionConfig(max_memory_bytes=limit), "a.b").exceeded("step 3 of 9")
        assert error is not None
        assert "nerf.pixel_rays" in error.message
        assert Limits(ExecutionConfig(max_memory_bytes=1 << 50), "a.b").exceeded("step 3 of 9") is None

    @pytest.mark.parametrize("wrong", [{"max_wall_s": 0.0}, {"max_memory_bytes": -1}])
    def test_impossible_limits_are_refused(self, wrong):
        with pytest.raises(ValueError, match="want > 0"):
            ExecutionConfig(**wrong)


def test_memory_that_ends_is_typed_and_other_errors_are_not():
    import torch

    with pytest.raises(OutOfCapacityError, match="DefaultCPUAllocator"), typed_out_of_memory("a.b"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(OutOfCapacityError, match="CUDA"), typed_out_of_memory("a.b"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    with pytest.raises(RuntimeError, match="shapes") as caught, typed_out_of_memory("a.b"):
        raise RuntimeError("shapes do not match")
    assert not isinstance(caught.value, OutOfCapacityError)
