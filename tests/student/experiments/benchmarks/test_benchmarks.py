"""The benchmarks compare programs that agree, and say so in the fields the command line prints."""

import json

import pytest
import torch

from student.experiments.benchmarks.accelerator import Glance
from student.experiments.benchmarks.memory import TrainingMemory
from student.experiments.benchmarks.pooling import bench_pooling
from student.experiments.benchmarks.render import bench_render
from student.experiments.benchmarks.sparse_conv import bench_sparse_conv
from student.experiments.benchmarks.student import bench_student
from student.experiments.benchmarks.timing import time_interleaved
from student.presets.models import tiny_model

FIELDS = {"name", "ratio", "ours", "reference", "unit", "runs"}


def test_pooling_gives_the_same_gradients_as_its_reference():
    record = bench_pooling(runs=5, height=6, width=8).to_json()
    assert set(record) >= FIELDS
    assert record["details"]["relative_gradient_error"] < 1e-4
    assert record["ratio"] == pytest.approx(record["reference"] / record["ours"])


def test_rendering_gives_the_same_pictures_as_its_reference():
    record = bench_render(runs=5, height=6, width=10).to_json()
    assert record["details"]["samples_per_ray"] == 316
    assert record["details"]["psnr_db"] >= 50
    assert record["ratio"] == pytest.approx(record["reference"] / record["ours"])


def test_convolution_counts_only_occupied_pairs():
    record = bench_sparse_conv(runs=5, height=4, width=6).to_json()
    details = record["details"]
    assert details["voxels"] <= details["pairs"] <= 27 * details["voxels"]
    assert record["unit"] == "GFLOP/s"
    assert record["ratio"] == pytest.approx(record["ours"] / record["reference"])
    assert details["few_channels_ratio_to_plain"] > 0


def test_few_runs_are_refused():
    with pytest.raises(ValueError, match="at least 5"):
        time_interleaved(lambda: None, lambda: None, runs=4)


def test_a_student_without_fast_paths_draws_the_same_pictures():
    record = bench_student(config=tiny_model(depth_feature_channels=8), runs=5, height=32, width=40).to_json()
    details = record["details"]
    assert details["largest_image_difference"] < 1e-3
    for side in ("share_", "reference_share_"):
        shares = [value for name, value in details.items() if name.startswith(side)]
        assert len(shares) == 5
        assert sum(shares) == pytest.approx(1.0)
    assert details["bfloat16_psnr_db"] > 20


def test_a_training_step_takes_memory():
    record = TrainingMemory(preset="demo", height=32, width=40, target_views=12, steps=2).run()
    assert record["fine_voxels"] > 0
    assert record["peak_memory_bytes"] >= record["before_bytes"] > 0


def test_a_glance_is_timed_in_both_number_formats():
    record = Glance(preset="demo", height=32, width=56, device="cpu", runs=5).run()
    assert record["fine_voxels"] > 0
    for precision in ("float32", "bfloat16"):
        figures = record[precision]
        assert 0 < figures["total_seconds"] <= figures["slowest_seconds"]
    assert record["bfloat16"]["image_psnr_db"] > 20
    assert 0 < record["bfloat16"]["median_relative_coarse_depth_difference"] < 0.1
    assert record["paper_seconds"]["total"] == pytest.approx(0.4867)
    json.dumps(record)


def test_a_glance_without_its_device_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cpu"):
        Glance().run()
