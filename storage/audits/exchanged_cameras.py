"""Check that each camera goes on seeing what it saw: images of two cameras may be exchanged from some frame on.

Cameras whose images are exchanged in all frames contradict the LiDAR, which other checks tell. Exchanged in half of a
drive, each image still fits its neighbours in time, but for the frame at which the exchange begins or ends.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float

from storage.audits.finding import Finding
from storage.scenes.store import SceneReader

_MAX_FRAMES = 400  # the first: each image is decoded
MAX_RATIO = 1.25
"""Five clean scenes have 0.29 to 1.07, scenes exchanged for half of their frames 1.5 to 10."""


def exchanged_images(reader: SceneReader) -> Finding:
    """Return by how much an image is less like the one before it than like that of another camera.

    It is the sum over two cameras of equal size: between neighbouring frames, the difference of each to itself over the
    difference of each to the other. One frame alone is often not told, and a fast turn looks alike: a large value is
    undecided, and to be looked at.

    Args:
        reader: The scene.
    """
    cameras, frames = range(reader.num_cameras), range(reader.num_frames)[:_MAX_FRAMES]
    seen = {camera: np.stack([_thumbnail(reader, frame, camera) for frame in frames]) for camera in cameras}
    worst, where = math.nan, "one frame, or one camera of each size"
    for one, other in itertools.combinations(cameras, 2):
        if reader.image_size(one) != reader.image_size(other) or len(frames) < 2:
            continue
        a, b = seen[one], seen[other]
        own = _difference(a[:-1], a[1:]) + _difference(b[:-1], b[1:])
        exchanged = _difference(a[:-1], b[1:]) + _difference(b[:-1], a[1:])
        ratio = own / np.maximum(exchanged, 1e-6)
        if not ratio.max() <= worst:
            worst, frame = float(ratio.max()), int(ratio.argmax()) + 1
            where = f"{reader.camera_names[one]} and {reader.camera_names[other]} at frame {frame}"
    return Finding(
        name="images_like_another_camera",
        value=worst,
        threshold=MAX_RATIO,
        wanted="at_most",
        where=where,
        otherwise="undecided",
    )


def _thumbnail(reader: SceneReader, frame: int, camera: int) -> Float[np.ndarray, "9 16"]:
    return reader.resized_image(frame, camera, height=9, width=16).mean(axis=-1)


def _difference(
    a: Float[np.ndarray, "frames 9 16"], b: Float[np.ndarray, "frames 9 16"]
) -> Float[np.ndarray, " frames"]:
    return np.abs(a - b).mean(axis=(1, 2))
