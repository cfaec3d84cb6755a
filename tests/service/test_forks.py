# SPDX-License-Identifier: Apache-2.0
"""A service in a forked child: it works, and leaves the work of the parent to the parent."""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

from tests.service.fakes import TIMEOUT_S, World
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.ports import Ports


def succeeds_in_child(work: Callable[[], object]) -> bool:
    """Fork a child that does the work, and return whether it succeeded without hanging."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(TIMEOUT_S))
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def test_service_works_in_forked_child(file_world: World) -> None:
    """It works with any lock held by threads of the parent at the fork, and in their absence."""
    service = file_world.service(ports=Ports(range(20_000, 20_002), is_free=lambda _: True))
    ours, theirs = (service.create("shell") for _ in range(2))
    file_world.clock.advance(timedelta(minutes=1))
    used = service.touch(ours.id).last_used

    def work() -> None:
        assert service.touch(theirs.id).last_used == used
        assert service.find_by_id(ours.id).last_used == ours.last_used
        assert service.destroy(ours.id)
        made = service.create("shell")
        assert service.sweep().problems == []
        assert IN_PROGRESS.wait_until_empty(0)
        assert service.close()
        assert file_world.stored(theirs.id).last_used == used
        assert made.ssh_port == ours.ssh_port

    with ExitStack() as held:
        held.enter_context(IN_PROGRESS.hold(ours.id))
        for lock in (service._ports._lock, service._idle_clock._lock, service._touch_buffer._lock):
            held.enter_context(lock)
        held.enter_context(service._touch_buffer._flush_lock)
        held.enter_context(IN_PROGRESS._changed)
        assert succeeds_in_child(work)
    assert service._touch_buffer.last_used(ours) == used


def test_port_reserved_by_parent_is_free_in_child() -> None:
    """A child does not inherit reservations; it sees the port once the parent has stored it."""
    ports = Ports(range(20_000, 20_001), is_free=lambda _: True)
    ports.reserve()
    assert succeeds_in_child(lambda: ports.reserve() == 20_000)
