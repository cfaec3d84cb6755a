# SPDX-License-Identifier: Apache-2.0
"""FileStore: environments as readable JSON files in a directory."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    JournalDamagedError,
    StoreClosedError,
)
from waggle_fsstore.domain.validation import check_id
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.journal.selection import of_filter, of_id
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.read.history import History
from waggle_fsstore.store.read.seen_store import SeenStore
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write import initialize, inputs
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from waggle_fsstore.domain.event import Event, EventFilter
    from waggle_fsstore.domain.finding import Finding
    from waggle_fsstore.domain.histogram import Histogram
    from waggle_fsstore.domain.repository import OnCorrupt
    from waggle_fsstore.store.maintenance.info import StoreInfo
    from waggle_fsstore.store.maintenance.last_check import LastCheck
    from waggle_fsstore.store.maintenance.prune import Pruned
    from waggle_fsstore.store.maintenance.restore import Restored
    from waggle_fsstore.store.maintenance.snapshot import Snapshot

_T = TypeVar("_T")


class FileStore:
    """Environments in a directory, one JSON file each.

    The contract is :class:`~waggle_fsstore.TransactionalRepository`. When a write returns, it
    survives a power cut: its line in the journal, which is the history too, is synced. After a
    crash a write is either complete or absent; so is a whole ``save_all``. Readers never wait
    for the lock, never see half a document, and see manual edits. Opening the store recovers
    documents that are older than the journal, after a crash or in a copy, if the lock is free.

    ``path`` is the root of the store. Opening creates nothing; the first write does. A
    directory with other contents is refused with :class:`UnsupportedFormatError`; one with
    ``environments/`` alone, restored from git for example, becomes a store at its first
    write. ``durable=False`` skips every fsync: for tests. ``lock_timeout`` (seconds) limits
    the wait for other writers; after that, :class:`LockTimeoutError` names the lock holder.
    With ``recovers=False`` neither opening nor reading takes the lock or changes a file: what a
    crash left behind is read from the journal.
    Pickling a store pickles its path and options; loading that opens the store again.

    Errors of the operating system, such as a full disk, are raised as its ``OSError``; the
    old document is unchanged then.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = True,
        lock_timeout: float = 10.0,
        recovers: bool = True,
    ) -> None:
        if not os.fspath(path):
            raise ValueError("the path of the store is empty: '.' is the current directory")
        # Resolved once: a link that changes later cannot lead half of a change elsewhere.
        self._layout = Layout(os.path.realpath(path))
        self._lock_timeout = lock_timeout
        self._recovers = recovers
        self._disk = Disk(durable=durable)
        # Shared: the writer counts live environments from what readers have cached.
        self._documents = Documents(self._layout)
        self._seen_store = seen_store = SeenStore(self._layout)
        self._writer = Writer(
            self._layout, self._documents, self._disk, seen_store, timeout=lock_timeout
        )
        self._view = View(self._layout, self._documents, self._disk)
        self._history = History(self._layout, self._view, seen_store)
        self._closed = False
        self._exists = False
        self._detect()

    @property
    def path(self) -> Path:
        """The root of the store, absolute and without symbolic links."""
        return Path(self._layout.root)

    def __repr__(self) -> str:
        return f"FileStore({self._layout.root!r})"

    def __reduce__(self) -> tuple[Callable[[str], Self], tuple[str]]:
        """Pickle the path and the options: another process opens the store itself."""
        reopen = partial(
            type(self),
            durable=self._disk.durable,
            lock_timeout=self._lock_timeout,
            recovers=self._recovers,
        )
        return reopen, (self._layout.root,)

    def document_path(self, environment_id: str) -> Path:
        """Return the path of the document of an id, stored or not. Raises for an invalid id."""
        check_id(environment_id)
        return Path(self._layout.document(environment_id))

    # Reads never wait for the lock. Opening a store, or the first read of a store that another
    # process has made since, recovers it if that is necessary and the lock is free.

    def find_by_id(self, environment_id: str) -> Environment:
        """See :meth:`TransactionalRepository.find_by_id`."""
        if self._closed or not self._exists:
            self._begin_reading()  # Otherwise, what is found shows that the store is there.
        try:
            return self._view.find(environment_id)
        except (EnvironmentNotFoundError, NotADirectoryError):
            if self._is_whole():
                raise
            return self._view.find(environment_id)

    def find_all(self, *, on_corrupt: OnCorrupt | None = None) -> list[Environment]:
        """See :meth:`TransactionalRepository.find_all`."""
        good, bad = self._scan(self._view.find_all)
        for error in bad:
            if on_corrupt is None:
                raise error
            on_corrupt(error)
        return good

    def iter_all(self, *, on_corrupt: OnCorrupt | None = None) -> Iterator[Environment]:
        """See :meth:`TransactionalRepository.iter_all`.

        Each document is read at its turn. About 200 bytes of memory for each id.
        """
        names = self._scan(self._view.names)

        def read(name: str) -> Environment | None:
            found = self._scan(partial(self._view.find_named, name, names[name]))
            if found is None or isinstance(found, Environment):
                return found
            if on_corrupt is None:
                raise found
            on_corrupt(found)
            return None

        return filter(None, map(read, names))

    def count(self) -> int:
        """See :meth:`TransactionalRepository.count`. Opens no document."""
        if self._closed or not self._exists:
            self._begin_reading()  # Otherwise, what is found shows that the store is there.
        known = self._view.known_count()
        return self._scan(self._view.count) if known is None else known

    def history(
        self, environment_id: str | None = None, *, after: int | str = 0, until: int | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`.

        Raises :class:`JournalDamagedError` when it reaches a damaged line.
        """
        self._begin_reading()
        only = None if environment_id is None else of_id(environment_id)
        return self._history.events(only, after, until)

    def select_events(
        self, wanted: EventFilter, *, after: int | str = 0, until: int | None = None
    ) -> Iterator[Event]:
        """Return those events of :meth:`history` that pass a filter, without decoding the others.

        Raises what that raises.
        """
        self._begin_reading()
        return self._history.events(of_filter(wanted), after, until)

    def watch(
        self, *, after: int | str | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`. Polls at least every 50 ms."""
        self._begin_reading()

        def refuse() -> None:
            inputs.refuse_inside(self._layout.root)
            self._begin_reading()

        return self._history.watch(after, timeout, refuse)

    def _begin_reading(self) -> None:
        if self._closed:
            raise StoreClosedError
        if not self._exists:
            self._detect()
        self._seen_store.check()

    def _scan(self, scan: Callable[[], _T]) -> _T:
        """Return what a scan finds. Where it looked at nothing, that is not what is stored."""
        self._begin_reading()
        found = scan()
        return found if self._is_whole() else scan()

    def _is_whole(self) -> bool:
        """Return whether the documents' directory was there; else try to recover it.

        Raises :class:`StoreGoneError` where the whole store is missing.
        """
        self._seen_store.check()
        if not self._exists or os.path.isdir(self._layout.environments):
            return True
        self._recover()
        return False

    def _begin_writing(self) -> None:
        inputs.refuse_inside(self._layout.root)
        self._begin_reading()

    def _detect(self) -> None:
        """Detect whether the store exists; if it does, and needs it, recover it."""
        if not initialize.detect(self._layout):
            return
        self._exists = True
        durable = self._disk.durable
        if self._writer.is_current or not self._view.needs_recovery(durable=durable):
            return
        self._recover()

    def _recover(self) -> None:
        """Recover the store, or read without recovery if that is impossible now."""
        if not self._recovers:
            self._view.use_overlay()
            return
        try:
            self._writer.recover(timeout=0)
        except (OSError, JournalDamagedError):  # A lock timeout is an OSError too.
            self._view.use_overlay()

    # Writes: under the store lock.

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """See :meth:`TransactionalRepository.save`."""
        new = inputs.checked_copy(environment)

        def work(tx: Transaction) -> int:
            stored = tx.get_or_none(new.id)
            if if_revision is not None:
                if stored is not None and not stored.is_intact:
                    # A manual edit is a version too. It gets its revision now, so that no
                    # caller can have expected it.
                    external = tx.record_external(stored)
                    tx.error_after_commit = ConflictError(new.id, if_revision, external.revision)
                    return 0
                actual = stored.revision if stored else 0
                if actual != if_revision:
                    raise ConflictError(new.id, if_revision, actual)
            return tx.put(new, stored)

        return self._writer.run(work)

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """See :meth:`TransactionalRepository.create`."""
        new = inputs.checked_copy(environment)

        def work(tx: Transaction) -> int:
            if tx.get_or_none(new.id) is not None:
                raise EnvironmentAlreadyExistsError(new.id)
            if (existing := tx.find_key_of(new)) is not None:
                raise EnvironmentAlreadyExistsError(existing)
            _check_capacity(tx, capacity)
            return tx.put(new, None)

        return self._writer.run(work)

    def update(
        self,
        environment_id: str,
        change: Callable[[Environment], object],
        *,
        capacity: int | None = None,
    ) -> Environment:
        """See :meth:`TransactionalRepository.update`."""
        self._begin_writing()

        def changed(stored: StoredDocument) -> Environment:
            return inputs.apply(self._layout.root, change, stored.environment)

        def put(tx: Transaction, new: Environment, stored: StoredDocument) -> Environment:
            if new.status.is_live and not stored.status.is_live:
                _check_capacity(tx, capacity)
            new.revision = tx.put(new, stored)
            return new

        for _ in range(inputs.OPTIMISTIC_TRIES):
            seen = self._view.stored(environment_id)
            new = changed(seen)

            def work(
                tx: Transaction, new: Environment = new, seen: StoredDocument = seen
            ) -> Environment | None:
                stored = tx.get(environment_id)
                # Compares the bytes: a manual edit may leave the revision as it was.
                return put(tx, new, stored) if stored.data == seen.data else None

            result = self._writer.run(work)
            if result is not None:
                return result

        def work_solo(tx: Transaction) -> Environment:
            stored = tx.get(environment_id)
            return put(tx, changed(stored), stored)

        return self._writer.run(work_solo, solo=True)

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """See :meth:`TransactionalRepository.save_all`. Atomic, even across a crash."""
        batch = inputs.checked_copies(environments)
        return self._writer.run(lambda tx: [tx.put(new, tx.get_or_none(new.id)) for new in batch])

    def delete(self, environment_id: str) -> None:
        """See :meth:`TransactionalRepository.delete`.

        A corrupt document is moved to ``.waggle/lost+found``. Raises
        :class:`UnsupportedFormatError` for a document of a newer schema.
        """
        self._begin_writing()
        with suppress(CorruptDocumentError):
            # Before the lock: a delete of an unknown id must not initialize a store.
            self._view.find(environment_id)

        def work(tx: Transaction) -> None:
            try:
                tx.delete(tx.get(environment_id))
            except CorruptDocumentError:
                tx.quarantine(environment_id)

        self._writer.run(work)

    # Maintenance of the whole store. Each method imports its module: few programs need it.

    @property
    def recovery_findings(self) -> tuple[Finding, ...]:
        """Findings of the recoveries that this object ran, for the operator.

        For example a directory in the place of a document, or a torn last line.
        """
        return self._writer.findings

    @property
    def saves(self) -> Histogram:
        """How long the changes took that this object has made."""
        return self._writer.saves

    @property
    def syncs(self) -> Histogram:
        """How long the syncs took that this object has made."""
        return self._disk.syncs

    def check_writable(self, *, timeout: float) -> None:
        """Raise what a write would raise now: disk full, read-only, a damaged journal, ...

        Also raises what a write would raise after a crash, because of damage in the latest
        changes. Stores no environment, but initializes the store if there is none yet. Waits
        up to ``timeout`` seconds for the store lock.
        """
        self._begin_writing()
        self._writer.check(timeout=timeout)

    def check(self) -> Iterator[Finding]:
        """Yield the findings on the files of this store, errors and warnings.

        Errors: a damaged or missing segment of the journal; a document that is corrupt, of a
        newer schema, missing or unreadable. Warnings: a document that a manual edit changed,
        put back or added; foreign files, and temp files of dead writers; modes that give
        other users access; what a recovery by this object moved to lost+found. Changes
        nothing, takes no lock, and works on a read-only disk.
        Memory grows only with the number of ids.
        """
        from waggle_fsstore.store.maintenance import fsck

        self._begin_reading()
        return fsck.check(self._layout, self._view, self._writer) if self._exists else iter(())

    def repair(self) -> Iterator[Finding]:
        """Repair what :meth:`check` finds, and yield each finding after its repair.

        A damaged line of the journal is blanked out, and the store accepts writes again. A
        corrupt document goes to ``.waggle/lost+found``, and its last version comes back from
        the journal, as that of a missing document does. A manual edit stays, and is recorded
        in the history as ``external``. Foreign files and modes are reported only. Nothing is
        deleted: lost+found keeps one copy of everything that is replaced. Repairs are made
        as the caller takes the findings, one document at a time; other processes may write
        in between. Raises what a write raises.
        """
        from waggle_fsstore.store.maintenance import fsck

        self._begin_writing()
        if not self._exists:
            return iter(())
        return fsck.repair(self._layout, self._disk, self._writer)

    def last_check(self) -> LastCheck | None:
        """Return the result of the last ``waggle-fsstore fsck``, ``None`` if none was kept."""
        from waggle_fsstore.store.maintenance import last_check

        self._begin_reading()
        return last_check.read(self._layout)

    def keep_last_check(self, result: LastCheck) -> None:
        """Keep the result of a check for :meth:`last_check`. Raises ``OSError``."""
        from waggle_fsstore.store.maintenance import last_check

        self._begin_reading()
        last_check.write(self._layout, result)

    def snapshot(
        self, dest: str | os.PathLike[str], *, on_corrupt: OnCorrupt | None = None
    ) -> Snapshot:
        """Copy all documents, as of one change, to a new directory; others may keep writing.

        ``dest`` must be missing, or an empty directory outside the store; else
        ``FileExistsError`` or ``ValueError``. It gets ``environments/``, byte for byte,
        ``waggle.json`` and finally ``SHA256SUMS`` for ``sha256sum -c``, all of them durable
        when this returns. The error of a bad document is raised, or passed to ``on_corrupt``
        and the document left out. When this raises, no file of the snapshot remains.
        """
        from waggle_fsstore.store.maintenance import snapshot

        self._begin_reading()

        def refuse(error: Exception) -> None:
            raise error

        path = os.path.realpath(dest)
        return snapshot.snapshot(self._layout, self._disk, self._view, path, on_corrupt or refuse)

    def restore(self, source: str | os.PathLike[str]) -> Restored:
        """Bring the store to the documents of a snapshot, or of any directory with documents.

        Atomic, with one change per document in the history: documents that differ are
        updated, missing ones created, those not in ``source`` deleted; corrupt ones go to
        ``.waggle/lost+found``. A document that differs only in its revision is left alone.
        Raises :class:`CorruptDocumentError` for a file that does not match ``SHA256SUMS``, if
        that exists, :class:`UnsupportedFormatError` for a newer document on either side, and
        ``FileNotFoundError`` without ``environments/``; the store is unchanged then.
        """
        from waggle_fsstore.store.maintenance import restore

        self._begin_writing()
        return restore.restore(self._layout, self._writer, os.path.realpath(source))

    def restore_revision(self, environment_id: str, revision: int) -> Environment:
        """Store an earlier version of an environment as its new version, and return a copy.

        Raises :class:`EnvironmentNotFoundError` if the history has no such version of it, and
        :class:`HistoryPrunedError` if that part of the history was pruned.
        """
        from waggle_fsstore.store.maintenance import restore

        self._begin_writing()
        return restore.restore_revision(
            self._layout, self._writer, self._view, environment_id, revision
        )

    def prune_history(
        self,
        *,
        keep_days: float | None = None,
        keep_bytes: int | None = None,
        compress: bool = False,
        keep_since: datetime | None = None,
    ) -> Pruned:
        """Remove the oldest history, in whole segments of the journal.

        Removes the segments whose last change is more than ``keep_days`` old, then as many
        as it takes for the journal to have at most ``keep_bytes``. The live segment, what
        recovery needs, and changes since ``keep_since`` always stay; a checkpoint is written
        first, so that recovery needs little. ``compress`` compresses the other segments that
        are left. Raises ``ValueError`` without any of the three,
        :class:`JournalDamagedError`, and what a write raises.
        """
        from waggle_fsstore.store.maintenance import prune

        self._begin_writing()
        return prune.prune(
            self._layout,
            self._disk,
            self._writer,
            keep_days=keep_days,
            keep_bytes=keep_bytes,
            compress=compress,
            keep_since=keep_since,
        )

    def history_size(self) -> int:
        """Return how many bytes the files of the journal take."""
        from waggle_fsstore.store.journal import segments

        return segments.total_size(self._layout)

    def last_change(self) -> int:
        """Return the number of the last change, 0 without one."""
        self._begin_reading()
        return self._view.state().committed

    def export_changes(self, after: int) -> Iterator[dict[str, Any]]:
        """Yield the changes after a number, in the form of the journal; see :mod:`copy`.

        Raises :class:`HistoryPrunedError`, and :class:`JournalDamagedError` at a damaged line.
        """
        from waggle_fsstore.store.maintenance import copy

        self._begin_reading()
        return copy.export_changes(self._layout, self._view, after)

    def import_changes(self, changes: list[dict[str, Any]]) -> None:
        """Make changes of another store, with their numbers, times and authors, all or none.

        Raises :class:`StoreError` for a number that is not above the last one here, and
        :class:`CorruptDocumentError` for a change with an invalid document.
        """
        from waggle_fsstore.store.maintenance import copy

        self._begin_writing()
        copy.import_changes(self._writer, changes)

    def export_documents(self) -> Iterator[bytes]:
        """Yield each document, byte for byte. Raises the error of a bad one."""
        from waggle_fsstore.store.maintenance import copy

        self._begin_reading()
        return copy.export_documents(self._view, self._documents)

    def info(self) -> StoreInfo:
        """Return this store in figures: sizes, the last change, and how it is made durable.

        Opens no document, and reads the journal only from the last checkpoint on.
        """
        from waggle_fsstore.store.maintenance import info

        self._begin_reading()
        return info.describe(self._layout, self._view, self._documents, self._disk)

    def close(self) -> None:
        """See :meth:`TransactionalRepository.close`. Waits for a write in progress."""
        inputs.refuse_inside(self._layout.root)
        # First, so that no thread waits for an event of a store that is closing.
        self._closed = True
        try:
            self._writer.close()
        finally:
            self._documents.close()

    def __enter__(self) -> Self:
        self._begin_reading()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_capacity(tx: Transaction, capacity: int | None) -> None:
    if capacity is not None and tx.count_live() >= capacity:
        raise CapacityError(capacity)
