# SPDX-License-Identifier: Apache-2.0
"""The state of the store that a writer caches between its writes."""

import errno
import os
import sys
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Final, TypeGuard

from waggle_fsstore.domain.finding import Finding
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.linux import (
    TimelessStatus,
    file_clock,
    has_change_times,
    timeless_status,
)
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.changes import changes, redo_range
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.live_segment import LiveSegment
from waggle_fsstore.store.journal.state import (
    DURABLE,
    SUSPECT,
    UNSYNCED,
    UNSYNCED_SUSPECT,
    State,
    StateRecord,
    checkpoint_identity,
    is_set_back,
    is_trusted,
    last_modified,
    mounted_id,
)
from waggle_fsstore.store.read.seen_store import SeenStore
from waggle_fsstore.store.write import initialize
from waggle_fsstore.store.write.recovery import read_tail, recover, replay
from waggle_fsstore.store.write.sync import rewrite_files, sync_all

_SECOND_NS: Final = 1_000_000_000


class Phase(Enum):
    """How much of the cached state can be relied on."""

    #: Nothing: its directories may be missing or exchanged.
    UNKNOWN = auto()
    #: Its directories are in place. The state record is valid only if it names this mount.
    INITIALIZED = auto()
    #: The open files prove that the mount is the same: the state record is valid.
    OPENED = auto()
    #: No other process wrote since: numbers and the end of the journal are known.
    CURRENT = auto()


class WriterSession:
    """The cached state of one writer. Every method runs under the store lock.

    ``committed`` is the last change in the journal, ``published`` the last one whose
    documents are in place.
    """

    def __init__(self, layout: Layout, disk: Disk, lock: StoreLock, seen_store: SeenStore) -> None:
        self.segment = LiveSegment(layout, disk)
        self.committed = 0
        self.published = 0
        #: How often the store was initialized or recovered by this object.
        self.recoveries = 0
        #: The status of the documents' directory, as this change found it.
        self.directory: TimelessStatus | None = None
        #: Findings of recovery for the operator: failures, and repairs.
        self.findings: list[Finding] = []
        self._layout = layout
        self._disk = disk
        self._lock = lock
        self._seen_store = seen_store
        self._record = StateRecord(layout.state)
        self._phase = Phase.UNKNOWN
        self._directories: tuple[int, ...] | None = None
        self._documents_directory: int | None = None
        self._mounted_id = ""
        #: A time that the last change of this object has set the documents' directory to, or an
        #: earlier one; 0 if unknown. A manual edit may be later: that the directory is no older is
        #: what counts.
        self._modified = 0
        #: Whether :meth:`file_clock` knows it; ``None`` before its first call.
        self._has_file_clock: bool | None = None
        #: Whether the documents' directory had to be made: then no record of it is valid.
        self._is_rebuilt = False
        #: Whether all files of earlier writers are synced.
        self._is_synced = False
        #: Whether a sync of documents failed: they must be rewritten before a checkpoint.
        self._is_suspect = False
        #: Whether a sync of the files of earlier writers may have failed: none proves anything.
        self._has_failed_to_sync = False

    def __del__(self) -> None:
        with suppress(AttributeError):  # The constructor may have failed.
            self._close_documents_directory()

    @property
    def is_current(self) -> bool:
        """Whether it has caught up, and nothing has failed since."""
        return self._phase is Phase.CURRENT

    def catch_up(self) -> None:
        """Initialize the store, recover it, or read what other processes wrote, as needed.

        Raises :class:`JournalDamagedError`, :class:`StoreGoneError` where a store was, and
        what initializing raises.
        """
        is_same = (
            self._phase is not Phase.UNKNOWN and self._directories == self._current_directories()
        )
        # Only an operator takes the marker or the state record away: look once a second.
        is_unshared = self._lock.was_held_here
        if not is_same or not is_unshared:
            self._seen_store.check()
        if not is_same:
            self._initialize()
        elif self._phase is Phase.CURRENT:
            if self.segment.tail_is_intact() and (is_unshared or self._record.is_in_place()):
                return
            self._phase = Phase.OPENED
        self._modified = 0
        state = self._record.read()
        self._is_synced = state is not None and state.is_synced
        self._is_suspect |= state is not None and state.is_suspect
        self._has_failed_to_sync |= state is not None and state.durable == UNSYNCED_SUSPECT
        if self._is_rebuilt or not self._is_ours(state) or not self._resume(state):
            self._recover(state)
        self._phase = Phase.OPENED
        self._is_rebuilt = False
        self._record.show_use()  # Only now is it valid.
        if self._disk.durable and not self._is_synced:
            self._sync_earlier_files()
            self.checkpoint()
        self._phase = Phase.CURRENT

    def write_state(
        self,
        *,
        offset: int | None = None,
        committed: int = 0,
        published: int = 0,
        changed_after: int = 0,
    ) -> None:
        """Write the state record; ``offset`` is where unpublished lines begin, else the end.

        ``changed_after`` is the :meth:`file_clock` before documents were replaced or removed, if
        any were. It takes the place of a look at the time of their directory, because of what such
        a look costs: see :func:`timeless_status`.
        """
        self.committed = committed or self.committed
        self.published = published or self.published
        if changed_after:
            self._modified = changed_after
        elif published or not self._modified:
            self._modified = self._last_modified()
        if self._disk.durable and self._is_synced:
            durable = SUSPECT if self._is_suspect else DURABLE
        else:
            durable = UNSYNCED_SUSPECT if self._is_suspect else UNSYNCED
        self._record.write(
            self._mounted_id,
            durable,
            self.segment.first,
            self.segment.end if offset is None else offset,
            self.committed,
            self.published,
            self._modified,
        )

    def make_room(self, first: int, size: int) -> bool:
        """Ensure room for a line of ``size`` bytes; return whether it had to rotate.

        ``first`` is the number of the first change in the line.
        """
        if self.segment.has_room(size):
            return False
        self.segment.rotate(first, self.segment.end, reserve=size)
        return True

    def checkpoint(self, until: State | None = None) -> None:
        """Record that recovery needs no journal line up to a state, or up to now."""
        cursor = Cursor(self.published, self.segment.first, self.segment.end)
        if until is not None:
            cursor, modified = until.published_cursor, until.modified
        else:
            modified = last_modified(self._layout)
        line = lines.checkpoint(cursor, checkpoint_identity(self._layout, modified))
        self.make_room(self.committed + 1, len(line))
        self.segment.append(line)
        self._modified = 0  # A look now and then tells more than the clock.
        self.write_state()

    def rewrite_all(self) -> None:
        """Write all documents of the redo range again, and sync each."""
        self._is_suspect = True
        self.write_state()  # For the process that writes the next checkpoint, if this fails.
        redo = partial(changes, self._layout, redo_range(self._layout).start, strict=True)
        replay(self._layout, self._disk, redo, self._report, rewrite=True)
        self._is_suspect = False

    def must_rewrite_all(self) -> bool:
        """Return whether a sync of documents had failed, in this process or in another one."""
        if self._is_suspect or self._lock.was_held_here:
            return self._is_suspect
        state = self._record.read()
        return state is not None and state.is_suspect

    def check_journal(self) -> None:
        """Raise :class:`JournalDamagedError` if recovery would raise it after a crash.

        Until then such damage fails no change. Reads the redo range.
        """
        for _ in changes(self._layout, redo_range(self._layout).start, strict=True):
            pass

    def documents_directory(self) -> int:
        """Return a descriptor of the documents' directory, opened before the first publish.

        On Windows, where no directory can be opened, it is -1.
        """
        if sys.platform == "win32":  # pragma: no cover
            return -1
        if self._documents_directory is None:
            self._documents_directory = os.open(self._layout.environments, os.O_RDONLY)
        return self._documents_directory

    def invalidate(self) -> None:
        """Discard the cached state, after an exception."""
        self._phase = Phase.UNKNOWN
        self.segment.close()

    def close(self) -> None:
        """Release all descriptors."""
        self.invalidate()
        self._record.close()
        self._close_documents_directory()

    def _report(self, finding: Finding) -> None:
        if finding not in self.findings:
            import logging  # Takes 4 ms, and is hardly ever needed.

            self.findings.append(finding)
            logging.getLogger("waggle_fsstore.store").warning("%s", finding)

    def _close_documents_directory(self) -> None:
        descriptor, self._documents_directory = self._documents_directory, None
        if descriptor is not None:
            os.close(descriptor)

    def _last_modified(self) -> int:
        if sys.platform == "win32":  # pragma: no cover
            return last_modified(self._layout)
        return os.fstat(self.documents_directory()).st_mtime_ns

    def file_clock(self) -> int:
        """Return a time that no change of the documents' directory from now on can precede.

        0 where that is unknown: other clocks may set its times, or they may have whole seconds.
        """
        if self._has_file_clock is None:
            self._has_file_clock = (
                has_change_times(self._layout.environments)
                and self._last_modified() % _SECOND_NS != 0
            )
        return file_clock() if self._has_file_clock else 0

    def _current_directories(self) -> tuple[int, ...] | None:
        """Return a value that changes if the lock file or the documents' directory is replaced."""
        try:
            status = timeless_status(self._layout.environments)
        except FileNotFoundError:
            return None
        self.directory = status
        return self._lock.generation, status.major, status.minor, status.st_ino

    def _initialize(self) -> None:
        self.recoveries += 1
        self._phase = Phase.UNKNOWN
        initialize.detect(self._layout)
        # The new directory may get the inode of the old one, and look like it.
        self._is_rebuilt |= not os.path.lexists(self._layout.environments)
        initialize.initialize(self._layout, self._disk)
        self._seen_store.check()
        self._mounted_id = mounted_id(self._layout)
        self._directories = self._current_directories()
        self._has_file_clock = None
        self.segment.close()
        self._close_documents_directory()
        self.documents_directory()
        self._phase = Phase.INITIALIZED

    def _sync_earlier_files(self) -> None:
        """Sync what earlier writers left; after a failed sync, write all of it again."""
        try:
            sync_all(self._layout, self._disk)
        except OSError:
            self._suspect_earlier_files()
            raise
        if self._has_failed_to_sync:
            rewrite_files(self._layout, self._disk)
            self.segment.open(self.segment.first, self.segment.end)  # The old file is replaced.
        self._is_synced, self._has_failed_to_sync = True, False
        if self._is_suspect:
            self.rewrite_all()

    def _suspect_earlier_files(self) -> None:
        """Record that a sync failed: the next one may report success for what is lost."""
        self._is_suspect = self._has_failed_to_sync = True
        state = self._record.read()
        if state is not None:
            self._record.write(*state._replace(durable=UNSYNCED_SUSPECT))

    def _is_ours(self, state: State | None) -> TypeGuard[State]:
        """Return whether a state describes this store, as it is mounted now."""
        if state is None or self._phase is not Phase.OPENED:
            return is_trusted(state, self._layout)
        # The open files prove that it is the same mount.
        return not is_set_back(self._layout, state.modified)

    def _resume(self, state: State) -> bool:
        """Continue at the end in the state record; return whether the journal has that end."""
        layout, segment = self._layout, self.segment
        if not segment.reopen(state.segment, state.offset):
            return False
        self.committed, self.published = state.committed, state.published
        segment_numbers = [one for one in segments.list_segments(layout) if one >= state.segment]
        is_quiet = state.published == state.committed and segment_numbers == [state.segment]
        if is_quiet and segment.tail_is_intact():
            return True
        tail = read_tail(layout, state, segment_numbers)
        if tail is None:
            return False
        self.committed = tail.committed
        segment.open(tail.segment, tail.valid_bytes)
        segment.sync_names()
        if tail.must_rotate or segment.is_shared():
            first = tail.changes[0]["seq"] if tail.changes else self.committed + 1
            segment.rotate(first, tail.valid_bytes, carry_over=tail.text)
            # As in a commit: before the first of them is visible.
            self.write_state(offset=segment.end - len(tail.text))
            replay(layout, self._disk, partial(iter, tail.changes), self._report)
        self.write_state(published=self.committed)
        return True

    def _recover(self, state: State | None) -> None:
        self.recoveries += 1
        found: list[Finding] = []

        def report(finding: Finding) -> None:
            found.append(finding)
            self._report(finding)

        try:
            recovered = recover(
                self._layout,
                self._disk,
                self.segment,
                max(self.committed, state.committed if state else 0),
                report,
                is_synced=self._is_synced,
                redo_all=self._is_rebuilt,
            )
        except OSError as error:
            if error.errno == errno.EIO:  # Perhaps of a sync.
                self._suspect_earlier_files()
            raise
        self.committed = self.published = recovered.last
        self._is_synced = recovered.is_synced and not self._has_failed_to_sync
        # What is kept in lost+found remains so; other findings may be of the past.
        self.findings = [one for one in self.findings if one.is_repaired or one in found]
        self.write_state()
