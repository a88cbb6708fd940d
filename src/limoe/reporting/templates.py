"""The Jinja environment of all pages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

import limoe

_PACKAGE = Path(limoe.__file__).parent


def template(name: str, **filters: Callable[..., str]) -> Template:
    """A template by its path below limoe, such as `studies/study.html.j2`; shared parts are in `reporting/`.

    Values are escaped in HTML; Markdown has the filter `cell`. An undefined name is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([_PACKAGE, _PACKAGE / "reporting"]),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, **filters}
    return environment.get_template(name)


def _cell(value: Any) -> str:
    """One line of plain text, safe inside a table cell or code span of Markdown."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
