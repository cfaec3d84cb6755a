# SPDX-License-Identifier: Apache-2.0
"""What only a MemoryStore does: it forgets old events, and is consistent after an interrupt."""

import copy
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from waggle_fsstore import ConflictError, HistoryPrunedError, MemoryStore, StoreClosedError
from waggle_fsstore.store import memory_store
from waggle_fsstore.testing import make_environment
from waggle_fsstore.testing.watch import TIMEOUT_S


class Short(MemoryStore):
    """A store that keeps three events."""

    HISTORY_LIMIT = 3


@pytest.fixture
def short() -> Iterator[MemoryStore]:
    with Short() as store:
        yield store


def fill(store: MemoryStore, changes: int) -> None:
    for _ in range(changes):
        store.save(make_environment(id="a"))


def test_old_events_are_dropped(short: MemoryStore) -> None:
    """The store keeps its last events, even where one batch has more than its limit."""
    fill(short, 5)
    assert [event.seq for event in short.history()] == [3, 4, 5]
    revisions = short.save_all([make_environment() for _ in range(7)])
    assert [event.seq for event in short.history()] == revisions[-3:]
    assert short.count() == 8


def test_cursor_before_dropped_events_is_refused(short: MemoryStore) -> None:
    """A cursor is refused if dropped events follow it, and accepted if none do."""
    fill(short, 5)
    for ask in (short.history, short.watch):
        with pytest.raises(HistoryPrunedError) as caught:
            ask(after=1)
        assert caught.value.oldest == 3
    assert [event.seq for event in short.history(after=2)] == [3, 4, 5]
    assert [event.seq for event in short.watch(after=2, timeout=0)] == [3, 4, 5]
    assert [event.seq for event in short.watch(after=0, timeout=0)] == [3, 4, 5]


def test_slow_watch_raises_history_pruned(short: MemoryStore) -> None:
    """A watch whose next event was dropped raises instead of skipping events."""
    watches = [short.watch(), short.watch(after=0)]
    fill(short, 4)
    for watch in watches:
        with pytest.raises(HistoryPrunedError) as caught:
            next(watch)
        assert caught.value.oldest == 2


def test_history_survives_dropped_events(short: MemoryStore) -> None:
    """A history yields all events of its call, even those dropped before they are read."""
    fill(short, 3)
    history = short.history()
    fill(short, 10)
    assert [event.seq for event in history] == [1, 2, 3]


def when_waiting(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set once a watch is about to release the lock in order to wait."""
    waiting = threading.Event()
    wait = store._changed.wait

    def announce(timeout: float | None = None) -> bool:
        waiting.set()
        return wait(timeout)

    monkeypatch.setattr(store._changed, "wait", announce)
    return waiting


@pytest.mark.parametrize("act", ["save", "close", "delete"])
def test_waiting_watch_is_woken(monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    """A watch that is certainly waiting is woken by a change, and by the close of the store."""
    store = MemoryStore()
    store.save(make_environment(id="a"))
    waiting = when_waiting(store, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(next, store.watch(timeout=TIMEOUT_S))
        assert waiting.wait(TIMEOUT_S)
        if act == "close":
            store.close()
            with pytest.raises(StoreClosedError):
                follower.result(TIMEOUT_S)
        else:
            fill(store, 1) if act == "save" else store.delete("a")
            assert follower.result(TIMEOUT_S).seq == 2


def test_watch_shared_by_threads_delivers_each_event_once() -> None:
    """Where several threads wait on one watch, one of them gets each event."""
    store = MemoryStore()
    watch = store.watch(timeout=TIMEOUT_S)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(next, watch) for _ in range(4)]
        fill(store, 4)
        assert sorted(done.result(TIMEOUT_S).seq for done in waiting) == [1, 2, 3, 4]


def test_watch_continues_after_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child can continue an inherited watch, though a thread of the parent waits on another."""
    store = MemoryStore()
    watch = store.watch(timeout=TIMEOUT_S)
    waiting = when_waiting(store, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(next, store.watch(timeout=TIMEOUT_S))
        assert waiting.wait(TIMEOUT_S)
        child = os.fork()
        if child == 0:
            fill(store, 1)
            os._exit(0 if next(watch).seq == 1 and store.count() == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.count() == 0
        store.save(make_environment(id="mine"))
        assert follower.result(TIMEOUT_S) == next(watch) == next(store.history())


class Interrupt:
    """Runs a signal handler at the nth line that runs in the module of the store.

    The default handler raises KeyboardInterrupt.
    """

    def __init__(self, line: int, handler: Callable[[], object] | None = None) -> None:
        self.left = line
        self.handler = handler

    def __call__(self, frame: FrameType, event: str, _: Any) -> "Interrupt | None":
        if frame.f_code.co_filename != memory_store.__file__:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0 and self.handler is not None:
                self.handler()
            elif self.left == 0:
                raise KeyboardInterrupt
        return self


WRITES: dict[str, Callable[[MemoryStore], object]] = {
    "save": lambda store: store.save(make_environment(id="new")),
    "save_all": lambda store: store.save_all([make_environment(id=name) for name in ("old", "b")]),
    "update": lambda store: store.update("old", lambda copy: copy.labels.clear()),
    "delete": lambda store: store.delete("old"),
}


@pytest.mark.parametrize("write", WRITES)
def test_interrupt_at_any_line_leaves_change_done_or_undone(write: str) -> None:
    """Ctrl-C leaves a change done or undone, and history and watches agree with the store."""
    tracing = sys.gettrace()
    outcomes = set()
    for line in range(1, 1_000):
        store = MemoryStore()
        store.save(make_environment(id="old"))
        watch = store.watch(timeout=0)
        interrupt = Interrupt(line)
        sys.settrace(interrupt)
        try:
            WRITES[write](store)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracing)
        events = list(store.history())
        stored: dict[str, object] = {}
        for event in events:
            if event.kind == "deleted":
                del stored[event.environment_id]
            else:
                stored[event.environment_id] = event.environment
        assert {found.id: found for found in store.find_all()} == stored
        assert list(watch) == events[1:]
        last = events[-1].seq
        assert [event.seq for event in events] == list(range(1, last + 1))
        assert store.save(make_environment()) == last + 1
        outcomes.add(last)
        if interrupt.left > 0:
            break
    assert outcomes == {1, 3 if write == "save_all" else 2}


@pytest.mark.parametrize("write", WRITES)
def test_change_in_signal_handler_is_apart_or_refused(write: str) -> None:
    """A signal handler changes the store before or after a change, and not in the middle."""
    tracing = sys.gettrace()
    refused = []
    for line in range(1, 1_000):
        store = MemoryStore()
        store.save(make_environment(id="old"))

        def handle(store: MemoryStore = store) -> None:
            try:
                with suppress(ConflictError):  # The change was complete.
                    store.save(make_environment(id="new"), if_revision=0)
            except RuntimeError as error:
                refused.append(error)

        interrupt = Interrupt(line, handle)
        sys.settrace(interrupt)
        try:
            WRITES[write](store)
        finally:
            sys.settrace(tracing)
        events = list(store.history())
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        created = [event.environment_id for event in events if event.kind == "created"]
        assert len(set(created)) == len(created)
        if interrupt.left > 0:
            break
    assert refused


def test_interrupted_write_wakes_waiting_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting watch sees a change even if Ctrl-C comes just as it is about to be woken."""
    store = MemoryStore()
    waiting = when_waiting(store, monkeypatch)
    notify_all = store._changed.notify_all

    def interrupted() -> None:
        monkeypatch.setattr(store._changed, "notify_all", notify_all)
        raise KeyboardInterrupt

    monkeypatch.setattr(store._changed, "notify_all", interrupted)
    with ThreadPoolExecutor(1) as pool:
        # Longer than the test waits: a watch looks once more when its timeout ends.
        follower = pool.submit(next, store.watch(timeout=2 * TIMEOUT_S))
        assert waiting.wait(TIMEOUT_S)
        with pytest.raises(KeyboardInterrupt):
            store.save(make_environment(id="a"))
        assert follower.result(TIMEOUT_S).environment_id == "a"


def test_second_interrupt_leaves_change_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is complete even if a second Ctrl-C interrupts the cleanup after the first."""
    store = MemoryStore()
    watch = store.watch(timeout=0)
    interrupts = []

    def interrupted() -> None:
        interrupts.append(KeyboardInterrupt())
        raise interrupts[-1]

    with monkeypatch.context() as patch:
        patch.setattr(store._changed, "notify_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.save(make_environment(id="a"))
    assert len(interrupts) == 2
    assert store.count() == 1
    assert [event.seq for event in watch] == [1]
    assert store.save(make_environment(id="a")) == 2


def test_unapplied_event_is_applied_by_next_call() -> None:
    """A change that two interrupts, or a fork, cut short is complete at the next call."""
    store = MemoryStore()
    store.save(make_environment(id="a"))
    with store._lock:
        event = next(store.history())
        environment = make_environment(id="b")
        environment.revision = 2
        store._events.append(
            replace(event, seq=2, revision=2, environment_id="b", environment=environment)
        )
    assert store.save(make_environment(id="c")) == 3
    assert [found.id for found in store.find_all()] == ["a", "b", "c"]


@pytest.mark.parametrize("transfer", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pickling_is_refused_with_advice(transfer: Callable[[MemoryStore], object]) -> None:
    """Another process cannot have the memory of this one; the error says what to use."""
    with pytest.raises(TypeError, match="use a FileStore"):
        transfer(MemoryStore())
