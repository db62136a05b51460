"""Ray casting against triangle soups with Embree."""

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int32

_SHADOW_FAR = np.float32(400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """First hits of rays.

    Attributes:
        distance: Metres along the unit ray; infinite where nothing was hit.
        face: Face number, -1 where nothing was hit. Faces of the moving mesh are numbered after the static ones.
        u: Barycentric weight of the face's second corner.
        v: Barycentric weight of its third corner.
    """

    distance: Float[np.ndarray, " rays"]
    face: Int32[np.ndarray, " rays"]
    u: Float[np.ndarray, " rays"]
    v: Float[np.ndarray, " rays"]


class RayCaster:
    """A bounding volume hierarchy over one triangle soup."""

    def __init__(self, corners: Float[np.ndarray, "faces 3 3"]) -> None:
        """Build the hierarchy; an empty soup is allowed."""
        self.num_faces = len(corners)
        self._scene = EmbreeScene() if self.num_faces else None
        if self._scene is not None:
            # The mesh registers itself with the scene; Embree keeps its own copy of the corners.
            self._mesh = TriangleMesh(self._scene, np.ascontiguousarray(corners, np.float32))

    def first_hits(
        self,
        origins: Float[np.ndarray, "rays 3"],
        directions: Float[np.ndarray, "rays 3"],
        max_distance: Float[np.ndarray, " rays"] | None = None,
    ) -> Hits:
        """Return the first hit of each ray nearer than ``max_distance``."""
        count = len(origins)
        if self._scene is None or count == 0:
            return Hits(
                distance=np.full(count, np.inf, np.float32),
                face=np.full(count, -1, np.int32),
                u=np.zeros(count, np.float32),
                v=np.zeros(count, np.float32),
            )
        answer = self._scene.run(origins, directions, dists=max_distance, output=1)
        face = answer["primID"]
        distance = answer["tfar"]
        distance[face < 0] = np.inf
        return Hits(distance=distance, face=face, u=answer["u"], v=answer["v"])

    def is_occluded(
        self,
        origins: Float[np.ndarray, "rays 3"],
        directions: Float[np.ndarray, "rays 3"],
        max_distance: Float[np.ndarray, " rays"] | None = None,
    ) -> Bool[np.ndarray, " rays"]:
        """Return whether each ray meets anything nearer than ``max_distance`` (default 400 m)."""
        if self._scene is None or len(origins) == 0:
            return np.zeros(len(origins), bool)
        if max_distance is None:
            max_distance = np.full(len(origins), _SHADOW_FAR)
        return self._scene.run(origins, directions, dists=max_distance, query="OCCLUDED") == 0


def first_hits_of_both(
    static: RayCaster,
    moving: RayCaster,
    origins: Float[np.ndarray, "rays 3"],
    directions: Float[np.ndarray, "rays 3"],
) -> Hits:
    """Return the nearest hits in two soups; faces of ``moving`` are numbered after the static ones."""
    hits = static.first_hits(origins, directions)
    if moving.num_faces == 0:
        return hits
    limit = np.where(hits.face >= 0, hits.distance, np.float32(1e30))
    nearer = moving.first_hits(origins, directions, limit)
    which = np.flatnonzero(nearer.face >= 0)
    hits.distance[which] = nearer.distance[which]
    hits.face[which] = nearer.face[which] + static.num_faces
    hits.u[which] = nearer.u[which]
    hits.v[which] = nearer.v[which]
    return hits
