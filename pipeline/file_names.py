"""Names of files and folders that people choose by what they ask for."""

import re

_LONGEST = 40


def slug(text: str) -> str:
    """Return a text as part of a file's name: small letters, digits and hyphens; ``query`` where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST] or "query"
