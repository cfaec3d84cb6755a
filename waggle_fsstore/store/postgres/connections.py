# SPDX-License-Identifier: Apache-2.0
"""Connections to the server: one writer's and a few readers', each call within a deadline."""

import os
import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

import psycopg
from psycopg import conninfo, errors

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import StoreUnavailableError

_READERS: Final = 4
_CONNECT_TIMEOUT_S: Final = 2

#: The longest pause before a repetition, and so how long before its deadline a call may end.
MAX_PAUSE_S: Final = 0.25

# A machine that is lost closes no connection. Without these, a call would wait for it until its
# deadline, and fail although another server has taken over.
_NETWORK: Final = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
}

# After how many executions a statement is prepared.
_PREPARE_AFTER: Final = 2

# More than the ``finally`` blocks that wait within each other.
_MAX_BLOCKS: Final = 10

#: The server refused or ended the session or the transaction, and changed nothing: try again.
RETRIED: Final = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.TooManyConnections,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    errors.IdleSessionTimeout,
)

#: The class of codes with which a pooler says that it has lost the server.
_CONNECTION_CLASS: Final = "08"

#: What to do about an error, by its code: https://www.postgresql.org/docs/current/errcodes-appendix.html
_ADVICE: Final = {
    "25P04": "raise the transaction_timeout of this role",
    "25006": "name the primary, or all hosts",
    "28000": "check the user, and the rules in pg_hba.conf",
    "28P01": "check the user and the password",
    "3D000": "create the database, or correct its name",
    "42501": "grant this role the rights of a writer, as `waggle-fsstore schema` does",
    "53100": "free space on the server",
    "53300": "allow more connections, or put a pooler between",
    "57014": "raise the statement_timeout of this role, unless an operator cancelled it",
    "57P03": "wait until the server has started",
}

#: libpq gives no code for what the server answers to a new connection.
_CODES: Final = {
    "password authentication failed": "28P01",
    "no pg_hba.conf entry": "28000",
    "role does not exist": "28000",
    "does not exist": "3D000",
    "too many": "53300",
    "the database system is": "57P03",
}

# A message goes to logs and to clients, which need not know the role.
_name_of_role: Final = re.compile(r'\b(user|role) "[^"]*"')

_NO_TLS: Final = "does not support SSL"
_TLS_ADVICE: Final = "enable TLS on the server, or choose another sslmode"
_CERTIFICATE_ADVICE: Final = "check sslrootcert, and that the URL has the name in the certificate"
_NO_SERVER_ADVICE: Final = "check that the server runs, its host and its port"

_T = TypeVar("_T")


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait ends at a deadline.

    A stopped server still acknowledges packets, so no setting of the network would end it.
    """

    deadline: float | None = None

    @cached_property
    def warnings(self) -> list[str]:
        """The warnings of the server, such as that COMMIT did not wait for a standby."""
        found: list[str] = []

        def keep(diagnostic: errors.Diagnostic) -> None:
            if diagnostic.severity_nonlocalized == "WARNING":
                found.append(diagnostic.message_primary or "")

        self.add_notice_handler(keep)
        return found

    @contextmanager
    def in_one_trip(self) -> Iterator[None]:
        """Send the statements of the block together; raise the first error of the server.

        The pipeline of psycopg logs an error that ends it.
        """
        first: psycopg.Error | None = None
        try:
            with self.pipeline():
                try:
                    yield
                except psycopg.Error as error:
                    first = error
        except psycopg.Error as error:
            # The end of a pipeline that was left at the deadline hides why it was left.
            cause = error.__context__
            raise first or (cause if isinstance(cause, psycopg.Error) else error) from None
        if first is not None:
            raise first

    def wait(
        self,
        gen: Generator[Any, Any, _T],
        interval: float = 0.1,
        timeout: float | None = None,
    ) -> _T:
        """Do as psycopg does, up to the deadline."""
        if self.deadline is not None:
            left = max(0.0, self.deadline - monotonic())
            timeout = left if timeout is None else min(timeout, left)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            _end(gen)
            raise


def _end(gen: Generator[Any, Any, Any]) -> None:
    """Close a generator of psycopg that was left at its deadline.

    It waits for the server in its ``finally`` blocks too. Left to the garbage collector, it would
    print that as an error that is ignored.
    """
    for _ in range(_MAX_BLOCKS):
        try:
            gen.close()
        except (RuntimeError, psycopg.Error):
            continue
        return


class Deadline:
    """The end of one call."""

    def __init__(self, timeout: float) -> None:
        self.at = monotonic() + timeout

    @property
    def left(self) -> float:
        """The seconds that are left, 0 at the end."""
        return max(0.0, self.at - monotonic())


class Connections:
    """The connections of one store in one process."""

    def __init__(self, url: str, timeout: float) -> None:
        self.timeout = timeout
        self._url = url
        self.location = location_of(url)
        self._is_closed = False
        self.reset()

    def reset(self) -> None:
        """Forget all connections, as a forked child must: they belong to its parent."""
        # psycopg leaves a connection of another process open, and warns where one is dropped.
        self._of_parent = getattr(self, "_idle", [])
        self._idle: list[Connection] = []
        # One item for each reader that may begin: faster than a semaphore, which is in Python.
        self._readers: SimpleQueue[None] = SimpleQueue()
        for _ in range(_READERS):
            self._readers.put(None)

    @contextmanager
    def writer(self, deadline: Deadline) -> Iterator[Connection]:
        """Lend a connection to a writer; at the end it is closed unless it is idle."""
        connection = self._take(deadline)
        try:
            yield connection
        finally:
            self._give_back(connection)

    def read(
        self, statement: str, parameters: tuple[Any, ...] = (), *, writes: bool = False
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which sees one state; [] without tables.

        ``writes`` is for a change that may happen twice. Retries while the server cannot be
        reached, up to the deadline. Raises :class:`StoreUnavailableError`.
        """
        deadline = Deadline(self.timeout)
        try:
            self._readers.get(timeout=self.timeout)
        except Empty:
            raise self.unavailable("all connections for reading are in use") from None
        try:
            return self.retry(deadline, lambda: self._read(deadline, statement, parameters, writes))
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            return []
        except psycopg.Error as error:
            raise self.unavailable(reason_of(error)) from None
        finally:
            self._readers.put(None)

    def retry(self, deadline: Deadline, call: Callable[[], _T]) -> _T:
        """Return ``call()``; repeat it after a failure that has changed nothing.

        At the deadline, it raises what the server answered last, if it ever did.
        """
        pause = 0.01
        answer: psycopg.Error | None = None
        while True:
            try:
                return call()
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                answer = error if error.sqlstate or answer is None else answer
                if deadline.left <= pause:
                    raise self.unavailable(reason_of(answer)) from None
            threading.Event().wait(pause)
            pause = min(pause * 2, MAX_PAUSE_S)

    def close(self) -> None:
        """Close the idle connections now, and those in use as soon as they are given back."""
        self._is_closed = True
        self._close_idle()

    def unavailable(self, reason: str) -> StoreUnavailableError:
        """Return the error of a server that cannot do its work."""
        return StoreUnavailableError(self.location, reason)

    def _read(
        self, deadline: Deadline, statement: str, parameters: tuple[Any, ...], writes: bool
    ) -> list[tuple[Any, ...]]:
        connection = self._take(deadline)
        try:
            if writes:
                with writing(connection):
                    return connection.execute(statement.encode(), parameters).fetchall()
            return connection.execute(statement.encode(), parameters).fetchall()
        finally:
            self._give_back(connection)

    def _take(self, deadline: Deadline) -> Connection:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect(deadline)
        connection.deadline = deadline.at
        return connection

    def _connect(self, deadline: Deadline) -> Connection:
        given: dict[str, Any] = {
            "target_session_attrs": "primary",
            "application_name": "waggle-fsstore",
            **_NETWORK,
        }
        given.update(conninfo.conninfo_to_dict(self._url))
        seconds = int(given.get("connect_timeout", _CONNECT_TIMEOUT_S))
        # It is that of each host. One of less than 2 s counts as 2 s.
        hosts = str(given.get("host") or given.get("hostaddr") or "").count(",") + 1
        given["connect_timeout"] = str(max(1, min(seconds, int(deadline.left / hosts))))
        given["client_encoding"] = "utf8"
        connection = Connection.connect(
            conninfo.make_conninfo(**given), autocommit=True, prepare_threshold=None
        )
        connection.deadline = deadline.at
        # A pooler, which gives each transaction another session, invents a process id. Where the
        # session is that of the server, it can keep prepared statements.
        try:
            row = connection.execute(b"SELECT pg_backend_pid()").fetchone()
        except BaseException:
            connection.close()
            raise
        if row == (connection.info.backend_pid,):
            connection.prepare_threshold = _PREPARE_AFTER
        return connection

    def _give_back(self, connection: Connection) -> None:
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._idle.append(connection)
            if self._is_closed:
                self._close_idle()
        else:
            connection.close()

    def _close_idle(self) -> None:
        with suppress(IndexError):  # Another thread may close the last one.
            while True:
                self._idle.pop().close()


@contextmanager
def writing(connection: Connection) -> Iterator[None]:
    """Begin a transaction as a change needs it; the role may have other defaults."""
    with connection.transaction():
        connection.execute(b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
        yield


def is_transient(error: psycopg.Error) -> bool:
    """Return whether a repetition can succeed: no server, or one that ended the session."""
    # What a server answers has a code; a connection that is lost or refused has none.
    is_lost = error.sqlstate is None or error.sqlstate.startswith(_CONNECTION_CLASS)
    return isinstance(error, RETRIED) or (isinstance(error, psycopg.OperationalError) and is_lost)


def reason_of(error: psycopg.Error) -> str:
    """Return one line about an error of the server, and what to do about it.

    The line has no values, no password and no name of a role.
    """
    text = error.diag.message_primary or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Of several hosts, the standby that refused says least.
    telling = [line for line in lines if "read-only" not in line and "standby" not in line]
    line = _name_of_role.sub(r"\1", (telling or lines or [type(error).__name__])[0])
    code = error.sqlstate or next((code for text, code in _CODES.items() if text in line), "")
    if not code:
        return f"{line}: {_connection_advice(line)}"
    advice = _ADVICE.get(code, "")
    return f"{line} ({code})" + (f": {advice}" if advice else "")


def _connection_advice(line: str) -> str:
    if _NO_TLS in line:
        return _TLS_ADVICE
    return _CERTIFICATE_ADVICE if "certificate" in line else _NO_SERVER_ADVICE


def location_of(url: str) -> str:
    """Return where a store is, ``host:port/database``, without user, password and options."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Its message may repeat the URL, with the password.
        raise ValueError(
            "the URL of the store is invalid: write postgresql://HOST/DATABASE, and quote "
            "special characters of the password as %XX"
        ) from None
    hosts = str(given.get("host") or given.get("hostaddr") or "").split(",")
    ports = str(given.get("port") or "").split(",")
    ports += ports[-1:] * (len(hosts) - len(ports))
    names = [f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False)]
    database = given.get("dbname") or given.get("user") or os.environ.get("PGDATABASE", "")
    return f"{','.join(names)}/{database}"
