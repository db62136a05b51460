"""A checkpoint from elsewhere is bounded by what its files hold, whatever its configuration asks for."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import student
from storage.errors import IntegrityError, OutOfCapacityError
from storage.stores.integrity import reading_weights
from student.inference import checkpoint
from student.inference.checkpoint import from_pretrained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(Path(student.__file__).parent / "pretrained", tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("voxels.convolution_width", 10**6, "convolution_width 1000000: want <= 8192"),
        ("coarse_depth.combiner_width", 8192, "missing, unknown or misshapen"),
        ("decoder.num_blocks", 10**6, "num_blocks 1000000: want <= 64"),
        ("coarse_depth.pyramid.stage_blocks", 10**9, "stage_blocks 1000000000: want <= 64"),
        ("coarse_depth.pyramid.stage_blocks", [1] * 10**5, "stage"),
        ("renderer.num_fine_samples", 10**12, "want <= 8192"),
        ("coarse_depth.bins.step", 1e-12, "want <= 8192 bins"),
        ("coarse_depth.bins.far", 1e308, "want <= 8192 bins"),
        ("fine_depth.num_frequencies", 10**5, "want <= 64"),
    ],
)
def test_a_configuration_that_asks_for_too_much_is_refused_at_once(
    folder: Path, place: str, value: object, message: str
) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    part: Any = content["student"]["model"]
    *above, name = place.split(".")
    for step in above:
        part = part[step]
    part[name] = [value] * len(part[name]) if isinstance(part[name], list) and isinstance(value, int) else value
    path.write_text(json.dumps(content))
    started = time.process_time()
    with pytest.raises(IntegrityError, match=message):
        from_pretrained(folder)
    assert time.process_time() - started < 20, "a bound of hours, not of speed"


def test_a_million_levels_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 1_000_000)
    with pytest.raises(IntegrityError, match=r"config\.json: is not JSON: nested deeper"):
        from_pretrained(folder)


def test_weights_are_not_called_damaged_for_want_of_file_descriptors(
    folder: Path, no_more_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_more_files(), pytest.raises(OutOfCapacityError, match=r"config\.json"):
        from_pretrained(folder)

    @contextmanager
    def later(path: Path) -> Iterator[None]:
        with no_more_files(), reading_weights(path):
            yield

    monkeypatch.setattr(checkpoint, "reading_weights", later)
    with pytest.raises(OutOfCapacityError, match=r"model\.safetensors"):
        from_pretrained(folder)
