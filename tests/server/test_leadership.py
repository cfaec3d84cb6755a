# SPDX-License-Identifier: Apache-2.0
"""Leadership: one server sweeps, and another one in its place while it is stalled."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from waggle_fsstore.config import Settings
from waggle_fsstore.server.leadership import Leadership
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.readiness import Readiness
from waggle_fsstore.store.server_lock import ServerLock

INTERVAL = timedelta(minutes=1)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Servers:
    """A leader and a follower of one store, with a clock that only a test advances."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.locks = [ServerLock(root, "server.lock") for _ in range(2)]
        self.leader, self.follower = (
            Leadership(lock, INTERVAL, uptime=self.clock) for lock in self.locks
        )
        assert self.leader.try_to_lead()
        assert not self.follower.try_to_lead()

    def pass_time(self, *, beats: bool, seconds: float = 30.0) -> bool:
        """Return whether the follower sweeps after some more time."""
        self.clock.seconds += seconds
        if beats:
            # Within the resolution of the file system two beats may have the same time.
            os.utime(self.locks[0].path, (self.clock.seconds, self.clock.seconds))
        return self.follower.try_to_lead()


@pytest.fixture
def servers(root: Path) -> Iterator[Servers]:
    servers = Servers(root)
    yield servers
    for lock in servers.locks:
        lock.release()


def test_leader_beats(servers: Servers) -> None:
    """Each time the leader is about to sweep, the other servers can see that."""
    lock = servers.locks[0]
    holder = lock.holder()
    os.utime(lock.path, (1, 1))
    before = servers.locks[1].last_beat()
    assert servers.leader.try_to_lead()
    assert servers.locks[1].last_beat() != before
    assert lock.holder() == holder


def test_follower_does_not_beat(servers: Servers) -> None:
    """A server that only looks leaves no sign of a leader that works."""
    before = servers.locks[0].last_beat()
    servers.pass_time(beats=False)
    servers.locks[1].beat()
    assert servers.locks[0].last_beat() == before


def test_follower_replaces_silent_leader(
    servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    """After three intervals without a beat it sweeps, names the leader, and ends at its beat."""
    caplog.set_level(logging.INFO)
    assert [servers.pass_time(beats=True) for _ in range(8)] == [False] * 8
    assert [servers.pass_time(beats=False) for _ in range(8)] == [False] * 5 + [True] * 3
    assert servers.follower.is_substitute
    [warning] = [record.getMessage() for record in caplog.records]
    assert f"process {os.getpid()} on" in warning
    assert "has not done so for 3m0s" in warning
    assert not servers.pass_time(beats=True)
    assert not servers.follower.is_substitute
    assert caplog.records[-1].levelno == logging.INFO
    assert not servers.pass_time(beats=False)


def test_follower_takes_over_from_ended_leader(servers: Servers) -> None:
    """A substitute leads for good once the stalled leader has ended."""
    while not servers.pass_time(beats=False):
        pass
    servers.locks[0].release()
    assert servers.pass_time(beats=False)
    assert not servers.follower.is_substitute
    assert not servers.leader.try_to_lead()


def test_suspension_of_follower_is_not_silence(servers: Servers) -> None:
    """After hours in which both were suspended, the leader has the time to beat."""
    assert not servers.pass_time(beats=False, seconds=36_000.0)
    assert not servers.pass_time(beats=True)


def test_store_in_memory_has_one_server() -> None:
    """A server of a store that no other process shares leads."""
    leadership = Leadership(None, INTERVAL)
    assert leadership.try_to_lead()
    assert not leadership.is_substitute


def test_readiness_reports_stalled_leader(root: Path) -> None:
    """A substitute is ready, and reports that an operator should look."""
    settings = Settings.from_env({"WAGGLE_REAPER_INTERVAL": "1h"})
    with ExitStack() as stack:
        lock = ServerLock(root, "server.lock")
        stack.callback(lock.release)
        assert lock.try_acquire()
        host = stack.enter_context(ServiceHost(settings, str(root)))
        readiness = Readiness(host)
        assert readiness.report()[1]["components"]["leader"] == "follows"
        for _ in range(3):
            host._leadership._looked_at -= 3600.0
            host.reaper.run_once()
        is_ready, report = readiness.report()
        assert (is_ready, report["status"]) == (True, "degraded")
        assert report["components"]["leader"] == "stalled"
