# SPDX-License-Identifier: Apache-2.0
"""The tally: what a service has done, and what has failed, in numbers."""

import threading
from contextlib import suppress
from datetime import timedelta

import pytest

from tests.service.fakes import MINUTE, World, failing, together
from tests.service.test_membership import Hosts
from tests.service.test_membership import hosts as hosts
from tests.service.test_workspaces import FakeExecutor, execution
from waggle_fsstore import (
    CapacityError,
    EnvironmentNotFoundError,
    ProviderError,
    Runtime,
    Status,
    TooManyExecutionsError,
)
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.reaper import Reaper
from waggle_fsstore.service.tally import Tally


def failures(tally: Tally) -> dict[str, int]:
    """Return the kinds of failures that have happened."""
    return {kind: count for kind, count in tally.failures.items() if count}


def test_each_environment_is_counted_once(world: World) -> None:
    """One that is created, destroyed or expires counts as that, and as nothing else."""
    service = world.service()
    destroyed, expired = (service.create("shell", timeout=MINUTE).id for _ in range(2))
    service.destroy(destroyed)
    world.clock.advance(10 * MINUTE)
    assert service.sweep().expired == [expired]
    with pytest.raises(EnvironmentNotFoundError):
        service.destroy(destroyed)
    tally = service.tally
    assert (tally.created, tally.destroyed, tally.expired) == (2, 1, 1)
    assert failures(tally) == {}


def test_repeated_creation_is_counted_once(world: World) -> None:
    """A call that returns the environment of an earlier one has created none."""
    service = world.service()
    for _ in range(2):
        service.create("shell", idempotency_key="once")
    assert service.tally.created == 1


def test_removal_by_two_threads_is_counted_once(world: World) -> None:
    """Of those that remove one environment at once, one has removed it."""
    service = world.service()
    name = service.create("shell").id
    for outcome in together(*[lambda: service.destroy(name)] * 4):
        assert outcome is True or isinstance(outcome, EnvironmentNotFoundError)
    assert service.tally.destroyed == 1


def test_failures_are_counted_by_kind(world: World) -> None:
    """A limit, a provider that fails and a mistake of the caller are different things."""
    service = world.service(capacity=1)
    world.script.at("halfway make", failing(ProviderError("fake", "no room")))
    with pytest.raises(ProviderError):
        service.create("shell")
    name = service.create("shell").id
    with pytest.raises(CapacityError):
        service.create("shell")
    with pytest.raises(ValueError, match="runtime"):
        service.create("nonsense")
    world.script.at("before remove", failing(ProviderError("fake", "busy")))
    with pytest.raises(ProviderError):
        service.destroy(name)
    assert failures(service.tally) == {"creation": 1, "capacity": 1, "removal": 1}


def test_cancelled_creation_is_no_failure(world: World) -> None:
    """A client that gives up has its environment destroyed."""
    service, cancellation = world.service(), Cancellation()
    world.script.at("halfway make", cancellation.request)
    with suppress(Exception):
        service.create("shell", cancellation=cancellation)
    tally = service.tally
    assert (tally.created, tally.destroyed, failures(tally)) == (0, 1, {})


def test_findings_of_a_pass_are_failures(world: World) -> None:
    """Interrupted creations, lost workspaces and what a pass could not do are counted."""
    service = world.service()
    world.store_environment(status=Status.CREATING, workspace=False)
    world.store_environment(status=Status.RUNNING, workspace=False)
    service.reconcile()
    assert failures(service.tally) == {"interrupted": 1, "lost": 1}
    world.script.at("before find_all", failing(OSError(5, "Input/output error")))
    Reaper(service).run_once()
    assert failures(service.tally)["sweep"] == 1


def test_programs_are_counted_by_language_and_end(world: World) -> None:
    """The language is that of the call, else that of the environment."""
    executor = FakeExecutor()
    service = world.service(executor=executor)
    name = service.create("shell").id
    executor.results = [execution(), execution(3), execution(-1, Stop.MEMORY), execution()]
    for language in (None, None, Runtime.NODE):
        service.workspaces.execute(name, "", language=language)
    service.workspaces.install(name, ["left-pad"])

    def refuse(_: object) -> Execution:
        raise TooManyExecutionsError("fake", "too many")

    executor.during = refuse
    with pytest.raises(TooManyExecutionsError):
        service.workspaces.execute(name, "")
    ended = {key: count for key, count in service.tally.executions.items() if count}
    assert ended == {("shell", "ok"): 1, ("shell", "failed"): 1, ("node", "memory"): 1}
    assert service.tally.installations["ok"] == 1
    assert failures(service.tally) == {"executions": 1}


def test_removal_is_counted_by_the_host_that_did_it(hosts: Hosts) -> None:
    """A host that only asks another one to remove an environment has removed none."""
    here, there = hosts.service("here"), hosts.service("there")
    name = there.create("shell").id
    thread = threading.Thread(target=here.destroy, args=(name,))
    thread.start()
    while thread.is_alive():
        there.finish_removals()
        thread.join(timedelta(milliseconds=10).total_seconds())
    assert (here.tally.destroyed, there.tally.destroyed) == (0, 1)
