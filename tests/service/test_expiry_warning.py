# SPDX-License-Identifier: Apache-2.0
"""The warning before an environment expires: one event while it is idle, which is no use."""

from datetime import timedelta

import pytest

from tests.service.fakes import (
    MINUTE,
    SECOND,
    DirectoryProvider,
    EventSummary,
    World,
    failing,
)
from waggle_fsstore import ConflictError, EnvironmentService, ProviderError, Status
from waggle_fsstore.service.touch_buffer import FLUSH_INTERVAL


def warnings_of(world: World, environment_id: str) -> list[str]:
    """Return the reasons of the warnings in the history of an environment."""
    events = world.events_of(environment_id)
    return [one.reason for one in events if one.reason.startswith("expires in ")]


def sweep_for(world: World, service: EnvironmentService, duration: timedelta) -> None:
    """Sweep each minute, at the end of it."""
    for _ in range(duration // MINUTE):
        world.clock.advance(MINUTE)
        service.sweep()


@pytest.mark.parametrize(
    ("timeout", "lead"),
    [
        (MINUTE, 12 * SECOND),
        (10 * MINUTE, 2 * MINUTE),
        (25 * MINUTE, 5 * MINUTE),
        (60 * MINUTE, 5 * MINUTE),
    ],
)
def test_warning_comes_when_fifth_of_timeout_is_left(
    world: World, timeout: timedelta, lead: timedelta
) -> None:
    """It comes at the first sweep in the last fifth of the timeout, at most five minutes before."""
    service = world.service()
    name = service.create("shell", timeout=timeout).id
    world.clock.advance(timeout + FLUSH_INTERVAL - lead - SECOND)
    service.sweep()
    assert warnings_of(world, name) == []
    world.clock.advance(2 * SECOND)
    service.sweep()
    left = {12: "11s", 120: "1m59s", 300: "4m59s"}[lead // SECOND]
    reason = f"expires in {left} unless it is used"
    assert world.events_of(name)[2:] == [EventSummary("updated", "running", "reaper", reason)]
    world.clock.advance(lead)
    assert service.sweep().expired == [name]


def test_warning_is_stored_once(world: World) -> None:
    """Of all sweeps before it expires, one warns."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    sweep_for(world, service, 31 * MINUTE)
    assert world.stored(name).is_running
    assert warnings_of(world, name) == ["expires in 5m0s unless it is used"]


def test_warning_changes_no_field(world: World) -> None:
    """Except for the revision the document is the same, and so is when it expires."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    before = world.stored(name)
    world.clock.advance(27 * MINUTE)
    service.sweep()
    after = world.stored(name)
    assert (after, after.revision) == (before, before.revision + 1)
    assert service.idle_time(after) == 27 * MINUTE
    world.clock.advance(4 * MINUTE)
    assert service.sweep().expired == []
    world.clock.advance(SECOND)
    assert service.sweep().expired == [name]
    assert world.events_of(name)[-1].reason == "idle 31m1s > 30m0s"


def test_warning_follows_each_idle_period(world: World) -> None:
    """An environment that is used after a warning gets another one when it is idle again."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    for expected in (1, 2, 3):
        sweep_for(world, service, 29 * MINUTE)
        assert len(warnings_of(world, name)) == expected
        service.touch(name)
        service.sweep()
        world.touches.flush()
        service.sweep()
    assert len(warnings_of(world, name)) == 3


def test_use_between_sweeps_begins_idle_period(world: World) -> None:
    """A use is noticed although the sweeps before and after it are both due to warn."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    for _ in range(2):
        world.clock.advance(28 * MINUTE)
        service.sweep()
        service.touch(name)
    assert len(warnings_of(world, name)) == 2


def test_stored_use_begins_no_idle_period(world: World) -> None:
    """That a use is stored after the warning of it is no other use."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    world.clock.advance(MINUTE)
    service.touch(name)
    sweep_for(world, service, 28 * MINUTE)
    world.touches.flush()
    sweep_for(world, service, 2 * MINUTE)
    assert len(warnings_of(world, name)) == 1


def test_idle_time_that_restarts_is_warned_of_again(world: World) -> None:
    """After the provider failed, an environment has its whole timeout, and another warning."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    sweep_for(world, service, 28 * MINUTE)
    world.script.always("before check", failing(ProviderError("fake", "not mounted")))
    service.sweep()
    world.script.reset()
    sweep_for(world, service, 25 * MINUTE)
    assert len(warnings_of(world, name)) == 1
    sweep_for(world, service, 5 * MINUTE)
    assert len(warnings_of(world, name)) == 2


def test_restart_allows_one_more_warning(world: World) -> None:
    """After a restart an environment has its whole timeout, and a warning before the end of it."""
    name = world.service().create("shell", timeout=30 * MINUTE).id
    for expected in (1, 2):
        service = world.service()
        sweep_for(world, service, 31 * MINUTE)
        assert len(warnings_of(world, name)) == expected


def test_use_before_warning_prevents_it(world: World) -> None:
    """A use between the check and the change is noticed in the change."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    world.clock.advance(28 * MINUTE)
    world.script.at("before update", lambda: service.touch(name))
    assert service.sweep().problems == []
    assert warnings_of(world, name) == []


def test_warning_that_fails_is_stored_later(world: World) -> None:
    """A warning that cannot be stored is a problem of the sweep, and the next one stores it."""
    service = world.service()
    name = service.create("shell", timeout=30 * MINUTE).id
    world.clock.advance(28 * MINUTE)
    world.script.at("before update", failing(ConflictError(name, 1, 2)))
    assert len(service.sweep().problems) == 1
    assert warnings_of(world, name) == []
    service.sweep()
    assert len(warnings_of(world, name)) == 1


def test_environment_that_never_expires_gets_no_warning(world: World) -> None:
    """Neither does one in error, which cannot be used, nor one of another provider."""
    other = DirectoryProvider(world.provider.root / "other", world.script, name="other")
    service = world.service(max_timeout=timedelta(0))
    names = [
        service.create("shell", timeout=timedelta(0)).id,
        world.store_environment(status=Status.ERROR, timeout=30 * MINUTE),
        world.service(provider=other).create("shell", timeout=30 * MINUTE).id,
    ]
    sweep_for(world, service, 31 * MINUTE)
    assert [warnings_of(world, name) for name in names] == [[], [], []]
