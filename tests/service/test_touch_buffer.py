# SPDX-License-Identifier: Apache-2.0
"""The touch buffer: a use counts at once, and is stored soon together with others."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.service.fakes import SECOND, START, TIMEOUT_S, EventSummary, Gate, World, failing
from waggle_fsstore import (
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    EnvironmentService,
    ProviderError,
    StoreClosedError,
)
from waggle_fsstore.service.touch_buffer import TouchBuffer

SHORT_INTERVAL = timedelta(milliseconds=5)


@pytest.fixture
def service(world: World) -> EnvironmentService:
    return world.service()


def timers() -> set[threading.Timer]:
    return {thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)}


def has_timer(touches: TouchBuffer) -> bool:
    return touches._timer is not None and touches._timer.is_alive()


def test_uses_within_interval_are_stored_once(world: World, service: EnvironmentService) -> None:
    """Any number of uses within the interval is stored as one change, with the last use."""
    name = service.create("shell").id
    for _ in range(1_000):
        world.clock.advance(timedelta(milliseconds=1))
        service.touch(name)
    assert world.stored(name).last_used == START
    world.touches.flush()
    world.touches.flush()
    assert world.stored(name).last_used == START + SECOND
    assert world.events_of(name)[2:] == [EventSummary("updated", "running", "touch", "in use")]


def test_use_is_visible_before_it_is_stored(world: World, service: EnvironmentService) -> None:
    """Reads through the service show a use before it is stored."""
    name = service.create("shell").id
    world.clock.advance(SECOND)
    service.touch(name)
    assert service.find_by_id(name).last_used == START + SECOND
    assert service.find_all()[0].last_used == START + SECOND
    assert service.probe(name).last_used == START + SECOND
    assert service.idle_time(world.stored(name)) == timedelta(0)


def test_clock_set_back_keeps_last_use(world: World, service: EnvironmentService) -> None:
    """A clock that was set back takes no use away."""
    name = service.create("shell").id
    world.clock.time += SECOND
    service.touch(name)
    world.clock.time -= 2 * SECOND
    service.touch(name)
    assert service.find_by_id(name).last_used == START + SECOND
    world.touches.flush()
    service.touch(name)
    world.touches.flush()
    assert world.stored(name).last_used == START + SECOND


def test_later_stored_use_is_kept(world: World, service: EnvironmentService) -> None:
    """A later use that another process stored stays, and nothing is written."""
    name = service.create("shell").id
    service.touch(name)
    world.real_store.update(name, lambda one: one.touch(START + SECOND))
    before = world.events_of(name)
    assert service.find_by_id(name).last_used == START + SECOND
    world.touches.flush()
    assert world.events_of(name) == before


def test_timer_stores_uses(world: World) -> None:
    """A timer stores uses within the interval, and ends when none is pending."""
    service = world.service(touch_buffer=TouchBuffer(world.store, interval=SHORT_INTERVAL))
    name = service.create("shell").id
    for n in range(1, 4):
        stored = threading.Event()
        world.script.at("after update", stored.set)
        world.clock.advance(SECOND)
        service.touch(name)
        assert stored.wait(TIMEOUT_S)
        assert world.stored(name).last_used == START + n * SECOND
    world.touches.close()
    assert not has_timer(world.touches)


def test_buffer_has_at_most_one_timer(world: World, service: EnvironmentService) -> None:
    """There is one timer for all environments, and none when everything is stored."""
    before = timers()
    names = [service.create("shell").id for _ in range(3)]
    assert timers() <= before
    world.clock.advance(SECOND)
    for name in names * 3:
        service.touch(name)
    [timer] = timers() - before
    assert timer.daemon
    world.touches.flush()
    assert world.touches._timer is None


def test_close_stores_uses(world: World, service: EnvironmentService) -> None:
    """Closing the service stores all uses, and leaves no timer."""
    names = [service.create("shell").id for _ in range(3)]
    world.clock.advance(SECOND)
    for name in names:
        service.touch(name)
    assert service.close()
    assert {world.stored(name).last_used for name in names} == {START + SECOND}
    assert not has_timer(world.touches)
    service.touch(names[0])
    assert not has_timer(world.touches)


def test_use_is_visible_while_it_is_stored(world: World, service: EnvironmentService) -> None:
    """A use that is being stored is visible to readers and to a sweep."""
    name = service.create("shell", timeout=SECOND).id
    world.clock.advance(timedelta(minutes=30))
    service.touch(name)
    gate = Gate()
    world.script.at("before update", gate)
    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(world.touches.flush)
        gate.wait_until_reached()
        try:
            assert service.find_by_id(name).last_used == world.clock.now()
            assert service.sweep().expired == []
        finally:
            gate.open()
        flushed.result(TIMEOUT_S)
    assert world.stored(name).last_used == world.clock.now()


def test_use_during_flush_is_stored_later(world: World, service: EnvironmentService) -> None:
    """A use that comes while an earlier one is being stored is stored after it."""
    name = service.create("shell").id

    def use() -> None:
        world.clock.advance(SECOND)
        service.touch(name)

    use()
    world.script.at("before update", use)
    world.touches.flush()
    assert world.stored(name).last_used == START + SECOND
    assert service.find_by_id(name).last_used == START + 2 * SECOND
    assert has_timer(world.touches)
    world.touches.flush()
    assert world.stored(name).last_used == START + 2 * SECOND


def test_close_waits_for_flush(world: World, service: EnvironmentService) -> None:
    """Closing waits for a running flush, so that the store can be closed then."""
    name = service.create("shell").id
    world.clock.advance(SECOND)
    service.touch(name)
    gate = Gate()
    world.script.at("before update", gate)
    with ThreadPoolExecutor(2) as pool:
        flushed = pool.submit(world.touches.flush)
        gate.wait_until_reached()
        closed = pool.submit(world.touches.close)
        gate.open()
        closed.result(TIMEOUT_S)
        assert world.stored(name).last_used == START + SECOND
        assert flushed.done() or flushed.result(TIMEOUT_S) is None
    assert not has_timer(world.touches)


def test_failed_flush_is_retried(
    world: World, service: EnvironmentService, caplog: pytest.LogCaptureFixture
) -> None:
    """A use that could not be stored is logged, stays visible, and is stored by the next flush."""
    names = [service.create("shell").id for _ in range(2)]
    world.clock.advance(SECOND)
    for name in names:
        service.touch(name)
    world.script.at("before update", failing(OSError(28, "No space left on device")))
    world.touches.flush()
    assert f"the last use of environment {names[0]} is not stored" in caplog.text
    assert [world.stored(name).last_used for name in names] == [START, START + SECOND]
    assert service.find_by_id(names[0]).last_used == START + SECOND
    assert has_timer(world.touches)
    world.touches.flush()
    assert world.stored(names[0]).last_used == START + SECOND


def test_close_succeeds_if_store_fails(
    world: World, service: EnvironmentService, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that cannot store the last uses closes all the same, and leaves no timer."""
    name = service.create("shell").id
    world.clock.advance(SECOND)
    service.touch(name)
    world.script.at("before update", failing(StoreClosedError()))
    assert service.close()
    assert "not stored" in caplog.text
    assert not has_timer(world.touches)


def test_use_of_destroyed_environment_is_discarded(
    world: World, service: EnvironmentService, caplog: pytest.LogCaptureFixture
) -> None:
    """The use of an environment that was destroyed in the meantime is discarded silently."""
    name = service.create("shell").id
    world.clock.advance(SECOND)
    service.touch(name)
    assert service.destroy(name)
    world.touches.flush()
    assert not world.exists(name)
    assert caplog.text == ""
    assert world.touches._timer is None


def test_touch_of_missing_or_failed_environment_raises(
    world: World, service: EnvironmentService
) -> None:
    """Touching an environment that is missing or not running raises."""
    with pytest.raises(EnvironmentNotFoundError):
        service.touch("missing")
    world.script.at("before make", failing(ProviderError("fake", "no room")))
    with pytest.raises(ProviderError):
        service.create("shell")
    [broken] = world.store.find_all()
    with pytest.raises(EnvironmentNotRunningError) as caught:
        service.touch(broken.id)
    assert caught.value.status == "error"
