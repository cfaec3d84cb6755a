# SPDX-License-Identifier: Apache-2.0
"""Where a writer stands: store founded, journal recovered, tail known. All under the store lock."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.changes import FULL_LOG, changes, redo_range
from waggle_fsstore.store.journal.damage import repair_copy
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.live_segment import LiveSegment
from waggle_fsstore.store.journal.state import (
    DURABLE,
    SUSPECT,
    UNSYNCED,
    State,
    StateRecord,
    is_trusted,
    mounted_id,
    store_id,
)
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.write import initialize
from waggle_fsstore.store.write.checkpoint import sync_all
from waggle_fsstore.store.write.recovery import replay


class WriterSession:
    """How far the store is. ``committed`` is the last number used, ``published`` visible."""

    def __init__(self, layout: Layout, disk: Disk, lock: StoreLock) -> None:
        self.journal = LiveSegment(layout, disk)
        self.committed = 0
        self.published = 0
        #: What recovery could not do, or did that somebody should know.
        self.findings: list[Finding] = []
        self.is_suspect = False
        self._is_flushed = False
        self._layout = layout
        self._disk = disk
        self._lock = lock
        self._record = StateRecord(layout.state)
        self._identity = ""
        self._folder: int | None = None
        self._trusts_record = False
        self._has_lost_all = False
        self._founded: tuple[int, int, int] | None = None
        self._is_known = False

    def __del__(self) -> None:
        with suppress(AttributeError):  # As in one whose constructor failed.
            self._close_folder()

    @property
    def is_caught_up(self) -> bool:
        """Whether it has been brought up to date, and nothing has failed since."""
        return self._is_known

    def catch_up(self) -> None:
        """Found the store, recover it, or take in what others wrote, as far as it is needed.

        Raises :class:`JournalDamagedError`, and what founding raises.
        """
        if self._founded is None or self._founded != self._seen():
            self._found()
        elif self._is_known and self.journal.tail_is_intact() and self._record.is_in_place():
            return
        self._is_known = False
        state = self._record.read()
        # Noted as flushed only when it is.
        self._is_flushed = state is not None and state.durable != UNSYNCED
        # Compared once: from then on the open files prove that it is the same mount.
        is_ours = self._trusts_record or is_trusted(state, self._identity)
        is_ours = is_ours and not self._has_lost_all
        if state is None or not is_ours or not self._resume(state):
            self._recover(state)
            self.write_state()
        self._trusts_record = True
        self._has_lost_all = False
        if state is not None and state.durable == SUSPECT:
            self.is_suspect = True
        if self._disk.durable and not self._is_flushed:
            sync_all(self._layout, self._disk)
            self._is_flushed = True
            self.checkpoint()
        self._is_known = True

    def write_state(
        self, *, offset: int | None = None, committed: int = 0, published: int = 0
    ) -> None:
        """Write down how far the changes have come; the offset is that of the tail."""
        self.committed = committed or self.committed
        self.published = published or self.published
        if offset is None:
            offset = self.journal.end
        self._record.write(
            State(
                self._identity,
                self._durability(),
                self.journal.first,
                offset,
                self.committed,
                self.published,
            )
        )

    def _durability(self) -> int:
        if self.is_suspect:
            return SUSPECT
        return DURABLE if self._disk.durable and self._is_flushed else UNSYNCED

    def make_room(self, first: int, size: int) -> bool:
        """Have room for a line that begins with change ``first``; whether that took a switch."""
        if self.journal.has_room(size):
            return False
        self.journal.rotate(first, self.journal.end, reserve=size)
        return True

    def checkpoint(self, until: State | None = None) -> None:
        """Write down that the documents are durable in themselves, as of a state or of now."""
        cursor = Cursor(self.published, self.journal.first, self.journal.end)
        if until is not None:
            cursor = until.published_cursor
        line = lines.checkpoint(cursor, store_id(self._layout))
        self.make_room(self.committed + 1, len(line))
        self.journal.append(line)
        self.write_state()

    def rewrite_all(self) -> None:
        """Write all documents that no checkpoint covers once more, and flush each."""
        self.is_suspect = True
        self.write_state()  # For whoever makes the next checkpoint, if this fails.
        found = partial(changes, self._layout, redo_range(self._layout).start, strict=True)
        self.findings = replay(self._layout, self._disk, found, anew=True)
        self.is_suspect = False

    def must_rewrite_all(self) -> bool:
        """Whether a flush of documents had failed, in this process or in another one."""
        state = self._record.read()
        return self.is_suspect or (state is not None and state.durable == SUSPECT)

    def check_journal(self) -> None:
        """Raise :class:`JournalDamagedError` if the next recovery would, after a crash.

        Until then, such damage fails no change. Reads what no checkpoint covers.
        """
        for _ in changes(self._layout, redo_range(self._layout).start, strict=True):
            pass

    def folder(self) -> int:
        """The folder of the documents, opened before this object published the first."""
        if self._folder is None:
            self._folder = os.open(self._layout.environments, os.O_RDONLY)
        return self._folder

    def invalidate(self) -> None:
        """After an exception, trust nothing that was remembered."""
        self._is_known = False
        self._founded = None
        self.journal.close()

    def close(self) -> None:
        """Release all descriptors."""
        self.invalidate()
        self._record.close()
        self._close_folder()

    def _close_folder(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(folder)

    def _seen(self) -> tuple[int, int, int] | None:
        """What changes when somebody exchanges the lock file or the documents' folder."""
        try:
            status = os.stat(self._layout.environments)
        except FileNotFoundError:
            return None
        return self._lock.generation, status.st_dev, status.st_ino

    def _found(self) -> None:
        initialize.detect(self._layout)
        # Its inode may come again, so that the new folder would look like the old one.
        self._has_lost_all |= not os.path.lexists(self._layout.environments)
        initialize.initialize(self._layout, self._disk)
        self._identity = mounted_id(self._layout)
        self._trusts_record = False
        self._founded = self._seen()
        self.journal.close()
        self._close_folder()
        self.folder()

    def _resume(self, state: State) -> bool:
        """Go on where the state says; ``False`` where the journal does not go that far."""
        layout = self._layout
        if not self.journal.reopen(state.segment, state.offset):
            return False
        self.committed, self.published = state.committed, state.published
        names = [name for name in segments.list_segments(layout) if name >= state.segment]
        if len(names) > 2 or names[:1] != [state.segment]:
            return False  # More was written since than one writer can leave unnoted.
        is_quiet = self.published == self.committed and len(names) == 1
        if is_quiet and self.journal.tail_is_intact():
            return True
        # A writer died, or could not take back what had failed: what it left is pending,
        # or stale. In either case nobody knows whether it was flushed.
        pending = [
            segments.read_segment(layout, name, successor, state.offset if name == names[0] else 0)
            for name, successor in segments.with_successors(names)
        ]
        live = pending[-1]
        if live.first != state.segment and not live.good:
            return False
        kept = [
            (line, segment.text(line))
            for segment in pending
            for line in segment.good
            if any(change["seq"] > state.published for change in line.changes)
        ]
        found = [change for line, _ in kept for change in line.changes]
        # The name of a segment is above all numbers that were used up before it.
        used = [state.committed, live.first - 1, *(change["seq"] for change in found)]
        self.committed = max(used)
        self.published = state.published
        cut = state.offset if live.first == state.segment else live.good[0].end
        self.journal.open(live.first, cut)
        self.journal.sync_names()
        if found or live.bad or live.end > cut or self.journal.is_shared():
            first = found[0]["seq"] if found else self.committed + 1
            carry = b"".join(text for _, text in kept)
            self.journal.rotate(first, cut, carry_over=carry)
            # As in a change: before the first of them is visible.
            self.write_state(offset=self.journal.end - len(carry))
            self.findings += replay(layout, self._disk, partial(iter, found))
        self.write_state(published=self.committed)
        return True

    def _recover(self, state: State | None) -> None:
        """Bring the documents up to the journal, as after a power cut."""
        layout = self._layout
        names = segments.list_segments(layout)
        highest = max(self.committed, state.committed if state else 0)
        if not names:
            self._begin(highest)
            return
        window = FULL_LOG if self._has_lost_all else redo_range(layout)
        repaired = repair_copy(layout, self._disk, names[-1]) if window.is_copy else []
        live = segments.read_segment(layout, names[-1], None)
        numbers = [change["seq"] for line in live.good for change in line.changes]
        self.journal.open(live.first, live.end)
        self.journal.sync_names()
        self.journal.sync()
        found = partial(changes, layout, window.start, strict=True)
        self.findings = repaired + replay(layout, self._disk, found)
        if window.is_full_log or state is None or not state.durable:
            highest = max(highest, Documents(layout).highest_revision())
        self.committed = self.published = max(highest, live.first - 1, *numbers)
        if live.end == 0 or self.journal.is_shared():
            self.journal.rotate(self.committed + 1, live.end)
        elif live.bad:
            self.journal.rotate(self.committed + 1, live.end)
            problem = "ended in a line that was not whole and never confirmed; it does not count"
            self.findings.append(
                Finding(Severity.WARNING, Path(live.path), problem, "nothing is to be done", True)
            )
        self._is_flushed = self._is_flushed and not window.is_full_log

    def _begin(self, highest: int) -> None:
        """Begin a journal: of a new store, of one from git, or of one whose journal was removed."""
        documents = Documents(self._layout)
        highest = max(highest, documents.highest_revision())
        carry = b""
        if self._disk.durable or not documents.names():
            if documents.names():
                sync_all(self._layout, self._disk)
            # After the first line, wherever that ends.
            carry = lines.checkpoint(Cursor(highest, highest + 1), store_id(self._layout))
        self._is_flushed = self._disk.durable
        self.journal.close()
        self.journal.rotate(highest + 1, 0, carry_over=carry)
        self.committed = self.published = highest
