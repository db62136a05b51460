"""How every long function tells what it is doing."""

from collections.abc import Callable, Mapping
from typing import Any

ProgressCallback = Callable[[str, float, Mapping[str, Any]], None]
"""Function that receives the stage, the share done in [0, 1] and running figures."""
