# SPDX-License-Identifier: Apache-2.0
"""The path of every change, from its caller to the disk, and back if it fails.

Under the store lock, calls that wait for it share one line of the journal: their new
documents are written to temp files, the line is appended and synced (from here on the
changes are durable), and the documents are renamed into place.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import OutcomeUnknownError, StoreError
from waggle_fsstore.domain.finding import Finding
from waggle_fsstore.domain.histogram import OF_A_DISK, Histogram
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import NO_SPACE, Disk, temp_path
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.read.seen_store import SeenStore
from waggle_fsstore.store.write import initialize, inputs
from waggle_fsstore.store.write.batch import Transaction, WriteBatch
from waggle_fsstore.store.write.checkpoint import Checkpointer
from waggle_fsstore.store.write.group_commit import Call, CommitQueue, Group
from waggle_fsstore.store.write.publish import DocumentWrite, rollback
from waggle_fsstore.store.write.reserve import Reserve
from waggle_fsstore.store.write.session import WriterSession

_ROLLBACK_TRIES: Final = 3

# More than a file system keeps in an inode, so that a full disk surfaces.
_PROBE_BYTES: Final = 4096

_T = TypeVar("_T")


class Writer:
    """Changes a store: one thread of one process at a time."""

    def __init__(
        self,
        layout: Layout,
        documents: Documents,
        disk: Disk,
        seen_store: SeenStore,
        *,
        timeout: float,
    ) -> None:
        self._layout = layout
        self._documents = documents
        self._disk = disk
        # No method of this object: a reference cycle would keep the descriptors of a dropped store.
        make_dir = partial(initialize.ensure_lock_dir, layout, disk, seen_store)
        self._lock = StoreLock(layout.lock, timeout=timeout, make_dir=make_dir)
        self._queue = CommitQueue(self._lock)
        self._reserve = Reserve(layout, disk)
        self._taken: list[Finding] = []
        #: How long the changes took that were made, with the wait for other writers.
        self.saves = Histogram(OF_A_DISK)
        self._session = WriterSession(layout, disk, self._lock, seen_store)
        self._checkpointer = Checkpointer(layout, disk, self._lock, self._session)

    def run(self, work: Callable[[Transaction], _T], *, solo: bool = False) -> _T:
        """Return ``work(transaction)``, once its changes are durable and visible.

        Unless ``solo``, ``work`` may run in another thread, and more than once.
        Raises :class:`LockTimeoutError`, :class:`StoreClosedError`, and ``RuntimeError``
        inside an ``update`` of the same store.
        """
        inputs.refuse_inside(self._layout.root)
        begun = monotonic()
        self._checkpointer.sync_if_due()
        call = Call(work, current_author(), solo=solo)
        self._queue.run(call, self._commit)
        result: _T = call.result()
        self.saves.add(monotonic() - begun)
        return result

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings of recovery for the operator: failures, and repairs."""
        return tuple(self._session.findings)

    def take_repaired(self) -> list[Finding]:
        """Return what recoveries repaired, each finding once: the files no longer show it."""
        repaired = [finding for finding in self.findings if finding.is_repaired]
        new = [finding for finding in repaired if finding not in self._taken]
        self._taken = repaired
        return new

    @property
    def is_current(self) -> bool:
        """Whether this object has recovered or initialized the store, and nothing failed since."""
        return self._session.is_current

    def recover(self, *, timeout: float | None = None) -> None:
        """Recover or initialize the store if necessary; wait ``timeout`` seconds for the lock."""
        self._lock.run(partial(self._reserve.run, self._catch_up), timeout=timeout)

    def exclusive(self, work: Callable[[], _T]) -> _T:
        """Return ``work()``, run under the store lock, without recovery and without a change."""

        def work_and_forget() -> _T:
            try:
                return work()
            finally:
                self._session.invalidate()  # It may have replaced files of the session.
                self._close_if_late()

        return self._lock.run(work_and_forget)

    def check(self, *, timeout: float) -> None:
        """Raise what the next change would raise, even after a crash; write and remove a temp file.

        Waits ``timeout`` seconds for the lock.
        """

        def work() -> None:
            self._session.catch_up()
            self._session.check_journal()
            path = temp_path(self._layout.temporary)
            self._disk.write_temp(path, bytes(_PROBE_BYTES), sync=False)
            self._disk.discard(path)

        self._lock.run(work, timeout=timeout)

    def checkpoint(self) -> None:
        """Sync the published documents, and write a checkpoint, even on a full disk."""
        self._reserve.run(self._checkpointer.run)

    def close(self) -> None:
        """Refuse further changes, wait for the one in progress, and write a checkpoint.

        All changes are durable even if the checkpoint fails.
        """
        inputs.refuse_inside(self._layout.root)
        try:
            if not self._lock.closed:
                self._checkpointer.run_before_close()
        finally:
            if self._lock.close():
                self._session.close()

    def _commit(self, group: Group, waiting: list[Call]) -> None:
        """Commit the changes of a group of calls. Runs under the store lock."""
        try:
            self._reserve.run(lambda: self._try_to_commit(group, waiting), group.may_spend_reserve)
        finally:
            self._close_if_late()

    def _try_to_commit(self, group: Group, waiting: list[Call]) -> None:
        group.batch = None
        self._catch_up()
        self._checkpointer.write_if_synced()
        batch = group.batch = WriteBatch(self._layout, self._documents, self._session.committed)
        group.run_calls(batch, waiting)
        if batch:
            self._write(batch, group)
        else:
            group.is_done = True

    def _catch_up(self) -> None:
        if not self._session.is_current:
            self._reserve.look_again()
        if not self._lock.was_held_here:  # About once a second.
            self._disk.look_again()
        self._session.catch_up()

    def _close_if_late(self) -> None:
        """Close the session if the store was closed while this thread held the lock."""
        if self._lock.closed:
            self._session.close()

    def _write(self, batch: WriteBatch, group: Group) -> None:
        """Make a batch durable and visible, or roll it back."""
        session, disk, layout = self._session, self._disk, self._layout
        writes, line = batch.writes(), batch.line()
        attempted: list[DocumentWrite] = []
        start = None
        write_in_progress: DocumentWrite | None = None
        self._reserve.want(batch.largest)
        try:
            for write_in_progress in writes:
                write_in_progress.write_temp(disk, layout, session.directory)
            write_in_progress = None
            self._check_lock()
            if session.make_room(batch.first, len(line)):
                self._checkpointer.is_due = True
                self._reserve.look_again()
            start = session.segment.end
            session.segment.append(line)
            session.write_state(offset=start, committed=batch.last)
            changed_after = session.file_clock() if writes else 0
            for write_in_progress in writes:
                attempted.append(write_in_progress)
                write_in_progress.publish(disk, layout)
            write_in_progress = None
            session.write_state(published=batch.last, changed_after=changed_after)
            group.is_done = True
            self._checkpointer.published += len(writes)
            self._remember(writes)
        except BaseException as error:
            if group.is_done:
                raise
            is_full = isinstance(error, OSError) and error.errno in NO_SPACE
            group.is_divisible = is_full or write_in_progress is not None
            try:
                if start is not None:
                    self._roll_back(attempted, start, batch.last, error)
            finally:
                session.invalidate()
                for write in writes:
                    if write.temp:
                        disk.discard(write.temp)  # One that was renamed is gone.
            raise

    def _remember(self, writes: list[DocumentWrite]) -> None:
        """Keep in memory what was published, for the next change and for readers."""
        for write in writes:
            if write.after:
                self._documents.remember_saved(write.after)
            else:
                self._documents.forget(write.id)

    def _check_lock(self) -> None:
        if not self._lock.is_in_place():
            raise StoreError(
                f"{self._layout.lock}: the lock file was removed or replaced, or the process "
                "forked, during a change: nothing is stored, try again"
            )

    def _roll_back(
        self, writes: list[DocumentWrite], start: int, last: int, cause: BaseException
    ) -> None:
        """Undo the visible part, and rotate to a segment that declares the line invalid.

        Raises :class:`OutcomeUnknownError` if that fails.
        """

        def undo() -> None:
            rollback(writes, self._disk, self._layout)
            if self._session.segment.first != last + 1:  # Else it is rotated already.
                self._session.segment.rotate(last + 1, start)
            # Last: readers must not look for a line that is about to disappear.
            self._session.write_state(committed=last, published=last)

        for _ in range(_ROLLBACK_TRIES):
            # A second, impatient Ctrl-C begins the rollback again; an OSError ends it.
            with suppress(KeyboardInterrupt):
                try:
                    self._reserve.run(undo)
                    return
                except OSError:
                    break
        raise OutcomeUnknownError(writes[0].path if writes else self._layout.journal) from cause
