"""Occ3D-Waymo labels: written beside a procedural recording, found by their poses, read back in our classes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.ingest.occupancy_labels import ingest_occupancy_labels
from storage.ingest.run import ingest_scene
from storage.ingest.waymo.occ3d import CLASSES, FREE, parse_waymo_labels, write_waymo_labels
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.procedural.sensing.occupancy import OccupancyBuilder
from storage.stores.arrays import read_target
from storage.taxonomy import OCC3D_FREE, OCC3D_NAMES, OCC3D_UNKNOWN, OCC3D_UNNAMED
from storage.testing.waymo import occ3d as labels_writer
from storage.testing.waymo.occ3d import write_occ3d_waymo

VEHICLES = ("bus", "car", "construction_vehicle", "trailer", "truck")
POSE = np.eye(4)


@pytest.fixture(scope="module")
def labelled(v2, captured, tmp_path_factory):
    """The recording with the labels of its frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_writer, "captured_frames", lambda *_: (captured[0], iter(captured[1])))
        folder = write_occ3d_waymo(v2.root, v2.config, 0)
    key = SceneKey("waymo", "scene-0001")
    ingest_scene(v2.home, key)
    yield v2, key, folder
    shutil.rmtree(v2.root / "occ3d")


def as_written(truth):
    """Return what of true labels survives Waymo's coarser classes."""
    said = np.full(256, OCC3D_UNKNOWN, np.uint8)
    for index, name in enumerate(OCC3D_NAMES):
        said[index] = OCC3D_UNNAMED if name in VEHICLES else index
    said[[OCC3D_NAMES.index("other_flat"), OCC3D_NAMES.index("sidewalk")]] = OCC3D_NAMES.index("terrain")
    said[OCC3D_NAMES.index("barrier")] = 0
    said[OCC3D_FREE] = OCC3D_FREE
    return said[truth]


def test_labels_are_read_back_as_they_were_written(labelled):
    written, key, folder = labelled
    made = ingest_occupancy_labels(written.home, key)
    assert made.metrics["labelled_frames"] == made.metrics["frames"] == 2
    group = written.home.open_arrays(made.version)
    assert group.attrs["layout"] == "occ3d-waymo"
    builder = OccupancyBuilder(written.capture.world)
    found = read_target(group, Kind.OCCUPANCY_LABELS, "voxel_label")
    for frame in range(2):
        truth = builder.occupancy(written.config.world.keyframe_time_us(frame))
        np.testing.assert_array_equal(found[frame], as_written(truth))
    assert not np.array_equal(found[0], found[1])
    assert (found == OCC3D_UNNAMED).any()
    for name, arrays in {"is_visible": ("final_voxel_state", "infov"), "is_scanned": ("origin_voxel_state",)}.items():
        stored = read_target(group, Kind.OCCUPANCY_LABELS, name)
        with np.load(folder / "001_04.npz") as file:
            np.testing.assert_array_equal(stored[1], np.logical_and.reduce([file[array] > 0 for array in arrays]))
        assert 0.001 < stored.mean() < 0.6
    assert set(written.home.provenance(made.version).sources) == {
        f"occ3d/training/000/00{frame}_04.npz" for frame in range(2)
    }


def test_a_folder_of_another_scene_is_none_of_this_one(labelled):
    written, key, folder = labelled
    other = folder.with_name("007")
    write_waymo_labels(other, 0, *filled(13), POSE, **MASKS)
    kept = ingest_occupancy_labels(written.home, key)
    assert kept.metrics["labelled_frames"] == 2
    shutil.copy(folder / "000_04.npz", other / "000_04.npz")
    with pytest.raises(SourceDataError, match=r"000, occ3d/training/007 hold labels of one scene"):
        ingest_occupancy_labels(written.home, key)
    shutil.rmtree(other)


def test_frames_are_labelled_by_their_own_file_alone(labelled):
    written, key, folder = labelled
    second = (folder / "001_04.npz").read_bytes()
    (folder / "001_04.npz").unlink()
    assert ingest_occupancy_labels(written.home, key).metrics["labelled_frames"] == 1
    shutil.copy(folder / "000_04.npz", folder / "001_04.npz")  # labels of another instant
    with pytest.raises(SourceDataError, match=r"001_04\.npz.* m from the pose of its frame") as caught:
        ingest_occupancy_labels(written.home, key)
    assert caught.value.kind == ErrorKind.POSE_INVALID
    (folder / "001_04.npz").write_bytes(second)


def filled(number, dtype=np.uint8):
    return (np.full(OCC3D_GRID.shape, number, dtype),)


MASKS = {name: np.ones(OCC3D_GRID.shape, bool) for name in ("mask_lidar", "mask_camera", "mask_fov")}


def content_of(tmp_path: Path, *, without: str = "", **changes) -> bytes:
    write_waymo_labels(tmp_path, 0, *filled(13), POSE, **MASKS)
    with np.load(tmp_path / "000_04.npz") as file:
        arrays = {name: file[name] for name in file.files if name != without}
    np.savez_compressed(tmp_path / "changed.npz", **{**arrays, **changes})
    return (tmp_path / "changed.npz").read_bytes()


@pytest.mark.parametrize("number", FREE)
def test_both_numbers_of_free_space_are_free(tmp_path, number):
    content = content_of(tmp_path, voxel_label=filled(number, np.int64)[0])
    assert set(np.unique(parse_waymo_labels(content, "f", POSE).semantics)) == {OCC3D_FREE}


@pytest.mark.parametrize(
    ("name", "ours"),
    [("TYPE_VEHICLE", OCC3D_UNNAMED), ("TYPE_ROAD", 11), ("TYPE_TREE_TRUNK", 16), ("TYPE_GENERALOBJECT", 0)],
)
def test_classes_are_ours(tmp_path, name, ours):
    content = content_of(tmp_path, voxel_label=filled(CLASSES.index(name))[0])
    assert set(np.unique(parse_waymo_labels(content, "f", POSE).semantics)) == {ours}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxel_label": filled(16)[0]}, r"voxel_label holds \[16\]"),
        ({"voxel_label": np.zeros((1600, 16, 16), np.uint8)}, r"voxel_label is uint8 \(1600, 16, 16\)"),
        ({"infov": filled(2)[0]}, r"infov holds \[2\]"),
        ({"origin_voxel_state": filled(-1, np.int8)[0]}, r"origin_voxel_state holds \[-1\]"),
        ({"ego2global": np.full((4, 4), np.nan)}, "want a pose"),
        ({"without": "final_voxel_state"}, "lacks the array 'final_voxel_state'"),
        ({"without": "ego2global"}, "ego2global is missing"),
    ],
    ids=["class", "grid", "state", "negative", "pose", "array", "no pose"],
)
def test_what_is_no_such_file_is_named(tmp_path, changes, message):
    with pytest.raises(SourceDataError, match=f"000.*{message}"):
        parse_waymo_labels(content_of(tmp_path, **changes), "occ3d/000.npz", POSE)
