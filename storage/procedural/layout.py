"""What a theme's builder hands over: static surroundings, actors, and where the ego drives."""

from dataclasses import dataclass, field

import numpy as np

from storage.procedural.mesh import Mesh, Real, transformed
from storage.procedural.traffic import Actor, AlongRoad, Motion, Road, Still, make_actor


@dataclass(slots=True, kw_only=True)
class Layout:
    """A scene under construction.

    Attributes:
        road: The road whose path the ego follows.
        rng: Source of all random choices.
        duration_s: Time span that motions must cover.
        stuff: Meshes without identity, world frame.
        actors: Objects with a box, still or moving.
        ego: Motion of the ego vehicle.
    """

    road: Road
    rng: np.random.Generator
    duration_s: Real
    stuff: list[Mesh] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    ego: AlongRoad

    def put(self, mesh: Mesh, s: Real, d: Real, z: Real = 0.0, yaw: Real = 0.0) -> None:
        """Add surroundings at road coordinates."""
        self.stuff.append(transformed(mesh, self.road.place(s, d, z, yaw)))

    def park(self, class_name: str, mesh: Mesh, s: Real, d: Real, z: Real = 0.0, yaw: Real = 0.0) -> None:
        """Add a still object with an identity at road coordinates."""
        self.drive(class_name, (mesh,), Still(pose=self.road.place(s, d, z, yaw)))

    def drive(self, class_name: str, meshes: tuple[Mesh, ...], motion: Motion, *, cycle: Real = 1.0) -> None:
        """Add an object with an identity and a motion."""
        self.actors.append(make_actor(len(self.actors) + 1, class_name, meshes, motion, cycle=cycle))
