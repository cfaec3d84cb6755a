# SPDX-License-Identifier: Apache-2.0
"""Processes killed at each step of a creation or removal, and what the next server does."""

import signal
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from _pytest.mark import ParameterSet

from tests.service.fakes import TIMEOUT_S, EventSummary, World
from tests.service.test_reconcile import ENDED, INTERRUPTED
from tests.service.worker import run_worker
from waggle_fsstore import CapacityError, FileStore, LocalProvider, Reconciliation, audit
from waggle_fsstore.service.environments import EnvironmentService


class Kill(NamedTuple):
    """Where a process is killed, what that leaves, and the status after a reconciliation.

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
    "destroy: halfway the provider": Kill("halfway remove", "destroying", "no", "nothing"),
    "destroy: after the provider": Kill("after remove", "destroying", "no", "nothing"),
    "destroy: before it is deleted": Kill("before delete", "destroying", "no", "nothing"),
    "destroy: once it is deleted": Kill("after delete", "nothing", "no", "nothing"),
}

CREATED = EventSummary("created", "creating", "worker", "create was called")
RUNNING = EventSummary("updated", "running", "worker", "its workspace is ready")
MARKED = EventSummary("updated", "destroying", "worker", "destroy was called")
REMOVED = EventSummary("deleted", None, "worker", "its workspace is removed")
FAILED = EventSummary("updated", "error", "reconcile", INTERRUPTED)
CLAIMED = EventSummary("updated", "destroying", "reconcile", ENDED)
DELETED = EventSummary("deleted", None, "reconcile", ENDED)


def table(kills: dict[str, Kill]) -> list[ParameterSet]:
    """Return the kills as parameters, whose ids read as lines of a report."""
    return [
        pytest.param(
            kill, id=f"{name} -> {kill.left}, {kill.workspace} workspace -> {kill.outcome}"
        )
        for name, kill in kills.items()
    ]


class Site:
    """A store and its workspaces, as a restarted server finds them."""

    def __init__(self, directory: Path) -> None:
        self.store = FileStore(directory / "store", durable=False)
        self.world = World(self.store, directory / "workspaces")
        self.directory = directory
        self.provider = LocalProvider(directory / "workspaces")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.close()

    def service(self, *, capacity: int = 1) -> EnvironmentService:
        return self.world.service(provider=self.provider, capacity=capacity)

    def workspace(self) -> str:
        """Return how much of a workspace exists: ``no``, ``half`` or ``whole``."""
        entries = (self.directory / "workspaces").glob("*")
        directories = [path for path in entries if path.is_dir() and path.name != ".trash"]
        if not directories:
            return "no"
        [path] = directories
        return "whole" if (path / ".waggle-workspace").exists() else "half"

    def status(self) -> str:
        """Return the status of the environment, ``nothing`` if there is none."""
        return next((one.status.value for one in self.store.find_all()), "nothing")


def kill_worker_at(directory: Path, point: str, *verbs: str) -> None:
    """Run a worker that is killed at a point."""
    with run_worker(directory, "kill", point, *verbs, provider="local") as worker:
        worker.process.wait(TIMEOUT_S)
        assert worker.process.returncode == -signal.SIGKILL


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of a store that was used before."""
    with Site(tmp_path) as site:
        service = site.service()
        service.destroy(service.create("shell").id)
    return tmp_path


def assert_usable(site: Site) -> None:
    """Check that what is left takes capacity only while running, and can be destroyed."""
    found = site.store.find_all()
    service = site.service()
    if site.status() == "running":
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
def test_reconcile_after_kill_during_creation(directory: Path, kill: Kill) -> None:
    """The next server sees what was in progress, and nothing is lost or kept for ever."""
    kill_worker_at(directory, kill.point, "create", "1")
    with Site(directory) as site:
        assert (site.status(), site.workspace()) == (kill.left, kill.workspace)
        result = site.service().reconcile()
        assert (site.status(), site.workspace()) == (kill.outcome, kill.workspace)
        found = site.store.find_all()
        assert result == Reconciliation(failed=[one.id for one in found if kill.outcome == "error"])
        for one in found:
            assert one.owner is None
            assert one.status_reason == (INTERRUPTED if kill.outcome == "error" else "")
            last = RUNNING if kill.outcome == "running" else FAILED
            assert site.world.events_of(one.id) == [CREATED, last]
        assert_usable(site)


@pytest.mark.parametrize("kill", table(REMOVALS))
def test_reconcile_after_kill_during_removal(directory: Path, kill: Kill) -> None:
    """The next server finishes a stored removal, and keeps an environment without one."""
    with Site(directory) as site, audit(actor="worker"):
        name = site.service().create("shell").id
    kill_worker_at(directory, kill.point, "destroy", name)
    with Site(directory) as site:
        assert (site.status(), site.workspace()) == (kill.left, kill.workspace)
        result = site.service().reconcile()
        assert site.status() == kill.outcome
        assert site.workspace() == ("whole" if kill.outcome == "running" else "no")
        assert result == Reconciliation(finished=[name] if kill.left == "destroying" else [])
        ending = {
            "running": [],
            "destroying": [MARKED, CLAIMED, DELETED],
            "nothing": [MARKED, REMOVED],
        }
        assert site.world.events_of(name) == [CREATED, RUNNING, *ending[kill.left]]
        assert_usable(site)


@pytest.mark.parametrize("point", ["after update", "halfway remove", "after remove"])
def test_reconcile_after_kill_during_reconcile(directory: Path, point: str) -> None:
    """A reconciliation that is killed during a removal is finished by the next one."""
    with Site(directory) as site:
        name = site.service().create("shell").id
    kill_worker_at(directory, "before remove", "destroy", name)
    kill_worker_at(directory, point, "reconcile")
    with Site(directory) as site:
        assert site.status() == "destroying"
        assert site.service().reconcile() == Reconciliation(finished=[name])
        assert_usable(site)


def test_reconcile_keeps_creation_that_was_done(directory: Path) -> None:
    """Of two creations, the one that was done keeps running, and the other becomes an error."""
    with run_worker(
        directory, "create", "1", "kill", "halfway make", "create", "1", provider="local"
    ) as worker:
        name = worker.read_line().removeprefix("done ")
        worker.process.wait(TIMEOUT_S)
    with Site(directory) as site:
        service = site.service(capacity=2)
        result = service.reconcile()
        assert len(result.failed) == 1
        assert result == Reconciliation(failed=result.failed)
        assert service.probe(name).is_running
        service.create("shell")
