# SPDX-License-Identifier: Apache-2.0
"""Group commit: the thread that gets the store lock commits the calls of all waiting threads.

A thread that finds the lock taken by another one sleeps. The holder wakes it when its call is
committed, or when it is its turn to take the lock.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Any, Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import Author
from waggle_fsstore.domain.cleanup import run_with_cleanup
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import LockTimeoutError, OutcomeUnknownError
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.write.batch import Transaction, WriteBatch

# A holder that Ctrl-C interrupts may wake no other thread. So each looks again after this time.
_MAX_SLEEP_S: Final = 0.05


class Call:
    """The work of one caller, and its result."""

    __slots__ = (
        "_asleep",
        "_author",
        "_claim",
        "_work",
        "error",
        "group",
        "has_led",
        "solo",
        "value",
    )

    def __init__(self, work: Callable[[Transaction], Any], author: Author, *, solo: bool) -> None:
        self.group: Group | None = None
        self.error: Exception | None = None
        self.value: Any = None
        #: Whether its own thread has to run it, in a group without other calls.
        self.solo = solo
        #: Whether its own thread committed the group.
        self.has_led = False
        self._work = work
        self._author = author
        #: Acquired once: by a leader that runs the call, or by the caller that gives up. A call
        #: that has not waited has none, because no other thread can see it.
        self._claim: threading.Lock | None = None

    def prepare_to_wait(self) -> None:
        """Make the locks by which other threads claim it and wake its own one."""
        self._claim = threading.Lock()
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def claim(self) -> bool:
        """Return whether this thread may run it or give it up: no other one has claimed it."""
        return self._claim is None or self._claim.acquire(blocking=False)

    def unclaim(self) -> None:
        """Let it be claimed again."""
        if self._claim is not None:
            self._claim.release()

    def is_done(self) -> bool:
        """Return whether it was committed or has failed, and will not run again."""
        return self.group is not None and self.group.is_done

    def sleep(self, timeout: float) -> None:
        """Wait until another thread calls :meth:`wake`, for at most ``timeout`` seconds."""
        self._asleep.acquire(timeout=timeout)

    def wake(self) -> None:
        """End the sleep of its thread, or its next one."""
        with suppress(RuntimeError):  # It is awake already.
            self._asleep.release()

    def run(self, group: "Group", batch: WriteBatch) -> None:
        """Run the work, and add its changes to the batch; add none if it raises."""
        self.group = group
        self.error = self.value = None
        savepoint = batch.savepoint()
        tx = Transaction(batch, self._author)
        try:
            self.value = self._work(tx)
            self.error = tx.error_after_commit
        except Exception as error:  # noqa: BLE001  # Raised by the thread that made the call.
            batch.rollback_to(savepoint)
            self.error = error

    def result(self) -> Any:
        """Return what the work returned; raise what it raised, or why the commit failed."""
        failure = self.error
        if self.group is not None and self.group.failure is not None:
            failure = self.group.failure
        if failure is None:
            return self.value
        # Two threads that raise one object would mix up its traceback.
        raise failure if self.has_led else copy(failure)


class Group:
    """The calls that share one line of the journal, and are committed or fail together."""

    __slots__ = ("batch", "calls", "failure", "is_divisible", "is_done")

    def __init__(self, leader: Call) -> None:
        self.calls = [leader]
        #: Their changes in the present attempt; ``None`` before the first of them runs.
        self.batch: WriteBatch | None = None
        self.is_done = False
        self.failure: Exception | None = None
        #: Whether another call of the group may be to blame: it failed at one document, or the
        #: disk is full, which need not stop each of them.
        self.is_divisible = False

    def run_calls(self, batch: WriteBatch, waiting: list[Call]) -> None:
        """Run the leader's call, and then waiting ones until the batch is full."""
        leader = self.calls[0]
        leader.run(self, batch)
        for call in waiting[:]:
            if batch.is_full or leader.solo:
                break
            if not call.solo and call is not leader and call.claim():
                self.calls.append(call)
                call.run(self, batch)

    def may_spend_reserve(self) -> bool:
        """Return whether a full disk may be helped with room that is kept for such changes."""
        is_alone = self.batch is None or (self.batch.frees_room and len(self.calls) == 1)
        return is_alone and not self.is_done

    def fail(self, error: Exception) -> None:
        """End all calls with an error, or let each run solo if only one of them is at fault.

        None of them is stored, unless the outcome is unknown: then no call runs again.
        """
        can_retry = not isinstance(error, OutcomeUnknownError)
        if self.is_divisible and len(self.calls) > 1 and can_retry:
            for call in self.calls:
                call.solo = True
        else:
            self.failure = error
            self.is_done = True


Commit = Callable[[Group, list[Call]], None]


class CommitQueue:
    """The calls that wait for the store lock."""

    def __init__(self, lock: StoreLock) -> None:
        self._lock = lock
        self._waiting: list[Call] = []
        lock.on_release = partial(_wake_next, self._waiting)
        register_at_fork(self)

    def run(self, call: Call, commit: Commit) -> None:
        """Return when a call is done: by this thread, or by another that held the lock.

        ``commit`` runs the calls of a group and the waiting ones that fit, and makes their
        changes durable and visible. Raises :class:`LockTimeoutError` and
        :class:`StoreClosedError`; :meth:`Call.result` raises the errors of call and commit.
        """
        if self._lead_if_free(call, commit) and call.is_done():
            return

        def wait() -> None:
            call.prepare_to_wait()
            self._waiting.append(call)
            while not call.is_done():
                self._take_turn(call, commit)

        run_with_cleanup(wait, partial(self._remove, call))

    def reset_after_fork(self) -> None:
        """Forget, in a child, the calls of the parent's threads."""
        self._waiting.clear()

    def _take_turn(self, call: Call, commit: Commit) -> None:
        """Lead, or sleep until another thread has committed the call or released the lock."""
        deadline = monotonic() + self._lock.timeout
        try:
            while not self._lead_if_free(call, commit):
                remaining = deadline - monotonic()
                if remaining <= 0:
                    raise self._lock.timed_out(self._lock.timeout)
                call.sleep(min(remaining, _MAX_SLEEP_S))
                if call.is_done():
                    return
        except LockTimeoutError:
            # A leader that has claimed the call is committing it right now.
            if call.claim():
                raise

    def _lead_if_free(self, call: Call, commit: Commit) -> bool:
        """Lead unless another thread holds the lock; return whether that was so."""
        return self._lock.run_if_free(lambda: self._lead(call, commit))

    def _lead(self, call: Call, commit: Commit) -> None:
        """Commit the leader's own call and waiting ones, under the store lock."""
        if call.is_done():
            return  # By the previous holder, just before this thread took the lock.
        group = call.group = Group(call)
        call.has_led = True
        # If it has waited, other threads see it in the list until its own thread removes it.
        call.claim()
        try:
            commit(group, self._waiting)
        except Exception as error:
            if group.is_done:
                raise
            group.fail(error)  # Each of the callers raises it.
        finally:
            if not group.is_done:
                for claimed in group.calls:
                    claimed.unclaim()
            for served in group.calls[1:]:
                served.wake()
            group.calls.clear()  # A reference cycle: each call refers to the group.

    def _remove(self, call: Call) -> None:
        if call in self._waiting:  # Only its own thread removes it.
            self._waiting.remove(call)
        if not call.is_done():  # It may have been woken for a turn that it does not take.
            _wake_next(self._waiting)


def _wake_next(waiting: list[Call]) -> None:
    """Wake the thread of the first call that is not committed: it takes the lock."""
    for call in waiting[:]:
        if not call.is_done():
            call.wake()
            break
