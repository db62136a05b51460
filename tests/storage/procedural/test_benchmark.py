import numpy as np

from pipeline.benchmarks import BENCHMARKS, RESULT_FIELDS
from storage.procedural import benchmark


def test_raycast_benchmark_counts_every_ray(street, monkeypatch):
    monkeypatch.setattr(benchmark, "build_world", lambda theme, seed: street)
    assert BENCHMARKS["raycast"] == "storage.procedural.benchmark:bench_raycast"
    result = benchmark.bench_raycast(runs=2, height=20, width=32)
    assert set(RESULT_FIELDS) <= set(result)
    assert result["details"]["rays"] == 6 * 20 * 32
    assert result["runs"] == 2
    assert result["ratio"] == result["ours"] / result["reference"]
    assert np.isfinite(list(v for v in result["details"].values() if not isinstance(v, str))).all()
    assert result["details"]["fastest_run"] >= result["ours"] > 0
