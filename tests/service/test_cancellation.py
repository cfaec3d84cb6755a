# SPDX-License-Identifier: Apache-2.0
"""The cancellation of a creation: whatever step it is in, nothing is left of it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.fakes import TIMEOUT_S, Gate, World, failing
from waggle_fsstore import (
    Cancellation,
    CreationCancelledError,
    ProviderError,
    Status,
    audit,
)
from waggle_fsstore.service.ports import Ports

#: All points that a creation passes, in order.
POINTS = [
    "before create",
    "after create",
    "before make",
    "halfway make",
    "after make",
    "before update",
    "after update",
]


@pytest.mark.parametrize("point", POINTS)
def test_cancelled_creation_leaves_nothing(world: World, point: str) -> None:
    """A creation that is cancelled at any point leaves no record, workspace, port or capacity."""
    only_port = Ports(range(20_000, 20_001), is_free=lambda _: True)
    service = world.service(capacity=1, ports=only_port)
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as pool:
        world.script.at(point, lambda: pool.submit(cancellation.request).result(TIMEOUT_S))
        with pytest.raises(CreationCancelledError):
            service.create("shell", cancellation=cancellation)
    assert world.store.find_all() == []
    assert world.provider.workspaces() == set()
    assert service.create("shell").is_running


@pytest.mark.parametrize(
    "point", ["before update", "before remove", "after remove", "after delete"]
)
def test_creation_that_fails_beside_its_cancellation_leaves_nothing(
    world: World, point: str
) -> None:
    """The provider may raise, or make more, at any moment of the removal."""
    service = world.service()
    cancellation = Cancellation()
    gate = Gate()

    def fail_during_removal() -> None:
        environment_ids = [one.id for one in world.real_store.find_all()]
        world.script.at(point, gate)
        request = pool.submit(cancellation.request)
        gate.wait_until_reached()
        gate.open()
        request.result(TIMEOUT_S)
        world.provider.root.joinpath(environment_ids[0]).mkdir()
        raise ProviderError("fake", "interrupted")

    world.script.at("halfway make", fail_during_removal)
    with ThreadPoolExecutor(1) as pool, pytest.raises(CreationCancelledError):
        service.create("shell", cancellation=cancellation)
    assert world.store.find_all() == []
    assert world.provider.workspaces() == set()


def test_cancelled_before_it_began_stores_nothing(world: World) -> None:
    """A creation whose cancellation came first stores nothing, and calls no provider."""
    cancellation = Cancellation()
    cancellation.request()
    with pytest.raises(CreationCancelledError):
        world.service().create("shell", cancellation=cancellation)
    assert list(world.store.history()) == []
    assert "before make" not in world.script.passed


def test_cancellation_after_creation_destroys(world: World) -> None:
    """A caller that never learned of a finished creation leaves no environment either."""
    cancellation = Cancellation()
    created = world.service().create("shell", cancellation=cancellation)
    with audit(actor="maja"):
        cancellation.request()
    assert not world.exists(created.id)
    cancellation.request()  # Can be repeated.
    assert world.events_of(created.id)[-1].actor == "maja"
    assert world.events_of(created.id)[-1].reason == "the creation was cancelled"


def test_creation_is_interrupted_at_once(world: World) -> None:
    """The cancellation does not wait for the provider to finish."""
    service = world.service()
    cancellation = Cancellation()
    gate = Gate()
    world.script.at("halfway make", gate)
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(service.create, "shell", cancellation=cancellation)
        try:
            gate.wait_until_reached()
            cancellation.request()
            assert world.store.find_all() == []
        finally:
            gate.open()
        with pytest.raises(CreationCancelledError):
            creation.result(TIMEOUT_S)
    assert world.provider.workspaces() == set()


def test_failed_removal_of_cancelled_creation_is_resumed(world: World) -> None:
    """If the workspace cannot be removed, the next sweep removes it."""
    service = world.service()
    cancellation = Cancellation()
    stuck = ProviderError("fake", "stuck")
    world.script.always("before remove", failing(stuck))
    with ThreadPoolExecutor(1) as pool:
        requests: list[BaseException | None] = []
        world.script.at(
            "halfway make",
            lambda: requests.append(pool.submit(cancellation.request).exception(TIMEOUT_S)),
        )
        with pytest.raises(ProviderError, match="stuck"):
            service.create("shell", cancellation=cancellation)
    assert requests == [stuck]
    [stored] = world.store.find_all()
    assert stored.status is Status.DESTROYING
    world.script.reset()
    assert service.sweep().finished == [stored.id]
    assert not world.exists(stored.id)
