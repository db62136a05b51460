"""Sizes that a configuration may leave open, because they follow whatever reads the grid."""


def check_size(height: int | None, width: int | None, *, of: str, at_least: int = 1) -> None:
    """Check a size of which either side may be open.

    Raises:
        ValueError: If a side is given and too small.
    """
    if any(side is not None and side < at_least for side in (height, width)):
        raise ValueError(f"{of}: size {height}x{width}, want at least {at_least}x{at_least}")


def settled_size(height: int | None, width: int | None, *, of: str) -> tuple[int, int]:
    """Return a size that is no longer open, rows and columns.

    Raises:
        ValueError: If a side is still open.
    """
    if height is None or width is None:
        raise ValueError(f"{of}: size {height}x{width} follows its reader, but none is known here: want two numbers")
    return height, width
