"""Occupancy labels beside a recording: read back as they were written, counted where they are missing."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import ErrorKind, MissingTargetError, SourceDataError
from storage.ingest.occupancy_labels import ingest_occupancy_labels
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.stores.arrays import read_target
from storage.stores.versioned import Home
from storage.taxonomy import OCC3D_UNKNOWN

SMALL = ProceduralConfig(
    dataset="labelled", num_scenes=1, frames_per_scene=2, image_height=36, image_width=64, antialias=False
)


@pytest.fixture(scope="module", params=["nuscenes", "manifest"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A drive in each layout, ingested, with the home and the folder of its files."""
    folder = tmp_path_factory.mktemp(request.param)
    home = Home(folder / "home")
    rig = "airside" if request.param == "manifest" else "nuscenes"
    config = replace(SMALL, rig=rig, source_format=request.param, airside_share=1.0 if rig == "airside" else 0.0)
    (key,) = generate_dataset(home, folder / "raw", config)
    ingest_scene(home, key)
    return home, key, folder / "raw"


@pytest.fixture
def recording(recorded: Any) -> Any:
    """The same, with its labels put back afterwards."""
    _, _, raw = recorded
    shutil.copytree(raw / "gts", raw / "kept")
    yield recorded
    shutil.rmtree(raw / "gts", ignore_errors=True)
    (raw / "kept").rename(raw / "gts")


def label_files(raw: Path) -> list[Path]:
    return sorted((raw / "gts").rglob("labels.npz"))


def test_labels_are_the_truth_that_they_were_written_from(recording: Any) -> None:
    home, key, raw = recording
    made = ingest_occupancy_labels(home, key)
    assert made.metrics["labelled_frames"] == made.metrics["frames"] == 2
    group, truth = home.open_arrays(made.version), home.open_arrays(home.require(Kind.SCENE_TRUTH, str(key)))
    for name, exact in {
        "voxel_label": "occupancy",
        "is_visible": "occupancy_is_visible",
        "is_scanned": "occupancy_is_scanned",
    }.items():
        found = read_target(group, Kind.OCCUPANCY_LABELS, name)
        np.testing.assert_array_equal(found, read_target(truth, Kind.SCENE_TRUTH, exact))
        assert not np.array_equal(found[0], found[1])  # so an exchange of frames would be seen
    provenance = home.provenance(made.version)
    assert set(provenance.sources) == {str(path.relative_to(raw)) for path in label_files(raw)}
    assert [item.kind for item in provenance.inputs] == [Kind.SCENE]
    assert ingest_occupancy_labels(home, key).reused


def test_frames_without_labels_are_counted(recording: Any) -> None:
    home, key, raw = recording
    whole = ingest_occupancy_labels(home, key).version
    label_files(raw)[0].unlink()
    made = ingest_occupancy_labels(home, key)
    assert made.version.digest != whole.digest
    assert (made.metrics["labelled_frames"], made.metrics["frames"]) == (1, 2)
    labels = read_target(home.open_arrays(made.version), Kind.OCCUPANCY_LABELS, "voxel_label")
    is_visible = read_target(home.open_arrays(made.version), Kind.OCCUPANCY_LABELS, "is_visible")
    assert sorted((frame == OCC3D_UNKNOWN).all() for frame in labels) == [False, True]
    assert sorted(frame.any() for frame in is_visible) == [False, True]
    shutil.rmtree(raw / "gts")
    none = ingest_occupancy_labels(home, key)
    assert (none.metrics["labelled_frames"], none.metrics["occupied_share"]) == (0, None)


def test_damaged_labels_are_named_and_nothing_is_published(recording: Any) -> None:
    home, key, raw = recording
    before = home.versions(Kind.OCCUPANCY_LABELS)
    file = label_files(raw)[1]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(SourceDataError, match=file.parent.name) as caught:
        ingest_occupancy_labels(home, key)
    assert caught.value.kind == ErrorKind.FILE_CORRUPT
    assert home.versions(Kind.OCCUPANCY_LABELS) == before


def test_a_scene_that_was_never_ingested_is_named(recorded: Any) -> None:
    home, *_ = recorded
    with pytest.raises(MissingTargetError, match=r"labelled\.nowhere"):
        ingest_occupancy_labels(home, SceneKey("labelled", "nowhere"))
