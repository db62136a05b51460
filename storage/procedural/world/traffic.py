"""Roads of constant curvature, speed profiles from car following, and the actors that move on them.

Speeds come from the intelligent driver model, integrated at 20 Hz and interpolated by cubic Hermite splines. Positions
are smooth in continuous time, so every camera and LiDAR can ask for the world at its own exposure.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from storage.procedural.world.mesh import Mesh, Real, placement, transformed, with_instance

_STEP_S = 0.05
LEAD_IN_S = 2.0
_KERB_STRIDE_M = 0.4
_HALT_M = 1.0  # over which someone who has crossed comes to rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """A path of constant curvature through the world origin, heading along x there.

    A point has road coordinates (s, d): arc length along the path and distance to its left.

    Attributes:
        curvature: Curvature per metre, positive to the left; 0 for a straight road.
    """

    curvature: Real

    def to_world(
        self, s: Float[np.ndarray, " *points"], d: Float[np.ndarray, " *points"]
    ) -> tuple[Float[np.ndarray, " *points"], Float[np.ndarray, " *points"]]:
        """Return world x and y of road coordinates."""
        if self.curvature == 0.0:
            return np.array(s), np.array(d)
        angle = self.curvature * s
        radius = 1.0 / self.curvature - d
        return np.asarray(radius * np.sin(angle)), np.asarray(1.0 / self.curvature - radius * np.cos(angle))

    def point(self, s: Real, d: Real) -> tuple[float, float]:
        """Return world x and y of one point."""
        x, y = self.to_world(np.array(float(s)), np.array(float(d)))
        return float(x), float(y)

    def place(self, s: Real, d: Real, z: Real = 0.0, yaw: Real = 0.0) -> np.ndarray:
        """Return ``local_to_world`` of an object at (s, d), turned by ``yaw`` from the road."""
        x, y = self.point(s, d)
        return placement(x, y, z, self.curvature * s + yaw)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedProfile:
    """Travelled distance over time, on a uniform grid that starts ``LEAD_IN_S`` before time 0.

    Attributes:
        distance: Travelled distance, metres, 0 at time 0.
        speed: Speed, metres per second.
    """

    distance: Float[np.ndarray, " steps"]
    speed: Float[np.ndarray, " steps"]

    def at(self, time_us: int) -> tuple[Real, Real]:
        """Return distance and speed at a time; raise ValueError outside the simulated span."""
        position = (time_us * 1e-6 + LEAD_IN_S) / _STEP_S
        index = int(np.floor(position))
        if not 0 <= index < len(self.distance) - 1:
            last = (len(self.distance) - 1) * _STEP_S - LEAD_IN_S
            raise ValueError(
                f"time {time_us * 1e-6:.3f} s is outside the world's span [{-LEAD_IN_S:.1f}, {last:.1f}) s"
            )
        f = position - index
        p0, p1 = self.distance[index], self.distance[index + 1]
        m0, m1 = self.speed[index] * _STEP_S, self.speed[index + 1] * _STEP_S
        value = (
            (2 * f**3 - 3 * f**2 + 1) * p0 + (f**3 - 2 * f**2 + f) * m0
            + (-2 * f**3 + 3 * f**2) * p1 + (f**3 - f**2) * m1
        )  # fmt: skip
        slope = (
            (6 * f**2 - 6 * f) * p0 + (3 * f**2 - 4 * f + 1) * m0
            + (6 * f - 6 * f**2) * p1 + (3 * f**2 - 2 * f) * m1
        ) / _STEP_S  # fmt: skip
        return float(value), float(slope)


def num_steps(duration_s: Real) -> int:
    """Return the number of grid steps that cover lead-in, ``duration_s`` and two more seconds."""
    return int(np.ceil((duration_s + 2.0 + LEAD_IN_S) / _STEP_S)) + 2


def constant_speed(speed: Real, duration_s: Real) -> SpeedProfile:
    """Return steady travel at ``speed`` metres per second."""
    time = np.arange(num_steps(duration_s)) * _STEP_S - LEAD_IN_S
    return SpeedProfile(distance=time * speed, speed=np.full(len(time), speed))


def varying_speed(rng: np.random.Generator, mean: Real, duration_s: Real) -> SpeedProfile:
    """Return a leader's travel: a speed that drifts smoothly by up to a quarter about ``mean``."""
    time = np.arange(num_steps(duration_s)) * _STEP_S - LEAD_IN_S
    rate, phase = rng.uniform(0.2, 0.5), rng.uniform(0, 2 * np.pi)
    amount = mean * rng.uniform(0.05, 0.25)
    speed = mean + amount * np.sin(rate * time + phase)
    distance = mean * time - amount / rate * (np.cos(rate * time + phase) - np.cos(phase))
    return SpeedProfile(distance=distance, speed=speed)


def follow(leader: SpeedProfile, *, gap: Real, desired: Real, leader_length: Real) -> tuple[SpeedProfile, float]:
    """Return the travel of a car that follows ``leader``, and its gap to it at time 0.

    Args:
        leader: Travel of the car in front.
        gap: Metres from the follower's origin to the leader's when the simulation starts.
        desired: Free speed, metres per second.
        leader_length: Part of the origin-to-origin distance that the two bodies take, metres.

    Returns:
        The follower's travel, and the origin-to-origin distance at time 0 in metres.
    """
    max_acceleration, comfortable_braking, headway, standstill = 1.4, 2.0, 1.4, 2.0
    count = len(leader.distance)
    distance, speed = np.zeros(count), np.zeros(count)
    distance[0] = leader.distance[0] - gap
    speed[0] = min(leader.speed[0], desired)
    for i in range(1, count):
        v = speed[i - 1]
        free = max(leader.distance[i - 1] - distance[i - 1] - leader_length, 0.3)
        approach = v * (v - leader.speed[i - 1]) / (2 * np.sqrt(max_acceleration * comfortable_braking))
        wanted = standstill + max(0.0, v * headway + approach)
        acceleration = max_acceleration * (1 - (v / desired) ** 4 - (wanted / free) ** 2)
        speed[i] = max(v + max(acceleration, -6.0) * _STEP_S, 0.0)
        distance[i] = distance[i - 1] + 0.5 * (v + speed[i]) * _STEP_S
    at_zero = SpeedProfile(distance=distance, speed=speed).at(0)[0]
    return SpeedProfile(distance=distance - at_zero, speed=speed), leader.at(0)[0] - at_zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """An object that never moves.

    Attributes:
        pose: Transform ``local_to_world``.
    """

    pose: Float[np.ndarray, "4 4"]

    def local_to_world(self, time_us: int) -> Float[np.ndarray, "4 4"]:
        """Return the pose, the same at all times."""
        return self.pose

    def travelled(self, time_us: int) -> float:
        """Return 0."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlongRoad:
    """Travel along a road at a constant offset.

    Attributes:
        road: The road.
        start: Arc length at time 0.
        offset: Distance left of the road's path.
        direction: +1 along the road, -1 against it.
        profile: Travel over time.
        height: Ground height at the offset.
    """

    road: Road
    start: Real
    offset: Real
    direction: int
    profile: SpeedProfile
    height: Real = 0.0

    def local_to_world(self, time_us: int) -> Float[np.ndarray, "4 4"]:
        """Return the pose at a time."""
        s = self.start + self.direction * self.travelled(time_us) / self._stretch
        yaw = 0.0 if self.direction > 0 else np.pi
        return self.road.place(s, self.offset, self.height, yaw)

    @property
    def _stretch(self) -> float:
        return 1.0 - self.road.curvature * self.offset

    def travelled(self, time_us: int) -> float:
        """Return metres travelled since time 0."""
        return self.profile.at(time_us)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcrossRoad:
    """Travel across a road at a constant arc length, towards larger offsets if direction is +1.

    Attributes:
        road: The road.
        s: Arc length.
        start: Offset at time 0.
        direction: +1 to the left, -1 to the right.
        profile: Travel over time.
        kerbs: Offsets of the right and left kerb; beyond them the ground is ``step`` higher.
        step: Height of a kerb.
        reach: Distance after which the object comes to rest on the other side, metres.
    """

    road: Road
    s: Real
    start: Real
    direction: int
    profile: SpeedProfile
    kerbs: tuple[Real, Real]
    step: Real
    reach: Real

    def local_to_world(self, time_us: int) -> Float[np.ndarray, "4 4"]:
        """Return the pose at a time."""
        d = self.start + self.direction * self.travelled(time_us)
        beyond = max(self.kerbs[0] - d, d - self.kerbs[1])
        # A foot rises over the last stretch before the kerb.
        share = min(max(beyond / _KERB_STRIDE_M + 1.0, 0.0), 1.0)
        height = self.step * share * share * (3.0 - 2.0 * share)
        return self.road.place(self.s, d, height, self.direction * np.pi / 2)

    def travelled(self, time_us: int) -> float:
        """Return metres travelled since time 0."""
        free = self.profile.at(time_us)[0]
        before = self.reach - _HALT_M
        return free if free < before else self.reach - _HALT_M * float(np.exp((before - free) / _HALT_M))


Motion = Still | AlongRoad | AcrossRoad
"""Motion of an object; each class has ``local_to_world(time_us)`` and ``travelled(time_us)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """An object with an identity: it has a box, an instance number and maybe a motion.

    Attributes:
        instance: Positive number, unique in its world.
        class_name: Semantic class.
        meshes: One mesh, or one per phase of a cyclic gait, in the local frame.
        cycle: Metres travelled per gait cycle.
        motion: Motion of the object.
        size: Length, width, height of the box around all phases.
        box_centre: Centre of that box in the local frame.
    """

    instance: int
    class_name: str
    meshes: tuple[Mesh, ...]
    cycle: Real
    motion: Motion
    size: tuple[float, float, float]
    box_centre: tuple[float, float, float]

    @property
    def is_moving(self) -> bool:
        """Return whether the object ever moves."""
        return not isinstance(self.motion, Still)

    def mesh_at(self, time_us: int) -> Mesh:
        """Return the mesh in the world frame at a time."""
        phase = self.motion.travelled(time_us) / self.cycle % 1.0
        mesh = self.meshes[int(phase * len(self.meshes)) % len(self.meshes)]
        return transformed(mesh, self.motion.local_to_world(time_us))

    def box_to_world(self, time_us: int) -> Float[np.ndarray, "4 4"]:
        """Return the pose of the box centre at a time; axes are length, width, height."""
        centred = np.eye(4)
        centred[:3, 3] = self.box_centre
        return self.motion.local_to_world(time_us) @ centred

    def speed(self, time_us: int) -> float:
        """Return metres per second at a time."""
        if not self.is_moving:
            return 0.0
        return (self.motion.travelled(time_us + 1000) - self.motion.travelled(time_us)) * 1000.0


def make_actor(
    instance: int,
    class_name: str,
    meshes: tuple[Mesh, ...],
    motion: Motion,
    *,
    cycle: Real = 1.0,
) -> Actor:
    """Return an actor whose box encloses all its meshes; the meshes must correspond face by face.

    Raises:
        ValueError: If the phases have different numbers of faces.
    """
    if len({len(mesh) for mesh in meshes}) != 1:
        raise ValueError(f"{class_name}: phases have {[len(m) for m in meshes]} faces, want equal numbers")
    corners = np.concatenate([mesh.corners.reshape(-1, 3) for mesh in meshes])
    low, high = corners.min(0).astype(np.float64), corners.max(0).astype(np.float64)
    length, width, height = (float(x) for x in high - low)
    x, y, z = (float(v) for v in (low + high) / 2)
    return Actor(
        instance=instance,
        class_name=class_name,
        meshes=tuple(with_instance(mesh, instance) for mesh in meshes),
        cycle=cycle,
        motion=motion,
        size=(length, width, height),
        box_centre=(x, y, z),
    )
