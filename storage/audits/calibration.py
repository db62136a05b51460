"""Check a scene's calibration against what its sensors saw: LiDAR range jumps against image edges.

An image mostly has an edge where the LiDAR's range jumps. The score of a calibration is how well jumps fall onto edges;
it needs no annotation. A calibration is compared with others, turned and moved by known amounts: if the score rises
when the camera is moved by 0.15 m, it is nearer there than here, so it is off by more than half of that.

A rise is trusted as far as the evidence of the very scene allows: beyond what chance gives to the best of all changes,
over places in the world, places around the vehicle, pairs of beams, and instants. There is no limit that was tuned on
other rigs. The evidence cannot judge a change that is neither better nor clearly worse: an error of that size would go
unnoticed.

A camera whose clock is late looks like one that is moved along the drive. Whether the clock explains a rise as well is
asked too, and said. Distortion that was given for rectified images, or left out, bends an image more towards its
corners than any motion can; lenses that bend more or less are tried as well.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation

from storage.audits.calibration_evidence import Evidence, JumpView
from storage.audits.sampling import spread
from storage.audits.simultaneous_means import simultaneous_means
from storage.scenes.store import SceneReader

ERROR_DEG, ERROR_M = 0.5, 0.1
"""Errors of calibration that are to be found."""

_PROBES = ((0.75, 0.15), (1.5, 0.3), (3.0, 0.6))
"""Turns (degrees) and moves (metres) that are tried; the first is half as much again as an error to be found, so that
real rigs, which sit a few centimetres or tenths of a degree off, are not called wrong."""

_AWAY_RAD = np.deg2rad([-9.0, -7.0, -5.0, 5.0, 7.0, 9.0])
MAX_AWAY_GAIN = 0.7
"""Score far away beyond chance, as a share of the score as stated: at most 0.66 where a calibration was right, 0.72 and
more where it was wrong by ten degrees."""

MAX_CAMERA_GAIN = 1.02  # what all frames of a scene show of one camera may be one side of a street, judged alike

_BENDS = (0.04, 0.08, 0.16)
"""Lenses that are tried: how much farther out or in they draw the corners, as a share of half a diagonal. Distortion of
a usual camera, applied once too often, is a tenth and more; residues of a good calibration are below a hundredth."""

_MAX_FRAMES = 12
_RISK = 0.0025  # that some change is taken for better by a rig, or a camera, that saw nothing to tell by
_MAX_LATE_S = 0.1

Change = Float[np.ndarray, "4 4"]
"""A rigid motion of the LiDAR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Effect of a change of the calibration on the score.

    Attributes:
        ratio: Score after the change, divided by the score as calibrated.
        uncertainty: Part of the ratio that may be chance, at the accepted risk; infinite where too little was seen.
    """

    ratio: float
    uncertainty: float

    @property
    def at_least(self) -> float:
        """Return the ratio less its uncertainty: the gain that is beyond chance."""
        return self.ratio - self.uncertainty

    @property
    def is_told(self) -> bool:
        """Return whether the audit would notice a calibration error of this size.

        If the calibration were wrong by this change, the two scores would be exchanged: a change that is clearly worse
        now would be clearly better then.
        """
        return self.at_least > 1.0 or 1.0 - self.uncertainty > self.ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFit:
    """How well LiDAR and images fit each other, over a rig or in one camera.

    Attributes:
        limit: Largest gain beyond chance with which the calibration still counts as right.
        num_jumps: Range jumps that fell into images.
        score: Mean nearness of jumps to edges, [0, 1]; NaN without any.
        gains: Gain of each of the smallest changes, by its name.
        larger: Gain of each change of two and four times that size, which finds errors that a small change does not
            mend.
        away: Mean gain of turns about the upright axis that are far too large: the score by chance.
        bent: Gain of lenses that bend more or less, all cameras alike, by name.
        late: Gain of exposures later or earlier than stated, by name; empty for a rig, and at rest.
    """

    limit: float
    num_jumps: int
    score: float
    gains: dict[str, Gain]
    larger: dict[str, Gain]
    away: Gain
    bent: dict[str, Gain]
    late: dict[str, Gain] = field(default_factory=dict)

    @property
    def best_change(self) -> tuple[str, Gain]:
        """Return the change whose gain is the most beyond chance."""
        return max((self.gains | self.larger).items(), key=lambda change: change[1].at_least)

    @property
    def best_bend(self) -> tuple[str, Gain]:
        """Return the change of the lenses whose gain is the most beyond chance."""
        return max(self.bent.items(), key=lambda bend: bend[1].at_least)

    @property
    def as_if_late(self) -> str:
        """Return the delay that explains the images as well as the best change does; empty if none does."""
        if not self.late:
            return ""
        name, gain = max(self.late.items(), key=lambda change: change[1].ratio)
        return name if gain.ratio > 1.0 and gain.ratio >= 1.0 + 0.8 * (self.best_change[1].ratio - 1.0) else ""

    @property
    def is_wrong(self) -> bool:
        """Return whether a change is better beyond chance, or turning far away hardly lowers the score."""
        changes = (self.best_change[1], self.best_bend[1])
        return any(gain.at_least > self.limit for gain in changes) or self.away.at_least > MAX_AWAY_GAIN

    @property
    def untold(self) -> list[str]:
        """Return the names of the small changes that the evidence cannot judge."""
        return [name for name, gain in self.gains.items() if not gain.is_told]


@dataclass(frozen=True, slots=True, kw_only=True)
class RigFit:
    """How well the images of a rig fit its LiDAR.

    Attributes:
        rig: Fit of all cameras together; the LiDAR's pose is changed in the ego frame.
        cameras: Fit of each camera, by name; its pose is changed in its own axes: x right, y down, z forward.
    """

    rig: CalibrationFit
    cameras: Mapping[str, CalibrationFit]


def fit_rig(reader: SceneReader, frames: Sequence[int], evidence: Evidence | None = None) -> RigFit:
    """Return how well cameras and LiDAR fit each other.

    Args:
        reader: The scene.
        frames: Frames to look at.
        evidence: Cache of what the sensors saw; frames that it lacks are added.
    """
    views = look_at(reader, frames, evidence or Evidence())
    cameras = {
        name: fit_alone([view for view in views if view.camera == camera])
        for camera, name in enumerate(reader.camera_names)
    }
    return RigFit(rig=fit_together(views), cameras=cameras)


def look_at(
    reader: SceneReader, frames: Sequence[int], evidence: Evidence, cameras: Sequence[int] | None = None
) -> list[JumpView]:
    """Return the range jumps of some frames in some cameras; all cameras by default."""
    views = []
    for frame in frames:
        evidence.look_at(reader, frame)
        for camera in range(reader.num_cameras) if cameras is None else cameras:
            views.append(JumpView(reader, frame, camera, evidence))
    return views


def fit_together(views: Sequence[JumpView]) -> CalibrationFit:
    """Return the fit over all cameras, changing the LiDAR's pose in the ego frame."""
    return _fit(views, lambda view, change: view.nearness(in_ego=change), upright="z", limit=1.0)


def fit_alone(views: Sequence[JumpView]) -> CalibrationFit:
    """Return the fit of the one camera of these views, changing its pose in its own axes, and its clock."""
    return _fit(
        views,
        lambda view, change: view.nearness(in_camera=change),
        upright="y",
        limit=MAX_CAMERA_GAIN,
        late_s=_delays(views),
    )


def change_of(name: str) -> tuple[Change, float]:
    """Return the motion and the bend of the lens that a fit calls by a name, such as "move x +0.15 m".

    Raises:
        ValueError: If no fit tries it.
    """
    motions = {name: change for probe in _PROBES for name, change in _changes(*probe).items()}
    bends = _bends()
    if name not in motions and name not in bends:
        raise ValueError(f"no change is called {name!r}, want one of {', '.join((*motions, *bends))}")
    return motions.get(name, np.eye(4)), bends.get(name, 0.0)


def calibration_frames(reader: SceneReader) -> list[int]:
    """Return the frames that an audit looks at: a few, evenly spaced, as each one costs time."""
    return spread(reader.num_frames, _MAX_FRAMES)


def small_changes(scale: float = 1.0) -> dict[str, Change]:
    """Return a turn about each axis and a move along it, in both directions, by name: errors that are to be found.

    Args:
        scale: Size of the changes, in units of ``ERROR_DEG`` and ``ERROR_M``.
    """
    return _changes(scale * ERROR_DEG, scale * ERROR_M)


def _changes(turn_deg: float, move_m: float) -> dict[str, Change]:
    changes = {}
    for sign, mark in ((1, "+"), (-1, "-")):
        for axis in "xyz":
            move = np.eye(4)
            move["xyz".index(axis), 3] = sign * move_m
            changes[f"turn {axis} {mark}{turn_deg:g} degree"] = _turn(axis, sign * float(np.deg2rad(turn_deg)))
            changes[f"move {axis} {mark}{move_m:g} m"] = move
    return changes


def _bends() -> dict[str, float]:
    signed = [sign * bend for bend in _BENDS for sign in (1, -1)]
    return {f"corners {100 * abs(bend):g} % farther {'out' if bend > 0 else 'in'}": bend for bend in signed}


def _turn(axis: str, angle: float) -> Change:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler(axis, angle).as_matrix()
    return turn


def _delays(views: Sequence[JumpView]) -> tuple[float, ...]:
    """Return the delays to try, seconds: those in which the camera goes as far as the moves; none at rest."""
    speeds = [view.speed_mps for view in views if view.num_jumps]
    speed = float(np.median(speeds)) if speeds else 0.0
    steps = [move / speed for _, move in _PROBES[:2]] if speed > 0.0 else []
    return tuple(sign * step for step in steps if step <= _MAX_LATE_S for sign in (1, -1))


def _fit(
    views: Sequence[JumpView],
    nearness: Callable[[JumpView, Change], Float32[np.ndarray, " _"]],
    *,
    upright: str,
    limit: float,
    late_s: Sequence[float] = (),
) -> CalibrationFit:
    """Compare the scores after changes with the score before.

    Args:
        views: Range jumps of each frame and camera.
        nearness: Nearness of a view's jumps to edges after a change.
        upright: Axis about which turning moves upright things across an image.
        limit: See ``CalibrationFit``.
        late_s: Delays of the exposures to try, seconds.
    """
    by_size = [_changes(*probe) for probe in _PROBES]
    weight = np.concatenate([view.weight for view in views])

    def seen(after: Callable[[JumpView], Float32[np.ndarray, " _"]]) -> Float32[np.ndarray, " jumps"]:
        return np.concatenate([after(view) for view in views])

    def seen_after(change: Change) -> Float32[np.ndarray, " jumps"]:
        return seen(lambda view: nearness(view, change))

    before = seen_after(np.eye(4))
    after = {name: seen_after(change) for changes in by_size for name, change in changes.items()}
    after["away"] = np.mean([seen_after(_turn(upright, angle)) for angle in _AWAY_RAD], axis=0)
    for delay in late_s:
        name = f"exposed {abs(delay) * 1e3:.0f} ms {'later' if delay > 0 else 'earlier'} than stated"
        after[name] = seen(lambda view, delay=delay: view.nearness(in_camera=view.after(delay)))
    places = [
        np.concatenate([view.world_place for view in views]),
        np.concatenate([view.ego_place for view in views]),
        np.concatenate([view.beam_place for view in views]),
        np.concatenate([np.full((view.num_jumps, 1), view.frame) for view in views]),
    ]
    score = float((weight * before).sum() / weight.sum()) if weight.sum() > 0 else math.nan

    def judged(after: Mapping[str, Float32[np.ndarray, " jumps"]]) -> dict[str, Gain]:
        if not after or not score > 0.0:
            return {name: Gain(ratio=1.0, uncertainty=math.inf) for name in after}
        differences = np.stack([row - before for row in after.values()]).astype(np.float64)
        means, errors = simultaneous_means(differences, weight, places, risk=_RISK)
        ratios, uncertainties = (1.0 + means / score).tolist(), (errors / score).tolist()
        return {n: Gain(ratio=r, uncertainty=u) for n, r, u in zip(after, ratios, uncertainties, strict=True)}

    found = judged(after)
    # Lenses are judged by themselves: beside them, motions would have to exceed the chances of more changes.
    bent = judged({n: seen(lambda view, bend=bend: view.nearness(outwards=bend)) for n, bend in _bends().items()})
    return CalibrationFit(
        limit=limit,
        num_jumps=len(before),
        score=score,
        gains={name: found[name] for name in by_size[0]},
        larger={name: found[name] for changes in by_size[1:] for name in changes},
        away=found["away"],
        late={name: gain for name, gain in found.items() if name.startswith("exposed")},
        bent=bent,
    )
