# SPDX-License-Identifier: Apache-2.0
"""A service in a forked child: it works there, and leaves to the parent what is the parent's."""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

from tests.service.fakes import LONG, World
from waggle_fsstore.service.in_progress import IN_HAND
from waggle_fsstore.service.ports import Ports


def in_a_child(work: Callable[[], object]) -> bool:
    """Whether a child that is forked now does it, and does not hang."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(LONG))
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def test_a_child_goes_on(file_world: World) -> None:
    """Whatever the threads of the parent were at, and whichever locks they held."""
    service = file_world.service(ports=Ports(range(20_000, 20_002), is_free=lambda _: True))
    ours, theirs = (service.create("shell") for _ in range(2))
    file_world.clock.pass_by(timedelta(minutes=1))
    used = service.touch(ours.id).last_used

    def work() -> None:
        assert service.touch(theirs.id).last_used == used
        assert service.find_by_id(ours.id).last_used == ours.last_used
        assert service.destroy(ours.id)
        made = service.create("shell")
        assert service.sweep().problems == []
        assert IN_HAND.wait_until_idle(0)
        assert service.close()
        assert file_world.stored(theirs.id).last_used == used
        assert made.ssh_port == ours.ssh_port

    with ExitStack() as held:
        held.enter_context(IN_HAND.hold(ours.id))
        for lock in (service._ports._lock, service._idleness._lock, service._touches._lock):
            held.enter_context(lock)
        held.enter_context(service._touches._flushing)
        held.enter_context(IN_HAND._changed)
        assert in_a_child(work)
    assert service._touches.last_used(ours) == used


def test_a_port_that_the_parent_is_about_to_store() -> None:
    """It is not taken in the child, which learns of it once it is stored."""
    ports = Ports(range(20_000, 20_001), is_free=lambda _: True)
    ports.take()
    assert in_a_child(lambda: ports.take() == 20_000)
