"""Text of other people inside Markdown, shown as it is: names of files, scenes and classes, prompts, errors."""

import re

_SYNTAX = re.compile(r"[!#$&*<>@\[\\\]^`{|}~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)")
_LINE = re.compile(r"\s+")


def plain_markdown(text: str) -> str:
    """Return Markdown that shows a text on one line, character for character.

    Every character that Markdown, its tables, HTML or MDX could take for more than itself becomes a numeric reference.
    An address is left as text: whoever draws links of bare addresses needs ``://``, which is broken up too.
    """
    return _SYNTAX.sub(lambda found: f"&#{ord(found.group())};", _LINE.sub(" ", text))
