# SPDX-License-Identifier: Apache-2.0
"""The latest change of each document in the journal, without the documents themselves."""

from typing import Final, NamedTuple

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.domain.progress import report
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import changes
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.selection import of_id
from waggle_fsstore.store.journal.state import State

_DELETED: Final = str(EventKind.DELETED)


class LatestChange(NamedTuple):
    """The latest change of a document, with the checksum of the version that it stored."""

    environment_id: str
    seq: int
    checksum: str | None
    is_deleted: bool


class LatestChanges:
    """The latest change of each document, by file name, as of the last :meth:`read_to`.

    Memory grows with the number of ids, not with the history.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._latest: dict[str, LatestChange] = {}
        self._last = 0
        self._state: State | None = None
        #: The first change that was not pruned; 0 if none was. Earlier ones are forgotten.
        self.oldest = 0

    def get(self, name: str) -> LatestChange | None:
        """Return the latest change of a file name, ``None`` without one."""
        return self._latest.get(name)

    def present(self) -> list[str]:
        """Return the names of the files that should exist, sorted."""
        return sorted(name for name, change in self._latest.items() if not change.is_deleted)

    def read_to(self, state: State | None) -> None:
        """Read on to what a state says is committed; without one, to the end of the journal."""
        if state is not None and state == self._state:
            return
        end = Cursor(state.committed) if state else None
        begin, total = self._last, end and end.seq - self._last
        for change in changes(self._layout, Cursor(self._last), end):
            self._last = change["seq"]
            report(self._last - begin, total, "changes")
            is_deleted = change["kind"] == _DELETED
            checksum = None if is_deleted else change["document"]["checksum"]
            latest = LatestChange(change["id"], change["seq"], checksum, is_deleted)
            self._latest[document_name(change["id"])] = latest
        self._state = state
        self._forget_pruned()

    def _forget_pruned(self) -> None:
        """Forget the changes that are pruned by now, as if reading had begun just now.

        A segment that was pruned before it was read may have had later ones of the same ids.
        """
        oldest = segments.oldest_kept(self._layout)
        if oldest != self.oldest:
            self.oldest = oldest
            self._latest = {
                name: change for name, change in self._latest.items() if change.seq >= oldest
            }


def version(layout: Layout, environment_id: str, revision: int) -> Environment | None:
    """Return the environment that change ``revision`` stored; ``None`` if it stored none.

    Raises :class:`UnsupportedFormatError` for one that a newer program stored.
    """
    for change in changes(
        layout, Cursor(revision - 1), Cursor(revision), only=of_id(environment_id)
    ):
        if change["kind"] != _DELETED:
            return codec.environment_of(dict(change["document"]), layout.document(environment_id))
    return None
