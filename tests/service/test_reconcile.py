# SPDX-License-Identifier: Apache-2.0
"""Reconciling: what a process that is gone left halfway is brought to an end, and told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.fakes import FolderProvider, Step, World, failing, owner
from tests.service.test_removal import store_one
from tests.service.worker import started
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
from waggle_fsstore.service.in_progress import IN_HAND

ENDED = "the process that was removing it ended"
INTERRUPTED = "could not be created: the process that was at it ended"
NOBODY = "could not be created: nobody is at it"

GONE: dict[str, Callable[[], Owner | None]] = {
    "nobody": lambda: None,
    "another boot": lambda: owner(boot_id="another", pid=this_process().pid),
    "no such process": owner,
    "its number is another's now": lambda: owner(pid=this_process().pid, process_started=1),
    "a thread of this process that is done": this_process,
}


@pytest.mark.parametrize("by", GONE)
def test_an_interrupted_creation(world: World, by: str) -> None:
    """It becomes an error, which takes no room and can be destroyed."""
    name = store_one(world, owner=GONE[by]())
    result = world.service().reconcile()
    assert result.failed == [name]
    stored = world.stored(name)
    assert (stored.status, stored.owner) == (Status.ERROR, None)
    reason = NOBODY if by == "nobody" else INTERRUPTED
    assert stored.status_reason == reason
    assert world.story(name)[1:] == [Step("updated", "error", "reconcile", reason)]
    assert world.service().destroy(name)
    assert not world.is_there(name)


@pytest.mark.parametrize("by", GONE)
@pytest.mark.parametrize("workspace", [True, False])
def test_an_interrupted_removal(world: World, by: str, workspace: bool) -> None:
    """It is finished, whether or not the workspace was gone already."""
    name = store_one(world, status=Status.DESTROYING, owner=GONE[by](), workspace=workspace)
    result = world.service().reconcile()
    assert result.finished == [name]
    assert result.strays == result.problems == []
    assert not world.is_there(name)
    assert world.story(name)[1:] == [
        Step("updated", "destroying", "reconcile", ENDED),
        Step("deleted", None, "reconcile", ENDED),
    ]


@pytest.mark.parametrize("status", [Status.CREATING, Status.DESTROYING])
@pytest.mark.parametrize("is_here", [True, False])
def test_what_another_process_is_at(
    world: World, living: Owner, status: Status, is_here: bool
) -> None:
    """It is left alone, also if the process cannot be seen from here."""
    by = living if is_here else owner(host="another")
    name = store_one(world, status=status, owner=by)
    before = world.stored(name)
    service = world.service()
    for result in (service.reconcile(), service.sweep()):
        assert result.failed == result.finished == result.expired == result.problems == []
    assert world.stored(name).revision == before.revision


@pytest.mark.parametrize("status", [Status.CREATING, Status.DESTROYING])
def test_what_a_thread_of_this_process_is_at(world: World, status: Status) -> None:
    """It is left alone for as long as that thread is at it."""
    name = store_one(world, status=status, owner=this_process())
    service = world.service()
    with IN_HAND.hold(name):
        assert service.reconcile().failed == service.sweep().finished == []
        assert world.stored(name).status is status
    result = service.sweep()
    assert result.failed + result.finished == [name]


def test_what_is_finished_meanwhile(world: World) -> None:
    """What its creator stored since the store was read is not taken for interrupted."""
    name = store_one(world, owner=owner())
    world.script.at(
        "before update",
        lambda: world.store.real.update(name, lambda one: one.transition_to(Status.RUNNING)),
    )
    result = world.service().reconcile()
    assert world.stored(name).is_running
    assert result.failed == result.problems == []


def test_a_workspace_that_is_gone(world: World) -> None:
    """Its environment becomes an error that says so; what is well stays as it is."""
    service = world.service()
    lost, well = (service.create("shell") for _ in range(2))
    (world.provider.root / lost.id / "whole").unlink()
    assert service.reconcile().lost == [lost.id]
    assert world.stored(lost.id).status_reason == "its workspace is gone"
    assert world.story(lost.id)[2:] == [
        Step("updated", "error", "reconcile", "its workspace is gone")
    ]
    assert world.stored(well.id).revision == well.revision
    assert service.destroy(lost.id)


@pytest.mark.parametrize(
    "error", [ProviderError("fake", "no answer"), OSError(5, "Input/output error"), ValueError()]
)
def test_a_provider_that_cannot_tell(world: World, error: Exception) -> None:
    """What nobody knows to be gone goes on running; it is told, and the rest is looked at."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(3))
    (world.provider.root / names[2] / "whole").unlink()
    world.script.at("before probe", failing(error))
    result = service.reconcile()
    assert len(result.problems) == 1
    assert result.problems[0].startswith(f"environment {names[0]}: ")
    assert world.stored(names[0]).is_running
    assert result.lost == [names[2]]


def test_a_provider_that_cannot_work(world: World) -> None:
    """All is left as it is and to the next pass, what nobody is at too; it is told once."""
    service = world.service()
    lost = service.create("shell").id
    shutil.rmtree(world.provider.root)
    left = [store_one(world, status=status) for status in (Status.CREATING, Status.DESTROYING)]
    world.script.at("before check", failing(ProviderError("fake", "not mounted")))
    result = service.reconcile()
    assert (result.problems, result.is_complete) == (["workspaces: not mounted"], False)
    assert result.failed == result.finished == result.lost == []
    assert world.stored(lost).is_running
    result = service.reconcile()
    assert (result.problems, result.is_complete) == ([], True)
    assert [*result.failed, *result.finished, *result.lost] == [*left, lost]


def test_destroyed_while_it_is_looked_at(world: World) -> None:
    """Somebody else was faster: nothing comes back, and it is no problem."""
    service = world.service()
    name = service.create("shell").id
    world.script.at("before probe", lambda: service.destroy(name))
    result = service.reconcile()
    assert result.lost == result.problems == []
    assert not world.is_there(name)


def test_strays(world: World) -> None:
    """A workspace without a record is told, and not touched."""
    service = world.service()
    created = service.create("shell")
    for name in ("b", "a"):
        (world.provider.root / name).mkdir()
    assert service.reconcile().strays == ["a", "b"]
    assert world.provider.workspaces() == {"a", "b", created.id}


def test_what_is_made_meanwhile_is_no_stray(world: World) -> None:
    """A workspace that came to be since the records were read has one."""
    service = world.service()
    world.script.at("after find_all", lambda: service.create("shell"))
    assert service.reconcile().strays == []
    assert len(world.provider.workspaces()) == 1


def test_strays_cannot_be_found(world: World) -> None:
    """That is told once; all else is done."""
    name = store_one(world, owner=owner())
    world.script.always("before find_strays", failing(ProviderError("fake", "cannot list")))
    result = world.service().reconcile()
    assert result.failed == [name]
    assert result.problems == ["workspaces: cannot list"]


def test_of_another_provider(world: World) -> None:
    """What is well of it, or expired, stays as it is, and is not asked for here."""
    other = FolderProvider(world.provider.root / "other", world.script, name="other")
    created = world.service(provider=other).create("shell")
    result = world.service().reconcile()
    assert result.lost == result.problems == []
    left = store_one(world, status=Status.DESTROYING, owner=owner())
    world.store.real.update(left, lambda one: setattr(one, "provider", "other"))
    result = world.service().reconcile()
    assert result.finished == []
    assert result.problems == [f"environment {left}: it was made by 'other', which is not here"]
    assert world.stored(created.id) == created
    assert other.workspaces() == {created.id}
    assert world.stored(left).status is Status.DESTROYING


def spoil(tmp_path: Path, text: str) -> Path:
    """A bad document that comes first of all."""
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
def test_unreadable_documents(
    file_world: World, tmp_path: Path, text: str, error: type[Exception]
) -> None:
    """Each is told, keeps nobody from anything, and stays as it is."""
    interrupted = store_one(file_world, owner=owner())
    left = store_one(file_world, status=Status.DESTROYING)
    path = spoil(tmp_path, text)
    service = file_world.service()
    result = service.reconcile()
    assert [type(one) for one in result.unreadable] == [error]
    assert result.failed == [interrupted]
    assert result.finished == [left]
    assert [type(one) for one in service.sweep().unreadable] == [error]
    created = service.create("shell")
    assert service.destroy(created.id)
    assert path.read_text() == text


def test_the_workspace_of_an_unreadable_document(file_world: World, tmp_path: Path) -> None:
    """It is no stray: whoever mends the document has it again."""
    created = file_world.service().create("shell")
    (tmp_path / "store" / "environments" / f"{created.id}.json").write_text("{")
    result = file_world.service().reconcile()
    assert len(result.unreadable) == 1
    assert result.strays == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        WaggleError("odd"),
        RuntimeError("odd"),
    ],
)
def test_the_store_fails_in_the_middle(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, without paths, the others are seen to, and the next one sees to it too."""
    names = sorted(store_one(world, owner=owner()) for _ in range(3))
    service = world.service()
    world.script.at("before update", failing(error), nth=2)
    result = service.reconcile()
    assert result.failed == [names[0], names[2]]
    assert len(result.problems) == 1
    assert result.problems[0].startswith(f"environment {names[1]}: ")
    assert "/s/lock" not in result.problems[0]
    assert names[1] in caplog.text
    assert service.reconcile().failed == [names[1]]


def test_the_lock_is_not_to_be_had(world: World) -> None:
    """It is waited for once: the others are left as they are, and to the next pass."""
    names = sorted(store_one(world, owner=owner()) for _ in range(3))
    service = world.service()
    stuck = failing(LockTimeoutError("/s/lock", None, 10.0))
    for look in (service.reconcile, service.sweep):
        world.script.always("before update", stuck)
        before = world.script.passed.count("before update")
        result = look()
        assert world.script.passed.count("before update") == before + 1
        assert (result.failed, result.is_complete) == ([], False)
        assert result.problems == [f"environment {names[0]}: the store is busy: try again"]
    world.script.forget()
    result = service.reconcile()
    assert (result.failed, result.is_complete) == (names, True)


def test_the_provider_fails_in_the_middle(world: World) -> None:
    """A removal that fails again stays as it is, and the others go."""
    names = sorted(store_one(world, status=Status.DESTROYING, owner=owner()) for _ in range(3))
    service = world.service()
    world.script.at("before remove", failing(ProviderError("fake", "in use")), nth=2)
    result = service.reconcile()
    assert result.finished == [names[0], names[2]]
    assert result.problems == [f"environment {names[1]}: in use"]
    assert world.stored(names[1]).owner is None
    assert service.sweep().finished == [names[1]]


def test_a_reason_that_no_history_takes(world: World) -> None:
    """A provider that talks nonsense does not stop it."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(2))
    (world.provider.root / names[1] / "whole").unlink()
    world.script.at("before probe", failing(WorkspaceGoneError("fake", "a\0b")))
    result = service.reconcile()
    assert result.lost == [names[1]]
    assert len(result.problems) == 1


def test_twice(world: World) -> None:
    """Once all is in order there is nothing more to do."""
    service = world.service()
    store_one(world, owner=owner())
    store_one(world, status=Status.DESTROYING, owner=owner())
    service.create("shell")
    service.reconcile()
    before = len(list(world.store.history()))
    again = service.reconcile()
    assert (again.failed, again.finished, again.lost, again.expired) == ([], [], [], [])
    assert len(list(world.store.history())) == before


def test_beside_another_process(file_world: World, tmp_path: Path) -> None:
    """What a living process creates and destroys is not touched; when it is killed, it is."""
    service = file_world.service()
    doomed = service.create("shell")
    with (
        started(tmp_path, "pause", "halfway make", "create", "1") as creator,
        started(tmp_path, "pause", "halfway remove", "destroy", doomed.id) as destroyer,
    ):
        creator.expect("at halfway make")
        destroyer.expect("at halfway remove")
        result = service.reconcile()
        assert result.failed == result.finished == result.strays == result.problems == []
        for worker in (creator, destroyer):
            worker.process.kill()
            worker.process.wait()
        result = service.reconcile()
    assert result.finished == [doomed.id]
    [left] = file_world.store.find_all()
    assert result.failed == [left.id]
    assert left.status is Status.ERROR
