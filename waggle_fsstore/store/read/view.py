# SPDX-License-Identifier: Apache-2.0
"""The readers' view: the documents, and over them the changes that the journal adds.

Nothing here takes a lock or writes. A scan takes time, in which documents change, and some
file systems hide a file while it is renamed over: the changes made in the meantime show what
the scan missed. A :class:`PendingOverlay` replaces recovery where that is impossible.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, StoreError
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.safe_read import BadFile, read_or_error
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.changes import changes, last_of_each
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.state import State, inode_of, is_trusted, read_state
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.read.pending_overlay import (
    Changes,
    PendingOverlay,
    Scan,
    environment_of,
)
from waggle_fsstore.store.read.stat_signature import Signature

# The state records before and after a scan differ in their inode only if another store was
# moved to this path in between. Changes made during a scan are rarely pruned before its end.
_MAX_SCANS: Final = 5

# How long a scan waits for the renames of a change that it has seen.
_PUBLISH_TIMEOUT_S: Final = 0.5
_PUBLISH_POLL_S: Final = 0.0001

_T = TypeVar("_T")


class View:
    """The environments of one store, as of some change."""

    def __init__(self, layout: Layout, documents: Documents, disk: Disk) -> None:
        self._layout = layout
        self._documents = documents
        self._overlay = PendingOverlay(layout, documents, disk)
        self._uses_overlay = False
        #: The directory when it was last listed for a count, and the number of its documents.
        self._listed: tuple[Signature | None, int] = (None, 0)
        #: How often it was listed. A watcher costs more than two listings.
        self._listings = 0

    def needs_recovery(self, *, durable: bool) -> bool:
        """Return whether the journal may have changes that the documents lack.

        It may if the state record is of another boot, mount or place, or has a change that
        is committed and not published, or if a writer died before it updated the record.
        """
        state = read_state(self._layout.state)
        if not is_trusted(state, self._layout):
            return bool(segments.list_segments(self._layout))
        is_half_done = state.published != state.committed
        return is_half_done or (durable and not state.is_synced) or self._has_line_after(state)

    def _has_line_after(self, state: State) -> bool:
        """Return whether the journal continues behind its end according to the state record."""
        try:
            with open(self._layout.segment(state.segment), "rb") as file:
                file.seek(state.offset - 1)
                return file.read(2) != b"\n" + lines.BLANK
        except (OSError, ValueError):
            return True

    def use_overlay(self) -> None:
        """Keep in memory what recovery would publish, until a process has recovered the store."""
        self._uses_overlay = True

    def state(self) -> State:
        """Return how far readers may look: what is published, or all that is certain."""
        state = None if self._pending_overlay() else read_state(self._layout.state)
        return state or self._overlay.end()

    def find(self, environment_id: str) -> Environment:
        """Return the environment with an id.

        Raises :class:`EnvironmentNotFoundError` and ``BadFile``.
        """
        overlay = self._pending_overlay() if self._uses_overlay else None
        return (overlay or self._documents).find(environment_id)

    def stored(self, environment_id: str) -> StoredDocument:
        """Return the document of an id. Raises as :meth:`find` does."""
        stored = (self._pending_overlay() or self._documents).stored(environment_id)
        if stored is None:
            raise EnvironmentNotFoundError(environment_id)
        return stored

    def find_all(self) -> tuple[list[Environment], list[BadFile]]:
        """Return all environments, sorted by id, and the errors of bad files, by file name."""
        (good, bad), overlay, _ = self.scan(self._documents.read_all)
        if not overlay:
            return good, bad
        found = {environment.id: environment for environment in good}
        errors = {_path_of(error): error for error in bad}
        for environment_id, change in overlay.items():
            if environment_id in found and found[environment_id].revision >= change["seq"]:
                continue
            errors.pop(self._layout.document(environment_id), None)
            found.pop(environment_id, None)
            if change["kind"] != "deleted":
                found[environment_id] = environment_of(change, self._layout)
        return [found[environment_id] for environment_id in sorted(found)], list(errors.values())

    def known_count(self) -> int | None:
        """Return the count, if it is certain without a listing; ``None`` if it is not.

        It is the last one if the directory has not changed since, and what notifications make of
        that one if they tell all changes: both only while no change is committed that is not
        published, so that no batch is counted in part.
        """
        listed_at, length = self._listed
        # The state first: a change that is committed after this look is a later one.
        if listed_at is not None and self._is_idle() and listed_at == self._documents.signature():
            return length
        if self._uses_overlay or not self._follows_names():
            return None
        signature, counted = self._documents.count(length, self._is_idle)
        if counted is not None:
            self._listed = signature, counted
        return counted

    def _is_idle(self) -> bool:
        """Return whether all changes are published that are committed."""
        state = read_state(self._layout.state)
        return state is not None and state.published == state.committed

    def _follows_names(self) -> bool:
        """Return whether notifications may tell the names, which takes two listings to be worth."""
        return self._listings > 1 and self._documents.can_follow(self._listed[1])

    def count(self) -> int:
        """Return how many file names belong to some id; opens no document."""
        if self._follows_names():
            count = partial(self._documents.count, self._listed[1])
            (signature, counted), overlay, _ = self.scan(count)
            if counted is not None and not overlay:
                self._listed = signature, counted
                return counted
        self._listings += 1
        (signature, listed), overlay, _ = self.scan(self._documents.listing)
        self._listed = None if overlay else signature, len(listed)
        return len(_with_changes(listed, overlay))

    def names(self) -> dict[str, str | None]:
        """Return the file names that belong to some id, with the id if the journal gives it.

        Opens no document. The names of pending changes are all given with their ids.
        """
        listed, overlay, _ = self.scan(self._documents.names)
        return _with_changes(listed, overlay)

    def find_named(self, name: str, environment_id: str | None) -> Environment | BadFile | None:
        """Return the environment of an item of :meth:`names`, or what is wrong with its file.

        ``None`` if it has been deleted since.
        """
        try:
            if environment_id is not None:
                return read_or_error(partial(self.find, environment_id))
            found = read_or_error(partial(self._documents.named, name))
        except EnvironmentNotFoundError:
            return None
        return None if isinstance(found, FileNotFoundError) else found

    def scan(self, collect: Callable[[], _T]) -> Scan[_T]:
        """Return what ``collect`` makes of the documents, and the changes to lay over it.

        Together they are the store as of one change, the last that was committed when the
        scan ended: no document is missed, and no batch is seen in part. That holds with
        writers in any number of mounts, and without the state record too. ``collect`` may be
        called more than once; the last result is used. Raises :class:`StoreError` if others
        keep exchanging the store, or pruning the changes made during the scan.
        """
        if overlay := self._pending_overlay():
            return overlay.scan(collect)
        for _ in range(_MAX_SCANS):
            before = read_state(self._layout.state)
            if before is None:  # Never written, or removed.
                return self._overlay.scan(collect)
            result = collect()
            after = read_state(self._layout.state) or self._overlay.end()
            if after.mounted_id and inode_of(before.mounted_id) != inode_of(after.mounted_id):
                continue
            self._wait_until_published(after)
            start, end = before.published_cursor, Cursor(after.committed)
            missed = last_of_each(changes(self._layout, start, end))
            if start.seq == end.seq or segments.has_all_after(self._layout, start.seq):
                return Scan(result, missed, end.seq)
        raise StoreError(
            f"{self._layout.root}: other processes replaced the store, or pruned its latest "
            f"changes, during each of {_MAX_SCANS} attempts to read it: try again"
        )

    def pending(self) -> Changes:
        """Return the last change of each id that only recovery would publish."""
        overlay = self._pending_overlay()
        return overlay.changes() if overlay else {}

    def _pending_overlay(self) -> PendingOverlay | None:
        """Return the overlay, until a process has recovered the store."""
        if self._uses_overlay:
            self._uses_overlay = not is_trusted(read_state(self._layout.state), self._layout)
        return self._overlay if self._uses_overlay else None

    def _wait_until_published(self, state: State) -> None:
        """Wait briefly until the committed changes are in place.

        A following read of one document then cannot return an older version. Only a writer
        that was stopped or killed at that very point takes longer.
        """
        deadline = monotonic() + _PUBLISH_TIMEOUT_S
        now: State | None = state
        while now is not None and now.published < state.committed:
            if monotonic() > deadline:
                return
            time.sleep(_PUBLISH_POLL_S)
            now = read_state(self._layout.state)


def _with_changes(listed: list[str], overlay: Changes) -> dict[str, str | None]:
    """Return the file names after some changes, with the ids of those that were changed."""
    names: dict[str, str | None] = dict.fromkeys(listed)
    for environment_id, change in overlay.items():
        if change["kind"] == "deleted":
            names.pop(document_name(environment_id), None)
        else:
            names[document_name(environment_id)] = environment_id
    return names


def _path_of(error: BadFile) -> str:
    return str(error.filename if isinstance(error, OSError) else error.path)
