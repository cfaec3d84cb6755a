# SPDX-License-Identifier: Apache-2.0
"""What is in hand: one thread at an environment, as long as nobody has to lose patience."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.service.fakes import LONG, owner
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.service.in_progress import InHand
from waggle_fsstore.testing import make_environment


def test_one_at_a_time() -> None:
    """Eight threads that want the same take turns; another one has nothing to do with it."""
    in_hand = InHand()
    most = now = 0

    def work(_: int) -> None:
        nonlocal most, now
        for _ in range(50):
            with in_hand.hold("a", deadline=time.monotonic() + LONG):
                now += 1
                most = max(most, now)
                now -= 1

    with in_hand.hold("b"), ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == 1
    assert in_hand.wait_until_idle(0)


def test_after_the_deadline() -> None:
    """Whoever has waited for long enough works beside the other one."""
    in_hand = InHand()
    mine = make_environment(id="a", owner=this_process())
    with in_hand.hold("a"):
        with in_hand.hold("a"):
            assert in_hand.is_in_progress(mine)
        assert in_hand.is_in_progress(mine)
        assert not in_hand.wait_until_idle(0)
    assert not in_hand.is_in_progress(mine)
    assert in_hand.wait_until_idle(0)


def test_whose_it_is() -> None:
    """What threads have here says nothing about what another process is at."""
    in_hand = InHand()
    with in_hand.hold("a"):
        assert not in_hand.is_in_progress(make_environment(id="a", owner=None))
        assert not in_hand.is_in_progress(make_environment(id="a", owner=owner()))
        assert in_hand.is_in_progress(make_environment(id="a", owner=owner(host="another")))
    assert in_hand.is_in_progress(make_environment(id="a", owner=owner(host="another")))


def test_waiting_until_idle() -> None:
    """It ends as soon as the last one is done."""
    in_hand = InHand()
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with in_hand.hold("a"), in_hand.hold("b"):

            def wait() -> bool:
                waiting.set()
                return in_hand.wait_until_idle(LONG)

            idle = pool.submit(wait)
            assert waiting.wait(LONG)
            assert not idle.done()
        assert idle.result(LONG)
