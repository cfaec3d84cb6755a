# SPDX-License-Identifier: Apache-2.0
"""The reaper: one that leads sweeps, until it is stopped; the next one takes over."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.fakes import LONG, Gate, World, failing, owner
from tests.service.test_removal import store_one
from tests.service.worker import started
from waggle_fsstore import LockTimeoutError, Reaper, Status
from waggle_fsstore.service import reaper as module
from waggle_fsstore.service.touch_buffer import INTERVAL
from waggle_fsstore.store.server_lock import ServerLock

MINUTE = timedelta(minutes=1)
SHORT = timedelta(milliseconds=1)
LATER = timedelta(hours=1)


def passes(world: World, point: str, *, nth: int = 1) -> threading.Event:
    """Set when the point is passed for the n-th time from now on."""
    event = threading.Event()
    world.script.at(point, event.set, nth=nth)
    return event


def test_reconciles_and_then_sweeps(world: World) -> None:
    """The first turn reconciles, whichever follows sweeps."""
    service = world.service()
    interrupted = store_one(world, owner=owner())
    reaper = Reaper(service)
    assert reaper.reconciliation is None
    reaper.turn()
    first = reaper.reconciliation
    assert first is not None
    assert first.failed == [interrupted]
    world.clock.pass_by(60 * MINUTE)
    reaper.turn()
    assert not world.is_there(interrupted)
    assert reaper.reconciliation is first


def test_by_itself(world: World) -> None:
    """Once started it has reconciled, and sweeps at each interval."""
    service = world.service()
    reaper = Reaper(service, interval=SHORT)
    expired = service.create("shell").id
    world.clock.pass_by(60 * MINUTE)
    gone = passes(world, "after delete")
    reaper.start()
    assert reaper.reconciliation is not None
    assert gone.wait(LONG)
    assert reaper.stop(patience=LONG)
    assert not world.is_there(expired)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("odd")])
def test_survives(world: World, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong is told to the log, and the next turn comes."""
    service = world.service()
    world.script.at("before find_all", failing(error))
    again = passes(world, "after find_all", nth=2)
    reaper = Reaper(service, interval=SHORT)
    reaper.start()
    assert again.wait(LONG)
    assert reaper.stop(patience=LONG)
    assert reaper.reconciliation is not None
    assert "no sweep was made" in caplog.text
    assert str(error) in caplog.text


def test_a_sweep_that_fails(world: World) -> None:
    """It leads on: it need not reconcile again."""
    reaper = Reaper(world.service())
    reaper.turn()
    first = reaper.reconciliation
    world.script.at("before find_all", failing(OSError(5, "Input/output error")))
    reaper.turn()
    assert reaper.reconciliation is first


def test_not_complete(world: World) -> None:
    """What could not all be looked at is reconciled again, and nothing is swept before."""
    lost = world.service().create("shell").id
    (world.provider.root / lost / "whole").unlink()
    reaper = Reaper(world.service())
    world.script.at("before update", failing(LockTimeoutError("/s/lock", None, 10.0)))
    for is_complete in (False, True):
        world.clock.pass_by(60 * MINUTE)
        reaper.turn()
        result = reaper.reconciliation
        assert result is not None
        assert (result.is_complete, result.lost) == (is_complete, [lost] if is_complete else [])
    assert world.stored(lost).status is Status.ERROR


def test_stops_within_a_long_interval(world: World) -> None:
    """Nobody waits for the next sweep to come."""
    reaper = Reaper(world.service(), interval=LATER)
    reaper.start()
    assert reaper.stop(patience=LONG)
    assert reaper.stop()
    assert "reaper" not in {thread.name for thread in threading.enumerate()}


def test_stops_within_a_sweep(world: World) -> None:
    """It says that it is not done yet, and ends before the next environment."""
    service = world.service()
    for _ in range(2):
        service.create("shell")
    world.clock.pass_by(60 * MINUTE)
    service = world.service()
    world.clock.pass_by(60 * MINUTE)
    gate = Gate()
    world.script.at("before remove", gate)
    reaper = Reaper(service, interval=SHORT)
    reaper.start()
    gate.wait_until_reached()
    assert not reaper.stop(patience=0)
    gate.open()
    assert reaper.stop(patience=LONG)
    assert len(world.store.find_all()) == 1


def test_interrupted_at_the_start(world: World) -> None:
    """Ctrl-C while it reconciles ends it: who is not in the block cannot leave it."""
    names = sorted(store_one(world, owner=owner()) for _ in range(2))
    gate = Gate()
    world.script.at("before update", gate)
    reaper = Reaper(world.service(), interval=SHORT)

    def interrupt(*_: object) -> None:
        gate.wait_until_reached()
        raise KeyboardInterrupt

    reaper._has_looked.wait = interrupt  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt), reaper:
        pass
    gate.open()
    assert reaper.stop(patience=LONG)
    assert [world.stored(name).status for name in names] == [Status.ERROR, Status.CREATING]


def test_never_started(world: World) -> None:
    """What does not run is stopped already."""
    assert Reaper(world.service()).stop()


def test_only_who_leads(world: World) -> None:
    """It asks before each turn; who may not does nothing, and who may again begins anew."""
    service = world.service()
    expired = service.create("shell").id
    world.clock.pass_by(60 * MINUTE)
    answers = iter([False, True, False, True, True])
    asked: list[bool] = []

    def leads() -> bool:
        asked.append(next(answers))
        return asked[-1]

    reaper = Reaper(service, leads=leads)
    reaper.turn()
    assert reaper.reconciliation is None
    reaper.turn()
    first = reaper.reconciliation
    assert first is not None
    reaper.turn()
    assert reaper.reconciliation is None
    assert world.is_there(expired)
    reaper.turn()
    second = reaper.reconciliation
    assert second is not None
    assert second is not first
    reaper.turn()
    assert not world.is_there(expired)
    assert asked == [False, True, False, True, True]


def test_how_often(world: World) -> None:
    """Who waits to lead asks every two seconds at least, who leads keeps to the interval."""
    leads = False
    reaper = Reaper(world.service(), interval=LATER, leads=lambda: leads)
    reaper.turn()
    assert reaper._pause() == 2.0
    leads = True
    reaper.turn()
    assert reaper._pause() == LATER.total_seconds()
    assert Reaper(world.service(), interval=MINUTE / 120)._pause() == 0.5


class Server:
    """A service with a reaper that has to lead, as a server has it."""

    def __init__(self, world: World, store: Path) -> None:
        self.lock = ServerLock(store, "reaper")
        self.service = world.service()
        self.reaper = Reaper(self.service, interval=LATER, leads=self.lock.try_acquire)

    @property
    def leads(self) -> bool:
        self.reaper.turn()
        return self.reaper.reconciliation is not None


def test_the_next_one_takes_over(file_world: World, tmp_path: Path) -> None:
    """When the first one lets go, the second one reconciles anew, and sweeps from then on."""
    first, second = (Server(file_world, tmp_path / "store") for _ in range(2))
    assert [first.leads, second.leads, first.leads, second.leads] == [True, False, True, False]
    interrupted = store_one(file_world, owner=owner())
    assert not second.leads
    assert file_world.stored(interrupted).status is Status.CREATING
    first.lock.release()
    assert second.leads
    result = second.reaper.reconciliation
    assert result is not None
    assert result.failed == [interrupted]
    assert [first.leads, second.leads] == [False, True]
    second.lock.release()


def test_the_leader_is_killed(file_world: World, tmp_path: Path) -> None:
    """The lock of a process that is killed is free."""
    server = Server(file_world, tmp_path / "store")
    with started(tmp_path, "lead", "wait") as worker:
        worker.expect("leads True")
        worker.expect("ready")
        assert not server.leads
        worker.process.kill()
        worker.process.wait()
        assert server.leads
    server.lock.release()


def test_a_leader_whose_lock_was_taken_away(file_world: World, tmp_path: Path) -> None:
    """Who leads by a file that nobody else sees finds that out at its next turn."""
    first, second = (Server(file_world, tmp_path / "store") for _ in range(2))
    assert first.leads
    first.lock.path.unlink()
    assert [second.leads, first.leads, second.leads] == [True, False, True]
    for server in (first, second):
        server.lock.release()


def test_two_reapers_of_one_store(file_world: World, tmp_path: Path) -> None:
    """Two that run at once remove each environment once, and find no problems."""
    creator = file_world.service(capacity=20)
    names = {creator.create("shell").id for _ in range(20)}
    servers = [Server(file_world, tmp_path / "store") for _ in range(2)]
    file_world.clock.pass_by(60 * MINUTE)
    results: list[Callable[[], object]] = [server.service.sweep for server in servers]
    with ThreadPoolExecutor(2) as pool:
        swept = [future.result(LONG) for future in [pool.submit(result) for result in results]]
    assert [getattr(result, "problems", None) for result in swept] == [[], []]
    assert file_world.store.find_all() == []
    deleted = [
        event.environment_id for event in file_world.store.history() if event.kind == "deleted"
    ]
    assert sorted(deleted) == sorted(names)


def test_what_it_tells(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what was found and done, and nothing where there was nothing."""
    service = world.service()
    reaper = Reaper(service)
    with caplog.at_level(logging.INFO, module.__name__):
        reaper.turn()
        assert caplog.text == ""
        name = service.create("shell").id
        world.clock.pass_by(60 * MINUTE)
        reaper.turn()
    assert f"swept: expired: {name}" in caplog.text
    assert [record.fields for record in caplog.records] == [{"expired": [name]}]  # type: ignore[attr-defined]
    assert str(tmp_path) not in caplog.text


@pytest.mark.parametrize("leads", [True, False])
def test_it_keeps_the_time(world: World, leads: bool) -> None:
    """A pause between two turns was a stop; without one time passes, whether it leads or not."""
    service = world.service(keeps_time=True)
    reaper = Reaper(service, interval=MINUTE, leads=lambda: leads)
    reaper.turn()
    name = service.create("shell", timeout=10 * MINUTE).id
    world.clock.pass_by(60 * MINUTE)
    reaper.turn()
    assert service.idle_time(world.stored(name)) == MINUTE + INTERVAL
    for _ in range(3):
        world.clock.pass_by(MINUTE)
        reaper.turn()
    assert service.idle_time(world.stored(name)) == 4 * MINUTE + INTERVAL
