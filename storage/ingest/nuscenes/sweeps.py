"""Frames between the keyframes of a nuScenes scene, made from its chains of exposures and sweeps.

Cameras run at 12 Hz, the LiDAR at 20 Hz, and only keyframes at 2 Hz are annotated. A frame here is a LiDAR sweep with
the nearest image in time of each camera. An image belongs to one frame at most, and every keyframe is a frame with its
own images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from storage.errors import ErrorKind, SourceDataError

MAX_OFFSET_US = 60_000
"""Largest time between a sweep and its images; a sweep without nearer images is left out."""

Row = Mapping[str, Any]


def walk_chain(start: Row, row_of: Any, key: str) -> list[Row]:  # noqa: ANN401 - token, asked by -> Row
    """Return every row of a channel, in the order of its ``prev`` and ``next`` fields.

    Args:
        start: Row of the chain, any one.
        row_of: Finds a row by its token; the second argument names the referring row, for errors.
        key: Name of the channel, for errors.

    Raises:
        SourceDataError: If the chain runs in a circle.
    """
    seen = {start["token"]}
    chain = [start]
    for direction in ("prev", "next"):
        row = start
        while token := row.get(direction):
            if token in seen:
                raise SourceDataError(
                    ErrorKind.TABLE_INVALID, key, f"{direction} of {row['token']} leads back to {token}"
                )
            seen.add(token)
            row = row_of(token, f"{direction} of {row['token']}")
            chain.append(row)
        if direction == "prev":
            chain.reverse()
    return chain


def choose_frames(
    sweep_times: Int64[np.ndarray, " sweeps"],
    image_times: Sequence[Int64[np.ndarray, " _"]],
    keyframe_sweeps: Sequence[int],
    keyframe_images: Int64[np.ndarray, "keyframes cameras"],
) -> tuple[Int64[np.ndarray, " frames"], Int64[np.ndarray, "frames cameras"]]:
    """Return the index of each sweep that becomes a frame, and the index of its image of each camera.

    Args:
        sweep_times: Instants of the LiDAR sweeps, increasing, microseconds.
        image_times: Instants of each camera's images, increasing, microseconds.
        keyframe_sweeps: Indices of the sweeps that are keyframes, increasing.
        keyframe_images: Indices of the images of these keyframes, one for each camera.
    """
    nearest = np.stack([_nearest(times, sweep_times) for times in image_times], axis=-1)
    offsets = np.stack([abs(t[n] - sweep_times) for t, n in zip(image_times, nearest.T, strict=True)], axis=-1)
    nearest[list(keyframe_sweeps)] = keyframe_images
    is_keyframe = np.zeros(len(sweep_times), bool)
    is_keyframe[list(keyframe_sweeps)] = True
    frames: list[int] = []
    used = np.full(len(image_times), -1)
    for sweep in range(len(sweep_times)):
        ahead = np.flatnonzero(is_keyframe[sweep:])
        reserved = nearest[sweep + ahead[0]] if len(ahead) else np.full(len(image_times), np.iinfo(np.int64).max)
        is_new = (nearest[sweep] > used).all()
        is_free = (nearest[sweep] < reserved).all() and (offsets[sweep] <= MAX_OFFSET_US).all()
        if is_new and (is_keyframe[sweep] or is_free):
            frames.append(sweep)
            used = nearest[sweep]
    chosen = np.array(frames, np.int64)
    return chosen, nearest[chosen]


def _nearest(times: Int64[np.ndarray, " images"], wanted: Int64[np.ndarray, " sweeps"]) -> Int64[np.ndarray, " sweeps"]:
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.zeros(len(wanted), np.int64)
    return np.where(wanted - times[after - 1] <= times[after] - wanted, after - 1, after)
