"""A JPEG is checked without making its pixels; what is wrong with it must come out all the same."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.errors import SourceDataError
from storage.ingest.raw_files import check_jpeg

WIDTH, HEIGHT = 61, 43
NUM_FLIPS = 400


def encoded(**options: Any) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (11, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((WIDTH, HEIGHT)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def fault_of_pixels(content: bytes) -> str | None:
    """Return why the file's pixels cannot be made, or None if they can."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        try:
            image.load()
        except (OSError, SyntaxError) as error:
            return str(error)
    return None


def fault_seen(content: bytes) -> str | None:
    try:
        check_jpeg(content, "x.jpg", width=WIDTH, height=HEIGHT, max_pixels=10_000)
    except SourceDataError as error:
        return error.message.split("do not decode: ")[1]
    return None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"subsampling": 1, "quality": 30},
        {"progressive": True},
        {"progressive": True, "subsampling": 0},
        {"restart_marker_blocks": 2},
        {"optimize": True},
    ],
    ids=str,
)
def test_every_fault_that_making_the_pixels_meets_is_met(options):
    """Cut at each byte, and with bytes of its coefficients changed: the same files fail, for the same reasons."""
    content = encoded(**options)
    begin = content.index(b"\xff\xda")  # start of scan: before it lie headers, whose faults are met on opening
    damaged = [content[:end] for end in range(begin + 20, len(content))]
    random = np.random.default_rng(1)
    for _ in range(NUM_FLIPS):
        changed = bytearray(content)
        for place in random.integers(begin + 20, len(content), random.integers(1, 5)):
            changed[place] = random.integers(0, 256)
        damaged.append(bytes(changed))
    wanted = [fault_of_pixels(one) for one in damaged]
    assert [fault_seen(one) for one in damaged] == wanted
    assert fault_seen(content) is None
    cut = wanted[: len(damaged) - NUM_FLIPS]
    assert sum(reason is not None for reason in cut) > 0.9 * len(cut)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 43), (61, 7)])
def test_an_image_of_a_few_pixels_is_checked_too(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(buffer, "JPEG")
    content = buffer.getvalue()
    check_jpeg(content, "x.jpg", width=width, height=height, max_pixels=10_000)
    with pytest.raises(SourceDataError, match="do not decode"):
        check_jpeg(content[:-4], "x.jpg", width=width, height=height, max_pixels=10_000)
