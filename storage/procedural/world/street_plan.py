"""Dimensions of a street, drawn at random."""

from dataclasses import dataclass

import numpy as np

LANE = 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetPlan:
    """Dimensions of a street, metres; offsets are left of the ego's lane centre.

    Attributes:
        style: "residential", "urban", "office" or "industrial".
        ends: Arc lengths between which the street exists.
        same: Offsets of the lanes in the ego's direction, the ego's own (0) included.
        opposite: Offsets of the oncoming lanes.
        edges: Right and left edge of the lanes, the cycle lane included.
        cycle_lane: Right and left edge of a bicycle lane right of all others; None if there is no such lane.
        kerbs: Right and left kerb, beyond the parking strips.
        walk: Width of the sidewalks.
        setback: Width between sidewalk and buildings.
        crossing: Arc lengths where a side street begins and ends; None if there is no side street.
    """

    style: str
    ends: tuple[float, float]
    same: tuple[float, ...]
    opposite: tuple[float, ...]
    edges: tuple[float, float]
    cycle_lane: tuple[float, float] | None
    kerbs: tuple[float, float]
    walk: float
    setback: float
    crossing: tuple[float, float] | None

    def pieces(self) -> list[tuple[float, float]]:
        """Return the stretches of street on either side of the crossing."""
        if self.crossing is None:
            return [self.ends]
        return [(self.ends[0], self.crossing[0]), (self.crossing[1], self.ends[1])]


def draw_plan(rng: np.random.Generator, reach: float) -> StreetPlan:
    """Return the dimensions of a street whose ego drives ``reach`` metres."""
    style = str(rng.choice(["residential", "urban", "urban", "office", "industrial"]))
    lanes = 1 if style == "residential" else int(rng.integers(1, 3))
    ego_lane = int(rng.integers(lanes))
    same = tuple(LANE * (k - ego_lane) for k in range(lanes))
    centre = max(same) + LANE / 2
    opposite = tuple(centre + LANE * (k + 0.5) for k in range(lanes))
    right, left = min(same) - LANE / 2, max(opposite) + LANE / 2
    cycle_lane = (right - 1.6, right) if rng.random() < 0.6 else None
    edges = (right if cycle_lane is None else cycle_lane[0], left)
    parking = (float(rng.choice([0.0, 2.4, 2.4])), float(rng.choice([0.0, 2.4])))
    crossing = None
    if rng.random() < 0.75:
        start = float(rng.uniform(22, 55))
        crossing = (start, start + float(rng.choice([7.5, 10.5])))
    return StreetPlan(
        style=style,
        ends=(-110.0, reach + 130.0),
        same=same,
        opposite=opposite,
        edges=edges,
        cycle_lane=cycle_lane,
        kerbs=(edges[0] - parking[0] - 0.3, edges[1] + parking[1] + 0.3),
        walk=float(rng.uniform(2.4, 4.2)),
        setback={"residential": 5.0, "urban": 0.4, "office": 3.0, "industrial": 6.0}[style],
        crossing=crossing,
    )
