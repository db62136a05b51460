"""Templates of the pages that people look at: self-contained HTML, in which whatever comes from a home is escaped."""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(package: str, file: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> Template:
    """Return the template of a page; a name that it uses and is not given is an error.

    Args:
        package: Package that ships it.
        file: Where it lies in the package, such as ``templates/report.html.j2``.
        filters: Filters that it uses besides Jinja's own.
    """
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(file)
