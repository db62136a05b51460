"""The result of a theme's builder: static surroundings, actors, and the ego's motion."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from storage.procedural.world.mesh import Mesh, Real, transformed
from storage.procedural.world.traffic import Actor, AlongRoad, Motion, Road, Still, make_actor

_EGO_SIZE = (4.8, 1.9, 1.7)
_TRACK_STEP_S = 0.2


@dataclass(slots=True, kw_only=True)
class Layout:
    """A scene under construction.

    Attributes:
        road: The road whose path the ego follows.
        rng: Source of all random choices.
        duration_s: Time span that motions must cover, seconds.
        stuff: Meshes of surroundings, world frame.
        actors: Objects with an identity and a box, still or moving.
        ego: Motion of the ego vehicle.
    """

    road: Road
    rng: np.random.Generator
    duration_s: Real
    stuff: list[Mesh] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    ego: AlongRoad
    _tracks: list[Float[np.ndarray, "times 6"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tracks.append(self._track(self.ego, _EGO_SIZE))

    def put(self, mesh: Mesh, s: Real, d: Real, z: Real = 0.0, yaw: Real = 0.0) -> None:
        """Add surroundings at road coordinates."""
        self.stuff.append(transformed(mesh, self.road.place(s, d, z, yaw)))

    def park(self, class_name: str, mesh: Mesh, s: Real, d: Real, z: Real = 0.0, yaw: Real = 0.0) -> None:
        """Add a still object with an identity at road coordinates."""
        self.drive(class_name, (mesh,), Still(pose=self.road.place(s, d, z, yaw)))

    def drive(self, class_name: str, meshes: tuple[Mesh, ...], motion: Motion, *, cycle: Real = 1.0) -> None:
        """Add an object with an identity and a motion."""
        actor = make_actor(len(self.actors) + 1, class_name, meshes, motion, cycle=cycle)
        self.actors.append(actor)
        self._tracks.append(self._track(motion, actor.size))

    def is_clear(self, motion: Motion, radius: Real) -> bool:
        """Return whether the ego and all actors always stay farther than ``radius`` metres from ``motion``."""
        own = self._track(motion, (0.0, 0.0, 0.0))
        others = np.stack(np.broadcast_arrays(*self._tracks, own)[:-1])
        away = own[:, :2] - others[..., :2]
        cos, sin = others[..., 2], others[..., 3]
        along = np.abs(cos * away[..., 0] + sin * away[..., 1])
        across = np.abs(cos * away[..., 1] - sin * away[..., 0])
        return not ((along < others[..., 4] + radius) & (across < others[..., 5] + radius)).any()

    def is_place_clear(self, s: Real, d: Real, radius: Real) -> bool:
        """Return whether the ego and all actors always stay farther than ``radius`` metres from a place."""
        return self.is_clear(Still(pose=self.road.place(s, d)), radius)

    def _track(self, motion: Motion, size: tuple[Real, Real, Real]) -> Float[np.ndarray, "times 6"]:
        """Return x, y, cosine and sine of the heading, half length and half width over time; one row if still."""
        times = np.arange(0.0, self.duration_s + _TRACK_STEP_S, _TRACK_STEP_S)
        times_us = [0] if isinstance(motion, Still) else [int(t * 1e6) for t in times]
        poses = np.stack([motion.local_to_world(t) for t in times_us])
        half = np.broadcast_to(np.array(size[:2]) / 2, (len(poses), 2))
        return np.concatenate([poses[:, :2, 3], poses[:, :2, 0], half], axis=1)
