# SPDX-License-Identifier: Apache-2.0
"""The contract of every store of environments.

Its tests are in :mod:`waggle_fsstore.testing`; a backend that passes them can be used
wherever these protocols are expected.
"""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.event import Event

#: Called with the error of each document that cannot be read.
OnCorrupt = Callable[[Exception], object]


class Repository(Protocol):
    """Keeps environments by id.

    Arguments and results share nothing mutable with the store, including nested
    ``labels`` and ``extra``. Every call is safe from any thread.

    A store that keeps files may contain a bad one: not a whole document
    (:class:`CorruptDocumentError`), written by a newer version
    (:class:`UnsupportedFormatError`), or unreadable (``OSError``). A bad file never
    affects another id. ``find_by_id``, ``save`` and ``find_all`` raise its error and leave
    the file as it is. Where processes share a store, a call that has to wait for another
    process can raise :class:`LockTimeoutError`; it has then changed nothing.
    """

    def save(self, environment: Environment) -> int:
        """Store this version, whether or not the id is stored: the last writer wins.

        Returns the new revision. Revisions rise with every stored version of an id, even
        across deletes; a store never uses one twice, and may skip some. The argument is
        left unchanged. Raises :class:`InvalidEnvironmentError` for a value that no store
        accepts, and then stores nothing.
        """
        ...

    def find_by_id(self, environment_id: str) -> Environment:
        """Return an independent copy of the stored version, with its revision.

        Raises :class:`EnvironmentNotFoundError`, even for an invalid id.
        """
        ...

    def find_all(self) -> list[Environment]:
        """Return independent copies of all environments, sorted by id."""
        ...

    def delete(self, environment_id: str) -> None:
        """Delete an environment. Raises :class:`EnvironmentNotFoundError` if it is not stored.

        A corrupt document is quarantined, which frees the id and preserves the evidence. A
        document of a newer version is refused.
        """
        ...

    def count(self) -> int:
        """Return the number of stored environments, including unreadable ones.

        While nothing changes, it is the number of those that :meth:`find_all` returns, and of
        those that it reports as bad.
        """
        ...


class TransactionalRepository(Repository, Protocol):
    """The operations that a correct service needs beyond :class:`Repository`.

    Each call is atomic among all threads and processes that use the store, and even across
    a crash if the store outlives one. ``create`` and ``update`` treat a bad document as
    ``save`` does.

    Each change is one :class:`Event` in the history, and so is each change of a batch; a
    failed call adds none. The actor and reason of an event are those of the
    :class:`audit` block of the thread that made the call.
    """

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """Store an environment only if neither its id nor its idempotency key is stored.

        Returns the revision. With ``capacity``, stores only while fewer live environments than
        that (creating, running, destroying) are stored. Unreadable ones are not included, nor
        are their keys found. Raises :class:`EnvironmentAlreadyExistsError` with the id of the
        one that is stored, which takes precedence over :class:`CapacityError`.
        """
        ...

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """Do as :meth:`Repository.save`; with ``if_revision``, replace only that revision.

        0 means: only if absent. Raises :class:`ConflictError` when another version is
        stored, or when this version was edited manually.
        """
        ...

    def update(
        self,
        environment_id: str,
        change: Callable[[Environment], object],
        *,
        capacity: int | None = None,
    ) -> Environment:
        """Let ``change`` edit a copy in place, and store the result; return the stored copy.

        With ``capacity``, a change that makes an environment live is stored only while fewer
        live ones than that are stored; otherwise :class:`CapacityError`.

        If the stored version changes in the meantime, ``change`` runs again on the new one:
        it may run more than once, and its return value is ignored. A deleted environment
        stays deleted: :class:`EnvironmentNotFoundError`. ``change`` may not change ``id``,
        and writing to the same store inside it raises ``RuntimeError``. An exception from
        ``change`` is passed on, and nothing is stored.
        """
        ...

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """Store all or none; return their revisions in order. Each one is an event.

        Raises ``ValueError`` for an id that occurs twice, before anything is written.
        """
        ...

    def find_all(self, *, on_corrupt: OnCorrupt | None = None) -> list[Environment]:
        """Do as :meth:`Repository.find_all`; a bad document never hides the good ones.

        ``on_corrupt`` is called with the error of each bad one
        (:class:`CorruptDocumentError`, :class:`UnsupportedFormatError`, or the
        ``OSError`` of one file), and all good ones are returned. Without it, the first such
        error is raised.
        """
        ...

    def iter_all(self, *, on_corrupt: OnCorrupt | None = None) -> Iterator[Environment]:
        """Return an iterator of independent copies of all environments, in no particular order.

        Memory grows with the number of ids, not with the environments. The result is not the
        store as of one change: each environment is given in a version that was stored at some
        time between the call and its turn. One that is stored during the whole iteration
        comes exactly once; one that is created or deleted in the meantime comes at most once.
        The store may be changed during the iteration, also by the caller. A bad document is
        treated as by :meth:`find_all`, at its turn.
        """
        ...

    def history(
        self, environment_id: str | None = None, *, after: int | str = 0, until: int | None = None
    ) -> Iterator[Event]:
        """Return the events with ``after < seq <= until``, oldest first.

        ``after`` is the ``cursor`` of an event, or its number. A cursor is the safer one: it
        is refused where the history is no longer the one that it comes from, because an
        older state of the store was put back for example. A number may then be that of
        another change.

        With an id, only the events of that environment, or none if it has no events. A
        deletion is an event too, so the history of a deleted environment remains available.
        Without ``until`` the last event is that of the last change before the call, even if
        changes follow during the iteration. Each event is an independent copy.

        Raises, in the call itself and not at the first ``next``, :class:`HistoryPrunedError`
        if ``after`` is older than the history that is kept (0 never is: it means the
        beginning of what is kept), :class:`HistoryLostError` for a cursor of another
        history, and ``ValueError`` if a number is negative or beyond the last change. Where
        the next event can no longer be given during the iteration, because it was pruned or
        another history took the place of this one, ``next`` raises the same errors: no
        event is ever skipped.
        """
        ...

    def watch(
        self, *, after: int | str | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """Return an iterator of new events, from any process; each one comes exactly once.

        It starts after ``after``, like :meth:`history`, or by default with the first change
        that is made after the call. The iterator waits up to ``timeout`` for the next event
        (seconds, ``None`` for ever), and ends if none came. It raises
        :class:`StoreClosedError` when the store is closed, even while it waits;
        :class:`HistoryPrunedError` when it is so slow that the next event is no longer
        kept; :class:`HistoryLostError` when another history has taken the place of the one
        that it follows; and ``RuntimeError`` inside a function passed to ``update``, which may
        not wait for the changes that it holds up.

        Raises, in the call itself, the errors of :meth:`history`, and ``ValueError`` for an
        invalid ``timeout``.
        """
        ...

    def close(self) -> None:
        """Release all resources. Later calls except ``close`` raise :class:`StoreClosedError`.

        So does a :meth:`watch` that is waiting.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
