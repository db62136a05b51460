"""Images of two cameras that are exchanged from some frame on are noticed where that begins."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from storage.audits.exchanged_cameras import exchanged_images
from storage.scenes.store import SceneReader

NUM_FRAMES = 8


class Drive(SceneReader):
    """Three cameras along streets of random houses, in another light each.

    The images of the first two may be exchanged in some frames.
    """

    def __init__(self, exchanged: tuple[int, ...] = (), sizes: tuple[int, ...] = (64, 64, 64)) -> None:
        rng = np.random.default_rng(0)
        self.version = None
        self.camera_names, self.sizes = ["left", "right", "back"][: len(sizes)], sizes
        self._arrays = {"timestamp_us": np.arange(NUM_FRAMES) * 500_000}
        lights = [rng.integers(70 * i, 70 * i + 100, (6, 24), np.uint8) for i in range(len(sizes))]
        self.streets = [np.repeat(houses, 8, axis=1) for houses in lights]
        self.exchanged = exchanged

    def image_size(self, camera: int) -> tuple[int, int]:
        return 36, self.sizes[camera]

    def image_bytes(self, frame_index: int, camera_index: int) -> bytes:
        if frame_index in self.exchanged and camera_index < 2:
            camera_index = 1 - camera_index
        street = self.streets[camera_index][:, 6 * frame_index :]
        picture = Image.fromarray(np.repeat(street, 6, axis=0)[:, : self.sizes[camera_index]])
        encoded = io.BytesIO()
        picture.convert("RGB").save(encoded, "JPEG", quality=95)
        return encoded.getvalue()


def test_a_sound_drive_passes() -> None:
    found = exchanged_images(Drive())
    assert found.outcome == "passed"
    assert found.value < 1.0


@pytest.mark.parametrize("exchanged", [tuple(range(4, NUM_FRAMES)), tuple(range(4))])
def test_images_exchanged_in_half_of_a_drive_are_named(exchanged: tuple[int, ...]) -> None:
    found = exchanged_images(Drive(exchanged))
    assert found.outcome == "undecided"
    assert found.where == "left and right at frame 4"


@pytest.mark.parametrize("sizes", [(64,), (64, 60)])
def test_cameras_of_other_sizes_are_not_compared(sizes: tuple[int, ...]) -> None:
    found = exchanged_images(Drive(sizes=sizes))
    assert math.isnan(found.value)
