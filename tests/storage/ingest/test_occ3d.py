"""Occ3D labels: what is written is read, the real file is read, and what is broken is named."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.ingest.nuscenes.occ3d import Occ3dLabels, labels_path, read_labels, write_labels
from storage.taxonomy import OCC3D_FREE


@pytest.fixture
def labels() -> Occ3dLabels:
    rng = np.random.default_rng(0)
    return Occ3dLabels(
        semantics=rng.integers(0, OCC3D_FREE + 1, OCC3D_GRID.shape, dtype=np.uint8),
        mask_lidar=rng.random(OCC3D_GRID.shape) < 0.1,
        mask_camera=rng.random(OCC3D_GRID.shape) < 0.2,
    )


def arrays_of(labels: Occ3dLabels) -> dict[str, np.ndarray]:
    return {
        "semantics": labels.semantics,
        "mask_lidar": labels.mask_lidar.astype(np.uint8),
        "mask_camera": labels.mask_camera.astype(np.uint8),
    }


def test_labels_read_back(tmp_path: Path, labels: Occ3dLabels) -> None:
    path = labels_path(tmp_path, "scene-0001", "abc")
    assert path.relative_to(tmp_path) == Path("gts/scene-0001/abc/labels.npz")
    write_labels(path, labels)
    found = read_labels(path)
    np.testing.assert_array_equal(found.semantics, labels.semantics)
    np.testing.assert_array_equal(found.mask_lidar, labels.mask_lidar)
    np.testing.assert_array_equal(found.mask_camera, labels.mask_camera)


@pytest.mark.external_data
def test_real_labels_are_read(external_data: Path) -> None:
    path = external_data / "occ3d" / "labels.npz"
    if not path.is_file():
        pytest.skip(f"no Occ3D labels at {path}")
    found = read_labels(path)
    assert int((found.semantics == OCC3D_FREE).sum()) == 600_908
    assert int(found.mask_lidar.sum()) == 56_601
    assert int(found.mask_camera.sum()) == 43_355
    # The world over: roads lie below buildings, and what is occupied was seen more often than not.
    height = np.nonzero(found.semantics == 11)[2].mean(), np.nonzero(found.semantics == 15)[2].mean()
    assert height[0] < height[1]


@pytest.mark.parametrize("missing", ["semantics", "mask_lidar", "mask_camera"])
def test_missing_array_is_named(tmp_path: Path, labels: Occ3dLabels, missing: str) -> None:
    arrays = arrays_of(labels)
    del arrays[missing]
    np.savez_compressed(tmp_path / "labels.npz", **arrays)
    with pytest.raises(SourceDataError, match=missing) as caught:
        read_labels(tmp_path / "labels.npz")
    assert caught.value.kind is ErrorKind.TABLE_INVALID


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semantics": np.full(OCC3D_GRID.shape, 18, np.uint8)}, "holds 18"),
        ({"mask_camera": np.full(OCC3D_GRID.shape, 2, np.uint8)}, "holds 2"),
        ({"mask_lidar": np.zeros((200, 200, 8), np.uint8)}, r"\(200, 200, 8\)"),
        ({"semantics": np.zeros((100, 100, 8), np.int64)}, "int64"),
    ],
)
def test_wrong_array_is_refused_with_its_value(
    tmp_path: Path, labels: Occ3dLabels, change: dict[str, np.ndarray], message: str
) -> None:
    np.savez_compressed(tmp_path / "labels.npz", **(arrays_of(labels) | change))
    with pytest.raises(SourceDataError, match=message) as caught:
        read_labels(tmp_path / "labels.npz")
    assert caught.value.kind is ErrorKind.TABLE_INVALID


def test_archive_that_unpacks_to_more_is_not_unpacked(tmp_path: Path, labels: Occ3dLabels) -> None:
    path = tmp_path / "labels.npz"
    np.savez_compressed(path, **arrays_of(labels), extra=np.zeros(50_000_000, np.uint8))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(SourceDataError, match=r"extra\.npy unpacks to") as caught:
        read_labels(path)
    assert caught.value.kind is ErrorKind.FILE_UNSAFE


def test_truncated_and_absent_files_are_told_apart(tmp_path: Path, labels: Occ3dLabels) -> None:
    path = tmp_path / "labels.npz"
    with pytest.raises(SourceDataError) as caught:
        read_labels(path)
    assert caught.value.kind is ErrorKind.FILE_MISSING
    write_labels(path, labels)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SourceDataError) as caught:
        read_labels(path)
    assert caught.value.kind is ErrorKind.FILE_CORRUPT


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, semantics=np.array([{}], dtype=object), mask_lidar=np.zeros(1), mask_camera=np.zeros(1))
    with pytest.raises(SourceDataError) as caught:
        read_labels(path)
    assert caught.value.kind is ErrorKind.FILE_CORRUPT


def test_an_array_that_claims_more_than_it_holds_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("semantics.npy", header.getvalue() + b"x")
    with pytest.raises(SourceDataError, match="no readable archive") as caught:
        read_labels(path)
    assert caught.value.kind is ErrorKind.FILE_CORRUPT
