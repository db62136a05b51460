"""Check a scene's calibration against what its sensors saw: LiDAR range jumps against image edges.

An image mostly has an edge where the LiDAR's range jumps. The score of a calibration is how well jumps fall onto edges;
it needs no annotation. A calibration is compared with its own neighbours: if the score rises when the camera is turned
by a degree or moved by a decimetre, the calibration is wrong by about that much.

A rise is trusted as far as the evidence allows. Jumps are not independent: one lorry gives hundreds, all misjudged
together. So the uncertainty of a gain is that of a mean over *places*, squares of two metres in the world and around
the vehicle. A change is better only if its gain exceeds its uncertainty. The evidence cannot judge a change that is
neither better nor clearly worse: an error of that size would go unnoticed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation

from storage.audits.calibration_evidence import Evidence, JumpView
from storage.audits.clustered_mean import ClusteredMean
from storage.scenes.store import SceneReader

TURN_RAD = np.deg2rad(1.0)
MOVE_M = 0.1
MAX_GAIN = 1.0
MAX_CAMERA_GAIN = 1.02  # real cameras sit a few centimetres or tenths of a degree off, and enough frames prove it
MAX_AWAY_GAIN = 0.78  # where a calibration fits, the score far away is 0.4 to 0.75 of its own
_AWAY_RAD = np.deg2rad([-9.0, -7.0, -5.0, 5.0, 7.0, 9.0])
_MAX_FRAMES = 12
_RISK = 0.05  # that some change is taken for better by a rig, or a camera, that saw nothing to tell by

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

    def is_told(self, limit: float) -> bool:
        """Return whether the audit would notice a calibration error of this size.

        If the calibration were wrong by this change, the two scores would be exchanged: a change that is clearly worse
        now would be clearly better then.
        """
        return self.at_least > limit or 1.0 - self.uncertainty > limit * self.ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFit:
    """How well LiDAR and images fit each other, over a rig or in one camera.

    Attributes:
        limit: Largest gain of a small change with which the calibration still counts as right.
        num_jumps: Range jumps that fell into images.
        score: Mean nearness of jumps to edges, [0, 1]; NaN without any.
        gains: Gain of each small change, by its name.
        larger: Gain of each change of two and four times that size, which finds errors that a small change does not
            mend.
        away: Mean gain of turns about the upright axis that are far too large: the score by chance.
    """

    limit: float
    num_jumps: int
    score: float
    gains: dict[str, Gain]
    larger: dict[str, Gain]
    away: Gain

    @property
    def best_change(self) -> tuple[str, Gain]:
        """Return the change whose gain is the most beyond chance."""
        return max((self.gains | self.larger).items(), key=lambda change: change[1].at_least)

    @property
    def is_wrong(self) -> bool:
        """Return whether a change is better beyond chance, or turning far away hardly lowers the score."""
        return self.best_change[1].at_least > self.limit or self.away.at_least > MAX_AWAY_GAIN

    @property
    def untold(self) -> list[str]:
        """Return the names of the small changes that the evidence cannot judge."""
        return [name for name, gain in self.gains.items() if not gain.is_told(self.limit)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RigFit:
    """How well the images of a rig fit its LiDAR.

    Attributes:
        rig: Fit of all cameras together; the LiDAR's pose is changed in the ego frame.
        cameras: Fit of each camera, by name; its pose is changed in its own axes: x right, y down, z forward.
        offset_px: Image shift of the turn that fits the rig best, the largest over the axes that the evidence can
            judge, pixels of the stored images; NaN where it can judge none.
    """

    rig: CalibrationFit
    cameras: Mapping[str, CalibrationFit]
    offset_px: float


def fit_rig(reader: SceneReader, frames: Sequence[int], evidence: Evidence | None = None) -> RigFit:
    """Return how well cameras and LiDAR fit each other.

    Args:
        reader: The scene.
        frames: Frames to look at.
        evidence: Cache of what the sensors saw; frames that it lacks are added.
    """
    views = look_at(reader, frames, evidence or Evidence())
    rig = fit_together(views)
    cameras = {
        name: fit_alone([view for view in views if view.camera == camera])
        for camera, name in enumerate(reader.camera_names)
    }
    focal = float(np.median([reader.intrinsics(camera)[0, 0] for camera in range(reader.num_cameras)]))
    told = [axis for axis in "xyz" if not {f"turn {axis} {mark}1 degree" for mark in "+-"} & set(rig.untold)]
    turns = [abs(_vertex(rig.gains, axis)) for axis in told]
    return RigFit(rig=rig, cameras=cameras, offset_px=focal * max(turns) if turns else math.nan)


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
    return _fit(views, lambda view, change: view.nearness(in_ego=change), upright="z", limit=MAX_GAIN)


def fit_alone(views: Sequence[JumpView]) -> CalibrationFit:
    """Return the fit of the one camera of these views, changing its pose in its own axes."""
    return _fit(
        views,
        lambda view, change: view.nearness(in_camera=change),
        upright="y",
        limit=MAX_CAMERA_GAIN,
    )


def calibration_frames(reader: SceneReader) -> list[int]:
    """Return the frames that an audit looks at: a few, evenly spaced, as each one costs time."""
    return sorted({int(i) for i in np.linspace(0, reader.num_frames - 1, min(reader.num_frames, _MAX_FRAMES))})


def small_changes(scale: float = 1.0) -> dict[str, Change]:
    """Return a turn about each axis and a move along it, in both directions, by name.

    Args:
        scale: Size of the changes, in degrees and decimetres.
    """
    changes = {}
    for sign, mark in ((1, "+"), (-1, "-")):
        for axis in "xyz":
            move = np.eye(4)
            move["xyz".index(axis), 3] = sign * scale * MOVE_M
            changes[f"turn {axis} {mark}{scale:g} degree"] = _turn(axis, sign * scale * TURN_RAD)
            changes[f"move {axis} {mark}{scale * MOVE_M:g} m"] = move
    return changes


def _turn(axis: str, angle: float) -> Change:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler(axis, angle).as_matrix()
    return turn


def _fit(
    views: Sequence[JumpView],
    nearness: Callable[[JumpView, Change], Float32[np.ndarray, " _"]],
    *,
    upright: str,
    limit: float,
) -> CalibrationFit:
    """Compare the scores after changes with the score before.

    Args:
        views: Range jumps of each frame and camera.
        nearness: Nearness of a view's jumps to edges after a change.
        upright: Axis about which turning moves upright things across an image.
        limit: See ``CalibrationFit``.
    """
    changes = small_changes()
    weight = np.concatenate([view.weight for view in views])
    places = [np.concatenate([view.world_place for view in views]), np.concatenate([view.ego_place for view in views])]
    mean = ClusteredMean(weight, places, risk=_RISK / len(changes))

    def seen_after(change: Change) -> Float32[np.ndarray, " jumps"]:
        return np.concatenate([nearness(view, change) for view in views])

    before = seen_after(np.eye(4))
    score = mean.of(before)

    def gain(after: Float32[np.ndarray, " jumps"]) -> Gain:
        error = mean.error(after - before)
        if not (score > 0.0 and math.isfinite(error)):
            return Gain(ratio=1.0, uncertainty=math.inf)
        return Gain(ratio=mean.of(after) / score, uncertainty=error / score)

    return CalibrationFit(
        limit=limit,
        num_jumps=len(before),
        score=score,
        gains={name: gain(seen_after(change)) for name, change in changes.items()},
        larger={
            name: gain(seen_after(change)) for scale in (2.0, 4.0) for name, change in small_changes(scale).items()
        },
        away=gain(np.mean([seen_after(_turn(upright, angle)) for angle in _AWAY_RAD], axis=0)),
    )


def _vertex(gains: Mapping[str, Gain], axis: str) -> float:
    """Return the turn about an axis at which a parabola through three scores is highest, radians; at most two steps."""
    above, below = (gains[f"turn {axis} {mark}1 degree"].ratio for mark in "+-")
    curvature = above - 2.0 + below
    if curvature >= 0:  # no peak between them: it lies beyond the better side
        return float(np.sign(above - below) * 2.0 * TURN_RAD)
    return float(np.clip(0.5 * (below - above) / curvature, -2.0, 2.0) * TURN_RAD)
