# SPDX-License-Identifier: Apache-2.0
"""Failover: the primary is killed under load, and a synchronous standby takes over."""

import os
import time
from collections.abc import Iterator
from typing import Final

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

from tests.store.postgres.cluster import Cluster, running_cluster
from tests.store.postgres.load import Load

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
