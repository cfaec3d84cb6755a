# SPDX-License-Identifier: Apache-2.0
"""Parsers for option values; an invalid value is a usage error that names the option."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from waggle_fsstore.domain.duration import parse_duration

_UNIT_BYTES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MAX_DIGITS: Final = 18
_match_size: Final = re.compile(r"([0-9]{1,15})([KMGT]?)").fullmatch


def whole_number(text: str) -> int:
    """Return a number of events, or that of a change or revision."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise click.BadParameter(f"{text!r:.100} is not a whole number")
    return int(text)


def number(text: str) -> float:
    """Return a number that may have decimals."""
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r:.100} is not a number") from None


def parse_timeout(text: str) -> timedelta:
    """Return the duration of ``--timeout``, such as ``1h30m``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--timeout'") from None


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Return the labels of all ``--label KEY=VALUE``; the last value of a key is used."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="'--label'")
        labels[key] = value
    return labels


def parse_size(text: str) -> int:
    """Return the bytes of ``--keep-bytes``, such as ``10M``."""
    match = _match_size(text.upper())
    if match is None:
        raise click.BadParameter(
            f"{text!r:.100} is not a size: write one like 500K, 10M or 1G",
            param_hint="'--keep-bytes'",
        )
    return int(match[1]) * _UNIT_BYTES[match[2]]


def parse_time(text: str) -> datetime:
    """Return the time of ``--since``: an RFC 3339 time, or a duration before now."""
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        raise click.BadParameter(
            f"{text!r:.100} is neither a time like 2026-11-22T22:50:01Z nor a duration like 10m",
            param_hint="'--since'",
        ) from None
    if time.tzinfo is None:
        raise click.BadParameter(
            f"{text!r:.100} has no UTC offset: append Z for UTC", param_hint="'--since'"
        )
    return time
