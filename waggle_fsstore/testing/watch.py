# SPDX-License-Identifier: Apache-2.0
"""The contract of ``watch``."""

import math
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import StoreClosedError
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.repository import run_together

#: How long a test waits for an event before it fails.
TIMEOUT_S = 30.0


class WatchContract:
    """The part of :class:`HistoryContract` that is about ``watch``."""

    def test_watch_starts_at_its_call(self, repository: TransactionalRepository) -> None:
        """By default a watch omits the changes before its call, and shows those after it."""
        repository.save(make_environment(id="a"))
        watch = repository.watch(timeout=0)
        repository.update("a", Environment.touch)
        repository.save_all([make_environment(id="b"), make_environment(id="c")])
        repository.delete("a")
        events = list(watch)
        assert events == list(repository.history(after=1))
        assert [event.kind for event in events] == ["updated", "created", "created", "deleted"]

    def test_watch_starts_at_cursor(self, repository: TransactionalRepository) -> None:
        """A watch that starts in the past yields the history first, and then new events."""
        for name in "abc":
            repository.save(make_environment(id=name))
        for after in range(4):
            watch = repository.watch(after=after, timeout=0)
            repository.update("a", Environment.touch)
            assert list(watch) == list(repository.history(after=after))

    def test_watch_ends_after_timeout(self, repository: TransactionalRepository) -> None:
        """Without changes a watch ends after its timeout, and stays ended."""
        for timeout in (0, 0.01):
            assert list(repository.watch(timeout=timeout)) == []
            watch = repository.watch(after=0, timeout=timeout)
            assert next(watch, None) is None
        repository.save(make_environment())
        assert next(watch, None) is None

    def test_watch_ends_where_time_is_frozen(
        self, repository: TransactionalRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its timeout passes although a test holds the clocks of Python."""
        readings: list[float] = []

        def frozen() -> float:
            readings.append(0.0)
            assert len(readings) < 100, "waits for a frozen clock"
            return 0.0

        monkeypatch.setattr(time, "monotonic", frozen)
        assert list(repository.watch(timeout=0.01)) == []

    def test_watch_sees_first_change(self, repository: TransactionalRepository) -> None:
        """A watch that starts before the first change sees it."""
        watches = [
            repository.watch(timeout=TIMEOUT_S),
            repository.watch(after=0, timeout=TIMEOUT_S),
        ]
        repository.save(make_environment(id="a"))
        assert [next(watch).seq for watch in watches] == [1, 1]

    def test_watch_refuses_invalid_arguments(self, repository: TransactionalRepository) -> None:
        """An invalid cursor or timeout is refused by the call itself."""
        repository.save(make_environment())
        for after in (-1, 2):
            with pytest.raises(ValueError, match="after"):
                repository.watch(after=after)
        for timeout in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="timeout"):
                repository.watch(timeout=timeout)

    def test_watch_yields_each_change_at_once(self, repository: TransactionalRepository) -> None:
        """A waiting watch yields each change of another thread before the next change."""
        seen: list[Event] = []
        arrived = threading.Semaphore(0)

        def follow(watch: Iterator[Event]) -> None:
            for event in watch:
                seen.append(event)
                arrived.release()
                if event.kind == "deleted":
                    return

        with ThreadPoolExecutor(1) as pool:
            follower = pool.submit(follow, repository.watch(timeout=TIMEOUT_S))
            for number in range(20):
                repository.save(make_environment(id="a"))
                assert arrived.acquire(timeout=TIMEOUT_S)
                assert len(seen) == number + 1
            repository.delete("a")
            follower.result(TIMEOUT_S)
        assert seen == list(repository.history())

    def test_watch_without_timeout_waits(self, repository: TransactionalRepository) -> None:
        """Without a timeout a watch waits until there is an event."""
        came: queue.SimpleQueue[Event] = queue.SimpleQueue()
        watch = repository.watch()
        # A daemon, because nothing else would end a watch without events.
        threading.Thread(target=lambda: came.put(next(watch)), daemon=True).start()
        repository.save(make_environment(id="a"))
        assert came.get(timeout=TIMEOUT_S) == next(repository.history())

    def test_watches_see_each_change_once(self, repository: TransactionalRepository) -> None:
        """Two watches each see all of 100 changes by 4 threads exactly once, in order."""
        writers, rounds = 4, 25
        barrier = threading.Barrier(writers + 2, timeout=TIMEOUT_S)
        watches = [
            repository.watch(timeout=TIMEOUT_S),
            repository.watch(after=0, timeout=TIMEOUT_S),
        ]
        seen: list[list[Event]] = [[], []]

        def work(number: int) -> None:
            barrier.wait()
            if number < len(watches):
                seen[number].extend(next(watches[number]) for _ in range(writers * rounds))
                return
            for _ in range(rounds):
                repository.save(make_environment(id=f"env-{number}"))

        run_together(writers + 2, work)
        assert seen == [list(repository.history())] * 2

    def test_watches_share_no_environment(self, repository: TransactionalRepository) -> None:
        """Two watches of one change get two independent environments."""
        watches = [repository.watch(timeout=TIMEOUT_S) for _ in range(2)]
        repository.save(make_environment())
        one, two = (next(watch).environment for watch in watches)
        assert one is not None
        assert two is not None
        one.labels["mine"] = "yes"
        assert "mine" not in two.labels

    def test_close_ends_watches(self, repository: TransactionalRepository) -> None:
        """When the store is closed, waiting watches raise, and idle ones at their next call."""
        repository.save(make_environment())
        idle = repository.watch(after=0, timeout=TIMEOUT_S)
        begun = threading.Semaphore(0)

        def follow(watch: Iterator[Event]) -> None:
            begun.release()
            next(watch)

        with ThreadPoolExecutor(2) as pool:
            watches = [repository.watch(after=after, timeout=TIMEOUT_S) for after in (None, 1)]
            waiting = [pool.submit(follow, watch) for watch in watches]
            for _ in waiting:
                begun.acquire(timeout=TIMEOUT_S)
            repository.close()
            for done in waiting:
                with pytest.raises(StoreClosedError):
                    done.result(TIMEOUT_S)
        for watch in (idle, *watches):
            with pytest.raises(StoreClosedError):
                next(watch)
        with pytest.raises(StoreClosedError):
            repository.watch()

    def test_watch_inside_update_is_refused(self, repository: TransactionalRepository) -> None:
        """A function passed to ``update`` may not wait for events; the watch continues after it."""
        repository.save(make_environment(id="a"))
        watch = repository.watch(timeout=0)
        with pytest.raises(RuntimeError, match="update"):
            repository.update("a", lambda _: next(watch))
        repository.update("a", Environment.touch)
        assert [event.seq for event in watch] == [2]
