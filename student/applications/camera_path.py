"""Paths of cameras through a recorded scene: what was recorded, beside it, between its frames, around a point.

Every view keeps the lens of a recorded camera, and is given by where it stands in that camera's own axes. So it means
the same to a student, which lives in the ego frame, and to a scene's field, which may have corrected the poses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from storage.geometry.trajectory import Trajectory
from storage.geometry.transforms import from_rotation_translation, invert_se3
from storage.scenes.store import SceneReader

PathKind = Literal["recorded", "orbit"]

_AS_GOOD_AS_STILL_M = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PathConfig:
    """A path of the rig, or of one camera around a point.

    Attributes:
        kind: ``recorded`` follows the vehicle; ``orbit`` circles around a point at one instant.
        first: First frame of a recorded path, and the frame of an orbit.
        last: Last frame of a recorded path.
        steps_per_frame: Views from one recorded instant to the next; those between two are interpolated.
        offset_m: Where the rig stands beside the recorded one, ego axes (forward, left, up), metres.
        turn_deg: Turn of the rig to the left about the vehicle's vertical axis, degrees.
        orbit_views: Views of an orbit.
        orbit_radius_m: Its radius, metres.
        orbit_height_m: Height of the camera above the point that it circles, metres.
        orbit_centre_m: That point in the frame's ego axes, metres.
    """

    kind: PathKind
    first: int
    last: int
    steps_per_frame: int = 1
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn_deg: float = 0.0
    orbit_views: int = 48
    orbit_radius_m: float = 10.0
    orbit_height_m: float = 5.0
    orbit_centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"frames {self.first} to {self.last}: want 0 or more, and the last not before the first")
        if self.steps_per_frame < 1 or self.orbit_views < 1:
            raise ValueError(
                f"steps per frame {self.steps_per_frame}, views of an orbit {self.orbit_views}: want 1 or more"
            )
        if not (self.orbit_radius_m > 0 and np.isfinite((*self.offset_m, *self.orbit_centre_m)).all()):
            raise ValueError(f"orbit radius {self.orbit_radius_m} m: want more than 0, and distances that are finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathView:
    """One view of a path.

    Attributes:
        frame: Frame whose instant it shows.
        camera: Camera whose lens it has.
        virtual_to_camera: Its pose in that camera's axes at the frame.
        is_recorded: Whether it stands where the camera stood, so that the camera's image shows the same.
    """

    frame: int
    camera: int
    virtual_to_camera: Float[np.ndarray, "4 4"]
    is_recorded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep:
    """Views of one instant.

    Attributes:
        time_s: Time since the path began, in the recording's own time; an orbit has all of its steps at one instant.
        frame: Recorded frame that stands for the instant.
        views: One for each camera.
    """

    time_s: float
    frame: int
    views: tuple[PathView, ...]


def camera_path(scene: SceneReader, config: PathConfig, cameras: Sequence[int]) -> list[PathStep]:
    """Return the steps of a path.

    An instant between two frames shows the nearer of them, the earlier one at half way: neither a student nor a field
    knows where what moves was in between.

    Args:
        scene: The scene.
        config: The path.
        cameras: Cameras of the rig that go along; an orbit takes the lens of the first.

    Raises:
        ValueError: If the scene lacks a frame or a camera, or an orbit is asked of a path that moves otherwise.
    """
    if config.last >= scene.num_frames:
        raise ValueError(f"frame {config.last}: the scene has frames 0 to {scene.num_frames - 1}")
    if not cameras or not set(cameras) <= set(range(scene.num_cameras)):
        raise ValueError(f"cameras {list(cameras)}: want some of 0 to {scene.num_cameras - 1}")
    return _orbit(scene, config, cameras[0]) if config.kind == "orbit" else _along(scene, config, cameras)


def forward_camera(scene: SceneReader) -> int:
    """Return the camera that looks ahead the most."""
    return int(np.argmax([scene.camera_to_ego(camera)[0, 2] for camera in range(scene.num_cameras)]))


def _along(scene: SceneReader, config: PathConfig, cameras: Sequence[int]) -> list[PathStep]:
    frames = range(config.first, config.last + 1)
    positions = frames[0] + np.arange(config.steps_per_frame * (len(frames) - 1) + 1) / config.steps_per_frame
    nearest = np.ceil(positions - 0.5).astype(int)
    times = np.array([scene.timestamp_us(frame) for frame in frames])
    moved = from_rotation_translation(_turn(config.turn_deg), np.array(config.offset_m))
    poses = {camera: _poses_at(scene, camera, frames, positions) for camera in cameras}
    is_moved = not np.allclose(moved, np.eye(4), atol=_AS_GOOD_AS_STILL_M)
    steps = []
    for index, (position, frame) in enumerate(zip(positions, nearest.tolist(), strict=True)):
        world_to_ego = invert_se3(scene.ego_to_world(frame))
        views = []
        for camera in cameras:
            recorded = scene.camera_to_world(frame, camera)
            beside = scene.ego_to_world(frame) @ moved @ world_to_ego @ poses[camera][index]
            is_recorded = position == frame and not is_moved
            virtual_to_camera = np.eye(4) if is_recorded else invert_se3(recorded) @ beside
            view = PathView(
                frame=frame, camera=camera, virtual_to_camera=virtual_to_camera, is_recorded=bool(is_recorded)
            )
            views.append(view)
        time_s = float(np.interp(position, list(frames), times - times[0])) * 1e-6
        steps.append(PathStep(time_s=time_s, frame=frame, views=tuple(views)))
    return steps


def _poses_at(
    scene: SceneReader, camera: int, frames: range, positions: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, "steps 4 4"]:
    """Return where a camera is at some positions between frames, in the world; exposures are interpolated likewise."""
    instants = np.array([scene.camera_timestamp_us(frame, camera) for frame in frames])
    recorded = np.stack([scene.camera_to_world(frame, camera) for frame in frames])
    trajectory = Trajectory(instants, recorded, max_gap_s=np.inf)
    # As floats, microseconds since 1970 lose digits: only what passed since the first exposure is interpolated.
    passed = np.interp(positions, list(frames), instants - instants[0]).round().astype(np.int64)
    return trajectory.at(instants[0] + passed)


def _orbit(scene: SceneReader, config: PathConfig, camera: int) -> list[PathStep]:
    frame, centre = config.first, np.array(config.orbit_centre_m)
    world_to_camera = invert_se3(scene.camera_to_world(frame, camera))
    steps = []
    for angle in np.linspace(np.pi, 3 * np.pi, config.orbit_views, endpoint=False):  # it begins behind the vehicle
        arm = config.orbit_radius_m * np.array([np.cos(angle), np.sin(angle), 0.0])
        stand = centre + arm + [0.0, 0.0, config.orbit_height_m]
        pose = scene.ego_to_world(frame) @ _looking(stand, centre)
        view = PathView(frame=frame, camera=camera, virtual_to_camera=world_to_camera @ pose, is_recorded=False)
        steps.append(PathStep(time_s=0.0, frame=frame, views=(view,)))
    return steps


def _looking(stand: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """Return the pose of an upright camera that looks from one point at another, in the frame of both."""
    forward = (target - stand) / np.linalg.norm(target - stand)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return from_rotation_translation(np.stack([right, np.cross(forward, right), forward], axis=1), stand)


def _turn(degrees: float) -> Float[np.ndarray, "3 3"]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
