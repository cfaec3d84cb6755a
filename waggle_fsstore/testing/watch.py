# SPDX-License-Identifier: Apache-2.0
"""What every store keeps of ``watch``."""

import math
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import StoreClosedError
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.repository import run_together

#: How long a test waits for what has to come, in seconds: it fails rather than hangs.
PATIENCE = 30.0


class WatchContract:
    """The part of :class:`HistoryContract` that is about ``watch``."""

    def test_watch_from_now(self, repository: TransactionalRepository) -> None:
        """Now is the call: what was changed before it is left out, what came after is not."""
        repository.save(make_environment(id="a"))
        watch = repository.watch(timeout=0)
        repository.update("a", Environment.touch)
        repository.save_all([make_environment(id="b"), make_environment(id="c")])
        repository.delete("a")
        events = list(watch)
        assert events == list(repository.history(after=1))
        assert [event.kind for event in events] == ["updated", "created", "created", "deleted"]

    def test_watch_from_a_cursor(self, repository: TransactionalRepository) -> None:
        """A watch that begins in the past gives the history first, and then what comes."""
        for name in "abc":
            repository.save(make_environment(id=name))
        for after in range(4):
            watch = repository.watch(after=after, timeout=0)
            repository.update("a", Environment.touch)
            assert list(watch) == list(repository.history(after=after))

    def test_watch_of_nothing(self, repository: TransactionalRepository) -> None:
        """Where nothing is changed a watch ends after its timeout, and has ended then."""
        for timeout in (0, 0.01):
            assert list(repository.watch(timeout=timeout)) == []
            watch = repository.watch(after=0, timeout=timeout)
            assert next(watch, None) is None
        repository.save(make_environment())
        assert next(watch, None) is None

    def test_watch_an_empty_store(self, repository: TransactionalRepository) -> None:
        """A watch that began before the first change sees it."""
        watches = [repository.watch(timeout=PATIENCE), repository.watch(after=0, timeout=PATIENCE)]
        repository.save(make_environment(id="a"))
        assert [next(watch).seq for watch in watches] == [1, 1]

    def test_watch_refuses_what_it_cannot_answer(self, repository: TransactionalRepository) -> None:
        """A cursor or a timeout that makes no sense is refused by the call itself."""
        repository.save(make_environment())
        for after in (-1, 2):
            with pytest.raises(ValueError, match="after"):
                repository.watch(after=after)
        for timeout in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="timeout"):
                repository.watch(timeout=timeout)

    def test_watch_sees_each_change_as_it_comes(self, repository: TransactionalRepository) -> None:
        """What another thread changes comes to the one that waits, before the next change."""
        seen: list[Event] = []
        arrived = threading.Semaphore(0)

        def follow(watch: Iterator[Event]) -> None:
            for event in watch:
                seen.append(event)
                arrived.release()
                if event.kind == "deleted":
                    return

        with ThreadPoolExecutor(1) as pool:
            follower = pool.submit(follow, repository.watch(timeout=PATIENCE))
            for number in range(20):
                repository.save(make_environment(id="a"))
                assert arrived.acquire(timeout=PATIENCE)
                assert len(seen) == number + 1
            repository.delete("a")
            follower.result(PATIENCE)
        assert seen == list(repository.history())

    def test_watch_for_ever(self, repository: TransactionalRepository) -> None:
        """Without a timeout a watch waits until there is something."""
        came: queue.SimpleQueue[Event] = queue.SimpleQueue()
        watch = repository.watch()
        # A daemon, because nothing else would end one that waits in vain.
        threading.Thread(target=lambda: came.put(next(watch)), daemon=True).start()
        repository.save(make_environment(id="a"))
        assert came.get(timeout=PATIENCE) == next(repository.history())

    def test_watchers_among_writers(self, repository: TransactionalRepository) -> None:
        """Of 100 changes by 4 threads two watchers miss none and see none twice, in order."""
        writers, rounds = 4, 25
        barrier = threading.Barrier(writers + 2, timeout=PATIENCE)
        watches = [repository.watch(timeout=PATIENCE), repository.watch(after=0, timeout=PATIENCE)]
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

    def test_watched_events_share_nothing(self, repository: TransactionalRepository) -> None:
        """Two watchers of one change get an environment each."""
        watches = [repository.watch(timeout=PATIENCE) for _ in range(2)]
        repository.save(make_environment())
        one, two = (next(watch).environment for watch in watches)
        assert one is not None
        assert two is not None
        one.labels["mine"] = "yes"
        assert "mine" not in two.labels

    def test_watch_ends_with_its_store(self, repository: TransactionalRepository) -> None:
        """A watch that waits when the store is closed hears of it, as does one that comes back."""
        repository.save(make_environment())
        idle = repository.watch(after=0, timeout=PATIENCE)
        begun = threading.Semaphore(0)

        def follow(watch: Iterator[Event]) -> None:
            begun.release()
            next(watch)

        with ThreadPoolExecutor(2) as pool:
            watches = [repository.watch(after=after, timeout=PATIENCE) for after in (None, 1)]
            waiting = [pool.submit(follow, watch) for watch in watches]
            for _ in waiting:
                begun.acquire(timeout=PATIENCE)
            repository.close()
            for done in waiting:
                with pytest.raises(StoreClosedError):
                    done.result(PATIENCE)
        for watch in (idle, *watches):
            with pytest.raises(StoreClosedError):
                next(watch)
        with pytest.raises(StoreClosedError):
            repository.watch()

    def test_watch_inside_an_update(self, repository: TransactionalRepository) -> None:
        """A function passed to ``update`` may not wait for what it holds up; later one may."""
        repository.save(make_environment(id="a"))
        watch = repository.watch(timeout=0)
        with pytest.raises(RuntimeError, match="update"):
            repository.update("a", lambda _: next(watch))
        repository.update("a", Environment.touch)
        assert [event.seq for event in watch] == [2]
