# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: documents synced to disk, so that recovery no longer needs their journal lines."""

import threading
from typing import NamedTuple

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.errors import LockTimeoutError, StoreClosedError, StoreError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.journal.state import State, last_modified, read_state
from waggle_fsstore.store.write.session import WriterSession
from waggle_fsstore.store.write.sync import sync_redo_range


class _Synced(NamedTuple):
    """A sync that a checkpoint can rely on."""

    #: What was published before it; ``None`` if that is unknown.
    state: State | None
    #: How many documents this object had published since its last checkpoint.
    published: int
    #: :attr:`WriterSession.recoveries` before the sync. Later ones may have written documents.
    recoveries: int


class Checkpointer:
    """Writes a checkpoint after a segment was rotated, and before the store is closed.

    After a rotation, the next change first syncs the documents, without the lock, and its leader
    adds the line of the checkpoint. So a batch that fills a segment does not wait for it, and the
    journal that recovery reads has at most that batch and two segments. A failed checkpoint
    loses no change, because the journal keeps them all. It is retried.
    """

    def __init__(self, layout: Layout, disk: Disk, lock: StoreLock, session: WriterSession) -> None:
        #: Whether a segment was rotated since the last sync of the documents.
        self.is_due = False
        #: How many documents this object has published since then.
        self.published = 0
        self._synced: _Synced | None = None
        #: Whether a sync failed, and the documents were not rewritten since. A later sync may
        #: report success: it is no proof.
        self._has_failed = False
        self._layout = layout
        self._disk = disk
        self._lock = lock
        self._session = session
        self.reset_after_fork()
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Begin with a free lock in a child: a thread of the parent may hold the old one."""
        #: One sync at a time: none may succeed before the failure of another is known. A signal
        #: handler may close the store in the middle of one.
        self._syncing = threading.RLock()

    def sync_if_due(self) -> None:
        """Sync the published documents if a segment was rotated. Runs without the lock."""
        if self.is_due and self._disk.durable:
            self.is_due = False
            try:
                self._synced = self._sync()
            except StoreError as error:
                self._report(error)

    def write_if_synced(self) -> None:
        """Write the checkpoint of the last sync, if there is none yet. A failure is only logged.

        Runs under the store lock, after the session has caught up.
        """
        synced, self._synced = self._synced, None
        if synced is not None and synced.recoveries != self._session.recoveries:
            self.is_due = True
        elif synced is not None:
            try:
                self._write(synced)
            except (OSError, StoreError) as error:
                self._report(error)
                self._session.catch_up()

    def run_before_close(self) -> None:
        """Try to write a checkpoint if this object published a change since its last one."""
        if not self.published and self._synced is None:
            return
        try:
            self.run()
        except (LockTimeoutError, StoreClosedError):
            self.is_due = True
        except (OSError, StoreError) as error:
            self._report(error)

    def run(self) -> None:
        """Write a checkpoint of the changes that are published now.

        The sync, which takes long, runs without the lock; the line is written under it.
        """
        if not self._disk.durable:
            return
        if not self.published:
            self._lock.run(self._session.catch_up)  # Else the state may be of another boot.
        synced = self._sync()
        self._synced = None

        def write() -> None:
            self._session.catch_up()
            is_valid = synced.recoveries == self._session.recoveries
            self._write(synced if is_valid else synced._replace(state=None))

        self._lock.run(write)

    def _sync(self) -> _Synced:
        with self._syncing:
            recoveries = self._session.recoveries
            published, self.published = self.published, 0
            state = read_state(self._layout.state)
            try:
                if state is not None:
                    # As seen: the record has the clock before the change, which may be too early
                    # to tell a copy that was made in the same tick.
                    state = state._replace(modified=last_modified(self._layout))
                    directory = self._session.documents_directory()
                    sync_redo_range(self._layout, self._disk, state.published, directory, published)
            except OSError:
                self._has_failed = True  # The files must be rewritten (docs/durability.md).
            except BaseException:
                self.published += published
                self.is_due = True
                raise
            return _Synced(state, published, recoveries)

    def _write(self, synced: _Synced) -> None:
        session, state = self._session, synced.state
        try:
            if self._has_failed or state is None or session.must_rewrite_all():
                session.rewrite_all()
                self._has_failed = False
                state = None
            session.checkpoint(state)
        except BaseException:
            self.published += synced.published or 1
            session.invalidate()
            raise

    def _report(self, error: Exception) -> None:
        import logging  # Takes 4 ms, and is hardly ever needed.

        logging.getLogger("waggle_fsstore.store").error(
            "%s: checkpoint failed: %s; no change is lost, the next write retries",
            self._layout.root,
            error,
        )
        self.is_due = True
