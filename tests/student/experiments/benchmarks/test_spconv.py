"""Our sparse convolution equals spconv's, where that is installed."""

from importlib.util import find_spec

import pytest

from pipeline.benchmarks import run_benchmark
from storage.errors import EnvironmentMissingError


def test_the_same_sums_as_spconv() -> None:
    pytest.importorskip("spconv")
    from student.experiments.benchmarks.spconv import bench_spconv

    record = bench_spconv(runs=5, height=4, width=8, channels=8)
    assert record.details["voxels"] > 100  # type: ignore[operator]
    assert record.details["largest_difference"] < 1e-4  # type: ignore[operator]


@pytest.mark.skipif(find_spec("spconv") is not None, reason="spconv is installed")
def test_without_spconv_there_is_an_error_that_names_it() -> None:
    with pytest.raises(EnvironmentMissingError, match="spconv"):
        run_benchmark("spconv")
