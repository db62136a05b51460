"""A camera that froze is told from one that stands still, whatever its files say besides the image."""

import io

import numpy as np
import pytest
from PIL import Image

from storage.errors import SourceDataError
from storage.ingest.frame_checks import FrameChecks
from storage.ingest.raw_scene import RawScene
from storage.scenes.schema import SceneBoxes, SceneFrame


def jpeg(seed: int, note: bytes = b"") -> bytes:
    encoded = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (18, 32, 3), np.uint8)
    Image.fromarray(pixels).save(encoded, "JPEG", comment=note)
    return encoded.getvalue()


def check(images: list[bytes], steps: list[float]) -> FrameChecks:
    """Check frames of one camera without LiDAR, after a vehicle moved by so much before each."""
    poses = np.tile(np.eye(4), (len(images), 1, 1))
    poses[:, 0, 3] = np.cumsum(steps)
    times = 500_000 * np.arange(len(images))
    raw = RawScene(
        name="a",
        camera_names=("front",),
        image_sizes=((18, 32),),
        intrinsics=np.eye(3)[None],
        camera_to_ego=np.eye(4)[None],
        lidar_to_ego=np.eye(4),
        timestamp_us=times,
        ego_to_world=poses,
        camera_timestamp_us=times[:, None],
        camera_ego_to_world=poses[:, None],
        image_files=tuple((f"{i}.jpg",) for i in range(len(images))),
        lidar_files=("",) * len(images),
        boxes=SceneBoxes.none(),
        attributes={},
        row_digests={},
        pose_source="none",
    )
    checks = FrameChecks(raw)
    for image in images:
        checks.check(SceneFrame(jpegs=(image,), points=np.zeros((0, 4), np.float32)))
    return checks


def test_another_note_is_no_other_image() -> None:
    with pytest.raises(SourceDataError, match=r"1\.jpg: is the image of frame 0 again.*0\.20 m") as caught:
        check([jpeg(0, b"10:00:00.1"), jpeg(0, b"10:00:00.2")], [0.0, 0.2])
    assert caught.value.kind == "image_invalid"
    assert check([jpeg(0), jpeg(1)], [0.0, 0.2]).repeated_at_rest == 0


def test_a_creeping_vehicle_moves_in_the_end() -> None:
    with pytest.raises(SourceDataError, match=r"9\.jpg: is the image of frame 0 again.*0\.54 m"):
        check([jpeg(0)] * 12, [0.0] + 11 * [0.06])


def test_noise_of_a_pose_at_rest_is_no_motion() -> None:
    steps = np.diff(np.random.default_rng(0).normal(0, 0.02, 13)).tolist()
    assert check([jpeg(0)] * 12, steps).repeated_at_rest == 11


def test_each_run_of_repeats_counts_anew() -> None:
    """At rest, on, and at rest again elsewhere."""
    images = [jpeg(0)] * 4 + [jpeg(1)] * 4
    assert check(images, [0.0, 0.01, 0.01, 0.01, 5.0, 0.01, 0.01, 0.01]).repeated_at_rest == 6
