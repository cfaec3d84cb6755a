# SPDX-License-Identifier: Apache-2.0
"""The last word of the journal on each document, without the documents themselves."""

from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import changes
from waggle_fsstore.store.journal.state import State, is_trusted, mounted_id, read_state

_DELETED: Final = str(EventKind.DELETED)


class LatestChange(NamedTuple):
    """The last change of one document that the journal knows; the checksum of what it left."""

    environment_id: str
    seq: int
    checksum: str | None
    is_deleted: bool


class LatestChanges:
    """What the journal said last of each file name, as of the last :meth:`advance`.

    Memory grows with the number of ids, not with the history.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._words: dict[str, LatestChange] = {}
        self._last = 0
        self._mark: State | None = None

    def get(self, name: str) -> LatestChange | None:
        """The last word on a file name, ``None`` if there is none."""
        return self._words.get(name)

    def present(self) -> list[str]:
        """The file names that should be there, sorted."""
        return sorted(name for name, word in self._words.items() if not word.is_deleted)

    def read_to(self, state: State | None) -> None:
        """Read on, as far as a state says; without one, to the end of the journal."""
        if state is not None and state == self._mark:
            return
        until = state.committed if state else None
        for change in changes(self._layout, after=self._last, until=until):
            self._note(change)
        self._mark = state

    def _note(self, change: dict[str, Any]) -> None:
        self._last = change["seq"]
        is_deleted = change["kind"] == _DELETED
        checksum = None if is_deleted else change["document"]["checksum"]
        name = document_name(change["id"])
        self._words[name] = LatestChange(change["id"], change["seq"], checksum, is_deleted)


def trusted_state(layout: Layout) -> State | None:
    """The state record if it tells of this boot, mount and store."""
    state = read_state(layout.state)
    try:
        return state if is_trusted(state, mounted_id(layout)) else None
    except FileNotFoundError:  # Not founded yet: only a hand was here.
        return None


def version(layout: Layout, environment_id: str, revision: int) -> Environment | None:
    """The version of an environment that change ``revision`` stored; ``None`` if none did.

    Raises :class:`UnsupportedFormatError` for one that a newer program stored.
    """
    for change in changes(layout, after=revision - 1, until=revision):
        if change["id"] == environment_id and change["kind"] != _DELETED:
            return codec.environment_of(dict(change["document"]), layout.document(environment_id))
    return None


def begins_after_more(layout: Layout) -> bool:
    """Whether the journal once had more before what it begins with now."""
    first = next(iter(segments.list_segments(layout)), 1)
    return first > 1 and segments.header(layout, first) != (0, 0)
