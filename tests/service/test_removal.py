# SPDX-License-Identifier: Apache-2.0
"""How an environment is destroyed: from every status, by several at once, and when it fails."""

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.service.fakes import LONG, FolderProvider, Gate, Step, World, failing, owner
from tests.service.worker import started
from waggle_fsstore import (
    CorruptDocumentError,
    Environment,
    EnvironmentNotFoundError,
    ProviderError,
    Runtime,
    Status,
    audit,
)
from waggle_fsstore.domain.environment import Owner
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.service.in_progress import IN_HAND

OWNERS: dict[str, Callable[[], Owner | None]] = {
    "nobody": lambda: None,
    "this process": this_process,
    "a dead process": owner,
    "another boot": lambda: owner(boot_id="another"),
}


def store_one(world: World, *, workspace: bool = True, **fields: object) -> str:
    """An environment as some process may have left it."""
    environment = Environment(name="n", runtime=Runtime.SHELL, provider="fake", **fields)  # type: ignore[arg-type]
    environment.created_at = environment.last_used = world.clock.time
    world.store.real.save(environment)
    if workspace:
        folder = world.provider.root / environment.id
        folder.mkdir(parents=True)
        (folder / "whole").touch()
    return environment.id


@pytest.mark.parametrize("by", OWNERS)
@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("workspace", [True, False])
def test_from_every_status(world: World, status: Status, by: str, workspace: bool) -> None:
    """Nothing is left but the history, whoever was at it, if nobody is any more."""
    name = store_one(world, status=status, owner=OWNERS[by](), workspace=workspace)
    with audit(actor="maja", reason="tidy up"):
        assert world.service().destroy(name)
    assert not world.is_there(name)
    last = "destroyed" if status is Status.DESTROYED else "destroying"
    assert world.story(name)[1:] == [
        Step("updated", last, "maja", "tidy up"),
        Step("deleted", None, "maja", "tidy up"),
    ]


@pytest.mark.parametrize("status", [Status.CREATING, Status.DESTROYING])
def test_who_is_at_it_is_waited_for_with_patience(
    world: World, living: Owner, status: Status
) -> None:
    """After that long, it is destroyed beside another process that may hang."""
    name = store_one(world, status=status, owner=living)
    assert world.service(patience=0.05).destroy(name)
    assert not world.is_there(name)


def test_of_another_container(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner on another host of this boot may live: it is waited for, until the deadline."""
    now = time.monotonic()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr("waggle_fsstore.service.removal.time", clock)
    name = store_one(world, status=Status.CREATING, owner=owner(host="another"))
    assert world.service(patience=0.05).destroy(name)
    assert len([point for point in world.script.passed if point == "before update"]) > 1


def test_the_record_goes_last(world: World) -> None:
    """While there is a workspace there is a record that says what is going on, and by whom."""
    seen: list[Environment] = []
    world.script.at("before remove", lambda: seen.extend(world.store.real.find_all()))
    world.script.at("after remove", lambda: seen.extend(world.store.real.find_all()))
    service = world.service()
    created = service.create("shell")
    assert service.destroy(created.id)
    assert [(one.status, one.owner) for one in seen] == [(Status.DESTROYING, this_process())] * 2


def test_what_is_not_there(world: World) -> None:
    """It cannot be destroyed, nor what was destroyed already."""
    service = world.service()
    with pytest.raises(EnvironmentNotFoundError):
        service.destroy("missing")
    created = service.create("shell")
    service.destroy(created.id)
    with pytest.raises(EnvironmentNotFoundError):
        service.destroy(created.id)


def test_two_threads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits for the first and returns as it does; the workspace goes once."""
    service = world.service()
    created = service.create("shell")
    gate = Gate()
    world.script.at("halfway remove", gate)
    waits = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.destroy, created.id)
        gate.wait_until_reached()
        wait_for = IN_HAND._changed.wait_for

        def wait(done: Callable[[], bool], timeout: float) -> bool:
            waits.set()
            return wait_for(done, timeout)

        monkeypatch.setattr(IN_HAND._changed, "wait_for", wait)
        second = pool.submit(service.destroy, created.id)
        second.add_done_callback(lambda _: waits.set())
        assert waits.wait(LONG)
        has_waited = not second.done()
        gate.open()
        assert has_waited
        assert [first.result(LONG), second.result(LONG)] == [True, True]
    assert world.script.passed.count("before remove") == 1
    assert not world.is_there(created.id)
    assert [step.kind for step in world.story(created.id)][2:] == ["updated", "deleted"]


def test_the_first_of_two_threads_fails(world: World) -> None:
    """The second one does what the first could not do."""
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
        assert isinstance(first.exception(LONG), ProviderError)
        assert second.result(LONG)
    assert not world.is_there(created.id)


def test_two_processes(file_world: World, tmp_path: Path) -> None:
    """What another process is removing is waited for, and both return normally."""
    service = file_world.service()
    created = service.create("shell")
    with (
        started(tmp_path, "pause", "halfway remove", "destroy", created.id) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.expect("at halfway remove")
        gate = Gate()
        file_world.script.at("before update", gate)
        waiting = pool.submit(service.destroy, created.id)
        gate.wait_until_reached()
        gate.open()
        worker.go_on()
        assert worker.end() == [f"done {created.id}"]
        assert waiting.result(LONG)
    assert "before remove" not in file_world.script.passed
    assert not file_world.is_there(created.id)


def test_a_process_that_is_killed_while_it_is_waited_for(file_world: World, tmp_path: Path) -> None:
    """Whoever waits for it goes on with what it began."""
    service = file_world.service()
    created = service.create("shell")
    with (
        started(tmp_path, "pause", "halfway remove", "destroy", created.id) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.expect("at halfway remove")
        gate = Gate()
        file_world.script.at("before update", gate)
        waiting = pool.submit(service.destroy, created.id)
        gate.wait_until_reached()
        gate.open()
        worker.process.kill()
        worker.process.wait()
        assert waiting.result(LONG)
    assert not file_world.is_there(created.id)


def test_what_another_process_creates(file_world: World, tmp_path: Path) -> None:
    """It is destroyed when it is ready."""
    service = file_world.service()
    with (
        started(tmp_path, "pause", "halfway make", "create", "1") as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.expect("at halfway make")
        [creating] = file_world.store.find_all()
        gate = Gate()
        file_world.script.at("before update", gate)
        waiting = pool.submit(service.destroy, creating.id)
        gate.wait_until_reached()
        gate.open()
        worker.go_on()
        assert worker.end() == [f"done {creating.id}"]
        assert waiting.result(LONG)
    assert not file_world.is_there(creating.id)
    assert [step.status for step in file_world.story(creating.id)] == [
        "creating",
        "running",
        "destroying",
        None,
    ]


def test_what_another_process_creates_for_too_long(file_world: World, tmp_path: Path) -> None:
    """It is destroyed, and its creator leaves nothing behind it, and hears that it is gone."""
    with started(tmp_path, "pause", "halfway make", "create", "1") as worker:
        worker.expect("at halfway make")
        [creating] = file_world.store.find_all()
        assert file_world.service(patience=0).destroy(creating.id)
        worker.go_on()
        assert worker.end() == ["EnvironmentNotFoundError"]
    assert not file_world.is_there(creating.id)


def test_the_provider_fails(world: World) -> None:
    """It stays destroying, in nobody's hand, with the reason; the next one finishes it."""
    service = world.service()
    created = service.create("shell")
    world.script.at("halfway remove", failing(ProviderError("fake", "in use")))
    with pytest.raises(ProviderError, match="in use"):
        service.destroy(created.id)
    left = world.stored(created.id)
    assert (left.status, left.owner) == (Status.DESTROYING, None)
    assert left.status_reason == "could not be removed: in use"
    assert world.story(created.id)[-1].reason == "could not be removed: in use"
    assert service.destroy(created.id)
    assert not world.is_there(created.id)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(world: World, number: int) -> None:
    """Its own files make room to store that it goes; what is in use stays all the same."""
    service = world.service()
    created = service.create("shell")

    def fill() -> None:
        if world.provider.workspaces():
            raise OSError(number, os.strerror(number))

    world.script.always("before update", fill)
    assert not service.destroy(created.id, only_if=lambda _: False)
    assert world.provider.workspaces() == {created.id}
    assert service.destroy(created.id)
    assert not world.is_there(created.id)
    assert [step.status for step in world.story(created.id)][2:] == ["destroying", None]


def test_a_disk_that_stays_full(world: World) -> None:
    """It is told, and what is left becomes an error, which can be destroyed later."""
    service = world.service()
    created = service.create("shell")
    world.script.always("before update", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        service.destroy(created.id)
    world.script.forget()
    assert world.stored(created.id).is_running
    assert service.reconcile().lost == [created.id]
    assert service.destroy(created.id)


@pytest.mark.parametrize("point", ["before remove", "halfway remove", "before delete"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_whatever_ends_it(world: World, point: str, error: BaseException) -> None:
    """It is raised as it is, and the next one who wants that finishes it."""
    service = world.service()
    created = service.create("shell")
    world.script.at(point, failing(error))
    with pytest.raises(type(error)):
        service.destroy(created.id)
    assert world.stored(created.id).status is Status.DESTROYING
    assert IN_HAND.wait_until_idle(0)
    assert service.destroy(created.id)
    assert not world.is_there(created.id)


@pytest.mark.parametrize("point", ["halfway remove", "before delete"])
def test_the_store_fails_too(world: World, point: str, caplog: pytest.LogCaptureFixture) -> None:
    """What its process could neither finish nor let go of, its next sweep finishes."""
    service = world.service()
    created = service.create("shell")
    full = OSError(28, "No space left on device")
    world.script.at(point, failing(ProviderError("fake", "in use") if "remove" in point else full))
    world.script.at("before update", failing(full), nth=2)
    with pytest.raises((ProviderError, OSError)):
        service.destroy(created.id)
    assert ("not stored" in caplog.text) == ("remove" in point)
    assert world.stored(created.id).owner == this_process()
    world.script.forget()
    assert service.sweep().finished == [created.id]
    assert not world.is_there(created.id)


def test_of_another_provider(world: World) -> None:
    """It is refused, and stays as it was."""
    service = world.service(
        provider=FolderProvider(world.provider.root, world.script, name="other")
    )
    created = world.service().create("shell")
    with pytest.raises(ProviderError, match="'fake'"):
        service.destroy(created.id)
    assert world.stored(created.id) == created
    assert world.provider.workspaces() == {created.id}
    assert service.locate(created) == ""
    assert world.service().locate(created) == str(world.provider.root / created.id)


def test_of_no_provider(world: World) -> None:
    """A record that somebody stored by hand can be destroyed by whoever is asked."""
    name = store_one(world, workspace=False)
    world.store.real.update(name, lambda one: setattr(one, "provider", None))
    assert world.service().destroy(name)
    assert not world.is_there(name)


def test_an_unreadable_document(file_world: World, tmp_path: Path) -> None:
    """It is not destroyed blindly."""
    service = file_world.service()
    created = service.create("shell")
    (tmp_path / "store" / "environments" / f"{created.id}.json").write_text("{")
    with pytest.raises(CorruptDocumentError):
        service.destroy(created.id)
    assert file_world.provider.workspaces() == {created.id}


def test_only_if(world: World) -> None:
    """Where the condition says no, nothing is done, and the answer is no."""
    service = world.service()
    created = service.create("shell")
    assert not service.destroy(created.id, only_if=lambda one: one.name != created.name)
    assert world.stored(created.id) == created
    assert world.provider.workspaces() == {created.id}
    assert service.destroy(created.id, only_if=lambda one: one == created)


def test_only_if_is_asked_about_what_is_stored_now(world: World) -> None:
    """What changed since somebody looked is seen, up to the step that marks it."""
    service = world.service()
    created = service.create("shell")
    world.script.at(
        "before update", lambda: world.store.real.update(created.id, lambda one: one.touch())
    )
    assert not service.destroy(created.id, only_if=lambda one: one.last_used == created.last_used)
    assert world.stored(created.id).is_running
