# SPDX-License-Identifier: Apache-2.0
"""The reaper: the leader sweeps until it is stopped, then the next server takes over."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.fakes import MINUTE, TIMEOUT_S, Gate, World, failing, owner
from tests.service.worker import run_worker
from waggle_fsstore import LockTimeoutError, Reaper, Status
from waggle_fsstore.service import reaper as module
from waggle_fsstore.service.touch_buffer import FLUSH_INTERVAL
from waggle_fsstore.store.server_lock import ServerLock

SHORT_INTERVAL = timedelta(milliseconds=1)
LONG_INTERVAL = timedelta(hours=1)


def event_at(world: World, point: str, *, nth: int = 1) -> threading.Event:
    """Return an event that is set when the point is passed for the n-th time from now on."""
    event = threading.Event()
    world.script.at(point, event.set, nth=nth)
    return event


def test_reaper_reconciles_once_then_sweeps(world: World) -> None:
    """The first run reconciles, each later one sweeps."""
    service = world.service()
    interrupted = world.store_environment(owner=owner())
    reaper = Reaper(service)
    assert reaper.reconciliation is None
    reaper.run_once()
    first = reaper.reconciliation
    assert first is not None
    assert first.failed == [interrupted]
    world.clock.advance(60 * MINUTE)
    reaper.run_once()
    assert not world.exists(interrupted)
    assert reaper.reconciliation is first


def test_started_reaper_runs_at_interval(world: World) -> None:
    """A started reaper has reconciled, and sweeps at each interval."""
    service = world.service()
    reaper = Reaper(service, interval=SHORT_INTERVAL)
    expired = service.create("shell").id
    world.clock.advance(60 * MINUTE)
    gone = event_at(world, "after delete")
    reaper.start()
    assert reaper.reconciliation is not None
    assert gone.wait(TIMEOUT_S)
    assert reaper.stop(timeout=TIMEOUT_S)
    assert not world.exists(expired)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("odd")])
def test_reaper_survives_exception(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Any exception is logged, and the next run follows."""
    service = world.service()
    world.script.at("before find_all", failing(error))
    again = event_at(world, "after find_all", nth=2)
    reaper = Reaper(service, interval=SHORT_INTERVAL)
    reaper.start()
    assert again.wait(TIMEOUT_S)
    assert reaper.stop(timeout=TIMEOUT_S)
    assert reaper.reconciliation is not None
    assert "the sweep failed" in caplog.text
    assert str(error) in caplog.text


def test_failed_sweep_is_not_followed_by_reconcile(world: World) -> None:
    """After a failed sweep the next run sweeps again."""
    reaper = Reaper(world.service())
    reaper.run_once()
    first = reaper.reconciliation
    world.script.at("before find_all", failing(OSError(5, "Input/output error")))
    reaper.run_once()
    assert reaper.reconciliation is first


def test_incomplete_reconcile_is_repeated(world: World) -> None:
    """An incomplete reconciliation is repeated, and nothing is swept before it is complete."""
    lost = world.service().create("shell").id
    (world.provider.root / lost / "whole").unlink()
    reaper = Reaper(world.service())
    world.script.at("before update", failing(LockTimeoutError("/s/lock", None, 10.0)))
    for is_complete in (False, True):
        world.clock.advance(60 * MINUTE)
        reaper.run_once()
        result = reaper.reconciliation
        assert result is not None
        assert (result.is_complete, result.lost) == (is_complete, [lost] if is_complete else [])
    assert world.stored(lost).status is Status.ERROR


def test_stop_does_not_wait_for_interval(world: World) -> None:
    """Stopping does not wait for the next sweep."""
    reaper = Reaper(world.service(), interval=LONG_INTERVAL)
    reaper.start()
    assert reaper.stop(timeout=TIMEOUT_S)
    assert reaper.stop()
    assert "reaper" not in {thread.name for thread in threading.enumerate()}


def test_stop_during_sweep_ends_before_next_environment(world: World) -> None:
    """Stopping during a sweep returns false at first, and the sweep ends with its environment."""
    service = world.service()
    for _ in range(2):
        service.create("shell")
    world.clock.advance(60 * MINUTE)
    service = world.service()
    world.clock.advance(60 * MINUTE)
    gate = Gate()
    world.script.at("before remove", gate)
    reaper = Reaper(service, interval=SHORT_INTERVAL)
    reaper.start()
    gate.wait_until_reached()
    assert not reaper.stop(timeout=0)
    gate.open()
    assert reaper.stop(timeout=TIMEOUT_S)
    assert len(world.store.find_all()) == 1


def test_interrupt_during_start_stops_reaper(world: World) -> None:
    """Ctrl-C during the first reconciliation ends it, because the block is never left."""
    names = sorted(world.store_environment(owner=owner()) for _ in range(2))
    gate = Gate()
    world.script.at("before update", gate)
    reaper = Reaper(world.service(), interval=SHORT_INTERVAL)

    def interrupt(*_: object) -> None:
        gate.wait_until_reached()
        raise KeyboardInterrupt

    reaper._first_run_done.wait = interrupt  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt), reaper:
        pass
    gate.open()
    assert reaper.stop(timeout=TIMEOUT_S)
    assert [world.stored(name).status for name in names] == [Status.ERROR, Status.CREATING]


def test_stop_without_start_returns_true(world: World) -> None:
    """A reaper that does not run is stopped already."""
    assert Reaper(world.service()).stop()


def test_only_leader_reconciles_and_sweeps(world: World) -> None:
    """Without the lead a run does nothing, and a new lead begins with a reconciliation."""
    service = world.service()
    expired = service.create("shell").id
    world.clock.advance(60 * MINUTE)
    answers = iter([False, True, False, True, True])
    asked: list[bool] = []

    def leads() -> bool:
        asked.append(next(answers))
        return asked[-1]

    reaper = Reaper(service, is_leader=leads)
    reaper.run_once()
    assert reaper.reconciliation is None
    reaper.run_once()
    first = reaper.reconciliation
    assert first is not None
    reaper.run_once()
    assert reaper.reconciliation is None
    assert world.exists(expired)
    reaper.run_once()
    second = reaper.reconciliation
    assert second is not None
    assert second is not first
    reaper.run_once()
    assert not world.exists(expired)
    assert asked == [False, True, False, True, True]


def test_pause_depends_on_lead(world: World) -> None:
    """Without the lead, the reaper asks at least every two seconds; with it, at the interval."""
    leads = False
    reaper = Reaper(world.service(), interval=LONG_INTERVAL, is_leader=lambda: leads)
    reaper.run_once()
    assert reaper._pause_s() == 2.0
    leads = True
    reaper.run_once()
    assert reaper._pause_s() == LONG_INTERVAL.total_seconds()
    assert Reaper(world.service(), interval=MINUTE / 120)._pause_s() == 0.5


class Server:
    """A service with a reaper that runs only with the lock, as in a server."""

    def __init__(self, world: World, store: Path) -> None:
        self.lock = ServerLock(store, "reaper")
        self.service = world.service()
        self.reaper = Reaper(self.service, interval=LONG_INTERVAL, is_leader=self.lock.try_acquire)

    @property
    def is_leader(self) -> bool:
        self.reaper.run_once()
        return self.reaper.reconciliation is not None


def test_next_server_takes_over_lead(file_world: World, tmp_path: Path) -> None:
    """When the leader releases its lock, the second server reconciles, and sweeps from then on."""
    first, second = (Server(file_world, tmp_path / "store") for _ in range(2))
    assert [first.is_leader, second.is_leader, first.is_leader, second.is_leader] == [
        True,
        False,
        True,
        False,
    ]
    interrupted = file_world.store_environment(owner=owner())
    assert not second.is_leader
    assert file_world.stored(interrupted).status is Status.CREATING
    first.lock.release()
    assert second.is_leader
    result = second.reaper.reconciliation
    assert result is not None
    assert result.failed == [interrupted]
    assert [first.is_leader, second.is_leader] == [False, True]
    second.lock.release()


def test_lead_of_killed_process_is_free(file_world: World, tmp_path: Path) -> None:
    """The lock of a killed process is free."""
    server = Server(file_world, tmp_path / "store")
    with run_worker(tmp_path, "lead", "wait") as worker:
        worker.expect("leads True")
        worker.expect("ready")
        assert not server.is_leader
        worker.process.kill()
        worker.process.wait()
        assert server.is_leader
    server.lock.release()


def test_leader_notices_removed_lock_file(file_world: World, tmp_path: Path) -> None:
    """A leader whose lock file was removed notices in its next run."""
    first, second = (Server(file_world, tmp_path / "store") for _ in range(2))
    assert first.is_leader
    first.lock.path.unlink()
    assert [second.is_leader, first.is_leader, second.is_leader] == [True, False, True]
    for server in (first, second):
        server.lock.release()


def test_concurrent_sweeps_remove_each_environment_once(file_world: World, tmp_path: Path) -> None:
    """Two concurrent sweeps remove each environment once, and report no problems."""
    creator = file_world.service(capacity=20)
    names = {creator.create("shell").id for _ in range(20)}
    servers = [Server(file_world, tmp_path / "store") for _ in range(2)]
    file_world.clock.advance(60 * MINUTE)
    results: list[Callable[[], object]] = [server.service.sweep for server in servers]
    with ThreadPoolExecutor(2) as pool:
        swept = [future.result(TIMEOUT_S) for future in [pool.submit(result) for result in results]]
    assert [getattr(result, "problems", None) for result in swept] == [[], []]
    assert file_world.store.find_all() == []
    deleted = [
        event.environment_id for event in file_world.store.history() if event.kind == "deleted"
    ]
    assert sorted(deleted) == sorted(names)


def test_reaper_logs_what_it_did(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what was found and done, and nothing if there was nothing."""
    service = world.service()
    reaper = Reaper(service)
    with caplog.at_level(logging.INFO, module.__name__):
        reaper.run_once()
        assert caplog.text == ""
        name = service.create("shell").id
        world.clock.advance(60 * MINUTE)
        reaper.run_once()
    assert f"swept: expired: {name}" in caplog.text
    assert [record.fields for record in caplog.records] == [{"expired": [name]}]  # type: ignore[attr-defined]
    assert str(tmp_path) not in caplog.text


@pytest.mark.parametrize("leads", [True, False])
def test_reaper_ticks_with_and_without_lead(world: World, leads: bool) -> None:
    """A long gap between two runs was a suspension, for a leader and for others."""
    service = world.service(ticks=True)
    reaper = Reaper(service, interval=MINUTE, is_leader=lambda: leads)
    reaper.run_once()
    name = service.create("shell", timeout=10 * MINUTE).id
    world.clock.advance(60 * MINUTE)
    reaper.run_once()
    assert service.idle_time(world.stored(name)) == MINUTE + FLUSH_INTERVAL
    for _ in range(3):
        world.clock.advance(MINUTE)
        reaper.run_once()
    assert service.idle_time(world.stored(name)) == 4 * MINUTE + FLUSH_INTERVAL
