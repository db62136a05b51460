"""One finding of an audit."""

import math
from dataclasses import dataclass
from typing import Literal

Shortfall = Literal["failed", "undecided"]
Outcome = Literal["passed", Shortfall]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One measured value and the limit that it is held against.

    Attributes:
        name: Name of the quantity, in snake case.
        value: Measured value; NaN where it could not be measured.
        threshold: Limit of the value.
        wanted: Good side of the limit.
        where: Place of the worst value: a frame, a camera, an array.
        otherwise: Outcome of a value on the bad side: "undecided" where it only shows that there was too little to see.
    """

    name: str
    value: float
    threshold: float
    wanted: Literal["at_least", "at_most"]
    where: str = ""
    otherwise: Shortfall = "failed"

    @property
    def outcome(self) -> Outcome:
        """Return the outcome; a NaN is on the bad side."""
        is_good = self.value >= self.threshold if self.wanted == "at_least" else self.value <= self.threshold
        return "passed" if math.isfinite(self.value) and is_good else self.otherwise
