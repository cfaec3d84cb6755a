# SPDX-License-Identifier: Apache-2.0
"""The query of a link or of the form with the filters, which anyone may have written."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from waggle_fsstore.domain.event import EventFilter, EventKind

_MAX_DIGITS: Final = 18
_KINDS: Final = ("", *(kind.value for kind in EventKind))


class InvalidQueryError(ValueError):
    """A parameter has a value that means nothing."""


def trail_in(query: Mapping[str, str]) -> tuple[EventFilter, int | None]:
    """Return the filter in a query, and the change before which to begin.

    Raises :class:`InvalidQueryError`.
    """
    kind = query.get("kind", "")
    if kind not in _KINDS:
        raise InvalidQueryError(f"kind: must be one of {', '.join(_KINDS[1:])}")
    environment = query.get("environment", "")
    wanted = EventFilter(
        environments=frozenset({environment} - {""}),
        actor=query.get("actor", "").strip(),
        kinds=frozenset({EventKind(kind)} if kind else ()),
        since=_moment_in(query, "since"),
        until=_moment_in(query, "until"),
    )
    return wanted, number_in(query, "before", 0) or None


def number_in(query: Mapping[str, str], name: str, default: int) -> int:
    """Return a whole number from 1 on. Raises :class:`InvalidQueryError`."""
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text)):
        raise InvalidQueryError(f"{name}: must be a whole number from 1 on")
    return int(text)


def _moment_in(query: Mapping[str, str], name: str) -> datetime | None:
    text = query.get(name, "").strip()
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidQueryError(f"{name}: must be a time such as 2026-11-22T22:50:01") from None
