"""How many of something, in words."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 scene", "2 scenes"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
