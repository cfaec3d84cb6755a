# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: documents synced to disk, so that recovery no longer needs their journal lines."""

from functools import partial

from waggle_fsstore.domain.errors import LockTimeoutError, StoreClosedError, StoreError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.journal.state import State, read_state
from waggle_fsstore.store.write.session import WriterSession
from waggle_fsstore.store.write.sync import sync_redo_range


class Checkpointer:
    """Writes a checkpoint after a segment was rotated, and before the store is closed.

    A failed checkpoint loses no change, because the journal keeps them all. It is retried.
    """

    def __init__(self, layout: Layout, disk: Disk, lock: StoreLock, session: WriterSession) -> None:
        #: Whether a segment was rotated since the last checkpoint.
        self.is_due = False
        #: Whether this object published a change since its last checkpoint.
        self.has_published = False
        self._layout = layout
        self._disk = disk
        self._lock = lock
        self._session = session

    def run_if_due(self) -> None:
        """Try to write a checkpoint if a segment was rotated. A failure is only logged."""
        if self.is_due:
            self._try()

    def run_before_close(self) -> None:
        """Try to write a checkpoint if this object published a change since its last one."""
        if self.has_published:
            self._try()

    def run(self) -> None:
        """Write a checkpoint of the changes that are published now.

        The sync, which takes long, runs without the lock; the line is written under it.
        """
        if not self._disk.durable:
            return
        if not self.has_published:
            self._lock.run(self._session.catch_up)  # Else the state may be of another boot.
        self.has_published = False
        state = read_state(self._layout.state)
        has_failed = False
        try:
            if state is not None:
                directory = self._session.documents_directory()
                sync_redo_range(self._layout, self._disk, state.published, directory)
        except OSError:
            # A second sync would report success: the files must be rewritten (docs/durability.md).
            has_failed = True
        self._lock.run(partial(self._finish, state, has_failed))

    def _finish(self, state: State | None, has_failed: bool) -> None:
        session = self._session
        try:
            session.catch_up()
            if has_failed or state is None or session.must_rewrite_all():
                session.rewrite_all()
                state = None
            session.checkpoint(state)
        except BaseException:
            self.has_published = True
            session.invalidate()
            raise

    def _try(self) -> None:
        self.is_due = False
        try:
            self.run()
        except (LockTimeoutError, StoreClosedError):
            self.is_due = True
        except (OSError, StoreError) as error:
            import logging  # Takes 4 ms, and is hardly ever needed.

            logging.getLogger("waggle_fsstore.store").error(
                "%s: checkpoint failed: %s; no change is lost, the next write retries",
                self._layout.root,
                error,
            )
            self.is_due = True
