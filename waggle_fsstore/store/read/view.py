# SPDX-License-Identifier: Apache-2.0
"""What readers see: the documents, and laid over them what the journal knows better.

Nothing here takes a lock or writes. Two cases need the journal. A scan takes time, in
which documents change, and some file systems hide a file while it is renamed over: the
changes made meanwhile tell what it missed. And where recovery is due and cannot be made,
on a read-only disk for one, what it would publish is kept in memory.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypeVar

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, UnsupportedFormatError
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.fs.safe_read import BadFile, read_or_error
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.changes import changes, last_of_each, redo_range
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.state import State, is_trusted, mounted_id, read_state
from waggle_fsstore.store.read.documents import Documents, StoredDocument

# The state is read before and after a scan; they tell of two stores only if one was exchanged.
_TRIES: Final = 5

# How long a scan waits for the renames of a change that it has seen (seconds).
_PATIENCE: Final = 0.5
_PAUSE: Final = 0.0001

_COARSE_CLOCK: Final = 20_000_000  # ns; times of files tick at least this often

_NOTHING_YET: Final = State("", 0, 0, 0, 0, 0)

_T = TypeVar("_T")
_Changes = dict[str, dict[str, Any]]


class Scan(NamedTuple, Generic[_T]):
    """What was made of the documents, the changes to lay over it, and the last that counts."""

    found: _T
    over: _Changes
    seq: int


class View:
    """The environments of one store, as of some change."""

    def __init__(self, layout: Layout, documents: Documents) -> None:
        self._layout = layout
        self._documents = documents
        # Whether recovery could not be made. Then what it would publish, and as of when.
        self._is_due = False
        self._due: _Changes = {}
        self._due_as_of: tuple[int, int, int] | None = None

    def needs_recovery(self, *, durable: bool) -> bool:
        """Whether there is a journal that may know more than the documents do.

        So it is where the state tells of another boot, mount or place, or of a half-done
        change.
        """
        state = read_state(self._layout.state)
        if state is None or not is_trusted(state, mounted_id(self._layout)):
            return bool(segments.list_segments(self._layout))
        is_half_done = state.published != state.committed
        return is_half_done or (durable and not state.durable) or self._goes_on(state)

    def _goes_on(self, state: State) -> bool:
        """Whether the journal goes on where the state says that it ends: a writer died there."""
        try:
            with open(self._layout.segment(state.segment), "rb") as file:
                file.seek(state.offset - 1)
                return file.read(2) != b"\n" + lines.BLANK
        except (OSError, ValueError):
            return True

    def use_overlay(self) -> None:
        """Keep in memory what recovery would publish, unless the state is good enough."""
        self._is_due = not self._is_trusted()

    def state(self) -> State:
        """How far readers may look: what was published, or where that is unknown, all."""
        state = None if self._has_due() else read_state(self._layout.state)
        if state is not None:
            return state
        first = max(segments.list_segments(self._layout), default=1)
        last = first - 1
        for change in changes(self._layout, Cursor(segment=first)):
            last = change["seq"]
        return State("", 0, first, 0, last, last)

    def find(self, environment_id: str) -> Environment:
        """The environment with an id. Raises :class:`EnvironmentNotFoundError` and ``BadFile``."""
        change = self.pending().get(environment_id)
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
        return self._environment(change)

    def stored(self, environment_id: str) -> StoredDocument:
        """The document of an id. Raises as :meth:`find` does."""
        if self._has_due():
            environment = self.find(environment_id)
            data = codec.encode(environment, environment.revision)
            return StoredDocument(self._layout.document(environment_id), data)
        found = self._documents.stored(environment_id)
        if found is None:
            raise EnvironmentNotFoundError(environment_id)
        return found

    def find_all(self) -> tuple[list[Environment], list[BadFile]]:
        """All environments sorted by id, and what is wrong with the other files, by name."""
        (good, bad), over, _ = self.scan(self._documents.read_all)
        if not over:
            return good, bad
        found = {environment.id: environment for environment in good}
        wrong = {_path_of(error): error for error in bad}
        for name, change in over.items():
            if name in found and found[name].revision >= change["seq"]:
                continue
            wrong.pop(self._layout.document(name), None)
            found.pop(name, None)
            if change["kind"] != "deleted":
                found[name] = self._environment(change)
        return [found[name] for name in sorted(found)], list(wrong.values())

    def count(self) -> int:
        """How many file names belong to some id; opens none."""
        files, over, _ = self.scan(lambda: set(self._documents.names()))
        for name, change in over.items():
            if change["kind"] == "deleted":
                files.discard(document_name(name))
            else:
                files.add(document_name(name))
        return len(files)

    def scan(self, collect: Callable[[], _T]) -> Scan[_T]:
        """What ``collect`` makes of the documents, and the changes to lay over it.

        Together they are the store as of one change, the last that was committed when the
        scan ended: no document is missed, and no batch is seen by half. ``collect`` may be
        called more than once; the last result counts.
        """
        seq = 0
        for _ in range(_TRIES):
            if self._has_due():
                window = redo_range(self._layout)
                result = collect()
                over = last_of_each(changes(self._layout, window.start))
                return Scan(result, over, self.state().committed)
            before = read_state(self._layout.state)
            result = collect()
            after = read_state(self._layout.state)
            if before is None and after is None:
                break  # Nobody ever wrote.
            start = before or _NOTHING_YET
            seq = after.committed if after else seq
            if after is None or (before and before.mounted_id != after.mounted_id):
                continue
            self._wait_until_published(after)
            if start.published == after.committed:
                break
            over = last_of_each(changes(self._layout, start.published_cursor, Cursor(seq)))
            return Scan(result, over, seq)
        return Scan(result, {}, seq)

    def _wait_until_published(self, state: State) -> None:
        """Wait, for a moment, until what was committed is in place.

        So that who reads a document next does not find an older one. Only a writer that
        was stopped or killed just there takes longer.
        """
        deadline = time.monotonic() + _PATIENCE
        now: State | None = state
        while now is not None and now.published < state.committed:
            if time.monotonic() > deadline:
                return
            time.sleep(_PAUSE)
            now = read_state(self._layout.state)

    def pending(self) -> _Changes:
        """The last change of each id that recovery would look at; nothing if it was made."""
        return self._due_changes() if self._has_due() else {}

    def _has_due(self) -> bool:
        if self._is_due and self._is_trusted():
            self._is_due = False  # Somebody could write, and recovered.
            self._due.clear()
        return self._is_due

    def _due_changes(self) -> _Changes:
        """What recovery would publish; read again when the journal has changed since."""
        live = max(segments.list_segments(self._layout), default=0)
        if live == 0:
            return {}
        status = os.stat(segments.path_of(self._layout, live))
        as_of = (live, status.st_size, status.st_mtime_ns)
        # A clock that ticks every few ms may give two changes the same time.
        is_fresh = time.time_ns() - status.st_mtime_ns < _COARSE_CLOCK
        if is_fresh or as_of != self._due_as_of:
            window = redo_range(self._layout)
            self._due = last_of_each(changes(self._layout, window.start))
            self._due_as_of = None if is_fresh else as_of
        return self._due

    def _is_trusted(self) -> bool:
        return is_trusted(read_state(self._layout.state), mounted_id(self._layout))

    def _environment(self, change: dict[str, Any]) -> Environment:
        path = self._layout.document(change["id"])
        return codec.environment_of(dict(change["document"]), path)


def _path_of(error: BadFile) -> str:
    return str(error.filename if isinstance(error, OSError) else error.path)
