# SPDX-License-Identifier: Apache-2.0
"""Touches: each use counts at once, and is stored soon, but not each by itself."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.service.fakes import LONG, START, Gate, Step, World, failing
from waggle_fsstore import (
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    EnvironmentService,
    ProviderError,
    StoreClosedError,
)
from waggle_fsstore.service.touch_buffer import Touches

SECOND = timedelta(seconds=1)
NEVER = timedelta(days=1)
SOON = timedelta(milliseconds=5)


@pytest.fixture
def touches(world: World) -> Iterator[Touches]:
    """Touches that nobody stores by himself."""
    touches = Touches(world.store, interval=NEVER)
    yield touches
    world.script.forget()
    touches.close()


@pytest.fixture
def service(world: World, touches: Touches) -> EnvironmentService:
    return world.service(touches=touches)


def timers() -> set[threading.Timer]:
    return {thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)}


def is_timed(touches: Touches) -> bool:
    return touches._timer is not None and touches._timer.is_alive()


def test_many_are_stored_as_one(
    world: World, service: EnvironmentService, touches: Touches
) -> None:
    """However often it is used within the interval, one change is stored, with the last use."""
    name = service.create("shell").id
    for _ in range(1_000):
        world.clock.pass_by(timedelta(milliseconds=1))
        service.touch(name)
    assert world.stored(name).last_used == START
    touches.flush()
    touches.flush()
    assert world.stored(name).last_used == START + SECOND
    assert world.story(name)[2:] == [Step("updated", "running", "touch", "in use")]


def test_a_use_is_seen_at_once(world: World, service: EnvironmentService) -> None:
    """Whoever reads through the service sees it before it is stored."""
    name = service.create("shell").id
    world.clock.pass_by(SECOND)
    service.touch(name)
    assert service.find_by_id(name).last_used == START + SECOND
    assert service.find_all()[0].last_used == START + SECOND
    assert service.probe(name).last_used == START + SECOND
    assert service.idle_time(world.stored(name)) == timedelta(0)


def test_time_that_goes_back(world: World, service: EnvironmentService, touches: Touches) -> None:
    """A clock that was set back takes no use away."""
    name = service.create("shell").id
    world.clock.time += SECOND
    service.touch(name)
    world.clock.time -= 2 * SECOND
    service.touch(name)
    assert service.find_by_id(name).last_used == START + SECOND
    touches.flush()
    service.touch(name)
    touches.flush()
    assert world.stored(name).last_used == START + SECOND


def test_what_another_process_stored(
    world: World, service: EnvironmentService, touches: Touches
) -> None:
    """A later use that is stored already stands, and nothing is written over it."""
    name = service.create("shell").id
    service.touch(name)
    world.store.real.update(name, lambda one: one.touch(START + SECOND))
    before = world.story(name)
    assert service.find_by_id(name).last_used == START + SECOND
    touches.flush()
    assert world.story(name) == before


def test_stored_by_itself(world: World) -> None:
    """Within the interval a timer stores it, and goes when nothing is left to be stored."""
    touches = Touches(world.store, interval=SOON)
    service = world.service(touches=touches)
    name = service.create("shell").id
    for n in range(1, 4):
        stored = threading.Event()
        world.script.at("after update", stored.set)
        world.clock.pass_by(SECOND)
        service.touch(name)
        assert stored.wait(LONG)
        assert world.stored(name).last_used == START + n * SECOND
    touches.close()
    assert not is_timed(touches)


def test_one_timer_for_all(world: World, service: EnvironmentService, touches: Touches) -> None:
    """There is one timer, whatever is touched, and none where all is stored."""
    before = timers()
    names = [service.create("shell").id for _ in range(3)]
    assert timers() <= before
    world.clock.pass_by(SECOND)
    for name in names * 3:
        service.touch(name)
    [timer] = timers() - before
    assert timer.daemon
    touches.flush()
    assert touches._timer is None


def test_stored_at_the_end(world: World, service: EnvironmentService, touches: Touches) -> None:
    """Closing the service stores all uses, and leaves no timer."""
    names = [service.create("shell").id for _ in range(3)]
    world.clock.pass_by(SECOND)
    for name in names:
        service.touch(name)
    assert service.close()
    assert {world.stored(name).last_used for name in names} == {START + SECOND}
    assert not is_timed(touches)
    service.touch(names[0])
    assert not is_timed(touches)


def test_while_it_is_stored(world: World, service: EnvironmentService, touches: Touches) -> None:
    """A use is never out of sight, neither to a reader nor to what looks for idle ones."""
    name = service.create("shell", timeout=SECOND).id
    world.clock.pass_by(timedelta(minutes=30))
    service.touch(name)
    gate = Gate()
    world.script.at("before update", gate)
    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(touches.flush)
        gate.wait_until_reached()
        try:
            assert service.find_by_id(name).last_used == world.clock.now()
            assert service.sweep().expired == []
        finally:
            gate.open()
        flushed.result(LONG)
    assert world.stored(name).last_used == world.clock.now()


def test_used_while_it_is_stored(
    world: World, service: EnvironmentService, touches: Touches
) -> None:
    """A use that comes while an earlier one is being stored is stored after it."""
    name = service.create("shell").id

    def use() -> None:
        world.clock.pass_by(SECOND)
        service.touch(name)

    use()
    world.script.at("before update", use)
    touches.flush()
    assert world.stored(name).last_used == START + SECOND
    assert service.find_by_id(name).last_used == START + 2 * SECOND
    assert is_timed(touches)
    touches.flush()
    assert world.stored(name).last_used == START + 2 * SECOND


def test_closed_while_it_is_stored(
    world: World, service: EnvironmentService, touches: Touches
) -> None:
    """Closing waits for the timer that is at it: after that the store may be closed."""
    name = service.create("shell").id
    world.clock.pass_by(SECOND)
    service.touch(name)
    gate = Gate()
    world.script.at("before update", gate)
    with ThreadPoolExecutor(2) as pool:
        flushed = pool.submit(touches.flush)
        gate.wait_until_reached()
        closed = pool.submit(touches.close)
        gate.open()
        closed.result(LONG)
        assert world.stored(name).last_used == START + SECOND
        assert flushed.done() or flushed.result(LONG) is None
    assert not is_timed(touches)


def test_the_store_fails(
    world: World, service: EnvironmentService, touches: Touches, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be stored is told to the log, still seen, and stored the next time."""
    names = [service.create("shell").id for _ in range(2)]
    world.clock.pass_by(SECOND)
    for name in names:
        service.touch(name)
    world.script.at("before update", failing(OSError(28, "No space left on device")))
    touches.flush()
    assert f"the last use of environment {names[0]} is not stored" in caplog.text
    assert [world.stored(name).last_used for name in names] == [START, START + SECOND]
    assert service.find_by_id(names[0]).last_used == START + SECOND
    assert is_timed(touches)
    touches.flush()
    assert world.stored(names[0]).last_used == START + SECOND


def test_the_store_fails_at_the_end(
    world: World, service: EnvironmentService, touches: Touches, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that cannot store the last uses ends all the same, and leaves no timer."""
    name = service.create("shell").id
    world.clock.pass_by(SECOND)
    service.touch(name)
    world.script.at("before update", failing(StoreClosedError()))
    assert service.close()
    assert "not stored" in caplog.text
    assert not is_timed(touches)


def test_what_is_gone(
    world: World,
    service: EnvironmentService,
    touches: Touches,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The use of what was destroyed meanwhile is forgotten without a word."""
    name = service.create("shell").id
    world.clock.pass_by(SECOND)
    service.touch(name)
    assert service.destroy(name)
    touches.flush()
    assert not world.is_there(name)
    assert caplog.text == ""
    assert touches._timer is None


def test_what_cannot_be_touched(world: World, service: EnvironmentService) -> None:
    """What is not there, and what is not running, says so."""
    with pytest.raises(EnvironmentNotFoundError):
        service.touch("missing")
    world.script.at("before make", failing(ProviderError("fake", "no room")))
    with pytest.raises(ProviderError):
        service.create("shell")
    [broken] = world.store.find_all()
    with pytest.raises(EnvironmentNotRunningError) as caught:
        service.touch(broken.id)
    assert caught.value.status == "error"
