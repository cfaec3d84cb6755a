# SPDX-License-Identifier: Apache-2.0
"""Reconciliation: what an ended process left halfway is finished and reported."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.fakes import CAPABILITIES, DirectoryProvider, EventSummary, World, failing, owner
from tests.service.worker import run_worker
from waggle_fsstore import (
    CorruptDocumentError,
    LockTimeoutError,
    ProviderError,
    Status,
    UnsupportedFormatError,
    WaggleError,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.environment import Owner
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.service.in_progress import IN_PROGRESS

ENDED = "the process that was removing it ended"
INTERRUPTED = "could not be created: the process that was creating it ended"
UNOWNED = "could not be created: no process is creating it"

ENDED_OWNERS: dict[str, Callable[[], Owner | None]] = {
    "no owner": lambda: None,
    "another boot": lambda: owner(boot_id="another", pid=this_process().pid),
    "no such process": owner,
    "reused pid": lambda: owner(pid=this_process().pid, process_started=1),
    "finished thread of this process": this_process,
}


@pytest.mark.parametrize("by", ENDED_OWNERS)
def test_interrupted_creation_becomes_error(world: World, by: str) -> None:
    """An interrupted creation becomes an error, which takes no capacity and can be destroyed."""
    name = world.store_environment(owner=ENDED_OWNERS[by]())
    result = world.service().reconcile()
    assert result.failed == [name]
    stored = world.stored(name)
    assert (stored.status, stored.owner) == (Status.ERROR, None)
    reason = UNOWNED if by == "no owner" else INTERRUPTED
    assert stored.status_reason == reason
    assert world.events_of(name)[1:] == [EventSummary("updated", "error", "reconcile", reason)]
    assert world.service().destroy(name)
    assert not world.exists(name)


@pytest.mark.parametrize("status", [Status.RUNNING, Status.ERROR])
def test_former_name_of_provider_is_replaced(world: World, status: Status) -> None:
    """Before a workspace is looked at, its environment has the name of today's provider.

    An earlier version, which calls itself by the former name, then leaves it alone.
    """
    name = world.store_environment(status=status, provider="fake-former", capabilities=CAPABILITIES)
    seen = []
    for point in ("before check", "before probe"):
        world.script.always(point, lambda: seen.append(world.stored(name).provider))
    result = world.service().reconcile()
    assert seen == ["fake", "fake"]
    assert (result.lost, result.problems) == ([], [])
    assert world.stored(name).is_running
    renamed = EventSummary("updated", status, "reconcile", "its provider has a new name")
    assert world.events_of(name)[1] == renamed
    world.service().reconcile()
    assert world.stored(name).revision == (2 if status is Status.RUNNING else 3)


def test_former_name_of_provider_is_replaced_while_provider_fails(world: World) -> None:
    """The files may be elsewhere at this moment, such as on a disk that is not mounted."""
    name = world.store_environment(status=Status.ERROR, provider="fake-former")
    world.script.always("before check", failing(ProviderError("fake", "not mounted")))
    assert world.service().reconcile().problems == ["workspaces: not mounted"]
    assert world.stored(name).provider == "fake"


def test_environment_with_former_name_of_provider_is_destroyed(world: World) -> None:
    """The command line removes what no server has reconciled yet."""
    name = world.store_environment(status=Status.RUNNING, provider="fake-former")
    assert world.service().destroy(name)
    assert not world.exists(name)


def test_undeleted_environment_has_name_of_provider(world: World) -> None:
    """Its last version may have been stored by an earlier version."""
    name = world.store_environment(
        status=Status.RUNNING, provider="fake-former", capabilities=CAPABILITIES
    )
    world.clock.advance(timedelta(days=1))
    service = world.service()
    service.sweep()
    world.clock.advance(timedelta(days=1))
    assert service.sweep().expired == [name]
    assert service.undelete(name).provider == "fake"


@pytest.mark.parametrize("by", ENDED_OWNERS)
@pytest.mark.parametrize("workspace", [True, False])
def test_interrupted_removal_is_finished(world: World, by: str, workspace: bool) -> None:
    """An interrupted removal is finished, with and without its workspace."""
    name = world.store_environment(
        status=Status.DESTROYING, owner=ENDED_OWNERS[by](), workspace=workspace
    )
    result = world.service().reconcile()
    assert result.finished == [name]
    assert result.orphans == result.problems == []
    assert not world.exists(name)
    assert world.events_of(name)[1:] == [
        EventSummary("updated", "destroying", "reconcile", ENDED),
        EventSummary("deleted", None, "reconcile", ENDED),
    ]


@pytest.mark.parametrize("status", [Status.CREATING, Status.DESTROYING])
@pytest.mark.parametrize("is_here", [True, False])
def test_environment_of_live_process_is_left_alone(
    world: World, live_owner: Owner, status: Status, is_here: bool
) -> None:
    """It is left alone, also if the process is on another host."""
    by = live_owner if is_here else owner(host="another")
    name = world.store_environment(status=status, owner=by)
    before = world.stored(name)
    service = world.service()
    for result in (service.reconcile(), service.sweep()):
        assert result.failed == result.finished == result.expired == result.problems == []
    assert world.stored(name).revision == before.revision


@pytest.mark.parametrize("status", [Status.CREATING, Status.DESTROYING])
def test_environment_held_by_thread_is_left_alone(world: World, status: Status) -> None:
    """It is left alone as long as a thread of this process holds it."""
    name = world.store_environment(status=status, owner=this_process())
    service = world.service()
    with IN_PROGRESS.hold(name):
        assert service.reconcile().failed == service.sweep().finished == []
        assert world.stored(name).status is status
    result = service.sweep()
    assert result.failed + result.finished == [name]


def test_creation_finished_during_reconcile_keeps_running(world: World) -> None:
    """A creation that is stored as running after the listing does not count as interrupted."""
    name = world.store_environment(owner=owner())
    world.script.at(
        "before update",
        lambda: world.real_store.update(name, lambda one: one.transition_to(Status.RUNNING)),
    )
    result = world.service().reconcile()
    assert world.stored(name).is_running
    assert result.failed == result.problems == []


def test_lost_workspace_becomes_error(world: World) -> None:
    """An environment without its workspace becomes an error, and others stay unchanged."""
    service = world.service()
    lost, well = (service.create("shell") for _ in range(2))
    (world.provider.root / lost.id / "whole").unlink()
    assert service.reconcile().lost == [lost.id]
    assert world.stored(lost.id).status_reason == "its workspace is gone"
    assert world.events_of(lost.id)[2:] == [
        EventSummary("updated", "error", "reconcile", "its workspace is gone")
    ]
    assert world.stored(well.id).revision == well.revision
    assert service.destroy(lost.id)


@pytest.mark.parametrize(
    "error", [ProviderError("fake", "no answer"), OSError(5, "Input/output error"), ValueError()]
)
def test_failed_probe_does_not_give_environment_up(world: World, error: Exception) -> None:
    """After a failed probe the environment keeps running, and the others are checked."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(3))
    (world.provider.root / names[2] / "whole").unlink()
    world.script.at("before probe", failing(error))
    result = service.reconcile()
    assert len(result.problems) == 1
    assert result.problems[0].startswith(f"environment {names[0]}: ")
    assert world.stored(names[0]).is_running
    assert result.lost == [names[2]]


def test_failed_provider_check_changes_nothing(world: World) -> None:
    """While the provider cannot work, nothing changes, and one problem is reported."""
    service = world.service()
    lost = service.create("shell").id
    shutil.rmtree(world.provider.root)
    left = [
        world.store_environment(status=status) for status in (Status.CREATING, Status.DESTROYING)
    ]
    world.script.at("before check", failing(ProviderError("fake", "not mounted")))
    result = service.reconcile()
    assert (result.problems, result.is_complete) == (["workspaces: not mounted"], False)
    assert result.failed == result.finished == result.lost == []
    assert world.stored(lost).is_running
    result = service.reconcile()
    assert (result.problems, result.is_complete) == ([], True)
    assert [*result.failed, *result.finished, *result.lost] == [*left, lost]


def test_environment_destroyed_during_probe_is_no_problem(world: World) -> None:
    """An environment that is destroyed during its probe stays deleted, and is no problem."""
    service = world.service()
    name = service.create("shell").id
    world.script.at("before probe", lambda: service.destroy(name))
    result = service.reconcile()
    assert result.lost == result.problems == []
    assert not world.exists(name)


def test_orphans_are_reported_and_kept(world: World) -> None:
    """A workspace without a record is reported, and not touched."""
    service = world.service()
    created = service.create("shell")
    for name in ("b", "a"):
        (world.provider.root / name).mkdir()
    assert service.reconcile().orphans == ["a", "b"]
    assert world.provider.workspaces() == {"a", "b", created.id}


def test_workspace_made_during_reconcile_is_no_orphan(world: World) -> None:
    """A workspace that was made after the records were read has a record."""
    service = world.service()
    world.script.at("after find_all", lambda: service.create("shell"))
    assert service.reconcile().orphans == []
    assert len(world.provider.workspaces()) == 1


def test_failed_orphan_search_is_one_problem(world: World) -> None:
    """A failed search for orphans is reported once, and does not stop the rest."""
    name = world.store_environment(owner=owner())
    world.script.always("before find_orphans", failing(ProviderError("fake", "cannot list")))
    result = world.service().reconcile()
    assert result.failed == [name]
    assert result.problems == ["workspaces: cannot list"]


def test_environment_of_another_provider_is_kept(world: World) -> None:
    """It is not probed and does not change; an unfinished removal of it is a problem."""
    other = DirectoryProvider(world.provider.root / "other", world.script, name="other")
    created = world.service(provider=other).create("shell")
    result = world.service().reconcile()
    assert result.lost == result.problems == []
    left = world.store_environment(status=Status.DESTROYING, owner=owner())
    world.real_store.update(left, lambda one: setattr(one, "provider", "other"))
    result = world.service().reconcile()
    assert result.finished == []
    assert result.problems == [
        f"environment {left}: the environment belongs to provider 'other'; this server uses 'fake'"
    ]
    assert world.stored(created.id) == created
    assert other.workspaces() == {created.id}
    assert world.stored(left).status is Status.DESTROYING


def write_bad_document(tmp_path: Path, text: str) -> Path:
    """Write a bad document, which is listed first, and return its path."""
    path = tmp_path / "store" / "environments" / "0.json"
    path.write_text(text)
    return path


NEWER = {"id": "0", "name": "n", "runtime": "shell", "schema": 9}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", CorruptDocumentError),
        (json.dumps(NEWER), UnsupportedFormatError),
        (json.dumps({"id": "0", "name": "n", "runtime": "cobol"}), CorruptDocumentError),
    ],
    ids=["no JSON", "newer schema", "bad value"],
)
def test_unreadable_document_does_not_stop_reconcile(
    file_world: World, tmp_path: Path, text: str, error: type[Exception]
) -> None:
    """Each one is reported, stops nothing, and stays as it is."""
    interrupted = file_world.store_environment(owner=owner())
    left = file_world.store_environment(status=Status.DESTROYING)
    path = write_bad_document(tmp_path, text)
    service = file_world.service()
    result = service.reconcile()
    assert [type(one) for one in result.unreadable] == [error]
    assert result.failed == [interrupted]
    assert result.finished == [left]
    assert [type(one) for one in service.sweep().unreadable] == [error]
    created = service.create("shell")
    assert service.destroy(created.id)
    assert path.read_text() == text


def test_workspace_of_unreadable_document_is_no_orphan(file_world: World, tmp_path: Path) -> None:
    """Once the document is repaired, the environment has its workspace again."""
    created = file_world.service().create("shell")
    (tmp_path / "store" / "environments" / f"{created.id}.json").write_text("{")
    result = file_world.service().reconcile()
    assert len(result.unreadable) == 1
    assert result.orphans == []


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), WaggleError("odd"), RuntimeError("odd")]
)
def test_store_failure_does_not_stop_reconcile(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported without paths, the others are finished, and the next pass finishes it too."""
    names = sorted(world.store_environment(owner=owner()) for _ in range(3))
    service = world.service()
    world.script.at("before update", failing(error), nth=2)
    result = service.reconcile()
    assert result.failed == [names[0], names[2]]
    assert len(result.problems) == 1
    assert result.problems[0].startswith(f"environment {names[1]}: ")
    assert "/s/lock" not in result.problems[0]
    assert names[1] in caplog.text
    assert service.reconcile().failed == [names[1]]


def test_lock_timeout_ends_pass(world: World) -> None:
    """The lock is waited for once: all other environments are left to the next pass."""
    names = sorted(world.store_environment(owner=owner()) for _ in range(3))
    service = world.service()
    stuck = failing(LockTimeoutError("/s/lock", None, 10.0))
    for run_pass in (service.reconcile, service.sweep):
        world.script.always("before update", stuck)
        before = world.script.passed.count("before update")
        result = run_pass()
        assert world.script.passed.count("before update") == before + 1
        assert (result.failed, result.is_complete) == ([], False)
        assert result.problems == [f"environment {names[0]}: the store is busy: try again"]
    world.script.reset()
    result = service.reconcile()
    assert (result.failed, result.is_complete) == (names, True)


def test_lock_timeout_ends_renaming_of_provider(world: World) -> None:
    """The lock is waited for once, however many environments have a former name."""
    for _ in range(3):
        world.store_environment(status=Status.RUNNING, provider="fake-former")
    world.script.always("before update", failing(LockTimeoutError("/s/lock", None, 10.0)))
    result = world.service().reconcile()
    assert world.script.passed.count("before update") == 1
    assert not result.is_complete


def test_failed_removal_does_not_stop_reconcile(world: World) -> None:
    """A removal that fails again stays unfinished, and the others are finished."""
    names = sorted(
        world.store_environment(status=Status.DESTROYING, owner=owner()) for _ in range(3)
    )
    service = world.service()
    world.script.at("before remove", failing(ProviderError("fake", "in use")), nth=2)
    result = service.reconcile()
    assert result.finished == [names[0], names[2]]
    assert result.problems == [f"environment {names[1]}: in use"]
    assert world.stored(names[1]).owner is None
    assert service.sweep().finished == [names[1]]


def test_invalid_reason_does_not_stop_reconcile(world: World) -> None:
    """A reason that the history refuses is a problem, and the rest of the pass is done."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(2))
    (world.provider.root / names[1] / "whole").unlink()
    world.script.at("before probe", failing(WorkspaceGoneError("fake", "a\0b")))
    result = service.reconcile()
    assert result.lost == [names[1]]
    assert len(result.problems) == 1


def test_reconcile_is_idempotent(world: World) -> None:
    """A second reconciliation finds nothing to do."""
    service = world.service()
    world.store_environment(owner=owner())
    world.store_environment(status=Status.DESTROYING, owner=owner())
    service.create("shell")
    service.reconcile()
    before = len(list(world.store.history()))
    again = service.reconcile()
    assert (again.failed, again.finished, again.lost, again.expired) == ([], [], [], [])
    assert len(list(world.store.history())) == before


def test_reconcile_waits_until_process_is_killed(file_world: World, tmp_path: Path) -> None:
    """The work of a live process is left alone; once the process is killed, it is finished."""
    service = file_world.service()
    doomed = service.create("shell")
    with (
        run_worker(tmp_path, "pause", "halfway make", "create", "1") as creator,
        run_worker(tmp_path, "pause", "halfway remove", "destroy", doomed.id) as destroyer,
    ):
        creator.expect("at halfway make")
        destroyer.expect("at halfway remove")
        result = service.reconcile()
        assert result.failed == result.finished == result.orphans == result.problems == []
        for worker in (creator, destroyer):
            worker.process.kill()
            worker.process.wait()
        result = service.reconcile()
    assert result.finished == [doomed.id]
    [left] = file_world.store.find_all()
    assert result.failed == [left.id]
    assert left.status is Status.ERROR
