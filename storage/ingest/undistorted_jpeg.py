"""Images of a distorting lens made pinhole images at ingest, with a record of how."""

import io

import numpy as np
from jaxtyping import Float
from PIL import Image

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.distortion import MAP_METHOD, LensDistortion, Undistortion, UndistortionMap, plan_undistortion

JPEG_QUALITY = 95


def plan_camera(
    intrinsics: Float[np.ndarray, "3 3"], lens: LensDistortion, size: tuple[int, int], key: str
) -> Undistortion | None:
    """Return the undistortion of a camera's images; None for an ideal pinhole.

    Raises:
        SourceDataError: If the lens cannot fill a pinhole image of that size.
    """
    if lens.is_none:
        return None
    try:
        return plan_undistortion(intrinsics, lens, size)
    except ValueError as error:
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, str(error)) from error


def undistort_jpeg(data: bytes, undistortion: UndistortionMap) -> bytes:
    """Return an undistorted JPEG of a checked one, encoded without chroma subsampling."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = undistortion.apply(np.asarray(image))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def undistortion_record(
    intrinsics: Float[np.ndarray, "3 3"], lens: LensDistortion, plan: Undistortion | None
) -> dict[str, object]:
    """Return a JSON record of how a camera's images were undistorted."""
    recorded = {"lens": lens.coefficients, "recorded_intrinsics": intrinsics.tolist()}
    if plan is None:
        return {**recorded, "method": "none: bytes as recorded"}
    return {
        **recorded,
        "method": MAP_METHOD,
        "focal_scale": plan.focal_scale,
        "map_digest": plan.digest,
        "encoding": f"JPEG, quality {JPEG_QUALITY}, 4:4:4",
    }
