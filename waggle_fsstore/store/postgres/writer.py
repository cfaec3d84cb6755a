# SPDX-License-Identifier: Apache-2.0
"""The writer of a process: changes of several threads in one transaction, and their outcome."""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

import psycopg
from psycopg import errors

from waggle_fsstore.domain.audit import Author, current_author
from waggle_fsstore.domain.cleanup import run_with_cleanup
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import (
    LockTimeoutError,
    OutcomeUnknownError,
    StoreError,
    StoreUnavailableError,
)
from waggle_fsstore.domain.histogram import OF_A_DISK, Histogram
from waggle_fsstore.store.postgres import schema
from waggle_fsstore.store.postgres.connections import (
    MAX_PAUSE_S,
    Connections,
    Deadline,
    reason_of,
    writing,
)
from waggle_fsstore.store.postgres.transaction import (
    CommitInDoubtError,
    OldFormatError,
    Transaction,
)

_MAX_GROUP: Final = 64

# Tables are made once, and upgraded once by each process that lags behind the others.
_MAX_PREPARATIONS: Final = 8

#: The part of the time of a call in which it may wait for the lock of the store.
_LOCK_SHARE: Final = 0.8

_OP_OF: Final = b"""
SELECT oldest, (SELECT op FROM waggle.change WHERE seq = %s) FROM waggle.store
"""
# Its own COMMIT proves that all changes before it are on the standbys too.
_TOUCH: Final = b"UPDATE waggle.store SET last = last"

_SETTINGS: Final = """
SELECT current_setting('fsync'), current_setting('full_page_writes'),
    current_setting('server_encoding'), pg_is_in_recovery(),
    (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = 'waggle' AND c.relkind = 'r' AND c.relpersistence <> 'p')
"""

_T = TypeVar("_T")


class _Ticket(Generic[_T]):
    """What one thread wants done, and what came of it."""

    def __init__(
        self,
        work: Callable[[Transaction, Author], _T],
        ids: set[str],
        deadline: Deadline,
        *,
        alone: bool = False,
    ) -> None:
        self.work = work
        self.ids = ids
        self.deadline = deadline
        #: Whether its own thread has to do it, in a transaction without others.
        self.alone = alone
        self.author = current_author()
        self.is_done = False
        #: Whether its thread leads, or has left, after an interruption too.
        self.leads = self.is_left = False
        #: Set once it is done, or its thread leads.
        self.woken = threading.Event()
        self.result: _T | None = None
        self.error: BaseException | None = None

    def run(self, transaction: Transaction) -> None:
        """Do the work; a refusal is its outcome, an error of the server concerns all.

        Work that raises changes nothing.
        """
        self.result = self.error = transaction.error_after_commit = None
        roll_back = transaction.savepoint()
        try:
            self.result = self.work(transaction, self.author)
            self.error = transaction.error_after_commit
        except psycopg.Error:
            raise
        except Exception as error:  # noqa: BLE001  # Raised in the thread that waits for it.
            roll_back()
            self.error = error


class Writer:
    """Runs changes under the lock of the store; one of the threads that wait leads them all.

    A leader wakes the threads whose changes are made, and hands over to the first that waits.
    """

    def __init__(self, connections: Connections, *, durable: bool) -> None:
        self._connections = connections
        self._durable = durable
        self._is_checked = False
        #: How long the changes took that were made, with the wait for other writers.
        self.saves = Histogram(OF_A_DISK)
        self.reset()

    def reset(self) -> None:
        """Begin with no thread waiting, as in a forked child."""
        self._state = threading.Condition(threading.Lock())
        self._queue: deque[_Ticket[Any]] = deque()
        self._is_led = False

    def run(
        self,
        work: Callable[[Transaction, Author], _T],
        ids: set[str],
        *,
        alone: bool = False,
    ) -> _T:
        """Return what ``work`` returns, once its changes are durable.

        ``work`` may run more than once, and in another thread unless it runs ``alone``. It
        reads the documents with ``ids`` only.
        """
        begun = monotonic()
        ticket = _Ticket(work, ids, Deadline(self._connections.timeout), alone=alone)
        run_with_cleanup(partial(self._take_part, ticket), partial(self._leave, ticket))
        if ticket.error is not None:
            raise ticket.error
        self.saves.add(monotonic() - begun)
        return ticket.result  # type: ignore[return-value]  # Set where there is no error.

    def close(self) -> None:
        """Wait for the writes in progress, if they end in time."""
        with self._state:
            self._state.wait_for(lambda: not self._is_led, self._connections.timeout)

    def _take_part(self, ticket: _Ticket[Any]) -> None:
        """Return when the ticket has its outcome, from this thread or from another one."""
        with self._state:
            self._queue.append(ticket)
            if not self._is_led:
                self._appoint(ticket)  # First: after an interrupt, _leave() has to see it.
                self._is_led = True
        self._wait(ticket)
        # A group may be full before it has this ticket.
        while not ticket.is_done:
            self._lead(self._next_group())

    def _wait(self, ticket: _Ticket[Any]) -> None:
        """Wait until the ticket is done, or its thread leads."""
        location, timeout = self._connections.location, self._connections.timeout
        if ticket.woken.wait(timeout):
            return
        with self._state:
            if not ticket.leads and ticket in self._queue:
                self._queue.remove(ticket)
                raise LockTimeoutError(location, None, timeout)
        # Another thread leads it, in at most the time of a call and that of finding out.
        if not ticket.woken.wait(3 * timeout):
            raise OutcomeUnknownError(location)

    def _leave(self, ticket: _Ticket[Any]) -> None:
        """Hand over to the first thread that waits, if this one leads."""
        with self._state:
            ticket.is_left = True
            if ticket in self._queue:  # Its thread was interrupted.
                self._queue.remove(ticket)
            if not ticket.leads:
                return
            ticket.leads = False
            if self._queue:
                self._appoint(self._queue[0])
            else:
                self._is_led = False
                self._state.notify_all()

    def _appoint(self, ticket: _Ticket[Any]) -> None:
        ticket.leads = True
        ticket.woken.set()

    def _next_group(self) -> list[_Ticket[Any]]:
        """Take the next tickets; the first one is that of the thread that leads."""
        with self._state:
            group = [self._queue.popleft()]
            while self._queue and len(group) < _MAX_GROUP:
                if group[0].alone or self._queue[0].alone:
                    break
                group.append(self._queue.popleft())
        return group

    def _lead(self, group: list[_Ticket[Any]]) -> None:
        """Give every ticket its outcome, or put it back where it has time left."""
        deadline = min((ticket.deadline for ticket in group), key=lambda one: one.at)
        error: BaseException = OutcomeUnknownError(self._connections.location)
        ended = group
        try:
            self._commit(group, deadline)
        except Exception as failure:  # noqa: BLE001  # Raised in each thread of the group.
            error = failure
            if _is_late(failure, deadline):  # It changed nothing.
                ends = deadline.at + MAX_PAUSE_S
                ended = [ticket for ticket in group if ticket.deadline.at <= ends]
                rest = [ticket for ticket in group if ticket.deadline.at > ends]
                with self._state:
                    self._queue.extendleft(one for one in reversed(rest) if not one.is_left)
        else:
            return
        finally:
            for ticket in ended:
                if not ticket.is_done:
                    ticket.error = error
                    ticket.is_done = True
                    ticket.woken.set()

    def _commit(self, group: list[_Ticket[Any]], deadline: Deadline) -> None:
        try:
            self._check(deadline)
            for _ in range(_MAX_PREPARATIONS):
                if self._connections.retry(deadline, lambda: self._attempt(group, deadline)):
                    break
            else:
                raise self._connections.unavailable("its tables are not those of any format")
        except errors.LockNotAvailable:
            location, timeout = self._connections.location, self._connections.timeout
            raise LockTimeoutError(location, None, timeout) from None
        except psycopg.Error as error:
            raise self._connections.unavailable(reason_of(error)) from None
        for ticket in group:
            ticket.is_done = True
            ticket.woken.set()

    def _attempt(self, group: list[_Ticket[Any]], deadline: Deadline) -> bool:
        """Run and commit a group; return whether it is committed.

        Makes the tables of a missing store, and upgrades those of an earlier format.
        """
        with self._connections.writer(deadline) as connection:
            transaction = Transaction(connection)
            try:
                ids = set().union(*(ticket.ids for ticket in group))
                transaction.begin(deadline.left * _LOCK_SHARE, self._connections.timeout, ids)
            except (errors.UndefinedTable, errors.InvalidSchemaName):
                connection.execute(b"ROLLBACK")
                self._found(deadline)
                return False
            except OldFormatError:
                connection.execute(b"ROLLBACK")
                self._upgrade(deadline)
                return False
            for ticket in group:
                ticket.run(transaction)
            try:
                transaction.commit()
            except CommitInDoubtError as doubt:
                connection.close()
                if not self._happened(transaction):
                    raise doubt.__cause__ or errors.OperationalError from None
        return True

    def _happened(self, transaction: Transaction) -> bool:
        """Return whether a transaction whose COMMIT had no answer was committed.

        The lock is free only after that transaction has ended, one way or the other. Raises
        :class:`OutcomeUnknownError` where no server says so in time.
        """
        deadline = Deadline(self._connections.timeout)

        def look() -> bool:
            with self._connections.writer(deadline) as connection:
                looking = Transaction(connection)
                looking.begin(deadline.left * _LOCK_SHARE, self._connections.timeout, set())
                oldest, op = connection.execute(_OP_OF, [transaction.first]).fetchall()[0]
                if op is None and transaction.first < oldest:
                    raise errors.NoData("the history was pruned beyond the change")
                connection.execute(_TOUCH)
                connection.warnings.clear()
                connection.execute(b"COMMIT")
                if connection.warnings:
                    raise errors.OperationalError("no standby has confirmed the change")
                return bool(op == transaction.op)

        try:
            return self._connections.retry(deadline, look)
        except (psycopg.Error, StoreError, OldFormatError) as error:
            raise OutcomeUnknownError(self._connections.location) from error

    def _found(self, deadline: Deadline) -> None:
        """Make the tables, unless another process has. Raises psycopg's error without rights."""
        with self._connections.writer(deadline) as connection, writing(connection):
            connection.execute(schema.LOCK_FOUNDING.encode())
            row = connection.execute(schema.EXISTS.encode()).fetchone()
            if row is None or not row[0]:
                connection.execute(schema.TABLES.encode())

    def _upgrade(self, deadline: Deadline) -> None:
        """Give the tables today's format, unless another process has."""
        try:
            with self._connections.writer(deadline) as connection, writing(connection):
                connection.execute(schema.LOCK_FOUNDING.encode())
                row = connection.execute(schema.LOCK_STORE.encode()).fetchone()
                found = row[0] if row else schema.FORMAT
                for number in range(found, schema.FORMAT):
                    connection.execute(schema.UPGRADES[number].encode())
        except errors.InsufficientPrivilege:
            raise self._connections.unavailable(
                f"its tables have format {found}, and this program writes {schema.FORMAT}: their "
                f"owner runs what 'waggle-fsstore schema --from {found}' prints"
            ) from None

    def _check(self, deadline: Deadline) -> None:
        """Refuse, once, a server on which a change could be lost, or a text be changed."""
        if self._is_checked:
            return

        def ask() -> tuple[Any, ...] | None:
            with self._connections.writer(deadline) as connection:
                return connection.execute(_SETTINGS.encode()).fetchone()

        row = self._connections.retry(deadline, ask)
        if row is None:
            return
        fsync, full_page_writes, encoding, is_standby, unlogged = row
        problems = {
            "the server is a standby: name the primary": is_standby,
            f"the encoding of the database is {encoding}: make one with UTF8": encoding != "UTF8",
            "a table is unlogged, and a crash would empty it: ALTER TABLE ... SET LOGGED": (
                self._durable and unlogged
            ),
            "fsync is off, and a power cut would damage it: set fsync = on": (
                self._durable and fsync != "on"
            ),
            "full_page_writes is off, and a power cut would damage it: set it to on": (
                self._durable and full_page_writes != "on"
            ),
        }
        for problem, is_found in problems.items():
            if is_found:
                raise self._connections.unavailable(problem)
        self._is_checked = True


def _is_late(failure: Exception, deadline: Deadline) -> bool:
    """Return whether work failed because the time was over, and not because it was refused."""
    return isinstance(failure, LockTimeoutError) or (
        isinstance(failure, StoreUnavailableError) and deadline.left <= MAX_PAUSE_S
    )
