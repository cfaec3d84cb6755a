# SPDX-License-Identifier: Apache-2.0
"""FileStore: environments as readable JSON files in a directory."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    LockTimeoutError,
    StoreClosedError,
)
from waggle_fsstore.domain.values import check_id
from waggle_fsstore.store import codec, founding, incoming
from waggle_fsstore.store.disk import Disk
from waggle_fsstore.store.documents import Documents, Stored
from waggle_fsstore.store.layout import Layout
from waggle_fsstore.store.lock import StoreLock
from waggle_fsstore.store.state import State, peek
from waggle_fsstore.store.writing import Change, Writer

# How often a scan that changes cut across is repeated before it keeps writers out.
_FREE_SCANS: Final = 3

# How long a scan waits for the other half of a batch, in seconds.
_HALF_BATCH_PATIENCE: Final = 0.5

_T = TypeVar("_T")


class FileStore:
    """Environments in a directory, one JSON file each.

    The contract is :class:`~waggle_fsstore.TransactionalRepository`. When a write
    returns, it survives a power cut: the file is flushed, renamed into place, and its
    folder flushed. Readers never see half a document, and see what was edited by hand.
    ``find_by_id`` takes no lock; ``find_all`` and ``count`` take it only where changes cut
    across three scans in a row, and can then raise :class:`LockTimeoutError` too.

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
        self._documents = Documents(self._layout)
        self._writer = Writer(self._layout, Disk(durable=durable), lock_timeout=lock_timeout)
        self._reader_lock = StoreLock(self._layout.lock, timeout=lock_timeout)
        self._lock_timeout = lock_timeout
        self._closed = False
        self._recognised = founding.recognise(self._layout)

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

    # Reading: writes nothing, and takes the lock only where a scan cannot do without.

    def find_by_id(self, environment_id: str) -> Environment:
        """See :meth:`TransactionalRepository.find_by_id`."""
        self._begin_reading()
        return self._documents.find(environment_id).environment

    def find_all(
        self, *, on_corrupt: Callable[[Exception], object] | None = None
    ) -> list[Environment]:
        """See :meth:`TransactionalRepository.find_all`."""
        self._begin_reading()
        good, bad = self._scan(self._documents.read_all)
        # Called only now: the scan may have been repeated, and may have held the lock.
        for error in bad:
            if on_corrupt is None:
                raise error
            on_corrupt(error)
        return good

    def count(self) -> int:
        """See :meth:`TransactionalRepository.count`. Opens no document."""
        self._begin_reading()
        return self._scan(len)

    def _begin_reading(self) -> None:
        if self._closed:
            raise StoreClosedError
        if not self._recognised:
            self._recognised = founding.recognise(self._layout)

    def _scan(self, collect: Callable[[list[str]], _T]) -> _T:
        """What ``collect`` makes of all file names, with none missed that was there throughout.

        btrfs and tmpfs can leave out of a listing a file that is being renamed over. So a
        scan counts only if no change began while it ran; and where one had begun before,
        a second listing finds what the first one missed, because a change renames each
        file once. Half of a batch is not to be seen: such a scan counts only if whoever
        is at it does not get on, because it died or was stopped.
        """
        half: list[_T] = []
        for _ in range(_FREE_SCANS):
            before = peek(self._layout.state)
            under_way = before.committed - before.published if before is not None else 0
            names = self._documents.names()
            if under_way:
                names = list({*names, *self._documents.names()})
            result = collect(names)
            if _begun(before) == _begun(peek(self._layout.state)):
                if under_way <= 1:
                    return result
                half = [result]
        if not os.path.lexists(self._layout.lock):
            return collect(self._documents.names())  # Nobody ever wrote.
        try:
            return self._reader_lock.run(
                lambda: collect(self._documents.names()),
                timeout=min(self._lock_timeout, _HALF_BATCH_PATIENCE) if half else None,
            )
        except LockTimeoutError:
            if half:
                return half[0]
            raise

    # Writing: all of it under the store lock.

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """See :meth:`TransactionalRepository.save`."""
        new = incoming.checked(environment)

        def work(change: Change) -> int:
            stored = self._documents.look_up(new.id)
            if if_revision is not None:
                if stored is not None and not codec.is_intact(stored.data):
                    # Changed by hand: that is a version too, and gets its revision now,
                    # which nobody can have expected.
                    actual = change.store([(stored.environment, stored)])[0]
                    raise ConflictError(new.id, if_revision, actual)
                actual = stored.environment.revision if stored else 0
                if actual != if_revision:
                    raise ConflictError(new.id, if_revision, actual)
            return change.store([(new, stored)])[0]

        return self._writer.run(work)

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """See :meth:`TransactionalRepository.create`."""
        new = incoming.checked(environment)

        def work(change: Change) -> int:
            if self._documents.look_up(new.id) is not None:
                raise EnvironmentAlreadyExistsError(new.id)
            if capacity is not None:
                good, _ = self._documents.read_all(self._documents.names())
                if sum(other.status.is_live for other in good) >= capacity:
                    raise CapacityError(capacity)
            return change.store([(new, None)])[0]

        return self._writer.run(work)

    def update(self, environment_id: str, change: Callable[[Environment], object]) -> Environment:
        """See :meth:`TransactionalRepository.update`."""
        incoming.refuse_inside(self._layout.root)
        self._begin_reading()

        def changed(stored: Stored) -> Environment:
            return incoming.apply(self._layout.root, change, stored.environment)

        def store(writing: Change, new: Environment, stored: Stored) -> Environment:
            new.revision = writing.store([(new, stored)])[0]
            return new

        for _ in range(incoming.OPTIMISTIC_TRIES):
            seen = self._documents.find(environment_id)
            new = changed(seen)

            def work(
                writing: Change, new: Environment = new, seen: Stored = seen
            ) -> Environment | None:
                stored = self._documents.find(environment_id)
                # The bytes: a change made by hand may leave the revision as it was.
                return store(writing, new, stored) if stored.data == seen.data else None

            result = self._writer.run(work)
            if result is not None:
                return result

        def work_alone(writing: Change) -> Environment:
            stored = self._documents.find(environment_id)
            return store(writing, changed(stored), stored)

        return self._writer.run(work_alone)

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """See :meth:`TransactionalRepository.save_all`.

        All or none is kept whenever this process lives to see the failure. A crash in
        the middle can leave some of the documents in their old version; each is whole.
        """
        batch = incoming.batch(environments)
        return self._writer.run(
            lambda change: change.store([(new, self._documents.look_up(new.id)) for new in batch])
        )

    def delete(self, environment_id: str) -> None:
        """See :meth:`TransactionalRepository.delete`.

        A corrupt document is moved to ``.waggle/lost+found``. One of a newer schema is
        refused with :class:`UnsupportedFormatError`.
        """
        incoming.refuse_inside(self._layout.root)
        self._begin_reading()
        with suppress(CorruptDocumentError):
            # Before the lock: what was never stored shall not found a store.
            self._documents.find(environment_id)

        def work(change: Change) -> None:
            try:
                stored = self._documents.find(environment_id)
            except CorruptDocumentError:
                change.set_aside(environment_id)
            else:
                change.remove(stored)

        self._writer.run(work)

    def close(self) -> None:
        """See :meth:`TransactionalRepository.close`. Waits for a write that is under way."""
        self._writer.close()
        self._closed = True
        self._reader_lock.close()

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


def _begun(state: State | None) -> int:
    """What changes when a change begins."""
    return 0 if state is None else state.committed
