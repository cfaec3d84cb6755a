# SPDX-License-Identifier: Apache-2.0
"""The environments in progress: one thread holds each, until another reaches its deadline."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.service.fakes import TIMEOUT_S, owner
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.service.in_progress import InProgress
from waggle_fsstore.testing import make_environment


def test_hold_is_exclusive_for_one_id() -> None:
    """Eight threads that hold the same id take turns, and ignore another one."""
    in_progress = InProgress()
    highest = current = 0

    def work(_: int) -> None:
        nonlocal highest, current
        for _ in range(50):
            with in_progress.hold("a", deadline=time.monotonic() + TIMEOUT_S):
                current += 1
                highest = max(highest, current)
                current -= 1

    with in_progress.hold("b"), ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert highest == 1
    assert in_progress.wait_until_empty(0)


def test_hold_enters_after_deadline() -> None:
    """A thread that has waited until its deadline works beside the other one."""
    in_progress = InProgress()
    mine = make_environment(id="a", owner=this_process())
    with in_progress.hold("a"):
        with in_progress.hold("a"):
            assert in_progress.includes(mine)
        assert in_progress.includes(mine)
        assert not in_progress.wait_until_empty(0)
    assert not in_progress.includes(mine)
    assert in_progress.wait_until_empty(0)


def test_includes_asks_threads_only_about_own_environments() -> None:
    """The threads of this process say nothing about the environments of other owners."""
    in_progress = InProgress()
    with in_progress.hold("a"):
        assert not in_progress.includes(make_environment(id="a", owner=None))
        assert not in_progress.includes(make_environment(id="a", owner=owner()))
        assert in_progress.includes(make_environment(id="a", owner=owner(host="another")))
    assert in_progress.includes(make_environment(id="a", owner=owner(host="another")))


def test_wait_until_empty_ends_with_last_thread() -> None:
    """The wait ends as soon as the last thread is done."""
    in_progress = InProgress()
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with in_progress.hold("a"), in_progress.hold("b"):

            def wait() -> bool:
                waiting.set()
                return in_progress.wait_until_empty(TIMEOUT_S)

            idle = pool.submit(wait)
            assert waiting.wait(TIMEOUT_S)
            assert not idle.done()
        assert idle.result(TIMEOUT_S)
