# SPDX-License-Identifier: Apache-2.0
"""A process that is killed at a step of a creation or a removal, and what is found then."""

import signal
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from _pytest.mark import ParameterSet

from tests.service.fakes import Step, World
from tests.service.test_reconcile import ENDED, INTERRUPTED
from tests.service.worker import started
from waggle_fsstore import CapacityError, FileStore, LocalProvider, Reconciliation, audit
from waggle_fsstore.service.environments import EnvironmentService


class Kill(NamedTuple):
    """Where a process is killed, and what the store and the provider have before and after.

    A workspace is ``no``, ``half`` or ``whole``.
    """

    point: str
    left: str
    workspace: str
    outcome: str


CREATIONS = {
    "create: before it is stored": Kill("before create", "nothing", "no", "nothing"),
    "create: once it is stored": Kill("after create", "creating", "no", "error"),
    "create: before the provider": Kill("before make", "creating", "no", "error"),
    "create: halfway the provider": Kill("halfway make", "creating", "half", "error"),
    "create: after the provider": Kill("after make", "creating", "whole", "error"),
    "create: before it is running": Kill("before update", "creating", "whole", "error"),
    "create: once it is running": Kill("after update", "running", "whole", "running"),
}

REMOVALS = {
    "destroy: before it is marked": Kill("before update", "running", "whole", "running"),
    "destroy: once it is marked": Kill("after update", "destroying", "whole", "nothing"),
    "destroy: before the provider": Kill("before remove", "destroying", "whole", "nothing"),
    "destroy: halfway the provider": Kill("halfway remove", "destroying", "half", "nothing"),
    "destroy: after the provider": Kill("after remove", "destroying", "no", "nothing"),
    "destroy: before it is deleted": Kill("before delete", "destroying", "no", "nothing"),
    "destroy: once it is deleted": Kill("after delete", "nothing", "no", "nothing"),
}

CREATED = Step("created", "creating", "worker", "create was called")
RUNNING = Step("updated", "running", "worker", "its workspace is ready")
MARKED = Step("updated", "destroying", "worker", "destroy was called")
REMOVED = Step("deleted", None, "worker", "its workspace is removed")
FAILED = Step("updated", "error", "reconcile", INTERRUPTED)
CLAIMED = Step("updated", "destroying", "reconcile", ENDED)
DELETED = Step("deleted", None, "reconcile", ENDED)


def table(kills: dict[str, Kill]) -> list[ParameterSet]:
    """Each as a line of a report: where it was killed, what that left, what became of it."""
    return [
        pytest.param(
            kill, id=f"{name} -> {kill.left}, {kill.workspace} workspace -> {kill.outcome}"
        )
        for name, kill in kills.items()
    ]


class Site:
    """A store and its workspaces, as a server finds them that is started anew."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder / "store", durable=False)
        self.world = World(self.store, folder / "workspaces")
        self.folder = folder
        self.provider = LocalProvider(folder / "workspaces")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.close()

    def service(self, *, capacity: int = 1) -> EnvironmentService:
        return self.world.service(provider=self.provider, capacity=capacity)

    def workspace(self) -> str:
        """What is there in all."""
        everything = (self.folder / "workspaces").glob("*")
        folders = [path for path in everything if path.is_dir()]
        if not folders:
            return "no"
        [folder] = folders
        is_whole = (folder / ".waggle-workspace").exists() and not folder.name.startswith(".")
        return "whole" if is_whole else "half"

    def left(self) -> str:
        return next((one.status.value for one in self.store.find_all()), "nothing")


def die(folder: Path, point: str, *verbs: str) -> None:
    """Have a process killed at a point."""
    with started(folder, "kill", point, *verbs, provider="local") as worker:
        worker.process.wait(60)
        assert worker.process.returncode == -signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """That of a store which somebody has used before."""
    with Site(tmp_path) as site:
        service = site.service()
        service.destroy(service.create("shell").id)
    return tmp_path


def use(site: Site) -> None:
    """What is left takes room only while it runs; it can be destroyed, and others created."""
    found = site.store.find_all()
    service = site.service()
    if site.left() == "running":
        assert service.probe(found[0].id).is_running
        with pytest.raises(CapacityError):
            service.create("shell")
    else:
        service.destroy(service.create("shell").id)
    for one in found:
        assert service.destroy(one.id)
    assert site.store.find_all() == []
    assert site.workspace() == "no"
    assert service.reconcile() == Reconciliation()


@pytest.mark.parametrize("kill", table(CREATIONS))
def test_killed_while_it_creates(folder: Path, kill: Kill) -> None:
    """The next server finds what was going on, and nothing is lost or kept for ever."""
    die(folder, kill.point, "create", "1")
    with Site(folder) as site:
        assert (site.left(), site.workspace()) == (kill.left, kill.workspace)
        result = site.service().reconcile()
        assert (site.left(), site.workspace()) == (kill.outcome, kill.workspace)
        found = site.store.find_all()
        assert result == Reconciliation(failed=[one.id for one in found if kill.outcome == "error"])
        for one in found:
            assert one.owner is None
            assert one.status_reason == (INTERRUPTED if kill.outcome == "error" else "")
            last = RUNNING if kill.outcome == "running" else FAILED
            assert site.world.story(one.id) == [CREATED, last]
        use(site)


@pytest.mark.parametrize("kill", table(REMOVALS))
def test_killed_while_it_destroys(folder: Path, kill: Kill) -> None:
    """The next server finishes what was begun; what was not begun runs on."""
    with Site(folder) as site, audit(actor="worker"):
        name = site.service().create("shell").id
    die(folder, kill.point, "destroy", name)
    with Site(folder) as site:
        assert (site.left(), site.workspace()) == (kill.left, kill.workspace)
        result = site.service().reconcile()
        assert site.left() == kill.outcome
        assert site.workspace() == ("whole" if kill.outcome == "running" else "no")
        assert result == Reconciliation(finished=[name] if kill.left == "destroying" else [])
        ending = {
            "running": [],
            "destroying": [MARKED, CLAIMED, DELETED],
            "nothing": [MARKED, REMOVED],
        }
        assert site.world.story(name) == [CREATED, RUNNING, *ending[kill.left]]
        use(site)


@pytest.mark.parametrize("point", ["after update", "halfway remove", "after remove"])
def test_killed_while_it_reconciles(folder: Path, point: str) -> None:
    """What brings a removal to an end can be killed too, and the next one does it."""
    with Site(folder) as site:
        name = site.service().create("shell").id
    die(folder, "before remove", "destroy", name)
    die(folder, point, "reconcile")
    with Site(folder) as site:
        assert site.left() == "destroying"
        assert site.service().reconcile() == Reconciliation(finished=[name])
        use(site)


def test_killed_while_two_are_created(folder: Path) -> None:
    """One that was done goes on, the other one becomes an error."""
    with started(
        folder, "create", "1", "kill", "halfway make", "create", "1", provider="local"
    ) as worker:
        name = worker.hear().removeprefix("done ")
        worker.process.wait(60)
    with Site(folder) as site:
        service = site.service(capacity=2)
        result = service.reconcile()
        assert len(result.failed) == 1
        assert result == Reconciliation(failed=result.failed)
        assert service.probe(name).is_running
        service.create("shell")
