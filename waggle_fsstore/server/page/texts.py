# SPDX-License-Identifier: Apache-2.0
"""Values as the page writes them: times, sizes, links, and text that may be hostile."""

from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote, urlencode

from waggle_fsstore.domain.duration import short_duration

#: Where nothing is known, or nothing to be said.
NONE: Final = "\N{EN DASH}"

# Joiners: they are in words of some languages, and change no direction.
_HARMLESS: Final = "\u200c\u200d"

_KIB: Final = 1024


def visible(text: str) -> str:
    """Return a text in which each character can be seen: the others are their codes."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in _HARMLESS else f"\\u{ord(one):04x}" for one in text
    )


def link(path: str, **parameters: object) -> str:
    """Return a relative URL with those parameters that have a value."""
    given = {name: str(value) for name, value in parameters.items() if value not in ("", None)}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, in one unit."""
    return short_duration(now - moment)


def until(left: timedelta | None) -> str:
    """Return the time that is left, ``None`` for no end."""
    if left is None:
        return "never"
    return short_duration(left) if left > timedelta(0) else "now"


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(number: float) -> str:
    """Return a number of bytes in its largest unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < _KIB:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= _KIB
    return f"{number:.1f} TiB"


def utc(moment: datetime) -> str:
    """Return a moment in UTC, to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
