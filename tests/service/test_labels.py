# SPDX-License-Identifier: Apache-2.0
"""Labels: finding environments by them, and destroying all that have some."""

import logging

import pytest

from tests.service.fakes import World, failing
from waggle_fsstore import (
    CountMismatchError,
    DestroyPendingError,
    EnvironmentNotFoundError,
    InvalidEnvironmentError,
    ProviderError,
    Status,
)
from waggle_fsstore.service.bulk_removal import Outcome

RED = {"team": "red"}


def test_find_by_labels_needs_all_of_them(world: World) -> None:
    """An environment has to have each label, with the same text."""
    service = world.service()
    both = service.create("shell", labels={"team": "red", "run": "7"}).id
    one = service.create("shell", labels=RED).id
    service.create("shell", labels={"team": "blue", "red": "team"})
    service.create("shell")
    assert [it.id for it in service.find_all(labels=RED)] == sorted([both, one])
    assert [it.id for it in service.find_all(labels={"run": "7", **RED})] == [both]
    assert service.find_all(labels={"team": ""}) == []
    assert len(service.find_all(labels={})) == len(service.find_all()) == 4


def test_destroy_all_removes_those_with_labels(world: World) -> None:
    """All environments with the labels are removed, in any status, and no others."""
    service = world.service()
    kept = service.create("shell", labels={"team": "blue"}).id
    gone = [service.create("shell", labels={**RED, "n": str(n)}).id for n in range(3)]
    gone.append(world.store_environment(status=Status.ERROR, labels=RED))
    outcomes = service.destroy_all(RED, count=4)
    expected = [Outcome(name, Status.DESTROYED, "it is destroyed") for name in sorted(gone)]
    assert outcomes == expected
    assert [one.id for one in world.store.find_all()] == [kept]
    assert world.provider.workspaces() == {kept}
    reasons = {event.reason for event in world.events_of(gone[0])[-2:]}
    assert reasons == {"destroy was called for all with team=red"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_destroy_all_with_other_count_changes_nothing(world: World, count: int) -> None:
    """One that was created or destroyed in the meantime makes the number another one."""
    service = world.service()
    names = [service.create("shell", labels=RED).id for _ in range(2)]
    with pytest.raises(CountMismatchError) as caught:
        service.destroy_all(RED, count=count)
    assert (caught.value.expected, caught.value.actual) == (count, 2)
    assert [world.stored(name).status for name in names] == [Status.RUNNING] * 2


def test_destroy_all_without_labels_is_refused(world: World) -> None:
    """No labels are those of every environment, which no caller can mean."""
    service = world.service()
    name = service.create("shell").id
    with pytest.raises(InvalidEnvironmentError, match="labels: must not be empty"):
        service.destroy_all({}, count=1)
    assert world.stored(name).is_running


def test_failure_of_one_stops_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The others are destroyed, and the outcome of the failed one has its status and the cause."""
    service = world.service()
    names = sorted(service.create("shell", labels=RED).id for _ in range(3))
    world.script.at("before remove", failing(ProviderError("fake", "in use")), nth=1)
    world.script.at("before remove", failing(ZeroDivisionError()), nth=3)
    assert service.destroy_all(RED, count=3) == [
        Outcome(names[0], Status.DESTROYING, "in use"),
        Outcome(names[1], Status.DESTROYED, "it is destroyed"),
        Outcome(
            names[2],
            Status.DESTROYING,
            "unexpected error (ZeroDivisionError); see the server log",
        ),
    ]
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert [text.partition(":")[0] for text in errors] == [
        f"environment {name} is not destroyed" for name in (names[0], names[2])
    ]
    world.script.reset()
    assert [one.status for one in service.destroy_all(RED, count=2)] == [Status.DESTROYED] * 2


def test_environment_that_loses_labels_is_kept(world: World) -> None:
    """The labels are those of the version that is marked as destroying."""
    service = world.service()
    name = service.create("shell", labels=RED).id

    def relabel() -> None:
        world.real_store.update(name, lambda one: one.labels.update(team="blue"))

    world.script.at("before update", relabel)
    outcomes = service.destroy_all(RED, count=1)
    assert outcomes == [Outcome(name, Status.RUNNING, "it is kept: its labels have changed")]
    assert world.stored(name).is_running
    assert world.provider.workspaces() == {name}


def test_environment_that_is_gone_counts_as_destroyed(world: World) -> None:
    """Another process may have been faster, or another host may still have to remove it."""
    service = world.service()
    names = sorted(service.create("shell", labels=RED).id for _ in range(2))
    failures = iter([EnvironmentNotFoundError(names[0]), DestroyPendingError(names[1], "maja")])

    def fail() -> None:
        raise next(failures)

    service.destroy = lambda *_, **__: fail()  # type: ignore[assignment,method-assign]
    first, second = service.destroy_all(RED, count=2)
    assert first == Outcome(names[0], Status.DESTROYED, "it is destroyed")
    assert second.status is Status.RUNNING
    assert "host maja" in second.message


def test_labels_of_unreadable_document_match_nothing(file_world: World) -> None:
    """A record that cannot be read does not keep the others from being destroyed."""
    service = file_world.service()
    names = sorted(service.create("shell", labels=RED).id for _ in range(2))
    root = file_world.provider.root.parent / "store" / "environments"
    (root / f"{names[0]}.json").write_text("{")
    assert [one.environment_id for one in service.destroy_all(RED, count=1)] == names[1:]
    assert file_world.provider.workspaces() == {names[0]}
