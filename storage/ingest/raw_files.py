"""Strict readers of raw files: a path may leave its root, an image may be cut short or be a decompression bomb."""

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from storage.errors import ErrorKind, SourceDataError
from storage.stores.integrity import machine_faults

NUSCENES_POINT_FIELDS = 5  # x, y, z, intensity, ring index: float32 each
_MAX_RING = 255
_LONG_PATH = 200
_EXIF_ORIENTATION = 0x0112
_END_OF_IMAGE = b"\xff\xd9"
_OTHER_IMAGES = {
    b"\x89PNG": "a PNG",
    b"RIFF": "a WebP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"BM": "a BMP",
    b"GIF8": "a GIF",
}


def resolve_inside(root: Path, relative: str, link_roots: Sequence[Path] = ()) -> Path:
    """Return the file that ``relative`` names, which must lie under ``root``.

    Args:
        root: Root of the source.
        relative: Path below it.
        link_roots: Further folders that links under the root may lead into.

    Raises:
        SourceDataError: If the path is absolute, leaves the root by ``..`` or a link, no file system could hold it, or
            it names no file.
    """
    try:
        relative.encode()
        with machine_faults(relative):
            return _resolve_inside(root, relative, link_roots)
    except (OSError, RuntimeError, UnicodeError) as error:  # too long, links in a circle, half of a character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceDataError(ErrorKind.FILE_UNSAFE, ascii(relative[:_LONG_PATH]), f"is no path: {reason}") from error


def _resolve_inside(root: Path, relative: str, link_roots: Sequence[Path]) -> Path:
    pure = PurePosixPath(relative)
    if not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative:
        message = "want a plain path below the source's root, without '..'"
        raise SourceDataError(ErrorKind.FILE_UNSAFE, repr(relative), message)
    path = root / pure
    resolved = path.resolve()
    if not any(resolved.is_relative_to(folder.resolve()) for folder in (root, *link_roots)):
        message = f"leads to {resolved}, outside the root {root}; --link-roots allows the folder that holds it"
        raise SourceDataError(ErrorKind.FILE_UNSAFE, relative, message)
    if not resolved.is_file():
        raise SourceDataError(ErrorKind.FILE_MISSING, relative, f"is not a file below {root}")
    return path


def read_bytes(path: Path, key: str) -> bytes:
    """Return a raw file's content.

    Raises:
        SourceDataError: If the file cannot be read.
        OutOfCapacityError: If memory or file descriptors ran out: the file is not at fault.
        HomeUnavailableError: If the disk failed, or the file may not be read.
    """
    try:
        with machine_faults(key):
            return path.read_bytes()
    except OSError as error:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, f"cannot be read: {error.strerror}") from error


def check_jpeg(content: bytes, key: str, *, width: int, height: int, max_pixels: int) -> None:
    """Decode a JPEG completely and check that it has the size that its table gives.

    Whatever the decoder warns of is an error: it fills what it cannot read with grey, or with the wrong place's pixels.
    Pixels are taken as they lie in the file. An EXIF orientation that asks for another way up is refused, because some
    readers follow it and some do not, and the calibration belongs to one of the two.

    Args:
        content: Content of the file.
        key: Name of the file, for the error.
        width: Columns wanted.
        height: Rows wanted.
        max_pixels: Largest area that is decoded.

    Raises:
        SourceDataError: If it is no JPEG in 8-bit RGB, has another size, is larger than ``max_pixels``, is cut short or
            damaged within, or has an EXIF orientation.
    """
    try:
        with machine_faults(key):
            image = Image.open(io.BytesIO(content), formats=("JPEG",))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit is process-wide, and importing nuscenes-devkit lifts it: ours is checked below.
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, f"{error}; want <= {max_pixels} pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        message = f"is not a JPEG but {_kind_of_file(content)}; want JPEG, which a converter makes of it"
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, message) from error
    seen_width, seen_height = image.size
    if seen_width * seen_height > max_pixels:
        message = f"claims {seen_width} x {seen_height} pixels, want at most {max_pixels} in all"
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, message)
    if (seen_width, seen_height) != (width, height):
        message = f"is {seen_width} x {seen_height} pixels, its table says {width} x {height}"
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, message)
    if image.mode != "RGB":
        raise SourceDataError(
            ErrorKind.IMAGE_INVALID, key, f"has mode {image.mode}, want RGB: three channels of 8 bits"
        )
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation != 1:
        message = f"has EXIF orientation {orientation}, want 1: turn its pixels and its calibration, or drop the tag"
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, message)
    if (fault := _fault(content)) is not None:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, f"{len(content)} bytes do not decode: {fault}")


def _kind_of_file(content: bytes) -> str:
    """Return what a file that is no JPEG seems to be."""
    found = next((name for start, name in _OTHER_IMAGES.items() if content.startswith(start)), None)
    return found or f"begins with {content[:4].hex() or 'nothing'}"


def _fault(content: bytes) -> str | None:
    """Return the first warning or error of the decoder; None for a sound JPEG.

    At an eighth of its size every coefficient is read to the last, and that is all that can fail. To turn them into
    pixels, which never does, is the larger half of the work.
    """
    try:
        simplejpeg.decode_jpeg(content, colorspace="GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        padded, end, _ = content.rpartition(_END_OF_IMAGE)
        if end and padded.endswith(b"\0"):  # some recorders fill a file up to a whole word with zeros
            return _fault(padded.rstrip(b"\0") + end)
        return str(error)
    return None


def parse_nuscenes_lidar(content: bytes, key: str) -> Float32[np.ndarray, "points 4"]:
    """Return the points of a ``.pcd.bin`` sweep: x, y, z in the sensor frame, metres, and intensity.

    Raises:
        SourceDataError: If the file is empty, ends within a point, holds a non-finite value, or its fifth column holds
            no ring numbers, as when it has another number of columns or another type.
    """
    point_bytes = NUSCENES_POINT_FIELDS * 4
    if not content:
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, "holds no point")
    if len(content) % point_bytes:
        message = (
            f"has {len(content)} bytes, want a multiple of {point_bytes} ({NUSCENES_POINT_FIELDS} float32 a point)"
        )
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    rows = np.frombuffer(content, "<f4").reshape(-1, NUSCENES_POINT_FIELDS)
    points, ring = rows[:, :4], rows[:, 4]
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        message = (
            f"{int(bad.sum())} of {len(points)} points are not finite, the first is number {first}: {points[first]}"
        )
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    no_ring = ~((ring >= 0) & (ring <= _MAX_RING) & (np.floor(ring) == ring))
    if no_ring.any():
        first = int(no_ring.argmax())
        message = (
            f"ring of point {first} is {ring[first]:.6g} ({int(no_ring.sum())} of {len(rows)} are no ring), want whole "
            f"numbers 0 to {_MAX_RING}: five float32 a point, not float64 or four columns"
        )
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    return np.ascontiguousarray(points, dtype=np.float32)


def parse_nuscenes_labels(content: bytes, key: str, *, num_points: int) -> UInt8[np.ndarray, " points"]:
    """Return the class of each point of a sweep, one byte each.

    Raises:
        SourceDataError: If the number of labels is not ``num_points``.
    """
    if len(content) != num_points:
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, f"labels {len(content)} points, its sweep has {num_points}")
    return np.frombuffer(content, np.uint8)


def number_list(value: Any, shape: tuple[int, ...], kind: ErrorKind, key: str) -> np.ndarray:  # noqa: ANN401 - JSON
    """Return a JSON value as a finite float64 array of exactly ``shape``.

    Raises:
        SourceDataError: If it is anything else; the error has the given kind.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SourceDataError(kind, key, f"is {value!r}, want numbers of shape {shape}") from error
    if array.shape != shape:
        raise SourceDataError(kind, key, f"has shape {array.shape}, want {shape}")
    if not np.isfinite(array).all():
        raise SourceDataError(kind, key, f"is {array.tolist()}, want finite numbers")
    return array
