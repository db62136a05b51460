"""What an audit found."""

import math
from dataclasses import dataclass
from typing import Literal

Shortfall = Literal["failed", "undecided"]
Outcome = Literal["passed", Shortfall]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What, in snake case.
        value: Measured; NaN where it could not be.
        threshold: Limit.
        wanted: Which side of the limit is good.
        where: Where the worst value was seen: a frame, a camera, an array.
        otherwise: Outcome of a value that is not on the good side: "undecided" where that says how little there was to
            see, and not that anything is wrong.
    """

    name: str
    value: float
    threshold: float
    wanted: Literal["at_least", "at_most"]
    where: str = ""
    otherwise: Shortfall = "failed"

    @property
    def outcome(self) -> Outcome:
        """Return what was found; an undefined value is never on the good side."""
        is_good = self.value >= self.threshold if self.wanted == "at_least" else self.value <= self.threshold
        return "passed" if math.isfinite(self.value) and is_good else self.otherwise
