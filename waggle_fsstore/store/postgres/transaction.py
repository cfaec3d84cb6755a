# SPDX-License-Identifier: Apache-2.0
"""One write transaction: what it reads under the lock, and the changes that it commits."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

from psycopg import errors
from psycopg.pq import Escaping, TransactionStatus

from waggle_fsstore.domain.audit import Author
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    StoreError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.format.layout import document_name
from waggle_fsstore.store.postgres.connections import Connection
from waggle_fsstore.store.postgres.schema import ERA, ERA_GAP, FORMAT

# The row of the store is locked until COMMIT, so numbers rise in the order of the commits, and
# every state that a reader can see has all changes up to its last one. All statements after it
# see what the last holder of the lock committed. No setting of a role or a database may let
# COMMIT return before the change is flushed.
_BEGIN: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_CONFIGURE: Final = """
SET LOCAL lock_timeout = %d;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = %d;
SELECT set_config('synchronous_commit', CASE
    WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'
    ELSE current_setting('synchronous_commit') END, true)
"""
_LOCK: Final = "SELECT format, last, era FROM waggle.store FOR NO KEY UPDATE"
_NOW: Final = f"""
SELECT {ERA}, to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
""".encode()
_ROWS: Final = b"""
SELECT id, revision, status, idempotency_key, host_id, document::text FROM waggle.document
WHERE id = ANY(%s)
"""
_ALL_ROWS: Final = b"""
SELECT id, revision, status, idempotency_key, host_id, document::text FROM waggle.document
"""
_LIVE: Final = b"""
SELECT count(*) FROM waggle.document
WHERE status IN ('creating', 'running', 'destroying') AND host_id = %s
"""
_HOLDER_OF_KEY: Final = b"SELECT id FROM waggle.document WHERE idempotency_key = %s ORDER BY id"
_INSERT_CHANGE: Final = b"""
INSERT INTO waggle.change
    (seq, at, actor, reason, kind, id, was_revision, was_status, op, document)
VALUES (%s, %s::timestamptz, %s, %s, %s, %s, %s, %s, %s, %s::json)
"""
_UPSERT: Final = b"""
INSERT INTO waggle.document (id, revision, status, idempotency_key, host_id, document)
VALUES (%s, %s, %s, %s, %s, %s::json)
ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, status = excluded.status,
    idempotency_key = excluded.idempotency_key, host_id = excluded.host_id,
    document = excluded.document
"""
_DELETE: Final = b"DELETE FROM waggle.document WHERE id = ANY(%s)"
_COUNT_ON: Final = b"UPDATE waggle.store SET last = %s, era = %s"


class Row(NamedTuple):
    """A row of the table of documents."""

    id: str
    revision: int
    status: str
    key: str | None
    host_id: str
    text: str


class _Change(NamedTuple):
    """A row of the table of changes."""

    seq: int
    at: str
    actor: str
    reason: str
    kind: str
    id: str
    was_revision: int
    was_status: str | None
    op: uuid.UUID
    document: str


class OldFormatError(Exception):
    """The tables have an earlier format; they have to be upgraded first."""


class CommitInDoubtError(Exception):
    """The connection was lost during COMMIT: the server may have committed, or not."""


class Transaction:
    """Changes that are committed together. Each one sees those before it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        #: Tells later whether this transaction was committed.
        self.op = uuid.uuid4()
        self._changes: list[_Change] = []
        #: The rows that were read, and then as this transaction leaves them; None for no row.
        self._rows: dict[str, Row | None] = {}
        self._written: set[str] = set()
        #: How many live environments each host has, of those that were asked for.
        self._live: dict[str, int] = {}
        self._last = self._began_at = 0
        #: Raised to the caller whose work set it, once its changes are durable.
        self.error_after_commit: Exception | None = None

    def begin(self, lock_timeout: float, idle_timeout: float, ids: set[str]) -> None:
        """Take the lock of the store, and read the rows with these ids, in one round trip.

        Raises :class:`UnsupportedFormatError` and :class:`OldFormatError`.
        """
        milliseconds = [max(1, int(seconds * 1000)) for seconds in (lock_timeout, idle_timeout)]
        configure = _CONFIGURE.encode() % tuple(milliseconds)
        quote = Escaping(self._connection.pgconn).escape_literal
        wanted = b",".join(quote(one.encode()) for one in ids if is_id(one))
        # One message of the simple protocol. A pipeline of psycopg ends with a Flush, at which the
        # server stops its clock for idle transactions: a stopped client would keep the lock.
        rows_wanted = _ROWS.replace(b"%s", b"ARRAY[" + wanted + b"]::text[]")
        trip = (_BEGIN, configure, _LOCK.encode(), _NOW, rows_wanted)
        try:
            cursor = self._connection.execute(b";".join(trip), prepare=False)
        except errors.UndefinedColumn as error:
            raise OldFormatError from error
        store, now, rows = (cursor.set_result(n).fetchall() for n in (-3, -2, -1))
        if not store:
            raise errors.UndefinedTable("waggle.store has no row")
        self._rows.update(dict.fromkeys(ids))
        self._rows.update({row[0]: Row(*row) for row in rows})
        found, self._last, era = store[0]
        if found > FORMAT:
            raise UnsupportedFormatError("waggle.store", found, FORMAT)
        if found < FORMAT:
            raise OldFormatError
        self._era, self._at = now[0]
        if self._era != era:  # Numbers of changes that a failover lost are not used again.
            self._last += ERA_GAP
        self._began_at = int(self._last)

    @property
    def first(self) -> int:
        """The number of the first change."""
        return self._began_at + 1

    def find(self, environment_id: str, author: Author) -> Environment | None:
        """Return the stored version, ``None`` if there is none.

        A manual edit becomes a change first, and gets its own revision. Raises the error of a
        bad document.
        """
        row = self._rows[environment_id]
        if row is None:
            return None
        environment = decode(row.text, row.id)
        found = _row_of(environment, row.text)
        if found == row and codec.is_intact(row.text.encode()):
            return environment
        self._store(environment, author, EventKind.EXTERNAL, row)
        return environment

    def savepoint(self) -> Callable[[], None]:
        """Return a function that takes back all changes from now on."""
        count, last, live = len(self._changes), self._last, self._live.copy()
        rows, written = self._rows.copy(), self._written.copy()

        def roll_back() -> None:
            del self._changes[count:]
            self._last, self._live, self._rows, self._written = last, live, rows, written

        return roll_back

    def execute(self, statement: bytes, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that sees and changes what the server has."""
        cursor = self._connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def load_all(self) -> set[str]:
        """Read all rows, and return their ids."""
        found = [Row(*row) for row in self._connection.execute(_ALL_ROWS).fetchall()]
        self._rows.update({row.id: row for row in found})
        return {row.id for row in found}

    def record_external(self, environment_id: str, author: Author) -> None:
        """Record a stored document as a manual edit. Raises the error of a bad document."""
        row = self._rows[environment_id]
        if row is not None:
            self._store(decode(row.text, row.id), author, EventKind.EXTERNAL, row)

    def store(self, environments: list[Environment], author: Author) -> list[int]:
        """Store versions, all or none, and set their revisions, which are returned.

        Raises :class:`InvalidEnvironmentError`, and the error of a bad document that one of
        them would replace.
        """
        before = [self.find(one.id, author) for one in environments]
        for revision, environment in enumerate(environments, self._last + 1):
            codec.encode(environment, revision)  # Rejects what does not fit into a document.
        for environment, found in zip(environments, before, strict=True):
            kind = EventKind.UPDATED if found else EventKind.CREATED
            self._store(environment, author, kind, self._rows[environment.id])
        return [one.revision for one in environments]

    def repeat(self, change: dict[str, Any]) -> None:
        """Make a change of another store, with its number, time and author.

        Raises :class:`StoreError` if this store has a change of that number or a higher one, and
        the error of a bad document.
        """
        if change["seq"] <= self._last:
            raise StoreError(f"the database has a change {self._last} already")
        environment_id, was = change["id"], change["was"]
        text = canonical(change["document"]).decode().strip()
        row = None
        if change["kind"] != EventKind.DELETED:
            one, data = codec.version_of(change, location_in_table(environment_id))
            text = data.decode()
            row = _row_of(one, text)
        self._last = change["seq"]
        self._changes.append(
            _Change(
                self._last,
                change["at"],
                change["actor"],
                change["reason"],
                change["kind"],
                environment_id,
                was["revision"] if was else 0,
                was["status"] if was else None,
                self.op,
                text,
            )
        )
        self._replace(environment_id, row)

    def delete(self, environment_id: str, author: Author) -> None:
        """Delete a document; the change keeps its text, even that of a corrupt one.

        Raises :class:`EnvironmentNotFoundError` and :class:`UnsupportedFormatError`.
        """
        with suppress(CorruptDocumentError):
            self.find(environment_id, author)
        row = self._rows[environment_id]
        if row is None:
            raise EnvironmentNotFoundError(environment_id)
        self._add(EventKind.DELETED, author, row, row.text)
        self._replace(row.id, None)

    def live(self, host_id: str | None) -> int:
        """Return how many live environments a host has; ``None`` for those without a host."""
        host = host_id or ""
        if host not in self._live:
            found = self._connection.execute(_LIVE, [host]).fetchall()
            self._live[host] = sum(int(row[0]) for row in found)
            if self._written:
                # Changes of this transaction that the server has not seen yet.
                rows = self._connection.execute(_ROWS, [list(self._written)]).fetchall()
                self._live[host] -= sum(_is_live(Row(*found), host) for found in rows)
                self._live[host] += sum(_is_live(self._rows[one], host) for one in self._written)
        return self._live[host]

    def holder_of(self, key: str) -> str | None:
        """Return the id of the environment with an idempotency key."""
        for one in self._written:
            row = self._rows[one]
            if row is not None and row.key == key:
                return one
        found = self._connection.execute(_HOLDER_OF_KEY, [key]).fetchall()
        return next((row[0] for row in found if row[0] not in self._written), None)

    def commit(self) -> None:
        """Make the changes durable, in one round trip. Raises :class:`CommitInDoubtError`."""
        self._connection.warnings.clear()
        try:
            with self._connection.in_one_trip():
                self._send_changes()
                self._connection.execute(b"COMMIT")
        except errors.Error as error:
            status = self._connection.info.transaction_status
            if status in (TransactionStatus.IDLE, TransactionStatus.INERROR):
                raise  # The server answered: it has rolled back, or will.
            if self._changes:
                raise CommitInDoubtError from error
            raise
        if self._connection.warnings:  # It committed, and did not wait for a standby.
            raise CommitInDoubtError

    def _send_changes(self) -> None:
        if not self._changes:
            return
        cursor = self._connection.cursor()
        cursor.executemany(_INSERT_CHANGE, self._changes)
        kept = [row for one in self._written if (row := self._rows[one]) is not None]
        if kept:
            cursor.executemany(_UPSERT, kept)
        gone = [one for one in self._written if self._rows[one] is None]
        if gone:
            cursor.execute(_DELETE, [gone])
        cursor.execute(_COUNT_ON, [self._last, self._era])

    def _store(
        self, environment: Environment, author: Author, kind: EventKind, before: Row | None
    ) -> None:
        environment.revision = self._last + 1
        text = codec.encode(environment, environment.revision).decode()
        self._add(kind, author, before, text, environment.id)
        self._replace(environment.id, _row_of(environment, text))

    def _add(
        self,
        kind: EventKind,
        author: Author,
        before: Row | None,
        document: str,
        environment_id: str = "",
    ) -> None:
        self._last += 1
        self._changes.append(
            _Change(
                self._last,
                self._at,
                author.actor,
                author.reason,
                kind.value,
                before.id if before else environment_id,
                before.revision if before else 0,
                before.status if before else None,
                self.op,
                document,
            )
        )

    def _replace(self, environment_id: str, row: Row | None) -> None:
        for host in self._live:
            self._live[host] += _is_live(row, host) - _is_live(self._rows[environment_id], host)
        self._rows[environment_id] = row
        self._written.add(environment_id)


def decode(text: str, environment_id: str) -> Environment:
    """Return the environment in a row. Raises the error of a bad document, which names the id."""
    data = text.encode()
    try:
        environment = codec.decode(data, "")
    except (CorruptDocumentError, UnsupportedFormatError):
        environment = codec.decode(data, location_in_table(environment_id))  # Raises again.
    if environment.id != environment_id:
        path = location_in_table(environment_id)
        raise CorruptDocumentError(path, f"belongs to the id {environment.id!r:.200}")
    return environment


def location_in_table(environment_id: str) -> str:
    """Return the name of a document in errors and findings."""
    return f"waggle.document/{document_name(environment_id)}"


def _row_of(environment: Environment, text: str) -> Row:
    """Return the row of an environment with this document."""
    return Row(
        environment.id,
        environment.revision,
        environment.status.value,
        environment.idempotency.key if environment.idempotency else None,
        environment.host_id or "",
        text,
    )


def _is_live(row: Row | None, host: str) -> bool:
    return row is not None and row.host_id == host and row.status in _LIVE_STATUSES


_LIVE_STATUSES: Final = frozenset(one.value for one in Status if one.is_live)
