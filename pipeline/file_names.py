"""Names of files and folders that people choose by what they ask for."""

import re

from storage.digests import digest_of

_LONGEST = 40


def slug(text: str) -> str:
    """Return a text as part of a file's name: small letters, digits and hyphens; ``query`` where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST] or "query"


def question_name(text: str, *asked: object) -> str:
    """Return the name of a folder for the answer to a question, which differs wherever the question does.

    Args:
        text: What is looked for, which makes the name readable.
        asked: Everything else that the question consists of, as JSON values.
    """
    return f"{slug(text)}-{digest_of([text, *asked])[:8]}"
