# SPDX-License-Identifier: Apache-2.0
"""FileStore: environments as readable JSON files in a directory."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    JournalDamagedError,
    StoreClosedError,
)
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.validation import check_id
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.maintenance.mixin import Upkeep
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.read.history import History
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write import initialize, inputs
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.writer import Writer


class FileStore(Upkeep):
    """Environments in a directory, one JSON file each.

    The contract is :class:`~waggle_fsstore.TransactionalRepository`. When a write
    returns, it survives a power cut: its line in the journal is flushed, which is its
    history too. A write is done or not done, also across a crash, ``save_all`` as a whole.
    Readers take no lock, never see half a document, and see what was edited by hand.
    Opening brings the documents up to the journal, if a crash or a copy made that due.

    ``path`` is the root of the store. Opening creates nothing; the first write does. A
    folder with other contents is refused with :class:`UnsupportedFormatError`; one with
    ``environments/`` alone, restored from git for one, becomes a store at its first
    write. ``durable=False`` flushes nothing: for tests. ``lock_timeout`` (seconds)
    bounds the wait for other writers, after which :class:`LockTimeoutError` names the
    one that holds the lock.

    What the operating system reports, such as a full disk, is raised as its ``OSError``;
    the old document then stands as before.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durable: bool = True, lock_timeout: float = 10.0
    ) -> None:
        if not os.fspath(path):
            raise ValueError("the path of the store is empty: '.' is the current folder")
        # Resolved once: a link that changes later cannot lead a half-done change elsewhere.
        self._layout = Layout(os.path.realpath(path))
        self._disk = Disk(durable=durable)
        # One for both: what a reader remembers, a writer that counts need not read again.
        self._documents = Documents(self._layout)
        self._writer = Writer(self._layout, self._documents, self._disk, lock_timeout=lock_timeout)
        self._lock_timeout = lock_timeout
        self._view = View(self._layout, self._documents)
        self._history = History(self._layout, self._view)
        self._durable = durable
        self._closed = False
        self._recognised = False
        self._recognise()

    @property
    def path(self) -> Path:
        """The root of the store, absolute and without symbolic links."""
        return Path(self._layout.root)

    def __repr__(self) -> str:
        return f"FileStore({self._layout.root!r})"

    def document_path(self, environment_id: str) -> Path:
        """Where the document of this id is kept, stored or not. Raises for an invalid id."""
        check_id(environment_id)
        return Path(self._layout.document(environment_id))

    # Reading: writes nothing and takes no lock.

    def find_by_id(self, environment_id: str) -> Environment:
        """See :meth:`TransactionalRepository.find_by_id`."""
        self._begin_reading()
        return self._view.find(environment_id)

    def find_all(
        self, *, on_corrupt: Callable[[Exception], object] | None = None
    ) -> list[Environment]:
        """See :meth:`TransactionalRepository.find_all`."""
        self._begin_reading()
        good, bad = self._view.find_all()
        for error in bad:
            if on_corrupt is None:
                raise error
            on_corrupt(error)
        return good

    def count(self) -> int:
        """See :meth:`TransactionalRepository.count`. Opens no document."""
        self._begin_reading()
        return self._view.count()

    def history(
        self, environment_id: str | None = None, *, after: int = 0, until: int | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`.

        Raises :class:`JournalDamagedError` where it comes to a damaged line.
        """
        self._begin_reading()
        return self._history.events(environment_id, after, until)

    def watch(self, *, after: int | None = None, timeout: float | None = None) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`. Looks every 50 ms at least."""
        self._begin_reading()

        def refuse() -> None:
            inputs.refuse_inside(self._layout.root)
            self._begin_reading()

        return self._history.watch(after, timeout, refuse)

    def _begin_reading(self) -> None:
        if self._closed:
            raise StoreClosedError
        if not self._recognised:
            self._recognise()

    def _recognise(self) -> None:
        """See whether the store is there, and if so, have it recovered or do without."""
        if not initialize.detect(self._layout):
            return
        self._recognised = True
        if self._writer.is_caught_up or not self._view.needs_recovery(durable=self._durable):
            return
        try:
            self._writer.recover(timeout=0)
        except (OSError, JournalDamagedError):  # A lock timeout is an OSError too.
            self._view.use_overlay()

    # Writing: all of it under the store lock.

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """See :meth:`TransactionalRepository.save`."""
        new = inputs.checked(environment)

        def work(change: Transaction) -> int:
            stored = change.get_or_none(new.id)
            if if_revision is not None:
                if stored is not None and not stored.is_intact:
                    # Changed by hand: that is a version too, and gets its revision now,
                    # which nobody can have expected.
                    noted = change.record_external(stored)
                    change.error_after_commit = ConflictError(new.id, if_revision, noted.revision)
                    return 0
                actual = stored.revision if stored else 0
                if actual != if_revision:
                    raise ConflictError(new.id, if_revision, actual)
            return change.put(new, stored)

        return self._writer.run(work)

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """See :meth:`TransactionalRepository.create`."""
        new = inputs.checked(environment)

        def work(change: Transaction) -> int:
            if change.get_or_none(new.id) is not None:
                raise EnvironmentAlreadyExistsError(new.id)
            if capacity is not None and change.count_live() >= capacity:
                raise CapacityError(capacity)
            return change.put(new, None)

        return self._writer.run(work)

    def update(self, environment_id: str, change: Callable[[Environment], object]) -> Environment:
        """See :meth:`TransactionalRepository.update`."""
        inputs.refuse_inside(self._layout.root)
        self._begin_reading()

        def changed(stored: StoredDocument) -> Environment:
            return inputs.apply(self._layout.root, change, stored.environment)

        def store(writing: Transaction, new: Environment, stored: StoredDocument) -> Environment:
            new.revision = writing.put(new, stored)
            return new

        for _ in range(inputs.OPTIMISTIC_TRIES):
            seen = self._view.stored(environment_id)
            new = changed(seen)

            def work(
                writing: Transaction, new: Environment = new, seen: StoredDocument = seen
            ) -> Environment | None:
                stored = writing.get(environment_id)
                # The bytes: a change made by hand may leave the revision as it was.
                return store(writing, new, stored) if stored.data == seen.data else None

            result = self._writer.run(work)
            if result is not None:
                return result

        def work_alone(writing: Transaction) -> Environment:
            stored = writing.get(environment_id)
            return store(writing, changed(stored), stored)

        return self._writer.run(work_alone, alone=True)

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """See :meth:`TransactionalRepository.save_all`. All or none, across a crash too."""
        batch = inputs.batch(environments)
        return self._writer.run(
            lambda change: [change.put(new, change.get_or_none(new.id)) for new in batch]
        )

    def delete(self, environment_id: str) -> None:
        """See :meth:`TransactionalRepository.delete`.

        A corrupt document is moved to ``.waggle/lost+found``. One of a newer schema is
        refused with :class:`UnsupportedFormatError`.
        """
        inputs.refuse_inside(self._layout.root)
        self._begin_reading()
        with suppress(CorruptDocumentError):
            # Before the lock: what was never stored shall not found a store.
            self._view.find(environment_id)

        def work(change: Transaction) -> None:
            try:
                change.delete(change.get(environment_id))
            except CorruptDocumentError:
                change.quarantine(environment_id)

        self._writer.run(work)

    def close(self) -> None:
        """See :meth:`TransactionalRepository.close`. Waits for a write that is under way."""
        inputs.refuse_inside(self._layout.root)
        # First, so that nobody waits for an event of a store that is closing.
        self._closed = True
        try:
            self._writer.close()
        finally:
            self._documents.close()

    def __enter__(self) -> Self:
        self._begin_reading()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
