"""How long-running work tells its caller where it stands."""

from collections.abc import Callable, Mapping

Progress = Callable[[str, float, Mapping[str, float]], None]
"""Called with a stage's name, the fraction of it that is done in [0, 1], and numbers worth showing."""
