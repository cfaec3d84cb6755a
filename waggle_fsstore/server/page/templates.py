# SPDX-License-Identifier: Apache-2.0
"""The templates of the page, and the files that a browser loads with it."""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from waggle_fsstore import __version__
from waggle_fsstore.server.page import texts

#: The files beside the templates, and their types.
STATIC_FILES: Final = {"page.css": "text/css", "page.js": "text/javascript"}

#: Everything that a template writes is escaped.
TEMPLATES: Final = Environment(
    loader=PackageLoader("waggle_fsstore.server.page"),
    autoescape=True,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


@cache
def static_file(name: str) -> bytes:
    """Return the contents of one of ``STATIC_FILES``."""
    return (files("waggle_fsstore.server.page") / "static" / name).read_bytes()


def static_url(name: str) -> str:
    """Return the relative URL of one of ``STATIC_FILES``, which changes with its contents."""
    return f"static/{name}?v={sha256(static_file(name)).hexdigest()[:12]}"


def compile_all() -> None:
    """Compile all templates now, so that the first view does not wait for it."""
    for name in TEMPLATES.list_templates():
        TEMPLATES.get_template(name)


def render(name: str, **values: object) -> str:
    """Return the page that a template makes of some values."""
    return TEMPLATES.get_template(name).render(**values)


TEMPLATES.filters.update(
    visible=texts.visible, ago=texts.ago, until=texts.until, size=texts.size, utc=texts.utc
)
TEMPLATES.globals.update(
    link=texts.link, static_url=static_url, NONE=texts.NONE, version=__version__
)
