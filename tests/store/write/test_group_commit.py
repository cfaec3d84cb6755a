# SPDX-License-Identifier: Apache-2.0
"""Threads that wait for the lock sleep, and are woken when there is something to do for them."""

import threading
from collections.abc import Callable

import pytest

from tests.store.locks import lock_held
from waggle_fsstore import FileStore
from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.store.write.group_commit import Call, Group
from waggle_fsstore.testing import make_environment

#: A thread that is not woken for so long has been forgotten.
PATIENCE_S = 2.0


class Sleeps:
    """The sleeps of all calls: each lasts until the call is woken, or fails."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.forgotten: list[Call] = []
        self.after: Callable[[], None] = lambda: None
        patch.setattr(Call, "sleep", lambda call, _: self._sleep(call))

    def _sleep(self, call: Call) -> None:
        self.begun.release()
        if not call._asleep.acquire(timeout=PATIENCE_S):
            self.forgotten.append(call)
        self.after()

    def wait_for(self, number: int) -> None:
        for _ in range(number):
            assert self.begun.acquire(timeout=PATIENCE_S)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    return Sleeps(monkeypatch)


def saving(store: FileStore, number: int, *, errors: list[BaseException]) -> threading.Thread:
    """Start a thread that saves a document."""

    def save() -> None:
        try:
            store.save(make_environment(id=f"env-{number}"))
        except BaseException as error:  # noqa: BLE001  # For the test to look at.
            errors.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [1, 3])
def test_waiting_threads_are_woken(store: FileStore, sleeps: Sleeps, number: int) -> None:
    """The first is woken when the lock is free, and the others when it has committed their calls.

    The lock may have been held for anything: for a change, or for a checkpoint.
    """
    errors: list[BaseException] = []
    with lock_held(store):
        threads = [saving(store, one, errors=errors) for one in range(number)]
        sleeps.wait_for(number)
    for thread in threads:
        thread.join()
    assert (sleeps.forgotten, errors) == ([], [])
    assert store.count() == number


def test_call_committed_before_its_turn_is_not_run_again(store: FileStore) -> None:
    """A thread that takes the lock just after another one committed its call leaves it again."""
    committed: list[Group] = []
    call = Call(lambda _: None, current_author(), solo=False)
    call.group = Group(call)
    call.group.is_done = True
    store._writer._queue._lead(call, lambda group, _: committed.append(group))
    assert committed == []


def test_thread_that_gives_up_wakes_next(store: FileStore, sleeps: Sleeps) -> None:
    """A thread that is woken for its turn, and interrupted, leaves the turn to the next one."""
    errors: list[BaseException] = []
    is_first = threading.Lock()

    def interrupt_once() -> None:
        if is_first.acquire(blocking=False):
            raise KeyboardInterrupt

    sleeps.after = interrupt_once
    with lock_held(store):
        threads = [saving(store, one, errors=errors) for one in range(2)]
        sleeps.wait_for(2)
    for thread in threads:
        thread.join()
    assert sleeps.forgotten == []
    assert [type(error) for error in errors] == [KeyboardInterrupt]
    assert store.count() == 1


def test_thread_that_is_not_woken_looks_again(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that Ctrl-C interrupts at the wrong moment wakes no thread; none hangs for that."""
    monkeypatch.setattr(Call, "wake", lambda _: None)
    errors: list[BaseException] = []
    with lock_held(store):
        threads = [saving(store, one, errors=errors) for one in range(3)]
        while len(store._writer._queue._waiting) < len(threads):
            pass
    for thread in threads:
        thread.join(timeout=2 * PATIENCE_S)
        assert not thread.is_alive()
    assert errors == []
    assert store.count() == len(threads)
