# SPDX-License-Identifier: Apache-2.0
"""Durations as Go writes them: ``30s``, ``1h30m``, ``1.5h``.

The grammar and the form are those of ``time.ParseDuration`` and ``Duration.String``
(https://pkg.go.dev/time), so that a value can be taken from one program to the other.
"""

import re
from datetime import timedelta
from typing import Final

_MICROSECOND: Final = timedelta(microseconds=1)

# The second one of the two is the Greek letter, which Go takes for the micro sign.
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
}

# What a duration of Go can hold, some 292 years.
_MAX_NANOSECONDS: Final = 2**63 - 1

# Ample for every value in range, and few enough digits to compute with.
_MAX_LENGTH: Final = 100

_PART: Final = rf"([0-9]+\.?[0-9]*|\.[0-9]+)({'|'.join(_NANOSECONDS)})"
_parts_of: Final = re.compile(_PART).findall
_is_duration: Final = re.compile(rf"[+-]?(?:(?:{_PART})+|0)").fullmatch


def parse_duration(text: str) -> timedelta:
    """The duration that a text such as ``1h30m``, ``1.5s``, ``-1m`` or ``0`` says.

    Rounded to a microsecond. Raises ``ValueError`` for any other text, and for more
    than the 292 years that a duration of Go can hold.
    """
    if len(text) > _MAX_LENGTH or not _is_duration(text):
        raise ValueError(f"{text!r:.100} is no duration: write one like 30s, 5m, 1h30m or 0")
    total = 0
    for number, unit in _parts_of(text):
        whole, _, decimals = number.partition(".")
        scale = _NANOSECONDS[unit]
        total += int(whole or "0") * scale
        total += int(decimals or "0") * scale // 10 ** len(decimals)
    if total > _MAX_NANOSECONDS:
        raise ValueError(f"{text!r:.100} is out of range: 292 years is the most")
    # In integers: a float of this size has no room for microseconds.
    duration = (total + 500) // 1_000 * _MICROSECOND
    return -duration if text.startswith("-") else duration


def format_duration(duration: timedelta) -> str:
    """A duration in the form that Go gives it: ``30m0s``, ``1h30m0s``, ``1.5s``, ``0s``."""
    microseconds = abs(duration) // _MICROSECOND
    sign = "-" if duration < timedelta(0) else ""
    if microseconds == 0:
        return "0s"
    if microseconds < 1_000:
        return f"{sign}{microseconds}\N{MICRO SIGN}s"
    if microseconds < 1_000_000:
        return f"{sign}{_decimal(microseconds, 3)}ms"
    minutes, microseconds = divmod(microseconds, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(microseconds, 6)}s"
    if hours:
        text = f"{hours}h{minutes}m{text}"
    elif minutes:
        text = f"{minutes}m{text}"
    return sign + text


def _decimal(number: int, places: int) -> str:
    """A number of which the last digits stand after the point, without needless zeros."""
    whole, rest = divmod(number, 10**places)
    return f"{whole}.{rest:0{places}}".rstrip("0").rstrip(".")
