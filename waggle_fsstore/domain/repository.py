# SPDX-License-Identifier: Apache-2.0
"""What a store of environments promises, in words: the contract that every backend keeps.

The tests of this contract are in :mod:`waggle_fsstore.testing`; a backend that
passes them can stand wherever these protocols are asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.event import Event


class Repository(Protocol):
    """Keeps environments by id.

    What is saved and what is returned share nothing mutable with the store, nested
    ``labels`` and ``extra`` included. Every call is safe from any thread.

    Where a store keeps files, one may be bad: not a whole document
    (:class:`CorruptDocumentError`), of a newer program
    (:class:`UnsupportedFormatError`), or not to be read (``OSError``). That never harms
    another id. ``find_by_id``, ``save`` and ``find_all`` raise its error and leave it.
    Where processes share a store, what has to wait for others can raise
    :class:`LockTimeoutError`, and has then changed nothing.
    """

    def save(self, environment: Environment) -> int:
        """Store this version, whether or not the id is stored: the last writer wins.

        Returns the new revision. It rises with every stored version of an id, across
        deletes too, is never used twice in a store, and is not dense. The argument is
        not changed. Raises :class:`InvalidEnvironmentError` for a value that no store
        accepts, and then stores nothing.
        """
        ...

    def find_by_id(self, environment_id: str) -> Environment:
        """An independent copy of the stored version, with its revision.

        Raises :class:`EnvironmentNotFoundError`, also for what is not a valid id.
        """
        ...

    def find_all(self) -> list[Environment]:
        """Independent copies of all, sorted by id; empty when there are none."""
        ...

    def delete(self, environment_id: str) -> None:
        """Remove it. Raises :class:`EnvironmentNotFoundError` when it is not stored.

        A corrupt document is put aside, so that the id is free and the evidence kept; one
        of a newer program is refused.
        """
        ...

    def count(self) -> int:
        """The number of stored environments, those included that cannot be read."""
        ...


class TransactionalRepository(Repository, Protocol):
    """What a correct service needs beyond :class:`Repository`.

    Each call is one atomic step among all threads and processes that use the store, and
    where a store outlives a crash, also across that. ``create`` and ``update`` leave a bad
    document as ``save`` does.

    Each change is one :class:`Event` in the history, those of a batch one each; what
    failed is none. Its actor and reason are those of the :class:`audit` block of the
    thread that made the call.
    """

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """Store it only if its id is not stored; returns the revision.

        With ``capacity``, also only while fewer than that many live ones (creating,
        running, destroying) are stored; unreadable ones do not count. Raises
        :class:`EnvironmentAlreadyExistsError`, which wins over :class:`CapacityError`.
        """
        ...

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """As :meth:`Repository.save`, and with ``if_revision`` only over that revision.

        0 means: only if absent. Raises :class:`ConflictError` when another version is
        stored, or this one was changed by hand.
        """
        ...

    def update(self, environment_id: str, change: Callable[[Environment], object]) -> Environment:
        """Let ``change`` edit a copy in place, and store the result; returns the stored copy.

        If the stored version changed meanwhile, ``change`` runs again on the new one: it
        may run more than once, and its return value is ignored. A deleted environment
        does not come back: :class:`EnvironmentNotFoundError`. ``change`` may not change
        ``id``, and writing to the same store inside it raises ``RuntimeError``. What it
        raises is passed on, and nothing is stored.
        """
        ...

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """Store all or none; returns their revisions in order. Each one is an event.

        Raises ``ValueError`` for an id that comes twice, before anything is written.
        """
        ...

    def find_all(
        self, *, on_corrupt: Callable[[Exception], object] | None = None
    ) -> list[Environment]:
        """As :meth:`Repository.find_all`; one bad document never hides the good ones.

        With ``on_corrupt``, it is called with the error of each bad one
        (:class:`CorruptDocumentError`, :class:`UnsupportedFormatError`, or the
        ``OSError`` of one file) and all good ones are returned. Without, the first such
        error is raised.
        """
        ...

    def history(
        self, environment_id: str | None = None, *, after: int = 0, until: int | None = None
    ) -> Iterator[Event]:
        """The events with ``after < seq <= until``, oldest first.

        Only those of one environment with its id; none for an id that no event is about.
        A deletion leaves an event, so what is gone can be asked for too. Without
        ``until`` the last one is that of the last change before the call, whatever is
        written while they are read. Each event is an independent copy.

        Raises, on the call and not on the first ``next``, :class:`HistoryPrunedError`
        where ``after`` is older than the history that is kept (0 is not: it means from
        what there is), and ``ValueError`` where it is beyond the last change, or where
        a number is negative.
        """
        ...

    def watch(self, *, after: int | None = None, timeout: float | None = None) -> Iterator[Event]:
        """The same events as they come, from any process: none is lost, none comes twice.

        They begin after ``after``, as those of :meth:`history`, or else with the first
        change that is made after the call. The iterator waits for the next one for
        ``timeout`` (seconds, ``None`` for ever), and ends when none came. It raises
        :class:`StoreClosedError` when the store is closed, also while it waits,
        :class:`HistoryPrunedError` when it is so slow that the next event is not kept
        any more, and ``RuntimeError`` inside a function passed to ``update``, which may
        not wait for changes that it holds up.

        Raises what :meth:`history` raises, on the call, and ``ValueError`` for a
        ``timeout`` that is not a time to wait.
        """
        ...

    def close(self) -> None:
        """Release everything. Later calls, but for this one, raise :class:`StoreClosedError`.

        So does a :meth:`watch` that waits.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
