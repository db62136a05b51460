"""Parts that loss terms share: the sum that they join, and mean errors."""

from jaxtyping import Float
from torch import Tensor


class WeightedSum:
    """Weighted terms on their way to :class:`student.losses.total.Losses`.

    Only terms with a coefficient are computed and added.
    """

    def __init__(self, zero: Float[Tensor, ""]) -> None:
        self.total = zero
        self.terms: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, coefficient: float, value: Float[Tensor, ""], count: int) -> None:
        """Add a term with its coefficient, averaged over ``count`` pixels, rays or views."""
        weighted = coefficient * value
        self.total = self.total + weighted
        self.terms[name] = weighted.detach()
        self.counts[name] = count


def absolute_error(predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> tuple[Tensor, int]:
    """Return the mean absolute error (DistillNeRF Eq. 9) and the number of values.

    The error of no values is 0.
    """
    return (predicted - target).abs().sum() / max(predicted.numel(), 1), predicted.numel()


def squared_error(predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> tuple[Tensor, int]:
    """Return the mean squared error and the number of values.

    The error of no values is 0.
    """
    return (predicted - target).square().sum() / max(predicted.numel(), 1), predicted.numel()
