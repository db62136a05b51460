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
    """Cut at each byte, and with bytes of its coefficients changed: what Pillow refuses is refused, and more."""
    content = encoded(**options)
    begin = content.index(b"\xff\xda")  # start of scan: before it lie headers, whose faults are met on opening
    cut = [content[:end] for end in range(begin + 20, len(content) - 1)]
    assert all(fault_seen(one) is not None for one in cut)
    random = np.random.default_rng(1)
    flipped = []
    for _ in range(NUM_FLIPS):
        changed = bytearray(content)
        for place in random.integers(begin + 20, len(content), random.integers(1, 5)):
            changed[place] = random.integers(0, 256)
        flipped.append(bytes(changed))
    refused = [one for one in flipped if fault_of_pixels(one) is not None]
    assert all(fault_seen(one) is not None for one in refused)
    assert fault_seen(content) is None


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_zeros_in_the_middle_are_refused(place):
    """Pillow makes an image of such a file and says nothing; most of its pixels are wrong."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    begin = content.index(b"\xff\xda") + 20
    at = begin + int(place * (len(content) - begin - 200))
    content[at : at + 200] = bytes(200)
    assert fault_of_pixels(bytes(content)) is None
    assert "Corrupt JPEG data" in str(fault_seen(bytes(content)))


def test_zeros_that_fill_the_last_word_are_no_fault():
    content = encoded()
    assert fault_seen(content[:-2] + b"\0\0\0" + content[-2:]) is None


def test_a_turned_image_is_refused():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(exif=exif)
    with pytest.raises(SourceDataError, match="EXIF orientation 6, want 1"):
        check_jpeg(content, "x.jpg", width=WIDTH, height=HEIGHT, max_pixels=10_000)
    exif[0x0112] = 1
    check_jpeg(encoded(exif=exif), "x.jpg", width=WIDTH, height=HEIGHT, max_pixels=10_000)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 43), (61, 7)])
def test_an_image_of_a_few_pixels_is_checked_too(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(buffer, "JPEG")
    content = buffer.getvalue()
    check_jpeg(content, "x.jpg", width=width, height=height, max_pixels=10_000)
    with pytest.raises(SourceDataError, match="do not decode"):
        check_jpeg(content[:-4], "x.jpg", width=width, height=height, max_pixels=10_000)
