"""Sun, sky and haze, and the baked sky dome."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from storage.procedural.appearance.painting import SIZE, noise
from storage.procedural.conditions import KINDS

_DOME = 768
Colour = Float[np.ndarray, " 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lighting:
    """Illumination and weather of one scene; colours are linear.

    Attributes:
        name: "sunny", "hazy", "overcast" or "dusk".
        towards_sun: Unit vector in the world frame.
        sun: Irradiance of direct light. An overcast sky keeps a weak high sun, for the contact shadows that the
            brightest part of a cloud deck casts.
        sky: Ambient light from above.
        bounce: Ambient light from below.
        zenith: Sky colour overhead.
        horizon: Sky colour at the horizon, and of the haze.
        haze: Extinction per metre.
        cloud_cover: Share of the sky under clouds, [0, 1].
        glow: Brightness of lamps and lit windows over the light that they reflect.
        wetness: Wetness of the ground, [0, 1], 0 is dry; see ``storage.procedural.appearance.wet_ground``.
        dome: Baked upper hemisphere in stereographic projection, channels first.
    """

    name: str
    towards_sun: Float[np.ndarray, " 3"]
    sun: Colour
    sky: Colour
    bounce: Colour
    zenith: Colour
    horizon: Colour
    haze: float
    cloud_cover: float
    glow: float
    wetness: float
    dome: Float[np.ndarray, "3 rows columns"]

    def sky_colour(self, directions: Float[np.ndarray, "3 rays"]) -> Float[np.ndarray, "3 rays"]:
        """Return the sky's colour in unit ``directions``; below the horizon it is the colour of the horizon."""
        x, y, z = directions
        z = np.maximum(z, np.float32(0.0))
        scale = np.float32(0.5 * (_DOME - 2)) / (1.0 + z)
        column = np.clip(x * scale + np.float32(0.5 * (_DOME - 1)), 0, _DOME - 1.001)
        row = np.clip(y * scale + np.float32(0.5 * (_DOME - 1)), 0, _DOME - 1.001)
        column_0, row_0 = column.astype(np.int64), row.astype(np.int64)
        fu, fv = column - column_0, row - row_0
        index = row_0 * _DOME + column_0
        out = np.empty((3, len(x)), np.float32)
        for channel in range(3):
            plane = self.dome[channel].reshape(-1)
            low = plane.take(index)
            low += fu * (plane.take(index + 1) - low)
            high = plane.take(index + _DOME)
            high += fu * (plane.take(index + _DOME + 1) - high)
            out[channel] = low + fv * (high - low)
        return out


def make_lighting(
    rng: np.random.Generator,
    name: str | None = None,
    *,
    sun_elevation_deg: float | None = None,
    sun_azimuth_deg: float | None = None,
    wetness: float = 0.0,
) -> Lighting:
    """Draw the illumination of a scene.

    Args:
        rng: Source of the values that are not given.
        name: Kind of light, one of ``KINDS``.
        sun_elevation_deg: Elevation of the sun.
        sun_azimuth_deg: Direction of the sun, counter-clockwise from the world's x axis.
        wetness: Wetness of the ground, [0, 1].
    """
    if name is not None and name not in KINDS:
        raise ValueError(f"lighting is {name!r}, want one of {KINDS}")
    if name is None:
        name = str(rng.choice(["sunny", "sunny", "hazy", "overcast", "dusk"]))
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation, sun, sky, bounce, zenith, horizon, haze, cover = {
        "sunny": (
            rng.uniform(0.5, 1.1), (1.75, 1.6, 1.35), (0.36, 0.46, 0.62), (0.22, 0.20, 0.17),
            (0.11, 0.25, 0.62), (0.62, 0.75, 0.88), 0.0010, rng.uniform(0.15, 0.5),
        ),
        "hazy": (
            rng.uniform(0.4, 0.8), (1.35, 1.2, 1.0), (0.46, 0.50, 0.56), (0.22, 0.21, 0.19),
            (0.30, 0.42, 0.62), (0.82, 0.83, 0.82), 0.0028, rng.uniform(0.1, 0.4),
        ),
        "overcast": (
            1.4, (0.52, 0.53, 0.54), (0.62, 0.65, 0.70), (0.24, 0.24, 0.24),
            (0.52, 0.56, 0.62), (0.80, 0.82, 0.84), 0.0016, 0.95,
        ),
        "dusk": (
            rng.uniform(0.14, 0.28), (1.7, 0.95, 0.5), (0.30, 0.33, 0.46), (0.16, 0.13, 0.12),
            (0.12, 0.17, 0.38), (0.95, 0.62, 0.40), 0.0018, rng.uniform(0.2, 0.55),
        ),
    }[name]  # fmt: skip
    if sun_elevation_deg is not None:
        elevation = np.radians(sun_elevation_deg)
    if sun_azimuth_deg is not None:
        azimuth = np.radians(sun_azimuth_deg)
    towards_sun = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    colours = [np.asarray(c, np.float32) for c in (sun, sky, bounce, zenith, horizon)]
    return Lighting(
        name=name,
        towards_sun=towards_sun.astype(np.float32),
        sun=colours[0],
        sky=colours[1],
        bounce=colours[2],
        zenith=colours[3],
        horizon=colours[4],
        haze=haze,
        cloud_cover=float(cover),
        glow={"dusk": 1.6, "overcast": 0.35}.get(name, 0.0),
        wetness=wetness,
        dome=_bake_dome(towards_sun, colours[0], colours[3], colours[4], float(cover), int(rng.integers(1 << 30))),
    )


def _bake_dome(
    towards_sun: np.ndarray,
    sun: Colour,
    zenith: Colour,
    horizon: Colour,
    cover: float,
    seed: int,
) -> Float[np.ndarray, "3 rows columns"]:
    axis = (np.arange(_DOME, dtype=np.float32) - 0.5 * (_DOME - 1)) / (0.5 * (_DOME - 2))
    py, px = np.meshgrid(axis, axis, indexing="ij")
    radius_2 = np.minimum(px**2 + py**2, 1.0)
    z = (1 - radius_2) / (1 + radius_2)
    direction = np.stack([2 * px / (1 + radius_2), 2 * py / (1 + radius_2), z])
    blend = (1.0 - np.exp(-3.2 * z))[None]
    dome = horizon[:, None, None] * (1 - blend) + zenith[:, None, None] * blend
    towards = np.einsum("c,chw->hw", towards_sun, direction)
    glow = np.exp((towards - 1.0) * 9.0) * 0.28 + np.exp((towards - 1.0) * 120.0) * 0.6
    dome = dome + glow[None] * sun[:, None, None]
    # Clouds lie on a plane overhead, so they foreshorten towards the horizon.
    plane = direction[:2] / (z + 0.16) * (SIZE / 11.0)
    shape = sum(
        weight * map_coordinates(noise(seed + k, smooth), plane[::-1] * scale, order=1, mode="grid-wrap")
        for k, (smooth, scale, weight) in enumerate(((1.5, 1.0, 1.0), (1.1, 2.0, 0.45)))
    )
    threshold = 1.5 - 3.0 * cover
    density = np.clip((shape - threshold) * 0.8, 0.0, 1.0) * np.clip(z * 7.0, 0.0, 1.0)
    lit = np.clip(0.62 + 0.25 * (shape - threshold) + 0.25 * towards, 0.3, 1.15)
    cloud = lit[None] * (0.55 * horizon + 0.25 * sun + 0.12)[:, None, None]
    dome = dome + (0.92 * density)[None] * (np.minimum(cloud, 1.6) - dome)
    disc = np.clip((towards - np.cos(0.012)) * 3e4, 0.0, 1.0) * (1.0 - density)
    dome = dome + disc[None] * 6.0 * sun[:, None, None]
    return np.ascontiguousarray(dome, np.float32)
