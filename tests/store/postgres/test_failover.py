# SPDX-License-Identifier: Apache-2.0
"""Failover: the primary is killed under load, and a synchronous standby takes over."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

from tests.store.postgres.cluster import Cluster, running_cluster
from waggle_fsstore import Event
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

_VERSIONS: Final = os.environ.get("WAGGLE_TEST_POSTGRES", "18").split()
_FAILOVERS: Final = int(os.environ.get("WAGGLE_TEST_FAILOVERS", "2"))
_WRITERS: Final = 32
_LOAD_S: Final = 1.0


class _Load:
    """Threads that count up an environment each, and one that watches."""

    def __init__(self, url: str) -> None:
        self.store = PostgresStore(url, durable=False)
        self.acknowledged: list[tuple[int, str, int]] = []
        self.longest_s = 0.0
        self.errors: list[Exception] = []
        self.seen: list[Event] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._count, args=[f"e{number}"]) for number in range(_WRITERS)
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
            except Exception as error:  # noqa: BLE001  # None may come; the test shows it.
                self.errors.append(error)
                return
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            self.acknowledged.append((revision, name, step))

    def _follow(self) -> None:
        while True:
            is_over = self._is_over.is_set() and not any(one.is_alive() for one in self._threads)
            cursor = self.seen[-1].cursor if self.seen else 0
            found = list(self.store.watch(after=cursor, timeout=0.2))
            self.seen += found
            if is_over and not found:
                return


@pytest.fixture(scope="module", params=_VERSIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield a running cluster."""
    with running_cluster(int(request.param)) as running:
        yield running


@pytest.mark.longest
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc, to kill a node")
def test_failover_loses_and_repeats_nothing(cluster: Cluster) -> None:
    """After each failover under load, what was acknowledged is stored once, and seen once."""
    load = _Load(cluster.url)
    try:
        for number in range(_FAILOVERS):
            time.sleep(_LOAD_S)
            cluster.fail_over()
            time.sleep(_LOAD_S)
            if number < _FAILOVERS - 1:
                cluster.repair()
    finally:
        load.end()
    assert load.errors == []
    events = list(load.store.history())
    load.store.close()
    versions = [(one.environment_id, one.environment) for one in events]
    stored = Counter((name, version.name) for name, version in versions if version)
    assert set(stored.values()) == {1}
    by_number = {one.seq: one for one in events}
    for revision, name, step in load.acknowledged:
        event = by_number[revision]
        assert event.environment is not None
        assert (event.environment_id, event.environment.name) == (name, f"{step}")
    assert [one.seq for one in load.seen] == [one.seq for one in events]
    print(  # noqa: T201  # With pytest -s: the figures.
        f"{_FAILOVERS} failovers: {len(load.acknowledged)} acknowledged, {len(events)} stored, "
        f"longest call {load.longest_s:.2f} s"
    )
