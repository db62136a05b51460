"""Project boxes into Waymo's recorded images, with lens distortion and rolling shutter.

Ingested images are undistorted, but the rectangles that Waymo ships (``projected_lidar_labels``) belong to the recorded
images. Comparing our projection with them checks axes, mounting, lens and timing at once, on any segment.
"""

import numpy as np
from jaxtyping import Float

from storage.geometry.distortion import distort
from storage.geometry.transforms import apply_se3, invert_se3
from storage.ingest.waymo.scene import Exposure, FrameHeader, SegmentInfo, WaymoBox, WaymoCamera

_NEAR_M = 0.1
_SHUTTER_STEPS = 4  # each divides the error by a speed over that of light on the sensor; two are enough below 50 m/s
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]
_EDGE_SAMPLES = np.linspace(0.0, 1.0, 9)


def box_corners(box: WaymoBox) -> Float[np.ndarray, "8 3"]:
    """Return the corners of a box in the ego frame, metres; bit i of a corner's index is its side along axis i."""
    signs = np.array([[(number >> axis) & 1 for axis in range(3)] for number in range(8)]) - 0.5
    cos, sin = np.cos(box.heading), np.sin(box.heading)
    rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return (signs * box.size) @ rotation.T + box.centre


def project_points(
    points_global: Float[np.ndarray, "points 3"], camera: WaymoCamera, exposure: Exposure
) -> Float[np.ndarray, "points 2"]:
    """Return pixels of the recorded image, rolling shutter and lens included; NaN behind the camera.

    A point is seen when the shutter reaches its line, and its line depends on the vehicle's pose then. This is solved
    by iteration, with the pose extrapolated from the velocity.
    """
    time = np.full(len(points_global), 0.5 * (exposure.trigger + exposure.readout_done))
    pixels = np.full((len(points_global), 2), np.nan)
    rolls = camera.readout not in ("UNKNOWN", "GLOBAL_SHUTTER")
    for _ in range(_SHUTTER_STEPS if rolls else 1):
        ego_to_global = _ego_to_global(exposure, time if rolls else np.full_like(time, exposure.pose_timestamp))
        global_to_camera = invert_se3(ego_to_global @ camera.camera_to_ego)
        points = apply_se3(global_to_camera, points_global[:, None])[:, 0]
        is_ahead = points[:, 2] > _NEAR_M
        plane = points[:, :2] / np.where(is_ahead, points[:, 2], np.nan)[:, None]
        seen = distort(np.nan_to_num(plane), camera.lens)
        focal = np.array([camera.intrinsics[0, 0], camera.intrinsics[1, 1]])
        pixels = np.where(is_ahead[:, None], seen * focal + camera.intrinsics[:2, 2], np.nan)
        if rolls:
            time = _line_time(np.nan_to_num(pixels), camera, exposure)
    return pixels


def project_box(box: WaymoBox, header: FrameHeader, camera: WaymoCamera) -> Float[np.ndarray, " 4"] | None:
    """Return the rectangle (left, top, right, bottom, pixels) that a box covers in a camera's recorded image.

    The box's edges are sampled, so a box that reaches behind the camera keeps the part in front of it.

    Returns:
        The rectangle within the image; None where the box is outside of it.
    """
    corners = box_corners(box)
    a, b = (corners[[edge[i] for edge in _EDGES]] for i in range(2))
    ego = (a[:, None] + (b - a)[:, None] * _EDGE_SAMPLES[:, None]).reshape(-1, 3)
    pixels = project_points(apply_se3(header.ego_to_global, ego), camera, header.exposures[camera.name])
    pixels = pixels[np.isfinite(pixels).all(axis=-1)]
    if not len(pixels):
        return None
    limit = np.array([camera.size[1], camera.size[0]], np.float64)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if (high <= 0).any() or (low >= limit).any():
        return None
    return np.concatenate([np.maximum(low, 0.0), np.minimum(high, limit)])


def rectangle_iou(a: Float[np.ndarray, " 4"], b: Float[np.ndarray, " 4"]) -> float:
    """Return intersection over union of two rectangles."""
    overlap = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap
    return float(overlap / union) if union > 0 else 0.0


def projection_ious(info: SegmentInfo) -> Float[np.ndarray, " boxes"]:
    """Return the IoU of every shipped rectangle with our projection of the same box; 0 where ours is None.

    Rectangles whose object lacks a 3-D box in its frame are left out.
    """
    found = []
    for header in info.headers:
        boxes = {box.instance: box for box in header.boxes}
        for name, rectangles in header.projected.items():
            if name not in header.exposures or name not in info.cameras:
                continue
            if not np.isfinite(_times(header.exposures[name])).all():
                continue  # refused by the checks of the whole scene, which name the frame
            for instance, wanted in rectangles.items():
                if instance in boxes:
                    ours = project_box(boxes[instance], header, info.cameras[name])
                    found.append(0.0 if ours is None else rectangle_iou(ours, wanted))
    return np.array(found, np.float64)


def _times(exposure: Exposure) -> tuple[float, ...]:
    return exposure.pose_timestamp, exposure.trigger, exposure.shutter, exposure.readout_done


def _line_time(
    pixels: Float[np.ndarray, "points 2"], camera: WaymoCamera, exposure: Exposure
) -> Float[np.ndarray, " points"]:
    """Return the middle of the exposure of each point's line, seconds; the edge's for lines beyond the image."""
    axis = 1 if camera.readout in ("TOP_TO_BOTTOM", "BOTTOM_TO_TOP") else 0
    share = np.clip(pixels[:, axis] / camera.size[1 - axis], 0.0, 1.0)
    if camera.readout in ("RIGHT_TO_LEFT", "BOTTOM_TO_TOP"):
        share = 1.0 - share
    readout = exposure.readout_done - exposure.trigger - exposure.shutter
    return exposure.trigger + 0.5 * exposure.shutter + share * readout


def _ego_to_global(exposure: Exposure, time: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 4 4"]:
    """Return the vehicle's pose at times close to an exposure, from its velocity (Rodrigues' formula)."""
    elapsed = time - exposure.pose_timestamp
    rate = float(np.linalg.norm(exposure.velocity[3:]))
    x, y, z = exposure.velocity[3:] / rate if rate > 0 else np.zeros(3)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = (rate * elapsed)[:, None, None]
    turn = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)
    out = np.tile(exposure.ego_to_global, (len(time), 1, 1))
    out[:, :3, :3] = turn @ exposure.ego_to_global[:3, :3]
    out[:, :3, 3] += elapsed[:, None] * exposure.velocity[:3]
    return out
