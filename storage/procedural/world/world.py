"""The procedural world: built from a theme and a seed, it gives the pose of everything at any time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from storage.procedural.appearance.lighting import Lighting, make_lighting
from storage.procedural.appearance.shading import FaceTable, face_table, joined
from storage.procedural.conditions import DEFAULT_CONDITIONS, Conditions
from storage.procedural.world.airside import build_airside
from storage.procedural.world.mesh import Mesh, concatenate
from storage.procedural.world.raycast import Hits, RayCaster, first_hits_of_both
from storage.procedural.world.street import build_street
from storage.procedural.world.thin_structures import add_thin_structures
from storage.procedural.world.traffic import Actor, Motion
from storage.taxonomy import Theme

DEFAULT_DURATION_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The world at one instant, ready for ray casting.

    Attributes:
        time_us: The instant.
        static: Ray caster of everything that never moves.
        moving: Ray caster of the moving objects at this instant.
        table: Face attributes; moving faces follow the static ones.
        moving_mesh: The moving faces, world frame.
    """

    time_us: int
    static: RayCaster
    moving: RayCaster
    table: FaceTable
    moving_mesh: Mesh | None

    def first_hits(self, origins: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"]) -> Hits:
        """Return the first hits of rays; directions are unit vectors."""
        return first_hits_of_both(self.static, self.moving, origins, directions)

    def is_occluded(
        self,
        origins: Float[np.ndarray, "rays 3"],
        directions: Float[np.ndarray, "rays 3"],
        max_distance: Float[np.ndarray, " rays"] | None = None,
    ) -> Bool[np.ndarray, " rays"]:
        """Return whether each ray meets anything, nearer than ``max_distance`` if given."""
        blocked = self.static.is_occluded(origins, directions, max_distance)
        if self.moving.num_faces:
            blocked |= self.moving.is_occluded(origins, directions, max_distance)
        return blocked


class World:
    """A procedural place with its light and its traffic.

    The world frame is the ego's pose at time 0: origin on the ground under the ego's reference point, x forward, y
    left, z up. Ingest gives a scene the same origin, so poses of a scene store can be rendered here unchanged.

    Attributes:
        theme: Kind of place.
        seed: Seed that, with theme and duration, determines everything.
        duration_s: Duration, seconds; motions are defined from 2 s before time 0 to 2 s after it.
        lighting: Sun and sky.
        actors: Objects with an identity.
        ego: Motion of the ego vehicle.
        static_mesh: Every face that never moves, world frame.
    """

    def __init__(
        self,
        *,
        theme: Theme,
        seed: int,
        duration_s: float,
        lighting: Lighting,
        stuff: list[Mesh],
        actors: list[Actor],
        ego: Motion,
    ) -> None:
        """Gather the static faces and index them for ray casting."""
        self.theme = theme
        self.seed = seed
        self.duration_s = duration_s
        self.lighting = lighting
        self.actors = tuple(actors)
        self.ego = ego
        still = [actor.mesh_at(0) for actor in actors if not actor.is_moving]
        self.static_mesh = concatenate([*stuff, *still])
        self._caster = RayCaster(self.static_mesh.corners)
        self._table = face_table(self.static_mesh)
        self._latest: Snapshot | None = None

    def ego_to_world(self, time_us: int) -> Float[np.ndarray, "4 4"]:
        """Return the ego's pose at a time; the identity at time 0."""
        return self.ego.local_to_world(time_us)

    def snapshot(self, time_us: int) -> Snapshot:
        """Return the world at ``time_us``; the latest one is kept."""
        if self._latest is not None and self._latest.time_us == time_us:
            return self._latest
        meshes = [actor.mesh_at(time_us) for actor in self.actors if actor.is_moving]
        if meshes:
            mesh = concatenate(meshes)
            table = joined(self._table, face_table(mesh))
            moving = RayCaster(mesh.corners)
        else:
            mesh, table, moving = None, self._table, RayCaster(np.zeros((0, 3, 3), np.float32))
        self._latest = Snapshot(time_us=time_us, static=self._caster, moving=moving, table=table, moving_mesh=mesh)
        return self._latest


def build_world(
    theme: Theme | str,
    seed: int,
    *,
    duration_s: float = DEFAULT_DURATION_S,
    conditions: Conditions = DEFAULT_CONDITIONS,
) -> World:
    """Build a world; equal arguments give equal worlds.

    Args:
        theme: "street" or "airside".
        seed: Any non-negative integer.
        duration_s: Time that the traffic must cover, seconds.
        conditions: Light, weather and thin structures; by default the seed decides the light and the ground is dry.

    Raises:
        ValueError: If the theme is unknown, the seed negative or the duration not positive.
    """
    theme = Theme(theme)
    if seed < 0 or duration_s <= 0:
        raise ValueError(f"need seed >= 0 and duration_s > 0, got {seed} and {duration_s}")
    children = np.random.SeedSequence([seed, len(theme)]).spawn(3)
    place_rng, light_rng, thin_rng = (np.random.default_rng(child) for child in children)
    light = make_lighting(
        light_rng,
        conditions.lighting,
        sun_elevation_deg=conditions.sun_elevation_deg,
        sun_azimuth_deg=conditions.sun_azimuth_deg,
        wetness=conditions.wetness,
    )
    builder = {Theme.STREET: build_street, Theme.AIRSIDE: build_airside}[theme]
    layout = builder(place_rng, duration_s)
    if conditions.thin_structures:
        add_thin_structures(layout, theme, thin_rng)
    return World(
        theme=theme,
        seed=seed,
        duration_s=duration_s,
        lighting=light,
        stuff=layout.stuff,
        actors=layout.actors,
        ego=layout.ego,
    )
