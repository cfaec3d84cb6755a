# SPDX-License-Identifier: Apache-2.0
"""Load on a cluster: threads that write, and one that watches; and what came of it."""

import threading
import time
from collections import Counter

from waggle_fsstore import Event, StoreUnavailableError
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment


class Load:
    """Threads that count up an environment each, and one that watches."""

    def __init__(self, url: str, writers: int, *, timeout: float = 15) -> None:
        # Nodes that are killed, on a machine that stays up, need no fsync.
        self.store = PostgresStore(url, durable=False, timeout=timeout)
        self.acknowledged: list[tuple[int, str, int]] = []
        self.longest_s = 0.0
        self.longest_gap_s = 0.0
        self._acknowledged_at = time.monotonic()
        self.errors: list[Exception] = []
        self.seen: list[Event] = []
        self._is_over = threading.Event()
        self._names = {f"e{number}" for number in range(writers)}
        self._threads = [
            threading.Thread(target=self._count, args=[name]) for name in sorted(self._names)
        ]
        self._watcher = threading.Thread(target=self._follow)
        for thread in (*self._threads, self._watcher):
            thread.start()

    def end(self) -> None:
        """End all threads, the watcher once it has seen the last change."""
        self._is_over.set()
        for thread in (*self._threads, self._watcher):
            thread.join()

    def _count(self, name: str) -> None:
        step = 0
        while not self._is_over.is_set():
            step += 1
            begun = time.monotonic()
            try:
                revision = self.store.save(make_environment(id=name, name=f"{step}"))
            except Exception as error:  # noqa: BLE001  # The test looks at it.
                self.errors.append(error)
                self._is_over.wait(0.1)
                continue
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - begun)
            self.longest_gap_s = max(self.longest_gap_s, now - self._acknowledged_at)
            self._acknowledged_at = now
            self.acknowledged.append((revision, name, step))

    def _follow(self) -> None:
        while True:
            is_over = self._is_over.is_set() and not any(one.is_alive() for one in self._threads)
            cursor = self.seen[-1].cursor if self.seen else 0
            try:
                found = list(self.store.watch(after=cursor, timeout=0.2))
            except StoreUnavailableError as error:
                self.errors.append(error)
                continue
            self.seen += found
            if is_over and not found:
                return

    def own(self, events: list[Event]) -> list[Event]:
        """Return the events of the environments of this load."""
        return [one for one in events if one.environment_id in self._names]

    def check(self) -> list[Event]:
        """Return all events, in which each acknowledged change is once, and seen once."""
        with self.store as store:
            events = list(store.history())
        ours = self.own(events)
        made = [(one.environment_id, one.environment) for one in ours]
        stored = Counter((name, version.name) for name, version in made if version)
        assert set(stored.values()) == {1}
        by_number = {one.seq: one for one in ours}
        for revision, name, step in self.acknowledged:
            event = by_number[revision]
            assert event.environment is not None
            assert (event.environment_id, event.environment.name) == (name, f"{step}")
        assert [one.seq for one in self.seen] == [one.seq for one in events]
        return events
