# SPDX-License-Identifier: Apache-2.0
"""The return of environments: undeleted ones, and those whose error is over."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.fakes import MINUTE, EventSummary, World, failing, owner
from waggle_fsstore import (
    CapacityError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    EnvironmentService,
    LocalProvider,
    NoFreePortError,
    ProviderError,
    Status,
    WorkspaceGoneError,
)
from waggle_fsstore.service import revival
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.touch_buffer import FLUSH_INTERVAL


class KilledError(BaseException):
    """The process is killed at this point."""


def failing_call(error: Exception) -> Callable[..., None]:
    """Return a function that raises, whatever it is called with."""

    def fail(*_: object) -> None:
        raise error

    return fail


def expired(world: World, service: EnvironmentService, **options: object) -> str:
    """Return the id of an environment that has expired."""
    name = service.create("shell", name="mine", labels={"team": "red"}, **options).id  # type: ignore[arg-type]
    world.clock.advance(60 * MINUTE)
    assert service.sweep().expired == [name]
    assert not world.exists(name)
    return name


def test_expired_environment_comes_back(world: World) -> None:
    """Record and files come back, with a new port, no owner, and its whole timeout."""
    service = world.service()
    name = expired(world, service)
    back = service.undelete(name)
    assert (back.status, back.name, back.labels) == (Status.RUNNING, "mine", {"team": "red"})
    assert (back.owner, back.status_reason, back.discard_files) == (None, "", False)
    assert back.ssh_port
    assert back.last_used == world.clock.now()
    assert world.stored(name) == back
    assert service.probe(name).is_running


def test_undeletion_is_in_history(world: World) -> None:
    """The history has a creation that names the revision, and the change to running."""
    service = world.service()
    created = service.create("shell")
    world.clock.advance(60 * MINUTE)
    service.sweep()
    service.undelete(created.id)
    reason = f"undeleted revision {created.revision}"
    actor = world.events_of(created.id)[0].actor
    assert world.events_of(created.id)[4:] == [
        EventSummary("created", "creating", actor, reason),
        EventSummary("updated", "running", actor, reason),
    ]
    assert world.stored(created.id).revision > created.revision


def test_undeleted_environment_expires_again(world: World) -> None:
    """An environment can expire and come back any number of times."""
    service = world.service()
    name = expired(world, service)
    for _ in range(3):
        service.undelete(name)
        world.clock.advance(29 * MINUTE)
        assert service.sweep().expired == []
        world.clock.advance(2 * MINUTE + FLUSH_INTERVAL)
        assert service.sweep().expired == [name]


def test_live_environment_is_not_undeleted(world: World) -> None:
    """An id that is stored is refused, in any status."""
    service = world.service()
    for status in Status:
        name = world.store_environment(status=status)
        with pytest.raises(EnvironmentAlreadyExistsError):
            service.undelete(name)
        assert world.stored(name).status is status


def test_unknown_environment_is_not_undeleted(world: World) -> None:
    """An id that the history does not know is refused."""
    with pytest.raises(EnvironmentNotFoundError):
        world.service().undelete("missing")


def test_destroyed_environment_has_no_files_to_undelete(world: World) -> None:
    """The files of a destroyed environment are gone; its record comes back as an error."""
    service = world.service()
    name = service.create("shell").id
    service.destroy(name)
    before = len(list(world.store.history()))
    with pytest.raises(WorkspaceGoneError, match="only its record"):
        service.undelete(name)
    assert len(list(world.store.history())) == before
    back = service.undelete(name, record_only=True)
    assert (back.status, back.ssh_port, back.owner) == (Status.ERROR, 0, None)
    assert world.stored(name) == back
    assert service.sweep().revived == []
    assert service.destroy(name)


@pytest.mark.parametrize("limit", ["capacity", "ports"])
def test_full_service_refuses_undeletion(world: World, limit: str) -> None:
    """Without capacity or a port nothing changes, and the files stay where they are."""
    ports = Ports(range(20_000, 20_001), is_free=lambda _: True)
    service = world.service(capacity=1) if limit == "capacity" else world.service(ports=ports)
    name = expired(world, service)
    other = service.create("shell").id
    before = len(list(world.store.history()))
    with pytest.raises((CapacityError, NoFreePortError)):
        service.undelete(name)
    assert len(list(world.store.history())) == before
    service.destroy(other)
    assert service.undelete(name).is_running


def test_environment_of_another_provider_is_not_undeleted(world: World) -> None:
    """Only the provider that made it can bring it back."""
    name = expired(world, world.service())
    world.provider.name = "other"
    with pytest.raises(ProviderError, match="'fake'"):
        world.service().undelete(name)


#: Where an undeletion is killed, and what becomes of it.
KILLS = {
    "before create": "undone",
    "after create": "finished",
    "before restore": "finished",
    "after restore": "finished",
    "before probe": "finished",
    "before update": "finished",
    "after update": "done",
}


@pytest.mark.parametrize("point", KILLS)
def test_killed_undeletion_is_finished_or_undone(world: World, point: str) -> None:
    """Wherever an undeletion is killed, the next server finishes it, or it can be repeated."""
    service = world.service()
    name = expired(world, service)
    world.script.at(point, failing(KilledError()))
    with pytest.raises(KilledError):
        service.undelete(name)
    assert IN_PROGRESS.wait_until_empty(0)
    result = world.service().reconcile()
    assert result.problems == result.failed == result.orphans == []
    assert result.revived == ([name] if KILLS[point] == "finished" else [])
    if KILLS[point] == "undone":
        assert not world.exists(name)
        service.undelete(name)
    stored = world.stored(name)
    assert (stored.status, stored.owner) == (Status.RUNNING, None)
    assert stored.ssh_port
    assert service.probe(name).is_running


def test_killed_undeletion_without_files_is_undone(world: World) -> None:
    """If the files are gone by then, the record is deleted again."""
    service = world.service()
    name = expired(world, service)
    world.script.at("before restore", failing(KilledError()))
    with pytest.raises(KilledError):
        service.undelete(name)
    for path in world.provider.trash.iterdir():
        path.rename(path.parent.parent / "away")
    result = world.service().reconcile()
    assert result.revived == result.problems == []
    assert not world.exists(name)


def test_failed_restore_undoes_undeletion(world: World) -> None:
    """If the provider cannot bring the files back, the record is deleted again."""
    service = world.service()
    name = expired(world, service)
    world.script.at("before restore", failing(ProviderError("fake", "disk failed")))
    with pytest.raises(ProviderError, match="disk failed"):
        service.undelete(name)
    assert not world.exists(name)
    assert service.undelete(name).is_running


def test_undeletion_without_unique_port_is_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another process takes the last port concurrently, the record is deleted again."""
    service = world.service()
    name = expired(world, service)
    with monkeypatch.context() as patch:
        patch.setattr(revival, "make_port_unique", failing_call(NoFreePortError(1, 2)))
        with pytest.raises(NoFreePortError):
            service.undelete(name)
    assert not world.exists(name)
    assert service.undelete(name).is_running


def test_manual_edit_during_undeletion_stays(world: World) -> None:
    """An undeletion whose record gets another status returns that record."""
    service = world.service()
    name = expired(world, service)

    def edit() -> None:
        world.store.update(name, lambda stored: stored.transition_to(Status.ERROR))

    world.script.at("before restore", edit)
    assert service.undelete(name).status is Status.ERROR


def test_failed_creation_is_not_completed_by_undeletion(world: World) -> None:
    """What never ran may be half made: it comes back as an error, without a new marker."""
    service = world.service()
    world.script.at("halfway make", failing(ProviderError("fake", "no venv")))
    with pytest.raises(ProviderError):
        service.create("shell")
    [name] = (one.id for one in service.find_all())
    world.clock.advance(60 * MINUTE)
    assert service.sweep().expired == [name]
    world.script.reset()
    assert service.undelete(name).status is Status.ERROR
    assert f"before adopt {name}" not in world.script.passed


def test_record_gets_files_back_that_are_kept(world: World) -> None:
    """An environment whose record alone came back runs again, if there are files after all."""
    service = world.service()
    name = expired(world, service)
    assert service.undelete(name, record_only=True).status is Status.ERROR
    assert service.sweep().revived == [name]
    assert world.provider.workspaces() == {name}


def test_undeleted_environment_that_is_not_whole_is_an_error(world: World) -> None:
    """It is running only after a probe that succeeds; its files are kept in any case."""
    service = world.service()
    name = expired(world, service)
    world.script.at("before probe", failing(WorkspaceGoneError("fake", "its python is gone")))
    back = service.undelete(name)
    assert (back.status, back.status_reason) == (Status.ERROR, "its python is gone")
    assert service.sweep().revived == [name]
    assert world.stored(name).is_running


def test_error_ends_once_workspace_is_whole(world: World) -> None:
    """What was once running becomes running again at a sweep or a start, with a port."""
    service = world.service()
    passes: list[Callable[[], object]] = [service.sweep, service.reconcile]
    name = service.create("shell").id
    whole = world.provider.root / name / "whole"
    for run_pass in passes:
        whole.unlink()
        assert service.reconcile().lost == [name]
        assert world.stored(name).ssh_port == 0
        assert service.sweep().revived == []
        whole.touch()
        run_pass()
        stored = world.stored(name)
        assert (stored.status, stored.status_reason) == (Status.RUNNING, "")
        assert stored.ssh_port
        assert stored.last_used == world.clock.now()
        assert world.events_of(name)[-1] == EventSummary(
            "updated", "running", "reconcile", "its workspace is whole again"
        )


def test_files_never_expire_because_of_an_error(world: World) -> None:
    """However long an environment is in error, its files stay; once they are gone, it expires."""
    service = world.service()
    name = service.create("shell").id
    (world.provider.root / name / "whole").unlink()
    service.reconcile()
    for _ in range(3):
        world.clock.advance(10_000 * MINUTE)
        assert service.sweep().expired == []
    assert world.provider.workspaces() == {name}
    (world.provider.root / name / "half").unlink()
    (world.provider.root / name).rmdir()
    assert service.sweep().expired == [name]
    assert not world.exists(name)


def test_failed_creation_expires_and_is_not_revived(world: World) -> None:
    """What never ran is an error for good, and expires."""
    service = world.service()
    name = world.store_environment(status=Status.ERROR)
    assert service.reconcile().revived == service.sweep().revived == []
    world.clock.advance(60 * MINUTE)
    assert service.sweep().expired == [name]


@pytest.mark.parametrize("limit", ["capacity", "ports"])
def test_error_stays_without_capacity_or_port(world: World, limit: str) -> None:
    """Without capacity or a port it stays in error, which is no problem, until there is one."""
    ports = Ports(range(20_000, 20_001), is_free=lambda _: True)
    service = world.service(capacity=1) if limit == "capacity" else world.service(ports=ports)
    name = service.create("shell").id
    whole = world.provider.root / name / "whole"
    whole.unlink()
    service.reconcile()
    other = service.create("shell").id
    whole.touch()
    result = service.sweep()
    assert (result.revived, result.problems) == ([], [])
    assert world.stored(name).status is Status.ERROR
    service.destroy(other)
    assert service.sweep().revived == [name]


def test_destroyed_error_is_not_revived(world: World) -> None:
    """An environment that is destroyed while it is probed stays destroyed."""
    service = world.service()
    name = service.create("shell").id
    whole = world.provider.root / name / "whole"
    whole.unlink()
    service.reconcile()
    whole.touch()
    world.script.at("after probe", lambda: service.destroy(name))
    result = service.sweep()
    assert (result.revived, result.problems) == ([], [])
    assert not world.exists(name)
    assert service.create("shell").ssh_port  # Its reserved port was released.


def test_unknown_intent_keeps_files(world: World) -> None:
    """A removal by an earlier version, which stored no intent, keeps the files."""
    name = world.store_environment(status=Status.DESTROYING, owner=owner())
    assert world.service().reconcile().finished == [name]
    assert {path.name for path in world.provider.trash.iterdir()} == {name}


@pytest.mark.parametrize("by", ["destroy", "sweep"])
def test_intent_survives_kill(world: World, by: str) -> None:
    """The process that resumes a removal does what its first caller wanted with the files."""
    service = world.service()
    name = service.create("shell").id
    world.clock.advance(60 * MINUTE)
    world.script.at("before remove", failing(KilledError()))
    with pytest.raises(KilledError):
        service.destroy(name) if by == "destroy" else service.sweep()
    assert world.stored(name).discard_files == (by == "destroy")
    assert service.reconcile().finished == [name]
    assert world.provider.trash.exists() == (by == "sweep")


def test_destroy_discards_what_is_expiring(world: World) -> None:
    """A caller who destroys an environment while it expires has its files deleted."""
    service = world.service()
    name = service.create("shell").id
    world.clock.advance(60 * MINUTE)
    world.script.at("before remove", failing(ProviderError("fake", "in use")))
    assert len(service.sweep().problems) == 1
    service.destroy(name)
    assert not world.provider.trash.exists()


def test_local_workspace_comes_back_with_its_files(file_world: World, tmp_path: Path) -> None:
    """With the local provider the files are there again, at the same path."""
    service = file_world.service(provider=LocalProvider(tmp_path / "workspaces"))
    created = service.create("python")
    file = Path(service.locate(created), "data.csv")
    file.write_text("precious")
    file_world.clock.advance(60 * MINUTE)
    service.sweep()
    assert not file.exists()
    assert service.undelete(created.id).capabilities is not None
    assert file.read_text() == "precious"
    assert service.probe(created.id).is_running


def test_sweep_counts_lived_time_for_provider(world: World) -> None:
    """The provider learns for how long the leader has swept, and which ids are known."""
    service = world.service()
    name = service.create("shell", timeout=10 * MINUTE).id
    world.clock.advance(5 * MINUTE)
    service.reconcile()
    assert world.provider.lived == 0 * MINUTE
    world.clock.advance(MINUTE)
    service.sweep()
    world.clock.advance(MINUTE)
    service.sweep()
    assert world.provider.lived == 2 * MINUTE
    assert world.provider.known == {name}


def test_workspace_of_earlier_version_keeps_running(file_world: World, tmp_path: Path) -> None:
    """The first reconciliation takes over the flat layout, and nothing is in error after it."""
    root = tmp_path / "workspaces"
    service = file_world.service(provider=LocalProvider(root, has_workspaces=True))
    name = file_world.store_environment(status=Status.RUNNING, workspace=False)
    file_world.real_store.update(name, lambda one: setattr(one, "provider", "local"))
    (root / name).mkdir(parents=True)
    (root / ".waggle-workspaces").touch()
    (root / name / ".waggle-workspace").write_text(f'{{"id": "{name}", "runtime": "shell"}}\n')
    (root / name / "data.csv").write_text("precious")
    result = service.reconcile()
    assert result.lost == result.problems == result.orphans == []
    stored = file_world.stored(name)
    assert stored.is_running
    assert Path(service.locate(stored), "data.csv").read_text() == "precious"
