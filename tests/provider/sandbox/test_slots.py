# SPDX-License-Identifier: Apache-2.0
"""How many programs run at once, and in which order they are admitted."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from waggle_fsstore.provider.sandbox.slots import Slots

TIMEOUT_S = 60.0


def enter(slots: Slots, name: str, *, wait_s: float = 0.0) -> str:
    with slots.hold(name, wait_s, lambda: True) as reason:
        return reason


@contextmanager
def held(slots: Slots, *names: str) -> Iterator[None]:
    with ExitStack() as stack:
        for name in names:
            assert stack.enter_context(slots.hold(name, 0.0, lambda: True)) == ""
        yield


def test_environment_has_few_slots() -> None:
    """Beyond the limit of an environment a program is refused; those of others are not."""
    slots = Slots(2, 10)
    with held(slots, "a", "a"):
        assert "2 programs run in this environment" in enter(slots, "a")
        assert enter(slots, "b") == ""
    assert enter(slots, "a") == ""


def test_server_has_few_slots() -> None:
    """Beyond the limit of the server all programs are refused."""
    slots = Slots(2, 3)
    with held(slots, "a", "a", "b"):
        assert "3 programs run on this server" in enter(slots, "c")
    assert enter(slots, "c") == ""


def test_unwanted_program_waits_no_longer() -> None:
    """A call that was given up while it waits for a slot ends."""
    slots = Slots(1, 1)
    wanted = iter([True, True, False])
    with held(slots, "a"), slots.hold("b", TIMEOUT_S, lambda: next(wanted)) as reason:
        assert reason
    assert enter(slots, "b") == ""


def test_failed_program_gives_its_slot_back() -> None:
    """A slot is free again after an exception too."""
    slots = Slots(1, 1)
    with pytest.raises(ZeroDivisionError), slots.hold("a", 0.0, lambda: True):
        raise ZeroDivisionError
    assert enter(slots, "a") == ""


def test_programs_are_admitted_in_order() -> None:
    """Those that wait are admitted as they came, and a full environment holds up no other."""
    slots = Slots(1, 2)
    order: list[str] = []
    waiting = threading.Semaphore(0)

    def work(name: str) -> None:
        def is_wanted() -> bool:
            waiting.release()
            return True

        with slots.hold(name, TIMEOUT_S, is_wanted) as reason:
            assert reason == ""
            order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c", "d")]
    with held(slots, "a"):
        with held(slots, "z"):
            for thread in threads:
                thread.start()
                assert waiting.acquire(timeout=TIMEOUT_S)  # It waits now.
        for thread in threads[1:]:
            thread.join(TIMEOUT_S)
        assert order == ["b", "c", "d"]
    threads[0].join(TIMEOUT_S)
    assert order == ["b", "c", "d", "a"]
