"""Read a stored scene back and check that its geometry is plausible, independently of the code that wrote it.

An audit tells people where to look. It repairs nothing.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from storage.audits.boxes import audit_boxes
from storage.audits.calibration import MAX_AWAY_GAIN, CalibrationFit, RigFit, calibration_frames, fit_rig
from storage.audits.exchanged_cameras import exchanged_images
from storage.audits.finding import Finding, Shortfall
from storage.audits.frames_and_axes import audit_axes
from storage.audits.sampling import rotation_error, spread
from storage.audits.sweep_alignment import SweepFit, align_sweeps
from storage.geometry.cameras import MAX_PRINCIPAL_POINT_OFFSET, principal_point_offset
from storage.ingest.frame_checks import is_blank
from storage.scenes.lidar import returns_in_image
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home, StoreVersion

_MIN_SEEN, _MIN_SEEN_BY_ONE = 0.1, 0.001  # shares of the returns
_LEVEL_DEG, _SECTOR_DEG = 25.0, 15.0
_MIN_SWEEP_SHARE = 0.1  # of the sweeps around it: one that was cut short keeps its first beams only


def audit_calibration(home: Home, version: StoreVersion, fit: RigFit | None = None) -> list[Finding]:
    """Check a scene's geometry: frames and axes first, then boxes, images, cameras against LiDAR, sweeps against poses.

    Where a scene has LiDAR and nothing at all can be decided, the last finding fails: that is no pass.

    Args:
        home: Home that holds the scene.
        version: A version of kind ``scene``.
        fit: See :func:`audit_geometry`.
    """
    reader = SceneReader(home.open_arrays(version), version)
    cameras = range(reader.num_cameras)
    names = reader.camera_names
    rotations = [rotation_error(reader.camera_to_ego(camera)) for camera in cameras]
    worst = int(np.argmax(rotations))
    off_centre = [_principal_point_offset(reader, camera) for camera in cameras]
    farthest = int(np.argmax(off_centre))
    shares = np.array([_shares_of_lidar_seen(reader, frame) for frame in spread(reader.num_frames)])
    seen = float(np.nanmean(shares[:, -1])) if np.isfinite(shares).any() else math.nan
    steps = np.array([reader.timestamp_us(i) for i in range(reader.num_frames)], dtype=np.int64)
    exposure, late = max(
        (abs(reader.camera_timestamp_us(frame, camera) - reader.timestamp_us(frame)) * 1e-6, frame)
        for camera in cameras
        for frame in range(reader.num_frames)
    )
    findings = [
        *audit_axes(reader),
        *audit_boxes(reader),
        blank_images(reader),
        exchanged_images(reader),
        Finding(
            name="rotation_error",
            value=max(rotations),
            threshold=1e-4,
            wanted="at_most",
            where=f"camera {names[worst]}",
        ),
        Finding(
            name="principal_point_offset",
            value=max(off_centre),
            threshold=MAX_PRINCIPAL_POINT_OFFSET,
            wanted="at_most",
            where=f"camera {names[farthest]}",
        ),
        Finding(
            name="lidar_seen_by_cameras",
            value=seen,
            threshold=_wanted_share(reader),
            wanted="at_least",
            where=f"{len(shares)} frames",
            otherwise=_if_measured(seen),
        ),
        _blind_camera(reader, shares[:, :-1]),
        _smallest_sweep(reader),
        Finding(name="exposure_offset_s", value=exposure, threshold=0.25, wanted="at_most", where=f"frame {late}"),
        Finding(name="backward_time_steps", value=float((np.diff(steps) <= 0).sum()), threshold=0.0, wanted="at_most"),
        *audit_geometry(reader, fit),
    ]
    return [*findings, decided_evidence(findings, otherwise=_if_measured(seen))]


_EVIDENCE = (
    "ground_tilt_deg",
    "returns_gained_by_other_boxes",
    "gain_of_turning_rig_away",
    "sweeps_closer_by_poses",
)
"""Findings that compare two sensors, or one with itself; the others only look at tables."""


def decided_evidence(findings: Sequence[Finding], *, otherwise: Shortfall = "failed") -> Finding:
    """Return how many independent comparisons were decided; a scene that none could be made of has not passed.

    Args:
        findings: Those of the scene.
        otherwise: Outcome where there is none: "undecided" where there is no LiDAR to compare with, and nothing is
            known to be wrong.
    """
    undecided = [f.name for f in findings if f.name in _EVIDENCE and f.outcome == "undecided"]
    number = sum(f.name in _EVIDENCE for f in findings) - len(undecided)
    where = f"undecided: {', '.join(undecided)}" if undecided else ""
    return Finding(
        name="decided_evidence",
        value=float(number),
        threshold=1.0,
        wanted="at_least",
        where=where,
        otherwise=otherwise,
    )


def blank_images(reader: SceneReader) -> Finding:
    """Return the share of blank images of the camera that has the most: dead, covered, or a night that 8 bits lost."""
    frames = spread(reader.num_frames)
    shares = [
        sum(is_blank(reader.image_bytes(frame, camera)) for frame in frames) / len(frames)
        for camera in range(reader.num_cameras)
    ]
    worst = int(np.argmax(shares))
    where = f"camera {reader.camera_names[worst]}" if shares[worst] else ""
    return Finding(name="blank_images_share", value=shares[worst], threshold=0.5, wanted="at_most", where=where)


def audit_geometry(reader: SceneReader, fit: RigFit | None = None) -> list[Finding]:
    """Check cameras against LiDAR, sweeps against poses, and boxes against rectangles that the source ships.

    A check is undecided where the scene is too short, too empty or too slow for it. Rectangles are checked only where
    the source ships them.

    Args:
        reader: The scene.
        fit: How well cameras and LiDAR fit each other, if it is known; it takes most of the time.
    """
    fit = fit_rig(reader, calibration_frames(reader)) if fit is None else fit
    findings = [
        *_judge_fits("rig", {"": fit.rig}),
        *_judge_fits("one_camera", fit.cameras),
        *_judge_sweeps(align_sweeps(reader, spread(reader.num_frames))),
    ]
    iou = reader.attributes.get("projected_label_iou")
    if isinstance(iou, float):
        findings.append(Finding(name="projected_label_iou", value=iou, threshold=0.95, wanted="at_least"))
    return findings


def _judge_fits(subject: str, fits: Mapping[str, CalibrationFit]) -> list[Finding]:
    """Return the largest gains beyond chance, and the share of small errors that would be noticed."""
    best = {name: fit.best_change for name, fit in fits.items()}
    changed = {
        f"{name}: {change}" + (f", or {fits[name].as_if_late}" if fits[name].as_if_late else ""): gain.at_least
        for name, (change, gain) in best.items()
    }
    bends = {name: fit.best_bend for name, fit in fits.items()}
    bent = {f"{name}: {bend}": gain.at_least for name, (bend, gain) in bends.items()}
    away = {name: fit.away.at_least for name, fit in fits.items()}
    untold = {name: fit.untold for name, fit in fits.items()}
    told = {name: len(fit.gains) - len(untold[name]) for name, fit in fits.items()}
    number = sum(len(fit.gains) for fit in fits.values())
    if len(fits) == 1:
        (missed,) = untold.values()
        where = f"{len(missed)} of {number} not" if missed else ""
    else:
        where = f"of {number // len(fits)} each: " + ", ".join(f"{name} {count}" for name, count in told.items())
    return [
        _worst(f"gain_of_changing_{subject}", changed, next(iter(fits.values())).limit),
        _worst(f"gain_of_turning_{subject}_away", away, MAX_AWAY_GAIN),
        Finding(
            name=f"small_errors_of_{subject}_told",
            value=sum(told.values()) / number,
            threshold=1.0,
            wanted="at_least",
            where=where,
            otherwise="undecided",
        ),
        _worst(f"gain_of_bending_lens_of_{subject}", bent, next(iter(fits.values())).limit),
    ]


def _judge_sweeps(fit: SweepFit) -> list[Finding]:
    """Return how much farther apart sweeps are with other poses than with those stated, beyond chance."""
    where = f"{fit.other}, {fit.num_pairs} pairs of sweeps" if fit.num_pairs else "no travel, or nothing faces it"
    return [
        Finding(
            name="sweeps_closer_by_poses",
            value=fit.at_most if fit.is_wrong else fit.at_least,
            threshold=1.0,
            wanted="at_least",
            where=where,
            otherwise="failed" if fit.is_wrong else "undecided",
        )
    ]


def _worst(name: str, gains: Mapping[str, float], limit: float) -> Finding:
    where = max(gains, key=lambda name: gains[name])
    value = gains[where] if math.isfinite(gains[where]) else math.nan
    return Finding(
        name=name,
        value=value,
        threshold=limit,
        wanted="at_most",
        where=where.removeprefix(": "),
        otherwise=_if_measured(value),
    )


def _if_measured(value: float) -> Shortfall:
    """Return the outcome of a bad value: "undecided" if it could not be measured."""
    return "undecided" if math.isnan(value) else "failed"


def _principal_point_offset(reader: SceneReader, camera: int) -> float:
    height, width = reader.image_size(camera)
    return principal_point_offset(reader.intrinsics(camera), height=height, width=width)


def _shares_of_lidar_seen(reader: SceneReader, frame: int) -> list[float]:
    """Return the share of LiDAR returns that each camera sees, and the share that at least one sees; NaN without."""
    returns = reader.lidar_points(frame)
    if not len(returns):
        return [math.nan] * (reader.num_cameras + 1)
    seen = np.zeros((reader.num_cameras, len(returns)), dtype=bool)
    for camera in range(reader.num_cameras):
        seen[camera, returns_in_image(reader, frame, camera, returns).index] = True
    return [*seen.mean(axis=1).tolist(), float(seen.any(axis=0).mean())]


def _wanted_share(reader: SceneReader) -> float:
    """Return the share of a full turn of returns that the cameras should see between them.

    Six cameras that look around see half of the returns and more, one sees as much less as its field of view is
    narrower.
    """
    angles = [
        2.0 * math.atan(0.5 * reader.image_size(camera)[1] / float(reader.intrinsics(camera)[0, 0]))
        for camera in range(reader.num_cameras)
    ]
    return min(_MIN_SEEN, 0.25 * sum(angles) / (2.0 * math.pi))


def _blind_camera(reader: SceneReader, shares: Float[np.ndarray, "frames cameras"]) -> Finding:
    """Return the smallest share of returns that a camera sees over all frames looked at.

    One that looks level to where beams return, and sees none, is not where it is said to be; nothing else could judge
    it. One that looks up, down or where the LiDAR does not reach is undecided.
    """
    is_measured = np.isfinite(shares).all(axis=1)
    of_camera = shares[is_measured].mean(axis=0) if is_measured.any() else np.full(reader.num_cameras, math.nan)
    worst = int(np.argmin(of_camera))
    value = float(of_camera[worst])
    is_wrong = value < _MIN_SEEN_BY_ONE and _faces_returns(reader, worst)
    return Finding(
        name="lidar_seen_by_each_camera",
        value=value,
        threshold=_MIN_SEEN_BY_ONE,
        wanted="at_least",
        where=f"camera {reader.camera_names[worst]}",
        otherwise="failed" if is_wrong else "undecided",
    )


def _faces_returns(reader: SceneReader, camera: int) -> bool:
    """Return whether a camera looks level into directions from which beams return in the middle frame."""
    axis = reader.camera_to_ego(camera)[:3, 2]
    returns = reader.lidar_points(reader.num_frames // 2)[:, :3] - reader.lidar_to_ego[:3, 3]
    if not len(returns) or abs(math.degrees(math.asin(float(np.clip(axis[2], -1.0, 1.0))))) > _LEVEL_DEG:
        return False
    aside = np.arctan2(returns[:, 1], returns[:, 0]) - math.atan2(axis[1], axis[0])
    return bool((np.cos(aside) > math.cos(math.radians(_SECTOR_DEG))).mean() > _MIN_SEEN_BY_ONE)


def _smallest_sweep(reader: SceneReader) -> Finding:
    """Return the least that a sweep has of the returns of the sweeps around it; frames without one are left out."""
    counts = np.array([reader.num_lidar_points(frame) for frame in range(reader.num_frames)])
    swept, value, where = np.flatnonzero(counts), math.nan, ""
    if len(swept) > 1:
        around = [np.setdiff1d(swept[max(0, i - 2) : i + 3], frame) for i, frame in enumerate(swept)]
        shares = [counts[frame] / np.median(counts[others]) for frame, others in zip(swept, around, strict=True)]
        worst = swept[int(np.argmin(shares))]
        value, where = float(min(shares)), f"frame {worst}: {counts[worst]} returns"
    return Finding(
        name="returns_of_smallest_sweep_share",
        value=value,
        threshold=_MIN_SWEEP_SHARE,
        wanted="at_least",
        where=where,
        otherwise=_if_measured(value),
    )
