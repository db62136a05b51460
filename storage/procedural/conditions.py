"""Light, weather and thin structures of a scene; by default the seed decides the light."""

from dataclasses import dataclass

KINDS = ("sunny", "hazy", "overcast", "dusk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Settings of one scene beyond its seed.

    Attributes:
        lighting: "sunny", "hazy", "overcast" or "dusk"; drawn from the seed when None.
        sun_elevation_deg: Elevation of the sun; drawn from the seed when None.
        sun_azimuth_deg: Direction of the sun, counter-clockwise from the world's x axis; drawn when None.
        wetness: Wetness of the ground, [0, 1]: 0 is dry, 0.3 damp, 1 has mirroring puddles.
        thin_structures: Whether cables, guy wires and railings are added, a few centimetres thick or less.
    """

    lighting: str | None = None
    sun_elevation_deg: float | None = None
    sun_azimuth_deg: float | None = None
    wetness: float = 0.0
    thin_structures: bool = False

    def __post_init__(self) -> None:
        if self.lighting is not None and self.lighting not in KINDS:
            raise ValueError(f"lighting is {self.lighting!r}, want one of {KINDS}")
        if self.sun_elevation_deg is not None and not 1.0 <= self.sun_elevation_deg <= 90.0:
            raise ValueError(f"sun_elevation_deg is {self.sun_elevation_deg}, want 1 to 90")
        if self.sun_azimuth_deg is not None and not -360.0 <= self.sun_azimuth_deg <= 360.0:
            raise ValueError(f"sun_azimuth_deg is {self.sun_azimuth_deg}, want -360 to 360")
        if not 0.0 <= self.wetness <= 1.0:
            raise ValueError(f"wetness is {self.wetness}, want 0 to 1")


DEFAULT_CONDITIONS = Conditions()
