# SPDX-License-Identifier: Apache-2.0
"""The removal of an environment: from every status, by several at once, and when it fails."""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.service.fakes import (
    TIMEOUT_S,
    DirectoryProvider,
    EventSummary,
    Gate,
    World,
    failing,
    owner,
)
from tests.service.worker import run_worker
from waggle_fsstore import (
    CorruptDocumentError,
    Environment,
    EnvironmentNotFoundError,
    EnvironmentService,
    ProviderError,
    Status,
    audit,
)
from waggle_fsstore.domain.environment import Owner
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.service.in_progress import IN_PROGRESS

OWNERS: dict[str, Callable[[], Owner | None]] = {
    "no owner": lambda: None,
    "this process": this_process,
    "a dead process": owner,
    "another boot": lambda: owner(boot_id="another"),
}


def begin_destroy(
    world: World, service: EnvironmentService, pool: ThreadPoolExecutor, environment_id: str
) -> Future[bool]:
    """Destroy an environment in a thread, and return at its first attempt to store that."""
    gate = Gate()
    world.script.at("before update", gate)
    future = pool.submit(service.destroy, environment_id)
    gate.wait_until_reached()
    gate.open()
    return future


@pytest.mark.parametrize("by", OWNERS)
@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("workspace", [True, False])
def test_destroy_works_from_every_status(
    world: World, status: Status, by: str, workspace: bool
) -> None:
    """Only the history is left, whichever owner it had that no longer works on it."""
    name = world.store_environment(status=status, owner=OWNERS[by](), workspace=workspace)
    with audit(actor="maja", reason="tidy up"):
        assert world.service().destroy(name)
    assert not world.exists(name)
    last = "destroyed" if status is Status.DESTROYED else "destroying"
    assert world.events_of(name)[1:] == [
        EventSummary("updated", last, "maja", "tidy up"),
        EventSummary("deleted", None, "maja", "tidy up"),
    ]


@pytest.mark.parametrize("status", [Status.CREATING, Status.DESTROYING])
def test_destroy_takes_over_after_wait(world: World, live_owner: Owner, status: Status) -> None:
    """After the wait, it is destroyed beside another process, which may hang."""
    name = world.store_environment(status=status, owner=live_owner)
    assert world.service(takeover_after=0.05).destroy(name)
    assert not world.exists(name)


def test_owner_on_another_host_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner on another host of this boot may be alive: it is waited for until the deadline."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("waggle_fsstore.service.removal.monotonic", lambda: now)
    monkeypatch.setattr("waggle_fsstore.service.removal.time", SimpleNamespace(sleep=sleep))
    name = world.store_environment(status=Status.CREATING, owner=owner(host="another"))
    assert world.service(takeover_after=0.05).destroy(name)
    assert len([point for point in world.script.passed if point == "before update"]) > 1


def test_record_is_deleted_after_workspace(world: World) -> None:
    """While there is a workspace, there is a record with status destroying and the owner."""
    seen: list[Environment] = []
    world.script.at("before remove", lambda: seen.extend(world.real_store.find_all()))
    world.script.at("after remove", lambda: seen.extend(world.real_store.find_all()))
    service = world.service()
    created = service.create("shell")
    assert service.destroy(created.id)
    assert [(one.status, one.owner) for one in seen] == [(Status.DESTROYING, this_process())] * 2


def test_destroy_of_missing_environment_raises(world: World) -> None:
    """Neither an unknown environment nor a destroyed one can be destroyed."""
    service = world.service()
    with pytest.raises(EnvironmentNotFoundError):
        service.destroy("missing")
    created = service.create("shell")
    service.destroy(created.id)
    with pytest.raises(EnvironmentNotFoundError):
        service.destroy(created.id)


def test_second_thread_waits_for_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second thread returns as the first does, and the workspace is removed once."""
    service = world.service()
    created = service.create("shell")
    gate = Gate()
    world.script.at("halfway remove", gate)
    waits = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.destroy, created.id)
        gate.wait_until_reached()
        wait_for = IN_PROGRESS._changed.wait_for

        def wait(done: Callable[[], bool], timeout: float) -> bool:
            waits.set()
            return wait_for(done, timeout)

        monkeypatch.setattr(IN_PROGRESS._changed, "wait_for", wait)
        second = pool.submit(service.destroy, created.id)
        second.add_done_callback(lambda _: waits.set())
        assert waits.wait(TIMEOUT_S)
        has_waited = not second.done()
        gate.open()
        assert has_waited
        assert [first.result(TIMEOUT_S), second.result(TIMEOUT_S)] == [True, True]
    assert world.script.passed.count("before remove") == 1
    assert not world.exists(created.id)
    assert [step.kind for step in world.events_of(created.id)][2:] == ["updated", "deleted"]


def test_second_thread_finishes_failed_removal(world: World) -> None:
    """The second thread finishes the removal in which the first one failed."""
    service = world.service()
    created = service.create("shell")
    gate = Gate()
    world.script.at("before remove", gate)
    world.script.at("halfway remove", failing(ProviderError("fake", "in use")))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.destroy, created.id)
        gate.wait_until_reached()
        second = pool.submit(service.destroy, created.id)
        gate.open()
        assert isinstance(first.exception(TIMEOUT_S), ProviderError)
        assert second.result(TIMEOUT_S)
    assert not world.exists(created.id)


def test_destroy_waits_for_removal_by_process(file_world: World, tmp_path: Path) -> None:
    """A removal by another process is waited for, and both return normally."""
    service = file_world.service()
    created = service.create("shell")
    with (
        run_worker(tmp_path, "pause", "halfway remove", "destroy", created.id) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.expect("at halfway remove")
        waiting = begin_destroy(file_world, service, pool, created.id)
        worker.resume()
        assert worker.finish() == [f"done {created.id}"]
        assert waiting.result(TIMEOUT_S)
    assert "before remove" not in file_world.script.passed
    assert not file_world.exists(created.id)


def test_destroy_finishes_removal_of_killed_process(file_world: World, tmp_path: Path) -> None:
    """A process that is killed while it is waited for has its removal finished."""
    service = file_world.service()
    created = service.create("shell")
    with (
        run_worker(tmp_path, "pause", "halfway remove", "destroy", created.id) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.expect("at halfway remove")
        waiting = begin_destroy(file_world, service, pool, created.id)
        worker.process.kill()
        worker.process.wait()
        assert waiting.result(TIMEOUT_S)
    assert not file_world.exists(created.id)


def test_destroy_waits_for_creation_by_process(file_world: World, tmp_path: Path) -> None:
    """An environment that another process creates is destroyed once it is ready."""
    service = file_world.service()
    with (
        run_worker(tmp_path, "pause", "halfway make", "create", "1") as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.expect("at halfway make")
        [creating] = file_world.store.find_all()
        waiting = begin_destroy(file_world, service, pool, creating.id)
        worker.resume()
        assert worker.finish() == [f"done {creating.id}"]
        assert waiting.result(TIMEOUT_S)
    assert not file_world.exists(creating.id)
    assert [step.status for step in file_world.events_of(creating.id)] == [
        "creating",
        "running",
        "destroying",
        None,
    ]


def test_destroy_takes_over_slow_creation(file_world: World, tmp_path: Path) -> None:
    """It is destroyed; its creator leaves nothing and raises EnvironmentNotFoundError."""
    with run_worker(tmp_path, "pause", "halfway make", "create", "1") as worker:
        worker.expect("at halfway make")
        [creating] = file_world.store.find_all()
        assert file_world.service(takeover_after=0).destroy(creating.id)
        worker.resume()
        assert worker.finish() == ["EnvironmentNotFoundError"]
    assert not file_world.exists(creating.id)


def test_provider_failure_leaves_destroying(world: World) -> None:
    """It stays destroying without owner, with the reason, and the next call finishes it."""
    service = world.service()
    created = service.create("shell")
    world.script.at("halfway remove", failing(ProviderError("fake", "in use")))
    with pytest.raises(ProviderError, match="in use"):
        service.destroy(created.id)
    left = world.stored(created.id)
    assert (left.status, left.owner) == (Status.DESTROYING, None)
    assert left.status_reason == "could not be removed: in use"
    assert world.events_of(created.id)[-1].reason == "could not be removed: in use"
    assert service.destroy(created.id)
    assert not world.exists(created.id)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_removes_workspace_first(world: World, number: int) -> None:
    """The workspace is removed to make room for the change; one that is in use is kept."""
    service = world.service()
    created = service.create("shell")

    def fill() -> None:
        if world.provider.workspaces():
            raise OSError(number, os.strerror(number))

    world.script.always("before update", fill)
    assert not service.destroy(created.id, only_if=lambda _: False)
    assert world.provider.workspaces() == {created.id}
    assert service.destroy(created.id)
    assert not world.exists(created.id)
    assert [step.status for step in world.events_of(created.id)][2:] == ["destroying", None]


def test_disk_that_stays_full_raises(world: World) -> None:
    """It raises, and the environment becomes an error, which can be destroyed later."""
    service = world.service()
    created = service.create("shell")
    world.script.always("before update", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        service.destroy(created.id)
    world.script.reset()
    assert world.stored(created.id).is_running
    assert service.reconcile().lost == [created.id]
    assert service.destroy(created.id)


@pytest.mark.parametrize("point", ["before remove", "halfway remove", "before delete"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_interrupted_destroy_can_be_repeated(
    world: World, point: str, error: BaseException
) -> None:
    """The exception is raised unchanged, and the next call finishes the removal."""
    service = world.service()
    created = service.create("shell")
    world.script.at(point, failing(error))
    with pytest.raises(type(error)):
        service.destroy(created.id)
    assert world.stored(created.id).status is Status.DESTROYING
    assert IN_PROGRESS.wait_until_empty(0)
    assert service.destroy(created.id)
    assert not world.exists(created.id)


@pytest.mark.parametrize("point", ["halfway remove", "before delete"])
def test_sweep_finishes_removal_that_could_not_be_released(
    world: World, point: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A removal that its process could neither finish nor release is finished by its next sweep."""
    service = world.service()
    created = service.create("shell")
    full = OSError(28, "No space left on device")
    world.script.at(point, failing(ProviderError("fake", "in use") if "remove" in point else full))
    world.script.at("before update", failing(full), nth=2)
    with pytest.raises((ProviderError, OSError)):
        service.destroy(created.id)
    assert ("not stored" in caplog.text) == ("remove" in point)
    assert world.stored(created.id).owner == this_process()
    world.script.reset()
    assert service.sweep().finished == [created.id]
    assert not world.exists(created.id)


def test_destroy_refuses_environment_of_another_provider(world: World) -> None:
    """It is refused, and stays unchanged."""
    service = world.service(
        provider=DirectoryProvider(world.provider.root, world.script, name="other")
    )
    created = world.service().create("shell")
    with pytest.raises(ProviderError, match="'fake'"):
        service.destroy(created.id)
    assert world.stored(created.id) == created
    assert world.provider.workspaces() == {created.id}
    assert service.locate(created) == ""
    assert world.service().locate(created) == str(world.provider.root / created.id)


def test_destroy_accepts_environment_without_provider(world: World) -> None:
    """A record from a manual edit, without provider, can be destroyed by any service."""
    name = world.store_environment(workspace=False)
    world.real_store.update(name, lambda one: setattr(one, "provider", None))
    assert world.service().destroy(name)
    assert not world.exists(name)


def test_destroy_of_unreadable_document_raises(file_world: World, tmp_path: Path) -> None:
    """An environment whose document is unreadable is not destroyed."""
    service = file_world.service()
    created = service.create("shell")
    (tmp_path / "store" / "environments" / f"{created.id}.json").write_text("{")
    with pytest.raises(CorruptDocumentError):
        service.destroy(created.id)
    assert file_world.provider.workspaces() == {created.id}


def test_only_if_prevents_destroy(world: World) -> None:
    """If the condition is false, nothing is done, and false is returned."""
    service = world.service()
    created = service.create("shell")
    assert not service.destroy(created.id, only_if=lambda one: one.name != created.name)
    assert world.stored(created.id) == created
    assert world.provider.workspaces() == {created.id}
    assert service.destroy(created.id, only_if=lambda one: one == created)


def test_only_if_checks_stored_version(world: World) -> None:
    """The condition sees the version that is about to be marked as destroying."""
    service = world.service()
    created = service.create("shell")
    world.script.at(
        "before update", lambda: world.real_store.update(created.id, lambda one: one.touch())
    )
    assert not service.destroy(created.id, only_if=lambda one: one.last_used == created.last_used)
    assert world.stored(created.id).is_running
