# SPDX-License-Identifier: Apache-2.0
"""Durations in Go's notation: ``30s``, ``1h30m``, ``1.5h``.

The grammar and the output are those of ``time.ParseDuration`` and ``Duration.String``
(https://pkg.go.dev/time), so that a value can be copied between the two programs.
"""

import re
from datetime import timedelta
from typing import Final

_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)

# Go accepts the Greek letter mu as well as the micro sign.
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

# The longest duration of Go, about 292 years.
_MAX_NANOSECONDS: Final = 2**63 - 1

# Ample for every value in range, and short enough that the arithmetic is cheap.
_MAX_CHARACTERS: Final = 100

_PART: Final = rf"([0-9]+\.?[0-9]*|\.[0-9]+)({'|'.join(_NANOSECONDS)})"
_parts_of: Final = re.compile(_PART).findall
_is_duration: Final = re.compile(rf"[+-]?(?:(?:{_PART})+|0)").fullmatch


def parse_duration(text: str) -> timedelta:
    """Return the duration of a text such as ``1h30m``, ``1.5s``, ``-1m`` or ``0``.

    It is rounded to a microsecond. Raises ``ValueError`` for any other text, and for more
    than 292 years, the longest duration of Go.
    """
    if len(text) > _MAX_CHARACTERS or not _is_duration(text):
        raise ValueError(f"{text!r:.100} is not a duration: write one like 30s, 5m, 1h30m or 0")
    total = 0
    for number, unit in _parts_of(text):
        whole, _, decimals = number.partition(".")
        scale = _NANOSECONDS[unit]
        total += int(whole or "0") * scale
        total += int(decimals or "0") * scale // 10 ** len(decimals)
    if total > _MAX_NANOSECONDS:
        raise ValueError(f"{text!r:.100} is out of range: the longest is 292 years")
    # In integers: a float of this size cannot represent microseconds.
    duration = (total + 500) // 1_000 * _MICROSECOND
    return -duration if text.startswith("-") else duration


def format_duration(duration: timedelta) -> str:
    """Return a duration in Go's form: ``30m0s``, ``1h30m0s``, ``1.5s``, ``0s``."""
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


def format_timeout(timeout: timedelta) -> str:
    """Return an idle timeout as :func:`format_duration` does; of zero or less, ``never``."""
    return "never" if timeout <= timedelta(0) else format_duration(timeout)


def _decimal(number: int, places: int) -> str:
    """Return a number whose last digits are decimal places, without trailing zeros."""
    whole, rest = divmod(number, 10**places)
    return f"{whole}.{rest:0{places}}".rstrip("0").rstrip(".")


def short_duration(duration: timedelta) -> str:
    """Return a duration in its largest unit, rounded down: ``45s``, ``12m``, ``30h``, ``9d``."""
    if duration < _MINUTE:
        return f"{max(duration, timedelta(0)) // timedelta(seconds=1)}s"
    if duration < _HOUR:
        return f"{duration // _MINUTE}m"
    if duration < 2 * _DAY:
        return f"{duration // _HOUR}h"
    return f"{duration // _DAY}d"
