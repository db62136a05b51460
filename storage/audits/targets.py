"""Read stored targets back, and hold them against the scene that they belong to: its rays, its beams, its images.

Nothing here knows how a target was made. Training sets ask for :func:`check_physics` before they take a version;
audits add what only tells people where to look.
"""

import math
from itertools import pairwise

import numpy as np
import zarr
from jaxtyping import Float

from storage.audits.finding import Finding
from storage.audits.sampling import MAX_FRAMES, rotation_error, spread
from storage.geometry.in_image import LIDAR_NEAR_M, points_in_image
from storage.kinds import KINDS, Kind
from storage.scenes.lidar import returns_in_image
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target, read_target
from storage.stores.versioned import Home, StoreVersion

_MAX_BIAS = {Kind.TEACHER_DEPTH: 0.07, Kind.VIRTUAL_VIEWS: 0.09}
"""Median logarithm of stored over measured depth: looser than gates, which see all frames, and below ten percent."""

_MAX_ERROR = 0.15
"""Median absolute logarithm of the same, of one frame or one camera: a depth map of another place has more."""

_MAX_IMAGE_ERROR = 2.0
"""Mean absolute difference of a stored image from the recorded one at its size, of 255: decoders differ by less."""

_MAX_LIDAR_ON_SKY = 0.4
_MIN_RETURNS = 40
_MIN_CONTRAST = 2
_MAX_REPEATED = 0.75
"""Share of neighbours whose features may be equal though their images are not: a coarse grid may miss what moved."""
_COMPARED_IMAGES = 2
"""Frames whose images are decoded and resized again."""


def audit_sky(home: Home, version: StoreVersion) -> list[Finding]:
    """Check that sky does not cover all of the images, and hardly any of their lowest quarter."""
    group = home.open_arrays(version)
    frames = spread(open_target(group, version.kind, "is_sky").shape[0])
    masks = np.stack([read_target(group, version.kind, "is_sky", frame) for frame in frames])
    rows = masks.shape[-2]
    low = float(masks[..., rows - rows // 4 :, :].mean())
    return [
        Finding(name="sky_share", value=float(masks.mean()), threshold=0.95, wanted="at_most"),
        Finding(name="sky_in_lowest_quarter", value=low, threshold=0.02, wanted="at_most"),
        *check_physics(home, version),
    ]


def audit_depth(home: Home, version: StoreVersion) -> list[Finding]:
    """Check that depth is defined for much of the images, and what :func:`check_physics` asks of it."""
    group = home.open_arrays(version)
    frames = spread(open_target(group, version.kind, "termination_depth").shape[0])
    depths = (read_target(group, version.kind, "termination_depth", frame) for frame in frames)
    defined = float(np.mean([np.isfinite(depth).mean() for depth in depths]))
    return [
        Finding(name="defined_share", value=defined, threshold=0.2, wanted="at_least"),
        *check_physics(home, version),
    ]


def check_physics(
    home: Home, version: StoreVersion, *, scene: SceneReader | None = None, max_frames: int = MAX_FRAMES
) -> list[Finding]:
    """Check what holds of every sound target, whoever made it; a figure that nothing can tell is undecided.

    Numbers are finite; depth is positive, and opacity in [0, 1]; rays are those of the scene's cameras; depth agrees
    with the beams of its own frame; images are the recorded ones; sky is not where beams ended; images that differ have
    different features.

    Args:
        home: Home of the version and of its scene.
        version: A version of a trainable kind; of a scene itself, and of its audit, nothing is checked here.
        scene: Its scene, where the caller has it open.
        max_frames: Frames that are looked at, evenly spaced.
    """
    if version.kind in (Kind.SCENE, Kind.SCENE_AUDIT):
        return []
    group = home.open_arrays(version)
    if scene is None and (current := home.latest(Kind.SCENE, version.partition)) is not None:
        scene = SceneReader(home.open_arrays(current), current)
    findings = _numbers(group, version.kind, max_frames)
    if "termination_depth" in group:
        findings += _depth_range(group, version.kind, max_frames)
    if scene is None:
        return findings
    others = _other_frames(group, version.kind, scene)
    if others is not None:
        return [*findings, others]
    findings += _geometry(group, version.kind, scene)
    if "termination_depth" in group:
        findings += _depth_by_lidar(group, version.kind, scene, max_frames)
    if version.kind == Kind.VIRTUAL_VIEWS:
        findings.append(_uniform_views(group, max_frames))
    if version.kind == Kind.INPUT_IMAGES:
        findings.append(_images(group, scene))
    if version.kind == Kind.SKY_MASK:
        findings.append(_sky_by_lidar(group, scene, max_frames))
    if "features" in group:
        findings.append(_repeated_features(group, version.kind, scene, max_frames))
    return findings


def _other_frames(group: zarr.Group, kind: str, scene: SceneReader) -> Finding | None:
    """Return by how many frames and cameras a target differs from its scene; None if it does not."""
    wanted = (scene.num_frames, scene.num_cameras)
    of_images = (name for name, spec in KINDS[kind].arrays.items() if spec.axes[:2] == ("frames", "cameras"))
    for name in of_images:
        if name in group and (seen := open_target(group, kind, name).shape[:2]) != wanted:
            difference = float(sum(abs(s - w) for s, w in zip(seen, wanted, strict=True)))
            where = f"{seen[0]} frames of {seen[1]} cameras, want {wanted[0]} of {wanted[1]}"
            return Finding(
                name="other_frames_than_scene", value=difference, threshold=0.0, wanted="at_most", where=where
            )
    return None


def _numbers(group: zarr.Group, kind: str, max_frames: int) -> list[Finding]:
    """Count floats that are not finite; what a kind declares to be undefined sometimes may be NaN."""
    findings = []
    for name, spec in KINDS[kind].arrays.items():
        if name not in group or spec.undefined or not spec.dtype.startswith("float"):
            continue
        array = open_target(group, kind, name)
        selections = spread(array.shape[0], max_frames) if spec.axes[0] == "frames" else [...]
        bad = sum(int((~np.isfinite(read_target(group, kind, name, chosen))).sum()) for chosen in selections)
        findings.append(
            Finding(name="non_finite_values", value=float(bad), threshold=0.0, wanted="at_most", where=f"array {name}")
        )
    return findings


def _depth_range(group: zarr.Group, kind: str, max_frames: int) -> list[Finding]:
    infinite, not_positive, opacity_excess, undefined = 0, 0, 0.0, []
    for frame in spread(open_target(group, kind, "termination_depth").shape[0], max_frames):
        depth = read_target(group, kind, "termination_depth", frame).astype(np.float32)
        opacity = read_target(group, kind, "opacity", frame).astype(np.float32)
        infinite += int(np.isinf(depth).sum())
        not_positive += int((depth[np.isfinite(depth)] <= 0).sum())
        if not np.isfinite(depth).any():
            undefined.append(frame)
        excess = np.maximum(opacity - 1.0, -opacity)
        opacity_excess = max(opacity_excess, float(excess.max()) if np.isfinite(opacity).all() else math.inf)
    where = f"frame {undefined[0]}" if undefined else ""
    return [
        Finding(name="infinite_depths", value=float(infinite), threshold=0.0, wanted="at_most"),
        Finding(name="depths_not_positive", value=float(not_positive), threshold=0.0, wanted="at_most"),
        Finding(name="frames_without_depth", value=float(len(undefined)), threshold=0.0, wanted="at_most", where=where),
        Finding(name="opacity_outside_unit_range", value=opacity_excess, threshold=1e-3, wanted="at_most"),
    ]


def _geometry(group: zarr.Group, kind: str, scene: SceneReader) -> list[Finding]:
    """Compare a target's intrinsics, lens and shifts with what its scene and its size say."""
    findings, cameras = [], range(scene.num_cameras)
    of_pixels = (n for n, spec in KINDS[kind].arrays.items() if {"height", "width"} <= {*spec.axes} and n in group)
    name = next(of_pixels, None)
    if "intrinsics" in group and name is not None:
        shape, axes = open_target(group, kind, name).shape, KINDS[kind].arrays[name].axes
        size = (shape[axes.index("height")], shape[axes.index("width")])
        seen = read_target(group, kind, "intrinsics")
        wanted = np.stack([scene.intrinsics(camera, size=size) for camera in cameras])
        findings.append(_equal("intrinsics_error_px", seen, wanted, tolerance=0.01 + 1e-4 * max(size)))
    if "fisheye" in group:
        seen, wanted = read_target(group, kind, "fisheye"), np.stack([scene.fisheye(camera) for camera in cameras])
        findings.append(_equal("fisheye_error", seen, wanted, tolerance=1e-6))
    if "virtual_to_camera" in group:
        error = max(rotation_error(pose) for pose in read_target(group, kind, "virtual_to_camera"))
        findings.append(Finding(name="view_rotation_error", value=error, threshold=1e-4, wanted="at_most"))
    return findings


def _equal(name: str, seen: np.ndarray, wanted: np.ndarray, *, tolerance: float) -> Finding:
    """Return the largest difference; infinite if the shapes differ, or one is undefined and the other is not."""
    error = math.inf
    if seen.shape == wanted.shape and (np.isnan(seen) == np.isnan(wanted)).all():
        error = float(np.nan_to_num(np.abs(seen - wanted)).max(initial=0.0))
    return Finding(name=name, value=error, threshold=tolerance, wanted="at_most")


def _depth_by_lidar(group: zarr.Group, kind: str, scene: SceneReader, max_frames: int) -> list[Finding]:
    """Compare stored depth with the returns of its own frame: a wrong scale, and the worst frame or camera."""
    views = read_target(group, kind, "virtual_to_camera") if "virtual_to_camera" in group else np.eye(4)[None]
    ratios: list[np.ndarray] = []
    places: list[tuple[int, int]] = []
    for frame in spread(scene.num_frames, max_frames):
        stored = read_target(group, kind, "termination_depth", frame).astype(np.float32)
        stored = stored.reshape(scene.num_cameras, len(views), *stored.shape[-2:])
        for camera in range(scene.num_cameras):
            ratios.append(
                np.concatenate(
                    [_log_ratios(d, scene, frame, camera, v) for d, v in zip(stored[camera], views, strict=True)]
                )
            )
            places.append((frame, camera))
    of_all = np.concatenate(ratios)
    bias = float(np.median(of_all)) if len(of_all) >= _MIN_RETURNS else math.nan
    worst, where = math.nan, ""
    for axis, name in enumerate(("frame", "camera")):
        for index in sorted({place[axis] for place in places}):
            chosen = np.concatenate([r for r, place in zip(ratios, places, strict=True) if place[axis] == index])
            error = float(np.median(np.abs(chosen))) if len(chosen) >= _MIN_RETURNS else math.nan
            if not error <= worst and not math.isnan(error):
                worst, where = error, f"{name} {index if axis == 0 else scene.camera_names[index]}"
    return [
        Finding(
            name="depth_bias_by_lidar",
            value=abs(bias),
            threshold=_MAX_BIAS[Kind(kind)],
            wanted="at_most",
            otherwise="undecided" if math.isnan(bias) else "failed",
        ),
        Finding(
            name="depth_error_by_lidar",
            value=worst,
            threshold=_MAX_ERROR,
            wanted="at_most",
            where=where,
            otherwise="undecided" if math.isnan(worst) else "failed",
        ),
    ]


def _log_ratios(
    depth: Float[np.ndarray, "height width"],
    scene: SceneReader,
    frame: int,
    camera: int,
    view: Float[np.ndarray, "4 4"],
) -> Float[np.ndarray, " returns"]:
    """Return the logarithm of stored over measured depth at the returns of a view that has a depth there."""
    size = (depth.shape[0], depth.shape[1])
    seen = points_in_image(
        scene.lidar_points(frame)[:, :3].astype(np.float64),
        scene.camera_to_reference_ego(frame, camera) @ view,
        scene.intrinsics(camera, size=size),
        scene.fisheye(camera),
        size=size,
        near=LIDAR_NEAR_M,
    )
    stored = depth[seen.row, seen.column]
    defined = np.isfinite(stored) & (stored > 0)
    return np.log(stored[defined] / seen.termination_depth[defined])


def _images(group: zarr.Group, scene: SceneReader) -> Finding:
    """Compare some stored images with the recorded ones at their size."""
    stored = open_target(group, Kind.INPUT_IMAGES, "image")
    height, width = stored.shape[2:4]
    worst, where = 0.0, ""
    for frame in spread(scene.num_frames, _COMPARED_IMAGES):
        images = read_target(group, Kind.INPUT_IMAGES, "image", frame).astype(np.float32)
        for camera, image in enumerate(images):
            error = float(np.abs(image - scene.resized_image(frame, camera, height=height, width=width)).mean())
            if error > worst:
                worst, where = error, f"frame {frame}, {scene.camera_names[camera]}"
    return Finding(name="image_error", value=worst, threshold=_MAX_IMAGE_ERROR, wanted="at_most", where=where)


def _uniform_views(group: zarr.Group, max_frames: int) -> Finding:
    """Return the share of views of one colour: black, or of a field that shows nothing."""
    frames = spread(open_target(group, Kind.VIRTUAL_VIEWS, "image").shape[0], max_frames)
    images = np.stack([read_target(group, Kind.VIRTUAL_VIEWS, "image", frame) for frame in frames])
    pixels = images.reshape(-1, images.shape[-3] * images.shape[-2], 3)
    share = float((np.ptp(pixels, axis=1).max(axis=-1) <= _MIN_CONTRAST).mean())
    return Finding(name="views_of_one_colour", value=share, threshold=0.25, wanted="at_most")


def _sky_by_lidar(group: zarr.Group, scene: SceneReader, max_frames: int) -> Finding:
    """Return the share of returns of the worst camera that lie on its sky, over the frames looked at."""
    num_returns, on_sky = np.zeros(scene.num_cameras, np.int64), np.zeros(scene.num_cameras, np.int64)
    for frame in spread(scene.num_frames, max_frames):
        masks = read_target(group, Kind.SKY_MASK, "is_sky", frame)
        for camera, mask in enumerate(masks):
            seen = returns_in_image(
                scene, frame, camera, scene.lidar_points(frame), size=(mask.shape[0], mask.shape[1])
            )
            num_returns[camera] += len(seen.index)
            on_sky[camera] += int(mask[seen.row, seen.column].sum())
    shares = np.where(num_returns >= _MIN_RETURNS, on_sky / np.maximum(1, num_returns), np.nan)
    is_known = bool(np.isfinite(shares).any())
    worst = int(np.nanargmax(shares)) if is_known else 0
    return Finding(
        name="lidar_on_sky_of_a_camera",
        value=float(shares[worst]),
        threshold=_MAX_LIDAR_ON_SKY,
        wanted="at_most",
        where=scene.camera_names[worst] if is_known else "",
        otherwise="failed" if is_known else "undecided",
    )


def _repeated_features(group: zarr.Group, kind: str, scene: SceneReader, max_frames: int) -> Finding:
    """Return the share of neighbours, in frame or camera, with different images and the very same features."""
    frames = spread(scene.num_frames, max_frames)
    features = [read_target(group, kind, "features", frame) for frame in frames]
    images = [[scene.image_bytes(frame, camera) for camera in range(scene.num_cameras)] for frame in frames]
    cells = [(f, c) for f in range(len(frames)) for c in range(scene.num_cameras)]
    by_time = [((f, c), (g, c)) for f, g in pairwise(range(len(frames))) for c in range(scene.num_cameras)]
    by_camera = [(a, b) for a, b in pairwise(cells) if a[0] == b[0]]
    different = [(a, b) for a, b in (*by_time, *by_camera) if images[a[0]][a[1]] != images[b[0]][b[1]]]
    repeated = [b for a, b in different if np.array_equal(features[a[0]][a[1]], features[b[0]][b[1]])]
    where = f"frame {frames[repeated[0][0]]}, {scene.camera_names[repeated[0][1]]}" if repeated else ""
    share = len(repeated) / max(1, len(different))
    return Finding(name="repeated_features", value=share, threshold=_MAX_REPEATED, wanted="at_most", where=where)
