# SPDX-License-Identifier: Apache-2.0
"""Failover: the primary is killed under load, and a synchronous standby takes over."""

import os
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

from tests.store.postgres.cluster import Cluster, running_cluster
from tests.store.postgres.load import Load
from waggle_fsstore import HistoryLostError
from waggle_fsstore.store.postgres.schema import ERA_GAP
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

_VERSIONS: Final = os.environ.get("WAGGLE_TEST_POSTGRES", "18").split()
_FAILOVERS: Final = int(os.environ.get("WAGGLE_TEST_FAILOVERS", "2"))
_WRITERS: Final = 32
_LOAD_S: Final = 1.0


@pytest.fixture(scope="module", params=_VERSIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield a running cluster."""
    with running_cluster(int(request.param)) as running:
        yield running


@pytest.mark.longest
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc, to kill a node")
def test_failover_loses_and_repeats_nothing(cluster: Cluster) -> None:
    """After each failover under load, what was acknowledged is stored once, and seen once."""
    load = Load(cluster.url, _WRITERS)
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
    events = load.check()
    print(  # noqa: T201  # With pytest -s: the figures.
        f"{_FAILOVERS} failovers: {len(load.acknowledged)} acknowledged, {len(events)} stored, "
        f"longest call {load.longest_s:.2f} s"
    )


@pytest.mark.longest
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc, to kill a node")
@pytest.mark.parametrize("version", _VERSIONS)
def test_changes_lost_by_failover_are_told(version: str) -> None:
    """Without a synchronous standby the last changes are lost: cursors say so, numbers stay."""
    with (
        running_cluster(int(version), is_synchronous=False) as cluster,
        PostgresStore(cluster.url, durable=False) as store,
    ):
        for number in range(5):
            store.save(make_environment(id="a", name=f"{number}"))
        (kept,) = store.history(after=4)
        wanted = cluster.primary.ask("SELECT pg_current_wal_lsn()")
        for node in cluster.standbys():
            while not node.ask(f"SELECT pg_last_wal_replay_lsn() >= '{wanted}'"):
                time.sleep(0.02)
        cluster.cut_off_standbys()
        for number in range(5, 10):
            store.save(make_environment(id="a", name=f"{number}"))
        lost = list(store.history(after=kept.cursor))
        assert [event.seq for event in lost] == [6, 7, 8, 9, 10]
        cluster.fail_over()
        assert store.find_by_id("a").name == "4"
        for event in lost:
            with pytest.raises(HistoryLostError):
                list(store.history(after=event.cursor))
            with pytest.raises(HistoryLostError):
                next(store.watch(after=event.cursor, timeout=1))
        assert store.save(make_environment(id="a", name="new")) == 5 + ERA_GAP + 1
        (event,) = store.history(after=kept.cursor)
        assert event.environment is not None
        assert event.environment.name == "new"
        for event in lost:
            with pytest.raises(HistoryLostError):
                list(store.history(after=event.cursor))
        assert list(store.check()) == []
        numbers = [event.seq for event in store.history()]
        assert all(earlier < later for earlier, later in pairwise(numbers))
