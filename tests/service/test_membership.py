# SPDX-License-Identifier: Apache-2.0
"""Hosts that share a store: each does what concerns its own files, and nothing else."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from tests.service.conftest import open_world
from tests.service.fakes import DirectoryProvider, FakeHosts, Gate, World, owner
from tests.service.test_workspaces import FakeExecutor
from waggle_fsstore.domain.environment import Environment, Owner, Runtime, Status
from waggle_fsstore.domain.errors import (
    DestroyPendingError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    HostNotFoundError,
    HostRefusedError,
    IdempotencyKeyReusedError,
    LockTimeoutError,
    OtherHostError,
    WorkspaceGoneError,
)
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.host_agent import HostAgent, Watched
from waggle_fsstore.service.membership import SharedMembership
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.touch_buffer import FLUSH_INTERVAL

WAIT_S = 10.0

# A process of another machine: its boot says that it ended, if it is judged here.
FOREIGN = Owner(host="elsewhere", boot_id="another boot", pid=1, process_started=1)


class Hosts:
    """Services of several hosts over one store in memory."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.table = FakeHosts(world.clock)
        self._root = root
        self._roots: dict[str, DirectoryProvider] = {}

    def service(
        self,
        name: str,
        *,
        url: str | None = None,
        wall: Callable[[], datetime] | None = None,
        is_operator: bool = False,
        **options: Any,
    ) -> EnvironmentService:
        """Return the service of a host, which has joined unless it is an operator's."""
        root = self._root / name / "workspaces"
        provider = self._roots.setdefault(name, DirectoryProvider(root, self.world.script))
        membership = SharedMembership(
            self.table,
            None,
            lambda: f"id of {name}",
            name=name,
            url=f"http://{name}.example" if url is None else url,
            wall=wall or self.world.clock.now,
        )
        ports = Ports(range(20_000, 20_010), is_free=lambda _: True, is_here=membership.owns)
        options.setdefault("takeover_after", WAIT_S)
        service = self.world.service(
            provider=provider, membership=membership, ports=ports, now=membership.now, **options
        )
        if not is_operator:
            membership.join()
        return service

    @property
    def watched(self) -> Watched:
        """The store, which has few events."""
        store = cast("Any", self.world.store)
        store.last_change = lambda: max((one.seq for one in self.world.store.history()), default=0)
        return cast("Watched", store)

    def workspaces(self, name: str) -> set[str]:
        return self._roots[name].workspaces()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    world = open_world("memory", tmp_path)
    yield Hosts(world, tmp_path)
    world.close()


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start a call; return its thread, and what it will have returned or raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001  # The test looks at it.
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def await_destroying(world: World, environment_id: str) -> None:
    """Wait until an environment is being destroyed, or is gone: that may take a moment only."""
    for _ in range(1_000):
        try:
            if world.stored(environment_id).status is Status.DESTROYING:
                return
        except EnvironmentNotFoundError:
            return
        time.sleep(0.01)
    raise AssertionError(f"{environment_id} is not being destroyed")


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("call", ["reconcile", "sweep"])
def test_pass_leaves_environments_of_other_hosts_alone(
    hosts: Hosts, status: Status, call: str
) -> None:
    """Neither a foreign owner, nor a missing workspace, nor its age makes a host touch it."""
    hosts.service("a")
    other = hosts.service("b", ticks=True)
    name = hosts.world.store_environment(
        workspace=False, status=status, host_id="id of a", owner=FOREIGN
    )
    other.sweep()
    hosts.world.clock.advance(timedelta(hours=5))
    before = hosts.world.stored(name)
    result = getattr(other, call)()
    assert (result.problems, result.is_complete) == ([], True)
    assert hosts.world.stored(name).revision == before.revision


def test_each_host_takes_care_of_its_own(hosts: Hosts) -> None:
    """What one host must not touch, the other one settles and expires."""
    service = hosts.service("a")
    running = service.create("shell").id
    halfway = hosts.world.store_environment(
        status=Status.CREATING, host_id="id of a", owner=owner(pid=2**22 + 1)
    )
    assert service.reconcile().failed == [halfway]
    service.sweep()
    hosts.world.clock.advance(timedelta(hours=5))
    assert set(service.sweep().expired) == {running, halfway}


def test_every_host_finds_and_touches_all(hosts: Hosts) -> None:
    """Records are the same everywhere, and a use is a use."""
    made = hosts.service("a").create("shell")
    other = hosts.service("b")
    assert [one.id for one in other.find_all()] == [made.id]
    hosts.world.clock.advance(timedelta(minutes=1))
    assert other.touch(made.id).last_used == hosts.world.clock.time
    assert other.membership.name_of(other.find_by_id(made.id)) == "a"
    assert other.locate(made) == ""


def test_use_on_another_host_prevents_expiry(hosts: Hosts) -> None:
    """The host with the files sees each use, and starts the idle time again."""
    first = hosts.service("a")
    made = first.create("shell", timeout=timedelta(minutes=1))
    other = hosts.service("b")
    for _ in range(3):
        hosts.world.clock.advance(timedelta(seconds=50) + FLUSH_INTERVAL)
        other.touch(made.id)
        hosts.world.touches.flush()
        assert first.sweep().expired == []
    hosts.world.clock.advance(timedelta(seconds=80) + FLUSH_INTERVAL)
    assert first.sweep().expired == [made.id]


def test_files_of_other_host_are_out_of_reach(hosts: Hosts) -> None:
    """What needs the files is refused with the name of the host that has them."""
    made = hosts.service("a").create("shell")
    other = hosts.service("b")
    with pytest.raises(OtherHostError, match="are on host a: call the server of") as caught:
        other.probe(made.id)
    assert (caught.value.host, caught.value.url) == ("a", "http://a.example")
    hosts.service("a").destroy(made.id)
    with pytest.raises(OtherHostError, match="are on host a: "):
        other.undelete(made.id)


# Removal


def test_removal_on_another_host_is_done_by_the_host_with_the_files(hosts: Hosts) -> None:
    """It is marked, removed where the files are, and over when the call returns."""
    first, other = hosts.service("a"), hosts.service("b")
    made = first.create("shell")
    with HostAgent(first, hosts.watched, lambda _: None):
        assert other.destroy(made.id)
    assert (hosts.workspaces("a"), hosts.world.exists(made.id)) == (set(), False)
    asked, claimed, deleted = hosts.world.events_of(made.id)[-3:]
    assert (asked.status, asked.reason) == ("destroying", "destroy was called")
    assert (claimed.actor, claimed.reason) == ("reconcile", "another host asked for it")
    assert deleted.kind == "deleted"


@pytest.mark.parametrize("is_watched", [True, False])
def test_removal_on_another_host_keeps_executions(hosts: Hosts, is_watched: bool) -> None:
    """What ran on the host with the files is in the history, before its removal is finished."""
    first = hosts.service("a", executor=FakeExecutor())
    other = hosts.service("b", takeover_after=0.0)
    made = first.create("shell")
    first.workspaces.execute(made.id, "1")
    with pytest.raises(DestroyPendingError):
        other.destroy(made.id)
    if is_watched:
        first.finish_removals()
    else:
        first.sweep()
    reasons = [event.reason for event in hosts.world.events_of(made.id)]
    assert len([reason for reason in reasons if "ran 1 program" in reason]) == 1
    assert not hosts.world.exists(made.id)


def test_removal_that_takes_long_is_told_with_the_host(hosts: Hosts) -> None:
    """The caller learns which host has not done it yet; that one does it in its next pass."""
    first = hosts.service("a")
    other = hosts.service("b", takeover_after=0.0)
    made = first.create("shell")
    with pytest.raises(DestroyPendingError, match=f"'{made.id}' is destroying: host a has"):
        other.destroy(made.id)
    stored = hosts.world.stored(made.id)
    assert (stored.status, stored.owner, stored.discard_files) == (Status.DESTROYING, None, True)
    hosts.world.clock.advance(timedelta(minutes=1))
    with pytest.raises(DestroyPendingError, match=r"a \(not heard of since 20"):
        other.destroy(made.id)
    assert hosts.world.stored(made.id).revision > stored.revision - 1
    assert first.reconcile().finished == [made.id]
    assert hosts.workspaces("a") == set()


def test_removal_elsewhere_keeps_owner_that_is_at_work(hosts: Hosts) -> None:
    """A removal that a process of the right host has begun is not taken away from it."""
    hosts.service("a")
    other = hosts.service("b", takeover_after=0.0)
    name = hosts.world.store_environment(status=Status.DESTROYING, host_id="id of a", owner=FOREIGN)
    with pytest.raises(DestroyPendingError):
        other.destroy(name)
    assert hosts.world.stored(name).owner == FOREIGN


@pytest.mark.parametrize("status", list(Status))
def test_removal_elsewhere_can_be_asked_for_in_any_status(hosts: Hosts, status: Status) -> None:
    """As with a removal here, no status is an error, not even one that only an edit can store."""
    hosts.service("a")
    other = hosts.service("b", takeover_after=0.0)
    name = hosts.world.store_environment(status=status, host_id="id of a")
    with pytest.raises(DestroyPendingError):
        other.destroy(name)
    asked = hosts.world.stored(name)
    assert asked.discard_files
    assert asked.status is (Status.DESTROYED if status is Status.DESTROYED else Status.DESTROYING)


def test_agent_does_not_wait_for_creation(hosts: Hosts) -> None:
    """A creation that takes long must not make its host silent: its removal runs beside it."""
    first, other = hosts.service("a", takeover_after=60.0), hosts.service("b")
    gate = Gate()
    hosts.world.script.at("halfway make", gate)
    creating, _ = in_thread(lambda: first.create("shell"))
    gate.wait_until_reached()
    (made,) = other.find_all()
    with HostAgent(first, hosts.watched, lambda _: None):
        try:
            assert other.destroy(made.id)
        finally:
            gate.open()
            creating.join(WAIT_S)
    assert (hosts.workspaces("a"), hosts.world.exists(made.id)) == (set(), False)


def test_removal_elsewhere_stops_creation(hosts: Hosts) -> None:
    """An environment that another host is creating is removed by that host, and not revived."""
    first, other = hosts.service("a"), hosts.service("b")
    gate = Gate()
    hosts.world.script.at("halfway make", gate)
    creating, created = in_thread(lambda: first.create("shell"))
    gate.wait_until_reached()
    (name,) = (one.id for one in other.find_all())
    with HostAgent(first, hosts.watched, lambda _: None):
        destroying, destroyed = in_thread(lambda: other.destroy(name))
        await_destroying(hosts.world, name)
        gate.open()
        creating.join(WAIT_S)
        destroying.join(WAIT_S)
    assert isinstance(created[0], EnvironmentNotFoundError)
    assert destroyed == [True]
    assert (hosts.workspaces("a"), hosts.world.exists(name)) == (set(), False)


def test_refused_removal_elsewhere_changes_nothing(hosts: Hosts) -> None:
    """The condition of the caller is asked for in the same update."""
    made = hosts.service("a").create("shell")
    other = hosts.service("b")
    assert other.destroy(made.id, only_if=lambda stored: stored.name == "x") is False
    assert hosts.world.stored(made.id).status is Status.RUNNING


def test_operator_removes_by_the_host(hosts: Hosts) -> None:
    """A program that is no host creates nothing, and asks the right host to remove."""
    first = hosts.service("a")
    made = first.create("shell")
    operator = hosts.service("op", is_operator=True)
    assert operator.membership.id is None
    with HostAgent(first, hosts.watched, lambda _: None):
        operator.destroy(made.id)
    assert [one.name for one in hosts.table.find_all()] == ["a"]


# Hosts that are gone


def test_environments_of_removed_host_become_errors(hosts: Hosts) -> None:
    """An operator declares a host gone: then any other one can destroy what it had."""
    first = hosts.service("a")
    running = first.create("shell").id
    creating = hosts.world.store_environment(
        workspace=False, status=Status.CREATING, host_id="id of a", owner=FOREIGN
    )
    going = hosts.world.store_environment(
        workspace=False, status=Status.DESTROYING, host_id="id of a", owner=FOREIGN
    )
    other = hosts.service("b")
    own = other.create("shell").id
    assert other.remove_host("a").name == "a"
    assert hosts.world.stored(running).status_reason == "its host a was removed"
    assert hosts.world.stored(creating).status is Status.ERROR
    assert not hosts.world.exists(going)
    assert hosts.world.stored(own).status is Status.RUNNING
    assert other.destroy(running)
    assert not any(one.id == running for one in other.find_all())
    assert running in hosts.workspaces("a")


def test_sweep_completes_interrupted_removal_of_host(hosts: Hosts) -> None:
    """Once a host is declared gone, the passes of the others treat its environments as errors."""
    made = hosts.service("a").create("shell")
    other = hosts.service("b")
    hosts.table.remove("a")
    assert other.reconcile().lost == [made.id]
    assert hosts.world.stored(made.id).status is Status.ERROR


def test_wait_for_host_ends_with_its_removal(hosts: Hosts) -> None:
    """A call that waits for a host does the rest as soon as an operator declares it gone."""
    made = hosts.service("a").create("shell")
    other = hosts.service("b")
    thread, outcome = in_thread(lambda: other.destroy(made.id))
    await_destroying(hosts.world, made.id)
    hosts.table.remove("a")
    thread.join(WAIT_S)
    assert outcome == [True]


def test_unknown_host_cannot_be_removed(hosts: Hosts) -> None:
    """A misspelt name is an error, and a store of one machine has no hosts."""
    with pytest.raises(HostNotFoundError):
        hosts.service("a").remove_host("b")
    with pytest.raises(HostNotFoundError):
        hosts.world.service().remove_host("a")


def test_removed_host_is_refused(hosts: Hosts) -> None:
    """It may not join again, and its agent says so once, and ends."""
    first = hosts.service("a")
    hosts.table.remove("a")
    with pytest.raises(HostRefusedError):
        hosts.service("a")
    refused: list[HostRefusedError] = []
    agent = HostAgent(first, hosts.watched, refused.append)
    agent.start()
    agent._thread.join(WAIT_S)
    assert [one.name for one in refused] == ["a"]


def test_host_waits_for_its_earlier_boot(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a quick reboot it joins as soon as the last heartbeat is old enough."""
    monkeypatch.setattr("waggle_fsstore.service.membership._POLL_S", 0.01)
    hosts.table.copies = 3
    assert hosts.service("a").membership.id == "id of a"
    assert hosts.table.copies == 0


def test_copy_of_a_host_is_refused_in_the_end(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that has a copy of the id does not wait for ever."""
    monkeypatch.setattr("waggle_fsstore.service.membership._POLL_S", 0.01)
    monkeypatch.setattr("waggle_fsstore.service.membership._MAX_WAIT", timedelta(seconds=0.1))
    hosts.table.copies = 10**6
    with pytest.raises(HostRefusedError, match="another machine has the same id"):
        hosts.service("a")
    assert hosts.table.find_all() == []


def test_hosts_are_read_once_by_creations(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has joined asks for nothing more at each creation."""
    service = hosts.service("a", capacity=100)
    monkeypatch.setattr(FakeHosts, "find_all", None)
    monkeypatch.setattr(FakeHosts, "now", None)
    assert service.create("shell").host_id == "id of a"


# Environments without a host


def test_files_are_claimed_by_the_host_that_has_them(hosts: Hosts) -> None:
    """After a copy from files, the host with the workspace takes the record over, audited."""
    first, other = hosts.service("a"), hosts.service("b")
    name = hosts.world.store_environment(workspace=False, status=Status.RUNNING)
    (hosts._root / "a" / "workspaces" / name).mkdir(parents=True)
    (hosts._root / "a" / "workspaces" / name / "whole").touch()
    for call in (other.reconcile, other.sweep):
        assert (call().lost, hosts.world.stored(name).host_id) == ([], None)
    assert first.reconcile().lost == []
    assert hosts.world.stored(name).host_id == "id of a"
    event = hosts.world.events_of(name)[-1]
    assert (event.actor, event.reason) == ("reconcile", "its workspace is on host a")
    first.reconcile()
    assert hosts.world.events_of(name)[-1] == event


def test_files_of_unknown_host_are_claimed_too(hosts: Hosts) -> None:
    """After a copy between databases, the host of a record may not be one of this store."""
    first, other = hosts.service("a"), hosts.service("b")
    names = [
        hosts.world.store_environment(
            workspace=False, status=Status.RUNNING, host_id="unknown", owner=FOREIGN
        )
        for _ in range(2)
    ]
    (hosts._root / "a" / "workspaces" / names[0]).mkdir(parents=True)
    (hosts._root / "a" / "workspaces" / names[0] / "whole").touch()
    for call in (other.reconcile, other.sweep, first.reconcile, other.sweep):
        assert call().problems == []
    assert [hosts.world.stored(one).host_id for one in names] == ["id of a", "unknown"]
    assert hosts.world.stored(names[1]).status is Status.RUNNING
    assert other.destroy(names[1])
    assert not hosts.world.exists(names[1])


def test_record_without_files_can_be_destroyed_anywhere(hosts: Hosts) -> None:
    """What no host has claimed, an operator can still remove."""
    name = hosts.world.store_environment(workspace=False, status=Status.RUNNING)
    assert hosts.service("b").destroy(name)
    assert not hosts.world.exists(name)


def test_expired_files_of_a_copied_store_come_back_where_they_are(hosts: Hosts) -> None:
    """An environment that expired before the copy is undeleted by the host with its files."""
    first, other = hosts.service("a"), hosts.service("b")
    name = hosts.world.store_environment(workspace=False, status=Status.RUNNING)
    hosts.world.real_store.delete(name)
    (hosts._root / "a" / "workspaces" / name).mkdir(parents=True)
    (hosts._root / "a" / "workspaces" / name / "whole").touch()
    with pytest.raises(WorkspaceGoneError):
        other.undelete(name)
    assert first.undelete(name).host_id == "id of a"


def test_workspace_of_another_hosts_record_is_an_orphan(hosts: Hosts) -> None:
    """Files without a record of this host are reported, though the id is stored."""
    made = hosts.service("a").create("shell")
    (hosts._root / "b" / "workspaces" / made.id).mkdir(parents=True)
    assert hosts.service("b").reconcile().orphans == [made.id]


# Time, ports and keys


def test_time_is_that_of_the_store(hosts: Hosts) -> None:
    """Hosts whose clocks differ by ten minutes agree on each use, and expire nothing early."""
    clock = hosts.world.clock
    first = hosts.service("a", wall=lambda: clock.now() - timedelta(minutes=10))
    other = hosts.service("b", wall=lambda: clock.now() + timedelta(minutes=10))
    made = first.create("shell", timeout=timedelta(minutes=1))
    assert (made.created_at, made.last_used) == (clock.time, clock.time)
    clock.advance(timedelta(seconds=40))
    assert other.touch(made.id).last_used == clock.time
    hosts.world.touches.flush()
    clock.advance(timedelta(seconds=40))
    assert first.sweep().expired == []
    assert first.idle_time(first.find_by_id(made.id)) == timedelta(seconds=40)


def test_hosts_use_the_same_ports(hosts: Hosts) -> None:
    """A port belongs to a machine: the next one has all of them too."""
    first, other = hosts.service("a", capacity=100), hosts.service("b", capacity=100)
    ports = [[one.create("shell").ssh_port for _ in range(10)] for one in (first, other)]
    assert sorted(ports[0]) == sorted(ports[1]) == list(range(20_000, 20_010))


def test_repeated_call_finds_creation_of_another_host(hosts: Hosts) -> None:
    """A call that is repeated on another server returns what the first one created."""
    first, other = hosts.service("a"), hosts.service("b")
    made = first.create("shell", idempotency_key="key")
    assert other.create("shell", idempotency_key="key").id == made.id
    with pytest.raises(IdempotencyKeyReusedError):
        other.create("python", idempotency_key="key")


def test_repeated_call_waits_for_creation_of_another_host(hosts: Hosts) -> None:
    """A creation that another host is working on is not taken for interrupted."""
    hosts.service("a")
    other = hosts.service("b")
    key = hosts.service("a").create("shell", idempotency_key="key").idempotency
    halfway = Environment(
        name="n",
        runtime=Runtime.SHELL,
        host_id="id of a",
        owner=FOREIGN,
        provider="fake",
        idempotency=key,
    )
    with pytest.raises(EnvironmentAlreadyExistsError):
        hosts.world.real_store.create(halfway)
    (first,) = other.find_all()
    hosts.world.real_store.delete(first.id)
    hosts.world.real_store.save(halfway)
    cancellation = Cancellation()
    thread, outcome = in_thread(
        lambda: other.create("shell", idempotency_key="key", cancellation=cancellation)
    )
    time.sleep(0.1)
    assert (outcome, hosts.world.stored(halfway.id).status) == ([], Status.CREATING)
    cancellation.request()
    thread.join(WAIT_S)
    assert hosts.world.stored(halfway.id).status is Status.CREATING


# The agent


def test_agent_goes_on_after_failures(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that fails for a while is reported once, and then the agent does its work."""
    monkeypatch.setattr("waggle_fsstore.service.host_agent.HEARTBEAT", timedelta(seconds=0.01))
    first, other = hosts.service("a"), hosts.service("b")
    made = first.create("shell")
    real, failures = first.membership.beat, threading.Semaphore(0)

    def beat() -> None:
        if Status.RUNNING in [one.status for one in hosts.world.store.find_all()]:  # Not asked yet.
            failures.release()
            raise LockTimeoutError("/s", None, 1.0)
        real()

    monkeypatch.setattr(first.membership, "beat", beat)
    with HostAgent(first, hosts.watched, lambda _: None):
        for _ in range(2):
            assert failures.acquire(timeout=WAIT_S)
        assert other.destroy(made.id)
    assert sum("does not see what the others ask" in text for text in caplog.messages) == 1


def test_agent_shows_that_its_host_works(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others see when it was last heard of."""
    monkeypatch.setattr("waggle_fsstore.service.host_agent.HEARTBEAT", timedelta(seconds=0.01))
    first = hosts.service("a")
    hosts.world.clock.advance(timedelta(hours=1))
    (before,) = hosts.table.find_all()
    assert before.is_silent(hosts.world.clock.time)
    with HostAgent(first, hosts.watched, lambda _: None):
        for _ in range(1_000):
            (now,) = hosts.table.find_all()
            if not now.is_silent(hosts.world.clock.time):
                break
            time.sleep(0.01)
    assert not now.is_silent(hosts.world.clock.time)
