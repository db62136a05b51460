"""A single flipped bit of anything stored is noticed when it is read."""

import resource
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr

from storage.errors import ErrorKind, IntegrityError
from storage.scenes.schema import SceneData
from storage.scenes.store import write_scene
from storage.stores.arrays import read_target, write_target
from storage.stores.integrity import reading

RANDOM = np.random.default_rng(0)


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[RANDOM.integers(len(content))] ^= 1 << int(RANDOM.integers(8))
    path.write_bytes(content)


def scene() -> SceneData:
    poses = np.stack([np.eye(4)] * 2)
    return SceneData(
        camera_names=("left", "right"),
        image_sizes=((4, 6), (4, 6)),
        intrinsics=np.stack([np.eye(3)] * 2),
        camera_to_ego=poses,
        timestamp_us=np.array([0, 5]),
        ego_to_world=poses,
        camera_timestamp_us=np.zeros((2, 2), np.int64),
        camera_ego_to_world=np.stack([poses, poses]),
        jpegs=tuple(tuple(RANDOM.bytes(300) for _ in range(2)) for _ in range(2)),
        lidar_points=tuple(RANDOM.normal(size=(50, 4)).astype(np.float32) for _ in range(2)),
        lidar_to_ego=np.eye(4),
    )


def test_no_chunk_of_a_scene_can_change_unnoticed(tmp_path: Path) -> None:
    write_scene(zarr.open_group(tmp_path, mode="w"), scene())
    group = zarr.open_group(tmp_path, mode="r")
    arrays = {name: array for name, array in group.members(max_depth=None) if isinstance(array, zarr.Array)}
    assert {"images/left/bytes", "lidar/points", "ego_to_world", "images/right/offsets"} <= set(arrays)
    for name, array in arrays.items():
        chunks = [path for path in (tmp_path / name / "c").rglob("*") if path.is_file()]
        assert chunks or not np.any(array[...])  # outside a home, a chunk of zeros is not written
        for chunk in chunks:
            kept = chunk.read_bytes()
            flip_one_bit(chunk)
            with pytest.raises(IntegrityError) as caught, reading(name):
                _ = array[...]
            assert caught.value.kind is ErrorKind.STORE_CORRUPT
            chunk.write_bytes(kept)
        _ = array[...]


@pytest.mark.parametrize("trial", range(8))
def test_no_chunk_of_a_target_can_change_unnoticed(tmp_path: Path, trial: int) -> None:
    depth = np.linspace(1, 60, 2 * 3 * 8 * 9).reshape(2, 3, 8, 9).astype(np.float16)
    write_target(zarr.open_group(tmp_path, mode="w"), "teacher_depth", "termination_depth", depth)
    flip_one_bit(tmp_path / "termination_depth" / "c" / "1" / "0" / "0" / "0")
    group = zarr.open_group(tmp_path, mode="r")
    np.testing.assert_array_equal(read_target(group, "teacher_depth", "termination_depth", 0), depth[0])
    with pytest.raises(IntegrityError) as caught:
        read_target(group, "teacher_depth", "termination_depth", 1)
    assert caught.value.kind is ErrorKind.STORE_CORRUPT


@pytest.mark.parametrize("claimed", [0, 1 << 20, 1 << 30])
def test_a_chunk_that_becomes_larger_than_its_array_declares_is_refused_undecoded(tmp_path: Path, claimed: int) -> None:
    group = zarr.open_group(tmp_path, mode="w")
    depth = np.zeros((1, 2, 8, 9), np.float16)
    write_target(group, "teacher_depth", "termination_depth", depth)
    (chunk,) = [path for path in (tmp_path / "termination_depth" / "c").rglob("*") if path.is_file()] or [
        tmp_path / "termination_depth" / "c" / "0" / "0" / "0" / "0"
    ]
    small = numcodecs.Blosc(cname="zstd").encode(np.zeros(1 << 20, np.uint8))
    bomb = small[:4] + claimed.to_bytes(4, "little") + small[8:]
    chunk.parent.mkdir(parents=True, exist_ok=True)
    chunk.write_bytes(bomb + google_crc32c.value(bomb).to_bytes(4, "little"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError, match=f"a chunk claims {claimed} bytes, want 288"):
        read_target(zarr.open_group(tmp_path, mode="r"), "teacher_depth", "termination_depth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


@pytest.mark.parametrize("shape", [(1 << 40, 1, 1, 1), (1 << 21, 2, 8, 9), (1, 1 << 20, 1 << 20, 1)])
def test_an_array_that_claims_to_be_larger_than_any_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    group = zarr.open_group(tmp_path, mode="w")
    chunks = (1, *(min(n, 8) for n in shape[1:]))
    group.create_array("termination_depth", shape=shape, chunks=chunks, dtype="f2")
    with pytest.raises(IntegrityError, match=r"claims \d+ elements in \d+ chunks"):
        read_target(zarr.open_group(tmp_path, mode="r"), "teacher_depth", "termination_depth")
