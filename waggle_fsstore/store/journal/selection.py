# SPDX-License-Identifier: Apache-2.0
"""Selections: which lines of the journal may hold a change that is wanted, by their bytes alone.

To parse a line takes several times as long as to look at the members that stand before its
document. A line in any other form than that of a store may hold anything, and is parsed.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.event import EventFilter
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format.canonical_json import compact, parse, timestamp

# The text of a JSON string, with its quotes.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'

# The only change in a line, up to its id. A time in this form can be compared as text.
_CHANGE: Final = (
    rb'\{"crc":"[0-9a-f]{8}","changes":\[\{"seq":[0-9]+,'
    rb'"at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)",'
    rb'"actor":(%b),"reason":%b,"kind":"([a-z]+)","id":(%b),' % (_STRING, _STRING, _STRING)
)

# It is in each line with several changes.
_BETWEEN_CHANGES: Final = b"},{"

# The number of actors that are remembered. Clients choose their names, so it has a limit.
_MAX_ACTORS: Final = 1_000


class Selection(NamedTuple):
    """Which changes are wanted.

    ``may_be_in`` returns whether a line may have one: it is true of each line that has.
    ``matches`` returns whether a parsed change is one.
    """

    may_be_in: Callable[[bytes], bool]
    matches: Callable[[dict[str, Any]], bool]


#: The selection that no change passes.
NOTHING: Final = Selection(lambda _: False, lambda _: False)


def of_id(environment_id: str) -> Selection:
    """Return the selection of all changes of an environment."""
    if not is_id(environment_id):
        return NOTHING
    needle = _needle(environment_id)
    return Selection(
        lambda line: needle in line,
        lambda change: bool(change["id"] == environment_id),
    )


def of_filter(wanted: EventFilter) -> Selection | None:
    """Return the selection of the changes whose events pass a filter, ``None`` if all do."""
    if wanted == EventFilter():
        return None
    ids = frozenset(filter(is_id, wanted.environments))
    if wanted.environments and not ids:
        return NOTHING

    def matches(change: dict[str, Any]) -> bool:
        at = datetime.fromisoformat(change["at"])
        return wanted.accepts(change["id"], change["actor"], change["kind"], at)

    return Selection(_Glance(wanted, ids).may_be_in, matches)


class _Glance:
    """A look at the bytes of a line, for one filter."""

    def __init__(self, wanted: EventFilter, ids: frozenset[str]) -> None:
        self._match = re.compile(_CHANGE).match  # Now: few programs need it.
        self._accepts_actor = wanted.accepts_actor
        self._actors: dict[bytes, bool] = {}
        self._has_actor = bool(wanted.actor)
        self._needle = _needle(*ids) if len(ids) == 1 else b""
        self._ids = frozenset(map(compact, ids))
        self._kinds = frozenset(kind.encode() for kind in wanted.kinds)
        self._since = _text_of(wanted.since)
        self._until = _text_of(wanted.until)

    def may_be_in(self, line: bytes) -> bool:
        """See :class:`Selection`."""
        if self._needle not in line:
            return False
        found = self._match(line)
        if found is None or _BETWEEN_CHANGES in line:
            return True
        at, actor, kind, environment_id = found.groups()
        return (
            (not self._kinds or kind in self._kinds)
            and self._since <= at
            and (not self._until or at <= self._until)
            and (not self._ids or environment_id in self._ids or b"\\" in environment_id)
            and (not self._has_actor or self._may_be_actor(actor))
        )

    def _may_be_actor(self, text: bytes) -> bool:
        known = self._actors.get(text)
        if known is None:
            if len(self._actors) >= _MAX_ACTORS:
                self._actors.clear()
            try:
                known = self._accepts_actor(parse(text))
            except ValueError:  # The parser of the line says what is wrong with it.
                known = True
            self._actors[text] = known
        return known


def _text_of(time: datetime | None) -> bytes:
    return b"" if time is None else timestamp(time.astimezone(UTC)).encode()


def _needle(environment_id: str) -> bytes:
    """Return bytes that are in each line with a change of this environment."""
    return compact({"id": environment_id})[1:-1]
