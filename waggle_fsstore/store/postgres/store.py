# SPDX-License-Identifier: Apache-2.0
"""PostgresStore: environments in a PostgreSQL database."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, Final, Self, TypeVar

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import Author
from waggle_fsstore.domain.defaults import DEFAULT_DATABASE_TIMEOUT
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    StoreClosedError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.event import Event, EventFilter
from waggle_fsstore.domain.finding import Finding
from waggle_fsstore.domain.histogram import Histogram
from waggle_fsstore.domain.repository import OnCorrupt
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.maintenance.restore import Restored
from waggle_fsstore.store.maintenance.snapshot import Snapshot
from waggle_fsstore.store.postgres import copy
from waggle_fsstore.store.postgres.connections import Connections
from waggle_fsstore.store.postgres.history import PAGE_ROWS, History
from waggle_fsstore.store.postgres.hosts import HostTable
from waggle_fsstore.store.postgres.maintenance import Maintenance, PostgresInfo, PrunedChanges
from waggle_fsstore.store.postgres.schema import FORMAT
from waggle_fsstore.store.postgres.transaction import Transaction, decode
from waggle_fsstore.store.postgres.writer import Writer
from waggle_fsstore.store.write import inputs

# A subquery takes less time to plan than a join. Where it finds no row, the format is asked for.
_FIND: Final = """
SELECT (SELECT format FROM waggle.store), id, document::text FROM waggle.document WHERE id = %s
"""
_FORMAT: Final = "SELECT format, NULL FROM waggle.store"
_FIND_ALL: Final = """
SELECT s.format, d.id, d.document::text FROM waggle.store s
LEFT JOIN waggle.document d ON true ORDER BY d.id
"""
_PAGE: Final = f"""
SELECT s.format, d.id, d.document::text FROM waggle.store s LEFT JOIN LATERAL (
    SELECT id, document FROM waggle.document WHERE id > %s ORDER BY id LIMIT {PAGE_ROWS}
) d ON true ORDER BY d.id
"""  # noqa: S608  # Made of constants.
_COUNT: Final = "SELECT format, (SELECT count(*) FROM waggle.document) FROM waggle.store"

_T = TypeVar("_T")


class PostgresStore:
    """Environments in a PostgreSQL database, for servers on several machines.

    The contract is :class:`~waggle_fsstore.TransactionalRepository`. ``url`` is what libpq
    accepts, such as ``postgresql://host1,host2/waggle``; several hosts are tried for the
    primary. Passwords come from there, ``PGPASSWORD`` or a password file, and are never shown.

    Opening connects to nothing. The first write makes the schema ``waggle``, where the role
    may. ``timeout`` (seconds) bounds each call; a write whose connection was lost during
    COMMIT may take it once more, to find out whether it happened. Then
    :class:`StoreUnavailableError` says why, or :class:`LockTimeoutError` that other writers
    took too long. ``durable=False`` accepts a server that could lose changes: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        durable: bool = True,
        timeout: float = DEFAULT_DATABASE_TIMEOUT.total_seconds(),
    ) -> None:
        self._url = url
        self._durable = durable
        self._connections = Connections(url, timeout)
        self._writer = Writer(self._connections, durable=durable)
        self._history = History(self._connections)
        self._hosts = HostTable(self._connections, self._writer)
        self._maintenance = Maintenance(self._connections, self._writer)
        self._closed = False
        register_at_fork(self)

    @property
    def location(self) -> str:
        """Where the store is, ``host:port/database``, without credentials."""
        return self._connections.location

    @property
    def hosts(self) -> HostTable:
        """The hosts whose servers share the store."""
        return self._hosts

    @property
    def saves(self) -> Histogram:
        """How long the changes took that this object has made."""
        return self._writer.saves

    def check_writable(self, *, timeout: float) -> None:
        """Take the lock of the store for a moment, and change nothing.

        Raises :class:`LockTimeoutError` after ``timeout`` seconds, and
        :class:`StoreUnavailableError`.
        """
        with closing(Connections(self._url, timeout)) as connections:
            Writer(connections, durable=self._durable).run(lambda *_: None, set())

    def __repr__(self) -> str:
        return f"PostgresStore({self.location!r})"

    def __reduce__(self) -> tuple[Callable[[str], Self], tuple[str]]:
        """Pickle the URL and the options: another process opens the store itself."""
        timeout = self._connections.timeout
        return partial(type(self), durable=self._durable, timeout=timeout), (self._url,)

    def find_by_id(self, environment_id: str) -> Environment:
        """See :meth:`TransactionalRepository.find_by_id`."""
        self._check_open()
        rows = self._rows(_FIND, environment_id) if is_id(environment_id) else []
        if not rows:
            self._rows(_FORMAT)
            raise EnvironmentNotFoundError(environment_id)
        return decode(rows[0][2], environment_id)

    def find_all(self, *, on_corrupt: OnCorrupt | None = None) -> list[Environment]:
        """See :meth:`TransactionalRepository.find_all`."""
        self._check_open()
        found = (_decoded(row, on_corrupt) for row in self._rows(_FIND_ALL))
        return [environment for environment in found if environment is not None]

    def iter_all(self, *, on_corrupt: OnCorrupt | None = None) -> Iterator[Environment]:
        """See :meth:`TransactionalRepository.iter_all`. Sorted by id; reads 200 rows at a time."""
        self._check_open()

        def rows() -> Iterator[tuple[Any, ...]]:
            last = ""
            while page := self._rows(_PAGE, last):
                yield from page
                last = page[-1][1]

        def read(row: tuple[Any, ...]) -> Environment | None:
            self._check_open()
            return _decoded(row, on_corrupt)

        return filter(None, map(read, rows()))

    def count(self) -> int:
        """See :meth:`TransactionalRepository.count`."""
        self._check_open()
        return sum(row[1] for row in self._rows(_COUNT))

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """See :meth:`TransactionalRepository.save`."""
        environment = inputs.checked_copy(environment)

        def work(tx: Transaction, author: Author) -> int:
            if if_revision is not None:
                stored = tx.find(environment.id, author)
                actual = stored.revision if stored else 0
                if actual != if_revision:
                    # A manual edit was recorded, and stays so: this is its revision.
                    tx.error_after_commit = ConflictError(environment.id, if_revision, actual)
                    return 0
            return tx.store([environment], author)[0]

        return self._write(work, {environment.id})

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """See :meth:`TransactionalRepository.create`."""
        environment = inputs.checked_copy(environment)

        def work(tx: Transaction, author: Author) -> int:
            if tx.find(environment.id, author):
                raise EnvironmentAlreadyExistsError(environment.id)
            if environment.idempotency is not None:
                holder = tx.holder_of(environment.idempotency.key)
                if holder is not None:
                    raise EnvironmentAlreadyExistsError(holder)
            _check_capacity(tx, environment, capacity)
            return tx.store([environment], author)[0]

        return self._write(work, {environment.id})

    def update(
        self,
        environment_id: str,
        change: Callable[[Environment], object],
        *,
        capacity: int | None = None,
    ) -> Environment:
        """See :meth:`TransactionalRepository.update`."""
        inputs.refuse_inside(id(self))

        def replace(
            tx: Transaction, author: Author, stored: Environment, changed: Environment
        ) -> Environment:
            if changed.status.is_live and not stored.status.is_live:
                _check_capacity(tx, changed, capacity)
            tx.store([changed], author)
            return changed.copy()

        def replace_same(
            found: Environment, changed: Environment, tx: Transaction, author: Author
        ) -> Environment | None:
            stored = _existing(tx, environment_id, author)
            is_same = stored.revision == found.revision
            return replace(tx, author, stored, changed) if is_same else None

        def work(tx: Transaction, author: Author) -> Environment:
            stored = _existing(tx, environment_id, author)
            return replace(tx, author, stored, inputs.apply(id(self), change, stored))

        for _ in range(inputs.OPTIMISTIC_TRIES):
            found = self.find_by_id(environment_id)
            changed = inputs.apply(id(self), change, found)
            updated = self._write(partial(replace_same, found, changed), {environment_id})
            if updated is not None:
                return updated
        return self._write(work, {environment_id}, alone=True)

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """See :meth:`TransactionalRepository.save_all`."""
        batch = inputs.checked_copies(environments)
        ids = {environment.id for environment in batch}
        return self._write(lambda tx, author: tx.store(batch, author), ids)

    def delete(self, environment_id: str) -> None:
        """See :meth:`TransactionalRepository.delete`."""

        def work(tx: Transaction, author: Author) -> None:
            tx.delete(environment_id, author)

        self._write(work, {environment_id})

    def history(
        self, environment_id: str | None = None, *, after: int | str = 0, until: int | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`."""
        self._check_open()
        return self._history.events(environment_id, after, until)

    def select_events(
        self, wanted: EventFilter, *, after: int | str = 0, until: int | None = None
    ) -> Iterator[Event]:
        """Return those events of :meth:`history` that pass a filter, as the database selects them.

        Raises what that raises.
        """
        self._check_open()
        return self._history.select(wanted, after, until)

    def watch(
        self, *, after: int | str | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`."""
        self._check_open()

        def check() -> None:
            inputs.refuse_inside(id(self))
            self._check_open()

        return self._history.watch(after, timeout, check)

    def check(self) -> Iterator[Finding]:
        """Yield the findings on the documents and the history, errors and warnings.

        Errors: a document that is corrupt, of a newer schema, or missing; a history without
        its first or last changes. Warnings: a document that a manual edit changed, put back
        or added. Changes nothing. The database compares all documents with their changes.
        """
        self._check_open()
        return self._maintenance.check()

    def repair(self) -> Iterator[Finding]:
        """Repair what :meth:`check` finds, and yield each finding after its repair.

        A corrupt or missing document is restored from its last change; the text of a corrupt
        one stays in the history. A manual edit stays, and is recorded as ``external``. Repairs
        are made as the caller takes the findings. Raises what a write raises.
        """
        self._check_open()
        return self._maintenance.repair()

    def snapshot(
        self, dest: str | os.PathLike[str], *, on_corrupt: OnCorrupt | None = None
    ) -> Snapshot:
        """Copy all documents, as of one change, to a new directory.

        The directory is that of :meth:`FileStore.snapshot`, which a :class:`FileStore` opens
        too. All documents are in memory at once.
        """
        self._check_open()

        def refuse(error: Exception) -> None:
            raise error

        path = os.path.realpath(dest)
        return self._maintenance.snapshot(path, on_corrupt or refuse, durable=self._durable)

    def restore(self, source: str | os.PathLike[str]) -> Restored:
        """Bring the store to the documents of a snapshot: see :meth:`FileStore.restore`.

        The text of a corrupt document stays in the history.
        """
        self._check_open()
        return self._maintenance.restore(os.path.realpath(source))

    def restore_revision(self, environment_id: str, revision: int) -> Environment:
        """Store an earlier version as the new one: see :meth:`FileStore.restore_revision`."""
        self._check_open()
        return self._maintenance.restore_revision(environment_id, revision)

    def prune_history(self, *, keep_days: float) -> PrunedChanges:
        """Remove the changes that are older than ``keep_days``, up to the first younger one.

        Needs a role that may delete them, such as the owner of the tables: the role of a
        program should not. Raises ``ValueError`` for a number that is negative, and what a
        write raises.
        """
        self._check_open()
        return self._maintenance.prune(keep_days)

    def last_change(self) -> int:
        """Return the number of the last change, 0 without one."""
        self._check_open()
        return copy.last_change(self._connections)

    def export_changes(self, after: int) -> Iterator[dict[str, Any]]:
        """Yield the changes after a number, in the form of the journal of files.

        Raises :class:`HistoryPrunedError`.
        """
        self._check_open()
        return copy.export_changes(self._connections, after)

    def import_changes(self, changes: list[dict[str, Any]]) -> None:
        """Make changes of another store, with their numbers, times and authors, all or none.

        Raises :class:`StoreError` for a number that is not above the last one here, and
        :class:`CorruptDocumentError` for a change with an invalid document.
        """
        self._check_open()
        copy.import_changes(self._writer, changes)

    def export_documents(self) -> Iterator[bytes]:
        """Yield each document, byte for byte."""
        self._check_open()
        return copy.export_documents(self._connections)

    def info(self) -> PostgresInfo:
        """Return this store in figures, and how a change survives."""
        self._check_open()
        return self._maintenance.info(durable=self._durable)

    def close(self) -> None:
        """See :meth:`TransactionalRepository.close`. Waits for a write in progress."""
        inputs.refuse_inside(id(self))
        self._closed = True
        self._writer.close()
        self._connections.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset_after_fork(self) -> None:
        """Open new connections in a child, and leave those of the parent alone."""
        self._connections.reset()
        self._writer.reset()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError

    def _write(
        self, work: Callable[[Transaction, Author], _T], ids: set[str], *, alone: bool = False
    ) -> _T:
        inputs.refuse_inside(id(self))
        self._check_open()
        return self._writer.run(work, ids, alone=alone)

    def _rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that begin with the format and have a document."""
        rows = self._connections.read(statement, parameters)
        if rows and rows[0][0] > FORMAT:
            raise UnsupportedFormatError("waggle.store", rows[0][0], FORMAT)
        return [row for row in rows if row[1] is not None]


def _decoded(row: tuple[Any, ...], on_corrupt: OnCorrupt | None) -> Environment | None:
    """Return the environment of a row; report a bad document, or raise its error."""
    _, environment_id, text = row
    try:
        return decode(text, environment_id)
    except (CorruptDocumentError, UnsupportedFormatError) as error:
        if on_corrupt is None:
            raise
        on_corrupt(error)
        return None


def _existing(tx: Transaction, environment_id: str, author: Author) -> Environment:
    stored = tx.find(environment_id, author)
    if stored is None:
        raise EnvironmentNotFoundError(environment_id)
    return stored


def _check_capacity(tx: Transaction, environment: Environment, capacity: int | None) -> None:
    if capacity is not None and tx.live(environment.host_id) >= capacity:
        raise CapacityError(capacity)
