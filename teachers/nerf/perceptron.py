"""The small networks of a field."""

import itertools

from torch import nn


def perceptron(width_in: int, hidden: int, width_out: int, *, layers: int = 2) -> nn.Sequential:
    """Return a perceptron with rectified hidden layers."""
    widths = [width_in, *([hidden] * (layers - 1)), width_out]
    modules: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        modules += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*modules[:-1])
