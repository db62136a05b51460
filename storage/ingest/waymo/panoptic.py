"""Waymo's panoptic labels of camera images: a class and an object for each pixel, in some frames."""

import io

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.distortion import UndistortionMap
from storage.stores.integrity import machine_faults

CAMERA_CLASSES = (
    "TYPE_UNDEFINED",
    "TYPE_EGO_VEHICLE",
    "TYPE_CAR",
    "TYPE_TRUCK",
    "TYPE_BUS",
    "TYPE_OTHER_LARGE_VEHICLE",
    "TYPE_BICYCLE",
    "TYPE_MOTORCYCLE",
    "TYPE_TRAILER",
    "TYPE_PEDESTRIAN",
    "TYPE_CYCLIST",
    "TYPE_MOTORCYCLIST",
    "TYPE_BIRD",
    "TYPE_GROUND_ANIMAL",
    "TYPE_CONSTRUCTION_CONE_POLE",
    "TYPE_POLE",
    "TYPE_PEDESTRIAN_OBJECT",
    "TYPE_SIGN",
    "TYPE_TRAFFIC_LIGHT",
    "TYPE_BUILDING",
    "TYPE_ROAD",
    "TYPE_LANE_MARKER",
    "TYPE_ROAD_MARKER",
    "TYPE_SIDEWALK",
    "TYPE_VEGETATION",
    "TYPE_SKY",
    "TYPE_GROUND",
    "TYPE_DYNAMIC",
    "TYPE_STATIC",
)
"""Class names by number, as in Waymo's ``CameraSegmentation.Type``; its LiDAR classes have other numbers."""


def stored_panoptic(
    png: bytes, divisor: int, *, size: tuple[int, int], undistortion: UndistortionMap | None, key: str
) -> bytes:
    """Return the checked labels of one image, in the pixels of the stored image.

    Args:
        png: PNG of 16 bits a pixel: class times ``divisor``, plus the object's number in this image.
        divisor: Factor of the class in a pixel's value.
        size: Height and width of the recorded image, already checked to be decodable.
        undistortion: Undistortion of the image, or None. Each stored pixel takes the label of the nearest recorded one.
        key: Frame and camera, for errors.

    Raises:
        SourceDataError: If it cannot be decoded, has another size or depth, or an undefined class.
    """
    labels = decode_panoptic(png, size, key)
    classes = labels // divisor
    if (classes >= len(CAMERA_CLASSES)).any():
        row, column = (int(i) for i in np.argwhere(classes >= len(CAMERA_CLASSES))[0])
        message = f"pixel ({row}, {column}) has class {classes[row, column]}, want 0 to {len(CAMERA_CLASSES) - 1}"
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, message)
    return png if undistortion is None else encode_panoptic(undistortion.nearest(labels))


def decode_panoptic(png: bytes, size: tuple[int, int], key: str) -> UInt16[np.ndarray, "height width"]:
    """Return the pixels of a 16-bit PNG of that height and width.

    Raises:
        SourceDataError: If the file is anything else.
    """
    try:
        with machine_faults(key), Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if (image.height, image.width) != size or image.mode not in ("I;16", "I"):
                message = f"labels are {image.height} x {image.width} of mode {image.mode}, want {size} of 16 bits"
                raise SourceDataError(ErrorKind.IMAGE_INVALID, key, message)
            return np.asarray(image).astype(np.uint16)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, f"labels are no PNG that decodes: {error}") from error


def encode_panoptic(labels: UInt16[np.ndarray, "height width"]) -> bytes:
    """Return labels as a 16-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    return buffer.getvalue()
