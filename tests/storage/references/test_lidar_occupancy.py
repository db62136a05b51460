"""Occupancy from beams alone, against the exact grid of procedural drives."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from storage.errors import MissingTargetError
from storage.geometry.voxel_grid import VoxelGrid
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.references import lidar_occupancy, proof
from storage.references.config import LidarOccupancyConfig
from storage.references.lidar_occupancy import make_lidar_occupancy, votes_of_scene
from storage.scenes.store import SceneReader
from storage.stores.arrays import check_target, read_target
from storage.stores.versioned import Home
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, OCC3D_UNNAMED

pytestmark = pytest.mark.slow

SMALL = ProceduralConfig(
    dataset="beams", num_scenes=1, frames_per_scene=3, image_height=18, image_width=32, antialias=False, seed=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, list[SceneKey]]:
    folder = tmp_path_factory.mktemp("beams")
    home = Home(folder / "home")
    keys = generate_dataset(home, folder / "raw", SMALL)
    for key in keys:
        ingest_scene(home, key)
    return home, keys


@pytest.fixture(scope="module")
def made(drives: Any) -> list[Any]:
    home, keys = drives
    return [make_lidar_occupancy(home, key, LidarOccupancyConfig()) for key in keys]


def arrays_of(home: Home, version: Any) -> dict[str, np.ndarray]:
    group = home.open_arrays(version)
    return {
        name: read_target(group, Kind.LIDAR_OCCUPANCY, name)
        for name in ("voxel_label", "is_visible", "is_scanned", "num_beams")
    }


def test_what_beams_know_agrees_with_the_exact_grid(drives, made):
    home, keys = drives
    for key, one in zip(keys, made, strict=True):
        check_target(home.open_arrays(one.version), Kind.LIDAR_OCCUPANCY)
        found = arrays_of(home, one.version)
        truth = home.open_arrays(home.require(Kind.SCENE_TRUTH, str(key)))
        exact = read_target(truth, Kind.SCENE_TRUTH, "occupancy")
        label = found["voxel_label"]
        known = label != OCC3D_UNKNOWN
        said, is_occupied = label != OCC3D_FREE, exact != OCC3D_FREE
        iou = np.sum(known & said & is_occupied) / np.sum(known & (said | is_occupied))
        false_free = np.sum((label == OCC3D_FREE) & is_occupied) / np.sum(label == OCC3D_FREE)
        assert iou > 0.9
        assert false_free < 0.01
        assert known.mean() > 0.05
        named = known & said & (label != OCC3D_UNNAMED)
        assert named.sum() > 50
        assert np.mean(label[named] == exact[named]) > 0.9
        # Beams that end or cross are the same by the world itself, but for the noise of ranges.
        scanned = read_target(truth, Kind.SCENE_TRUTH, "occupancy_is_scanned")
        assert np.mean(found["is_scanned"] == scanned) > 0.99
        # Among what is known, cameras see nearly what they see in the world itself.
        visible = read_target(truth, Kind.SCENE_TRUTH, "occupancy_is_visible")
        assert np.mean((found["is_visible"] == visible)[known]) > 0.9
        assert (found["num_beams"] > 0).sum() == known.sum()


def test_the_proof_counts_what_the_store_says(drives, made, capsys):
    home, keys = drives
    proof.main([str(home.root), str(keys[0]), "--every", "2"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("scene | sweeps")
    exact = read_target(home.open_arrays(home.require(Kind.SCENE_TRUTH, str(keys[0]))), Kind.SCENE_TRUTH, "occupancy")
    label = arrays_of(home, made[0].version)["voxel_label"]
    counted = sum((proof.LidarAgreement.of(label[f], exact[f]) for f in (0, 2)), proof.LidarAgreement())
    assert rows[1].split(" | ")[1:4] == ["all", f"{counted.iou:.3f}", f"{counted.false_free_rate:.2%}"]
    assert rows[2].split(" | ")[1] == "own"


def test_the_metrics_count_what_is_known(drives, made):
    home, _ = drives
    metrics = made[0].metrics
    label = arrays_of(home, made[0].version)["voxel_label"]
    assert metrics["labelled_frames"] == metrics["frames"] == SMALL.frames_per_scene
    assert metrics["known_share"] == pytest.approx(np.mean(label != OCC3D_UNKNOWN), abs=1e-6)
    assert metrics["names_from"] == "boxes"
    assert metrics["names_without_class"] == []


def test_the_same_again_is_found_and_another_window_is_another_version(drives, made):
    home, keys = drives
    assert make_lidar_occupancy(home, keys[0], LidarOccupancyConfig()).reused
    alone = make_lidar_occupancy(home, keys[0], LidarOccupancyConfig(window_s=0.0))
    assert not alone.reused
    assert alone.metrics["known_share"] < 0.5 * made[0].metrics["known_share"]


def test_a_drive_that_is_cut_into_stretches_gives_the_same_votes(drives, monkeypatch):
    home, keys = drives
    scene = SceneReader.open(home, keys[0])
    config = LidarOccupancyConfig(
        window_s=0.6, grid=VoxelGrid(minimum=(-8.0, -8.0, -1.0), voxel_size=0.4, shape=(40, 40, 8))
    )
    whole = [votes for _, votes in votes_of_scene(scene, config)]
    monkeypatch.setattr(lidar_occupancy, "_MAX_FRAMES", 2)
    cut = list(votes_of_scene(scene, config))
    assert [frame for frame, _ in cut] == list(range(SMALL.frames_per_scene))
    for one, (_, other) in zip(whole, cut, strict=True):
        # Cells lie elsewhere, so a beam through a corner may count for another part of a voxel.
        assert np.mean(one.voxel_label == other.voxel_label) > 0.97
        np.testing.assert_array_equal(one.voxel_label < OCC3D_FREE, other.voxel_label < OCC3D_FREE)


def test_of_sweeps_close_in_time_one_testifies(drives):
    home, keys = drives
    scene = SceneReader.open(home, keys[0])
    config = LidarOccupancyConfig(window_s=2.0)
    all_of_them, few = (next(votes_of_scene(scene, c))[1] for c in (config, replace(config, sweep_interval_s=10.0)))
    assert (few.voxel_label != OCC3D_UNKNOWN).sum() < 0.7 * (all_of_them.voxel_label != OCC3D_UNKNOWN).sum()


def test_a_scene_that_was_never_ingested_is_named(tmp_path):
    with pytest.raises(MissingTargetError, match="nowhere"):
        make_lidar_occupancy(Home(tmp_path), SceneKey("beams", "nowhere"), LidarOccupancyConfig())


def test_settings_that_no_vote_can_be_taken_with_are_refused():
    with pytest.raises(ValueError, match="max_beams"):
        LidarOccupancyConfig(max_beams=0)
    with pytest.raises(ValueError, match="voxels"):
        LidarOccupancyConfig(grid=VoxelGrid(minimum=(0.0, 0.0, 0.0), voxel_size=0.1, shape=(1000, 1000, 100)))
