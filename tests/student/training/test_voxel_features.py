"""Features of voxels: what the images of training frames show where beams end, of what is there and is seen."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from storage.geometry.transforms import apply_se3, invert_se3
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.scenes.schema import SceneData
from storage.scenes.store import SceneReader, write_scene
from storage.stores.arrays import create_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from student.training.voxel_features import FeatureWitnesses, KnownFeatures, feature_error

ALL = np.arange(OCC3D_GRID.num_voxels)
SIZE = (12, 20)


def reader_of(tmp_path: Path, data: SceneData, name: str = "a") -> SceneReader:
    home = Home(tmp_path / name)
    provenance = Provenance(kind="scene", partition=f"yard.{name}", code_digest="1")
    done = materialize_arrays(home, provenance, lambda group: write_scene(group, data) or {})
    return SceneReader(home.open_arrays(done.version), done.version)


def maps_of(features: np.ndarray) -> zarr.Group:
    group = zarr.group()
    create_target(group, Kind.CLIP_FEATURES, "features", features.shape)[:] = features
    return group


def where(num_frames: int, cameras: int) -> np.ndarray:
    """Feature maps that say which frame, camera, row and column they are of."""
    frame, camera, row, column = np.meshgrid(
        np.arange(num_frames) / 10, np.arange(cameras) / 10, *(np.arange(n) / n for n in SIZE), indexing="ij"
    )
    return np.stack([frame, camera, row, column], axis=-1).astype(np.float16)


def witnesses(reader: SceneReader, frames: tuple[int, ...], maps: np.ndarray | None = None) -> FeatureWitnesses:
    shown = where(reader.num_frames, reader.num_cameras) if maps is None else maps
    return FeatureWitnesses(reader, maps_of(shown), Kind.CLIP_FEATURES, "features", frames)


def test_a_voxel_has_the_mean_of_what_is_seen_where_its_returns_fall(
    make_scene_data: Callable[[int], SceneData], tmp_path: Path
) -> None:
    data = make_scene_data(0)
    reader = reader_of(tmp_path, data)
    found = witnesses(reader, (1,)).at(1, ALL)
    # The yard is round and empty, so that no return hides another: each is looked for in each camera by hand.
    sums: dict[int, list[np.ndarray]] = {}
    maps = where(reader.num_frames, reader.num_cameras).astype(np.float64)
    points = data.lidar_points[1][:, :3].astype(np.float64)
    index, is_inside = OCC3D_GRID.index_of(points)
    flat = np.ravel_multi_index(tuple(index.T), OCC3D_GRID.shape)
    for number in np.flatnonzero(is_inside):
        said = None
        for camera in range(reader.num_cameras):
            x, y, z = apply_se3(invert_se3(reader.camera_to_reference_ego(1, camera)), points[number : number + 1])[0]
            u, v, _ = reader.intrinsics(camera) @ [x / z, y / z, 1.0]
            height, width = reader.image_size(camera)
            if z > 0.5 and 0 <= u < width and 0 <= v < height:
                said = maps[1, camera, int(v / height * SIZE[0]), int(u / width * SIZE[1])]
        if said is not None:
            sums.setdefault(int(flat[number]), []).append(said)
    assert set(found.flat.tolist()) == set(sums)
    wanted = np.stack([np.mean(sums[voxel], axis=0) for voxel in found.flat.tolist()])
    # A return at the edge of a pixel may fall into the next one, of 225 rows there and 48 here.
    assert np.mean(np.abs(found.features - wanted).max(axis=1) < 0.01) > 0.9
    np.testing.assert_allclose(found.features, wanted, atol=0.1)


def test_what_is_hidden_or_not_occupied_has_no_features(
    make_scene_data: Callable[[int], SceneData], tmp_path: Path
) -> None:
    data = make_scene_data(0)
    forward = data.camera_to_ego[0][:3, 2]
    eye = data.camera_to_ego[0][:3, 3]
    side = np.cross(forward, [0, 0, 1.0])
    screen = [eye + 4 * forward + a * side + [0, 0, b] for a in np.linspace(-1, 1, 81) for b in np.linspace(-1, 1, 81)]
    behind = eye + 8 * forward + 0.1 * side
    sweep = np.concatenate([screen, [behind]])
    sweep = np.concatenate([sweep, np.ones((len(sweep), 1))], axis=1).astype(np.float32)
    changed = replace(data, lidar_points=tuple(sweep if f == 0 else s for f, s in enumerate(data.lidar_points)))
    reader = reader_of(tmp_path, changed)
    found = witnesses(reader, (0,)).at(0, ALL)
    of_screen, of_behind = (
        np.ravel_multi_index(tuple(OCC3D_GRID.index_of(np.asarray(points))[0].T), OCC3D_GRID.shape)
        for points in (screen, [behind])
    )
    assert set(of_screen.tolist()) == set(found.flat.tolist())
    assert not set(of_behind.tolist()) & set(found.flat.tolist())
    half = np.unique(of_screen)[::2]
    np.testing.assert_array_equal(witnesses(reader, (0,)).at(0, half).flat, half)


def test_only_training_frames_near_in_time_testify(
    make_scene_data: Callable[[int], SceneData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("student.training.voxel_features._NUM_WITNESSES", 2)
    reader = reader_of(tmp_path, make_scene_data(0))
    of_frame = witnesses(reader, (0, 2, 3)).at(0, ALL).features[:, 0]
    assert {0.0, 0.2} <= set(np.round(of_frame.astype(float), 3).tolist())
    assert of_frame.max() <= np.float16(0.2)  # frame 3 is too far, and frame 1 is held out


def test_pixels_without_a_feature_testify_nothing(make_scene_data: Callable[[int], SceneData], tmp_path: Path) -> None:
    reader = reader_of(tmp_path, make_scene_data(0))
    maps = where(reader.num_frames, reader.num_cameras)
    whole = witnesses(reader, (0,), maps).at(0, ALL)
    maps[:, 1] = np.nan
    found = witnesses(reader, (0,), maps).at(0, ALL)
    assert 0 < len(found.flat) < len(whole.flat)
    assert np.isfinite(found.features).all()
    maps[:] = np.nan
    assert len(witnesses(reader, (0,), maps).at(0, ALL).flat) == 0


def test_the_error_is_a_mean_of_squares_and_nothing_without_voxels() -> None:
    known = KnownFeatures(np.array([3, 5]), np.array([[0.5, 0.25], [1.0, 0.0]], np.float16))
    told = torch.tensor([[0.5, 0.75], [0.0, 0.0]], requires_grad=True)
    assert float(feature_error(told, known).detach()) == pytest.approx((0.25 + 1.0) / 4)
    none = KnownFeatures(np.zeros(0, np.int64), np.zeros((0, 2), np.float16))
    error = feature_error(told[:0], none)
    error.backward()
    assert float(error.detach()) == 0.0
