# SPDX-License-Identifier: Apache-2.0
"""Reading a store that needs recovery and cannot get it, on a read-only disk for example.

The changes that recovery would publish are kept in memory, and laid over the documents.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypeVar

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, UnsupportedFormatError
from waggle_fsstore.domain.process import boot_id
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import NO_SYNC, Disk
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.fs.safe_read import read_or_error
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import changes, last_of_each, redo_range
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.state import UNKNOWN, State, boot_of, is_trusted, read_state
from waggle_fsstore.store.read.documents import Documents, StoredDocument

_MAX_CLOCK_TICK_NS: Final = 20_000_000  # File times tick at least this often.

_T = TypeVar("_T")
Changes = dict[str, dict[str, Any]]


class Scan(NamedTuple, Generic[_T]):
    """A result from the documents, the changes to lay over it, and the last change covered."""

    result: _T
    overlay: Changes
    seq: int


class PendingOverlay:
    """The documents of a store, and over them the changes that its recovery would publish."""

    def __init__(self, layout: Layout, documents: Documents, disk: Disk) -> None:
        self._layout = layout
        self._documents = documents
        self._disk = disk
        self._changes: Changes = {}
        # The live segment that the changes were read from: number, size, modification time.
        self._read_from: tuple[int, int, int] | None = None

    def changes(self) -> Changes:
        """Return the last change of each id; reads the journal again if that has changed."""
        live = max(segments.list_segments(self._layout), default=0)
        if live == 0:
            return {}
        status = os.stat(segments.path_of(self._layout, live))
        source = (live, status.st_size, status.st_mtime_ns)
        # Within one clock tick, two changes may have the same time.
        is_recent = file_clock() - status.st_mtime_ns < _MAX_CLOCK_TICK_NS
        if is_recent or source != self._read_from:
            start, end = redo_range(self._layout).start, self.end()
            self._changes = last_of_each(changes(self._layout, start, Cursor(end.committed)))
            self._read_from = None if is_recent or end.mounted_id else source
        return self._changes

    def end(self) -> State:
        """Return how far the journal is certain: no crash and no rollback takes that back.

        If no process that is alive has written the state record, no process is just adding a
        line. So all lines are those of processes that ended, and are certain once synced. A
        record that changes in the meantime is that of a live process, whatever mount it names.
        """
        while True:
            state = read_state(self._layout.state)
            if is_trusted(state, self._layout):
                return state
            end = journal_end(self._layout)
            if state is None or boot_of(state.mounted_id) in (boot_id(), UNKNOWN):
                self._sync(end.segment)
            # Otherwise the system has been booted since, and the lines were read from the disk.
            now = read_state(self._layout.state)
            if now is not None and now != state:
                return now
            if now == state and not is_trusted(now, self._layout):
                return end

    def _sync(self, segment: int) -> None:
        try:
            self._disk.sync_file(self._layout.segment(segment))
        except OSError as error:
            if error.errno not in NO_SYNC:  # A disk image: no process can have written to it.
                raise

    def find(self, environment_id: str) -> Environment:
        """Return the environment with an id, from the newer of its document and its change."""
        change = self.changes().get(environment_id)
        if change is None:
            return self._documents.find(environment_id)
        with suppress(EnvironmentNotFoundError):
            found = read_or_error(lambda: self._documents.find(environment_id))
            if isinstance(found, UnsupportedFormatError):
                raise found
            if isinstance(found, Environment) and found.revision >= change["seq"]:
                return found
        if change["kind"] == "deleted":
            raise EnvironmentNotFoundError(environment_id)
        return environment_of(change, self._layout)

    def stored(self, environment_id: str) -> StoredDocument:
        """Return the document that recovery would leave for an id."""
        environment = self.find(environment_id)
        data = codec.encode(environment, environment.revision)
        return StoredDocument(self._layout.document(environment_id), data)

    def scan(self, collect: Callable[[], _T]) -> Scan[_T]:
        """Return what ``collect`` makes of the documents, and the pending changes."""
        start = redo_range(self._layout).start
        result = collect()
        end = self.end()
        overlay = last_of_each(changes(self._layout, start, Cursor(end.committed)))
        return Scan(result, overlay, end.committed)


def journal_end(layout: Layout) -> State:
    """Return a state in which every change of the journal is published."""
    first = max(segments.list_segments(layout), default=1)
    last = first - 1
    for change in changes(layout, Cursor(segment=first)):
        last = change["seq"]
    return State("", 0, first, 0, last, last)


def environment_of(change: dict[str, Any], layout: Layout) -> Environment:
    """Return the environment that a change stored."""
    return codec.environment_of(dict(change["document"]), layout.document(change["id"]))
