# SPDX-License-Identifier: Apache-2.0
"""Writing: the path of every change, from its caller to the disk, and back if it fails.

Under the store lock, the callers that wait for it together share one line of the
journal: their documents are staged, the line is written and flushed (from here on the
changes are durable), and the documents are renamed into place.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.domain.errors import (
    LockTimeoutError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreError,
)
from waggle_fsstore.domain.finding import Finding
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk, temp_path
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.journal.state import State, read_state
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.write import initialize, inputs
from waggle_fsstore.store.write.batch import Transaction, WriteBatch
from waggle_fsstore.store.write.checkpoint import sync_redo_range
from waggle_fsstore.store.write.group_commit import Call, Group
from waggle_fsstore.store.write.publish import DocumentWrite, rollback
from waggle_fsstore.store.write.session import WriterSession

_TAKE_BACK_TRIES: Final = 3

# More than a file system keeps in an inode, so that a full disk shows.
_SOME_BYTES: Final = 4096

_T = TypeVar("_T")


class Writer:
    """Gives out the right to change a store, to one thread of one process at a time."""

    def __init__(
        self, layout: Layout, documents: Documents, disk: Disk, *, lock_timeout: float
    ) -> None:
        self._layout = layout
        self._documents = documents
        self._disk = disk
        # No method of this object: a cycle would keep the descriptors of a dropped store.
        make_dir = partial(initialize.ensure_lock_dir, layout, disk)
        self._lock = StoreLock(layout.lock, timeout=lock_timeout, make_dir=make_dir)
        self._position = WriterSession(layout, disk, self._lock)
        self._waiting: list[Call] = []
        self._has_published = False
        self._wants_checkpoint = False
        register_at_fork(self)

    def run(self, work: Callable[[Transaction], _T], *, alone: bool = False) -> _T:
        """What ``work`` returns, once what it changed is durable and visible.

        Another thread may do the work, and more than once, unless it is to be ``alone``.
        Raises :class:`LockTimeoutError`, :class:`StoreClosedError`, and ``RuntimeError``
        inside of an ``update`` of the same store.
        """
        inputs.refuse_inside(self._layout.root)
        request = Call(work, current_author(), is_alone=alone)
        leads = False

        def lead() -> None:
            nonlocal leads
            leads = True
            self._lead(request)

        # Twice, as in StoreLock.run: Ctrl-C may come just as the first removal begins.
        try:
            try:
                self._waiting.append(request)
                while not request.is_settled():
                    self._take_turn(request, lead)
            finally:
                self._withdraw(request)
        finally:
            self._withdraw(request)
        if self._wants_checkpoint:
            self._try_checkpoint()
        result: _T = request.result(is_leader=leads)
        return result

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What recovery could not do, or did that somebody should know."""
        return tuple(self._position.findings)

    @property
    def is_caught_up(self) -> bool:
        """Whether this object has recovered the store already, or founded it."""
        return self._position.is_caught_up

    def recover(self, *, timeout: float | None = None) -> None:
        """Bring the store up to what its journal says, if the lock is free in time (seconds)."""
        self._lock.run(self._position.catch_up, timeout=timeout)

    def exclusive(self, work: Callable[[], _T]) -> _T:
        """Return ``work()``, done under the store lock. Neither recovers nor adds a change."""
        return self._lock.run(work)

    def check(self, *, timeout: float) -> None:
        """Do what every change begins with, after a crash too, and stage a file for a moment."""

        def work() -> None:
            self._position.catch_up()
            self._position.check_journal()
            path = temp_path(self._layout.temporary)
            self._disk.write_temp(path, bytes(_SOME_BYTES), sync=False)
            self._disk.discard(path)

        self._lock.run(work, timeout=timeout)

    def close(self) -> None:
        """Let no other change begin, wait for the one under way, and make a checkpoint.

        What was changed is durable whether or not that succeeds.
        """
        inputs.refuse_inside(self._layout.root)
        try:
            if self._has_published and not self._lock.closed:
                self._try_checkpoint()
        finally:
            if self._lock.close():
                self._position.close()

    def reset_after_fork(self) -> None:
        """In a child: what waits is the parent's."""
        self._waiting = []

    def _take_turn(self, request: Call, lead: Callable[[], None]) -> None:
        try:
            self._lock.run(lead, skip_if=request.is_settled)
        except LockTimeoutError:
            # Unless a leader is doing it right now, it is given up, and nobody will.
            if request.claim.acquire(blocking=False):
                raise

    def _withdraw(self, request: Call) -> None:
        if request in self._waiting:  # Nobody else removes it.
            self._waiting.remove(request)

    def _lead(self, own: Call) -> None:
        """Do the own work, and that of others who wait, under the lock."""
        group = own.group = Group()
        # The own one too: until its caller withdraws it, others see it waiting.
        own.claim.acquire(blocking=False)
        claimed = [own]
        try:
            self._commit(own, group, claimed)
        except Exception as error:  # noqa: BLE001  # Each of them raises it.
            if group.is_one_to_blame and not isinstance(error, OutcomeUnknownError):
                # Nothing is stored. Each tries again, and fails for itself.
                for request in claimed:
                    request.is_alone = True
            else:
                group.failure = error
                group.is_settled = True
        finally:
            if not group.is_settled:
                for request in claimed:
                    request.claim.release()
            if self._lock.closed:
                self._position.close()

    def _commit(self, own: Call, group: Group, claimed: list[Call]) -> None:
        self._position.catch_up()
        batch = WriteBatch(self._layout, self._documents, self._position.committed)
        own.join(group, batch)
        for request in self._waiting[:]:
            if batch.is_full or own.is_alone:
                break
            if request.is_alone or request is own:
                continue
            if request.claim.acquire(blocking=False):
                claimed.append(request)
                group.has_several = True
                request.join(group, batch)
        if batch:
            self._write(batch, group)
        else:
            group.is_settled = True

    def _write(self, batch: WriteBatch, group: Group) -> None:
        """Make a batch durable and visible, or take it back."""
        position, disk = self._position, self._disk
        steps = batch.steps()
        line = batch.line()
        attempted: list[DocumentWrite] = []
        start = None
        is_shared = False
        try:
            for step in steps:
                step.write_temp(disk, self._layout)
            is_shared = True
            if not self._lock.is_in_place():
                raise StoreError(
                    f"{self._layout.lock}: was taken away in the middle of a change, or this "
                    "process was forked there: nothing is stored, try again"
                )
            if position.make_room(batch.first, len(line)):
                self._wants_checkpoint = True
            start = position.journal.tail
            position.journal.append(line)
            position.write_state(offset=start, committed=batch.last)
            is_shared = False
            for step in steps:
                attempted.append(step)
                step.publish(disk, self._layout)
            is_shared = True
            position.write_state(published=batch.last)
            group.is_settled = True
            self._has_published = True
        except BaseException as error:
            if group.is_settled:
                raise
            group.is_one_to_blame = group.has_several and not is_shared
            try:
                if start is not None:
                    self._take_back(attempted, start, batch.last, error)
            finally:
                position.invalidate()
                for step in steps:
                    if step.source:
                        disk.discard(step.source)  # One that was renamed is gone.
            raise

    def _take_back(
        self, steps: list[DocumentWrite], start: int, last: int, cause: BaseException
    ) -> None:
        """Undo what is visible, and leave the segment with the line that is not to count."""
        for _ in range(_TAKE_BACK_TRIES):
            # Not for an OSError: a second Ctrl-C, out of impatience, begins it again.
            with suppress(KeyboardInterrupt):
                try:
                    rollback(steps, self._disk, self._layout)
                    if self._position.journal.first != last + 1:  # Else it was done before.
                        self._position.journal.rotate(last + 1, start)
                    # Last: readers must not look for a line that is about to go.
                    self._position.write_state(committed=last, published=last)
                    return
                except OSError:
                    break
        document = steps[0].document if steps else self._layout.journal
        raise OutcomeUnknownError(document) from cause

    def _try_checkpoint(self) -> None:
        """Make a checkpoint of changes that have succeeded, whatever becomes of this."""
        self._wants_checkpoint = False
        try:
            self.checkpoint()
        except (LockTimeoutError, StoreClosedError):
            self._wants_checkpoint = True
        except (OSError, StoreError) as error:
            import logging  # Takes 4 ms, and is hardly ever needed.

            logging.getLogger(__name__).error(
                "%s: no checkpoint: %s; the journal keeps all changes; tried again with the next",
                self._layout.root,
                error,
            )
            self._wants_checkpoint = True

    def checkpoint(self) -> None:
        """Let the documents stand for themselves up to what is published now.

        The flush, which is long, is made without the lock.
        """
        if not self._disk.durable:
            return
        if not self._has_published:
            self._lock.run(self._position.catch_up)  # Else the state may be of another boot.
        self._has_published = False
        state = read_state(self._layout.state)
        has_failed = False
        try:
            if state is not None:
                folder = self._position.folder()
                sync_redo_range(self._layout, self._disk, state.published, folder)
        except OSError:
            # The next flush would say that all is well: only what is written anew counts.
            has_failed = True
        self._lock.run(partial(self._finish_checkpoint, state, has_failed))

    def _finish_checkpoint(self, state: State | None, has_failed: bool) -> None:
        position = self._position
        try:
            position.catch_up()
            if has_failed or state is None or position.must_rewrite_all():
                position.rewrite_all()
                state = None
            position.checkpoint(state)
        except BaseException:
            self._has_published = True
            position.invalidate()
            raise
