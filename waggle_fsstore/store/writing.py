# SPDX-License-Identifier: Apache-2.0
"""Writing: one change of a store at a time, durable and visible as a whole."""

import itertools
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import OutcomeUnknownError, StoreError
from waggle_fsstore.domain.values import MAX_REVISION
from waggle_fsstore.store import codec, founding, incoming
from waggle_fsstore.store.disk import FILE_MODE, Disk, mode_of, temporary_path
from waggle_fsstore.store.documents import Documents, Stored, revision_in
from waggle_fsstore.store.layout import SUFFIX, Layout, document_name
from waggle_fsstore.store.lock import StoreLock
from waggle_fsstore.store.publishing import Contents, Step, take_back
from waggle_fsstore.store.state import UNKNOWN, State, StateRecord, identity

# Of a name in lost+found: leaves room for a number.
_MAX_STEM: Final = 200

_TAKE_BACK_TRIES: Final = 3

_T = TypeVar("_T")


class Writer:
    """Gives out the right to change a store, to one thread of one process at a time."""

    def __init__(self, layout: Layout, disk: Disk, *, lock_timeout: float) -> None:
        self._layout = layout
        self._disk = disk
        # No method of this object: a cycle would keep the descriptors of a dropped store.
        make_folder = partial(founding.make_lock_folder, layout, disk)
        self._lock = StoreLock(layout.lock, timeout=lock_timeout, make_folder=make_folder)
        self._record = StateRecord(layout.state)
        self._founded: tuple[int, tuple[int, int] | None] | None = None
        self._identity = ""
        self._trusts_record = False

    def run(self, work: Callable[["Change"], _T]) -> _T:
        """What ``work`` returns, given the right to change the founded store.

        Raises :class:`LockTimeoutError`, :class:`StoreClosedError`, and ``RuntimeError``
        inside of an ``update`` of the same store.
        """
        incoming.refuse_inside(self._layout.root)

        def work_under_the_lock() -> _T:
            try:
                self._found()
                state = self._read_state()
                return work(Change(self._layout, self._disk, self._lock, self._record, state))
            finally:
                if self._lock.closed:
                    self._record.close()

        return self._lock.run(work_under_the_lock)

    def close(self) -> None:
        """Let no other change begin, and wait for the one that is under way."""
        incoming.refuse_inside(self._layout.root)
        if self._lock.close():
            self._record.close()

    def _found(self) -> None:
        """Found the store, unless this object did so and nobody exchanged it since."""
        if self._founded == (self._lock.generation, _place(self._layout.environments)):
            return
        founding.recognise(self._layout)
        founding.found(self._layout, self._disk)
        self._identity = identity(self._layout.environments)
        self._trusts_record = False
        self._founded = (self._lock.generation, _place(self._layout.environments))

    def _read_state(self) -> State:
        """The state; where the record cannot be trusted, as the documents tell it."""
        state = self._record.read()
        # Compared once: from then on the open files prove that it is the same mount.
        if state is not None and (
            self._trusts_record or state.identity == self._identity != UNKNOWN
        ):
            self._trusts_record = True
            return state._replace(identity=self._identity)
        # A record of before a power cut is old, but it knows of deleted documents.
        known = state.committed if state is not None else 0
        number = max(known, Documents(self._layout).highest_revision())
        self._trusts_record = True
        return State(self._identity, number, number)


class Change:
    """One change, while the store lock is held."""

    __slots__ = ("_disk", "_layout", "_lock", "_record", "_state")

    def __init__(
        self, layout: Layout, disk: Disk, lock: StoreLock, record: StateRecord, state: State
    ) -> None:
        self._layout = layout
        self._disk = disk
        self._lock = lock
        self._record = record
        self._state = state

    def store(self, versions: Iterable[tuple[Environment, Stored | None]]) -> list[int]:
        """Store each version over the one that stands there, all or none; their revisions."""
        number = self._state.committed
        revisions: list[int] = []
        steps: list[Step] = []
        try:
            for environment, stored in versions:
                number = self._next(number, stored)
                document = self._layout.document(environment.id)
                before = Contents(stored.data, mode_of(document)) if stored else None
                after = codec.encode(environment, number)
                source = temporary_path(self._layout.temporary)
                # First noted, then made: an interrupt leaves no file that nobody knows.
                steps.append(Step(source, document, document, before, after))
                self._disk.stage(source, after, before.mode if before else FILE_MODE)
                revisions.append(number)
            if steps:
                self._publish(number, steps)
        except BaseException:
            for step in steps:
                # One that was renamed is gone; what cannot be removed, founding clears.
                with suppress(OSError):
                    self._disk.remove(step.source)
            raise
        return revisions

    def remove(self, stored: Stored) -> None:
        """Remove a document."""
        document = self._layout.document(stored.environment.id)
        target = temporary_path(self._layout.temporary)
        before = Contents(stored.data, mode_of(document))
        number = self._next(self._state.committed, stored)
        self._publish(number, [Step(document, target, document, before, None)])
        with suppress(OSError):  # It is deleted already; founding clears the rest away.
            self._disk.remove(target)

    def set_aside(self, environment_id: str) -> None:
        """Move a corrupt document, whatever it is, to lost+found."""
        folder = self._layout.lost_and_found
        self._disk.make_folder(folder)
        document = self._layout.document(environment_id)
        number = 1 + max(self._state.committed, revision_in(document))
        stem = document_name(environment_id).removesuffix(SUFFIX)[:_MAX_STEM]
        names = (f"{folder}{os.sep}{stem}.{n}{SUFFIX}" for n in itertools.count(number))
        target = next(name for name in names if not os.path.lexists(name))
        self._publish(number, [Step(document, target, document, None, None)], folder)

    def _next(self, number: int, stored: Stored | None) -> int:
        """The number of the next change; above that of the version which it replaces."""
        following = 1 + max(number, stored.environment.revision if stored else 0)
        if following > MAX_REVISION:
            raise StoreError(f"{self._layout.root}: there is no revision above {MAX_REVISION}")
        return following

    def _publish(self, number: int, steps: list[Step], *more_folders: str) -> None:
        """Make the change with this number visible and durable, or take it back."""
        folders = (self._layout.environments, *more_folders)
        if not self._lock.is_in_place():
            raise StoreError(
                f"{self._layout.lock}: was taken away in the middle of a change, or this "
                "process was forked there: nothing is stored, try again"
            )
        published = State(self._state.identity, number, number)
        attempted: list[Step] = []
        self._record.write(self._state._replace(committed=number))
        if None in [step.after for step in steps]:
            # The revisions of what goes live on in the record alone, and none may come twice.
            self._record.flush(self._disk)
        try:
            for step in steps:
                attempted.append(step)
                self._disk.replace(step.source, step.target)
            for folder in folders:
                self._disk.flush_folder(folder)
            # Also the proof that the file system lives. XFS flushes a folder with success
            # after it was shut down, and refuses only this.
            self._record.write(published)
        except BaseException as error:
            self._take_back(attempted, folders, published, error)
            raise
        self._state = published

    def _take_back(
        self, steps: list[Step], folders: tuple[str, ...], published: State, cause: BaseException
    ) -> None:
        for _ in range(_TAKE_BACK_TRIES):
            # Not for an OSError: a second Ctrl-C, out of impatience, begins it again.
            with suppress(KeyboardInterrupt):
                try:
                    if take_back(steps, self._disk, self._layout.temporary):
                        for folder in folders:
                            self._disk.flush_folder(folder)
                    self._record.write(published)
                    return
                except OSError:
                    break
        raise OutcomeUnknownError(steps[0].document) from cause


def _place(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
