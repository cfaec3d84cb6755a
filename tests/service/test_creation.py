# SPDX-License-Identifier: Apache-2.0
"""The creation of an environment: stored first, then made, then stored as running or error."""

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.fakes import (
    CAPABILITIES,
    MINUTE,
    START,
    TIMEOUT_S,
    DirectoryProvider,
    EventSummary,
    Gate,
    Script,
    World,
    failing,
)
from tests.store.recorder import record
from waggle_fsstore import (
    CapacityError,
    Environment,
    EnvironmentNotFoundError,
    EnvironmentService,
    FileStore,
    InvalidEnvironmentError,
    InvalidRuntimeError,
    OutcomeUnknownError,
    ProviderError,
    Runtime,
    Status,
    StoreClosedError,
    audit,
)
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.service.in_progress import IN_PROGRESS


def test_creation_is_stored_before_provider_is_called(world: World) -> None:
    """When the provider is called, the store has the environment with its status and owner."""
    seen: list[Environment] = []
    world.script.at("before make", lambda: seen.extend(world.real_store.find_all()))
    created = world.service().create("python")
    [early] = seen
    assert (early.id, early.status, early.provider) == (created.id, Status.CREATING, "fake")
    assert early.owner == this_process()
    assert early.ssh_port == created.ssh_port == 20_000
    assert early.created_at == early.last_used == START


def test_created_environment_is_running(world: World) -> None:
    """It has the capabilities that the provider found and no owner, and is returned as stored."""
    created = world.service().create(Runtime.NODE, labels={"team": "red"})
    assert created == world.stored(created.id)
    assert created.revision == world.stored(created.id).revision
    assert created.status is Status.RUNNING
    assert created.capabilities == CAPABILITIES
    assert created.owner is None
    assert created.labels == {"team": "red"}
    assert world.provider.workspaces() == {created.id}


def test_creation_time_is_not_idle_time(world: World) -> None:
    """The environment counts as used when it becomes ready, however long its creation took."""
    world.script.at("after make", lambda: world.clock.advance(timedelta(minutes=2)))
    created = world.service().create("shell")
    assert created.created_at == START
    assert created.last_used == START + timedelta(minutes=2)


def test_creation_makes_two_events(world: World) -> None:
    """Both events carry the actor of the caller and the reason of their step."""
    with audit(actor="maja"):
        created = world.service().create("shell")
    assert world.events_of(created.id) == [
        EventSummary("created", "creating", "maja", "create was called"),
        EventSummary("updated", "running", "maja", "its workspace is ready"),
    ]


def test_reason_of_caller_overrides_reason_of_step(world: World) -> None:
    """A reason that the caller gives replaces those of the steps."""
    with audit(actor="maja", reason="a demo"):
        created = world.service().create("shell")
    assert [step.reason for step in world.events_of(created.id)] == ["a demo", "a demo"]


def test_creation_costs_two_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation syncs the journal once before the provider is called and once after."""
    with FileStore(tmp_path / "store") as store:
        service = World(store, tmp_path / "workspaces").service()
        service.create("shell")  # Initializes the store.
        recorder = record(monkeypatch)
        service.create("shell")
        syncs = [call for call in recorder.calls if call.name in {"fdatasync", "fsync"}]
        assert [call.files for call in syncs] == [("0000000000000001.jsonl",)] * 2


@pytest.mark.parametrize("runtime", list(Runtime))
def test_default_name_is_runtime_and_id_prefix(world: World, runtime: Runtime) -> None:
    """The default name consists of the runtime and the beginning of the id."""
    for given in (runtime, runtime.value):
        created = world.service().create(given)
        assert re.fullmatch(rf"{runtime.value}-[0-9a-f]{{8}}", created.name)
        assert created.name == f"{runtime.value}-{created.id[:8]}"


def test_given_name_is_kept(world: World) -> None:
    """A name is kept as given, and need not be unique."""
    service = world.service()
    assert [service.create("shell", name="Bücher 1").name for _ in range(2)] == ["Bücher 1"] * 2


def test_default_timeout_is_configurable(world: World) -> None:
    """It is half an hour, or what was given to the service."""
    assert world.service().create("shell").timeout == timedelta(minutes=30)
    brief = world.service(default_timeout=timedelta(minutes=5))
    assert brief.create("shell").timeout == timedelta(minutes=5)


@pytest.mark.parametrize("timeout", [timedelta(microseconds=1), timedelta(minutes=60)])
def test_timeout_up_to_one_hour_is_accepted(world: World, timeout: timedelta) -> None:
    """A timeout is above zero and at most an hour."""
    assert world.service().create("shell", timeout=timeout).timeout == timeout


Call = Callable[[EnvironmentService], object]

REFUSED: dict[str, tuple[Call, str]] = {
    "timeout above an hour": (
        lambda s: s.create("shell", timeout=60 * MINUTE + timedelta.resolution),
        "timeout",
    ),
    "timeout of zero": (lambda s: s.create("shell", timeout=0 * MINUTE), "timeout"),
    "timeout below zero": (lambda s: s.create("shell", timeout=-MINUTE), "timeout"),
    "empty name": (lambda s: s.create("shell", name=""), "name"),
    "long name": (lambda s: s.create("shell", name="n" * 201), "name"),
    "name of two lines": (lambda s: s.create("shell", name="a\nb"), "name"),
    "name with a lone surrogate": (lambda s: s.create("shell", name="\udc80"), "name"),
    "labels that are not strings": (lambda s: s.create("shell", labels={"a": 1}), "labels"),  # type: ignore[dict-item]
    "unknown runtime": (lambda s: s.create("cobol"), "runtime"),
    "empty runtime": (lambda s: s.create(""), "runtime"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_argument_is_refused(world: World, case: str) -> None:
    """The error names the field; nothing is stored and the provider is not called."""
    call, field = REFUSED[case]
    with pytest.raises(InvalidEnvironmentError) as caught:
        call(world.service())
    assert caught.value.field == field
    assert isinstance(caught.value, InvalidRuntimeError) == (field == "runtime")
    assert list(world.store.history()) == []
    assert not {"before create", "before make"} & set(world.script.passed)


def test_provider_failure_is_stored(world: World) -> None:
    """The error is raised, and stored as the reason in a record without owner."""
    world.script.at("halfway make", failing(ProviderError("fake", "no room")))
    with pytest.raises(ProviderError, match="no room"), audit(actor="maja"):
        world.service().create("shell")
    [stored] = world.store.find_all()
    assert stored.status is Status.ERROR
    assert stored.status_reason == "could not be created: no room"
    assert stored.owner is None
    assert world.events_of(stored.id)[1:] == [
        EventSummary("updated", "error", "maja", "could not be created: no room")
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError(), ValueError()])
def test_exception_in_provider_leaves_no_creation(world: World, error: BaseException) -> None:
    """An interrupt or a bug of the provider is raised unchanged, and leaves an error."""
    world.script.at("halfway make", failing(error))
    with pytest.raises(type(error)):
        world.service().create("shell")
    [stored] = world.store.find_all()
    assert stored.status is Status.ERROR
    name = type(error).__name__
    bug = f"unexpected error ({name}); see the server log"
    reason = bug if isinstance(error, Exception) else f"interrupted ({name})"
    assert stored.status_reason == f"could not be created: {reason}"
    assert IN_PROGRESS.wait_until_empty(0)


def test_long_failure_reason_is_stored(world: World) -> None:
    """The reason of a provider may be longer than the history accepts."""
    world.script.at("halfway make", failing(ProviderError("fake", "x" * 5_000)))
    with pytest.raises(ProviderError):
        world.service().create("shell")
    assert world.store.find_all()[0].status_reason.endswith("x" * 5_000)


def test_environments_in_error_take_no_capacity(world: World) -> None:
    """After any number of failed creations, as many others fit as before."""
    service = world.service(capacity=10)
    world.script.always("halfway make", failing(ProviderError("fake", "no room")))
    for _ in range(10):
        with pytest.raises(ProviderError):
            service.create("shell")
    world.script.reset()
    for _ in range(10):
        service.create("shell")
    with pytest.raises(CapacityError):
        service.create("shell")


def test_creation_above_capacity_stores_nothing(world: World) -> None:
    """Above the capacity nothing is stored, and the port stays free."""
    service = world.service(capacity=1)
    created = service.create("shell")
    with pytest.raises(CapacityError):
        service.create("shell")
    assert world.store.find_all() == [created]
    assert service.destroy(created.id)
    assert [event.environment_id for event in world.store.history()] == [created.id] * 4


def test_provider_is_not_called_if_store_fails(world: World) -> None:
    """An environment that cannot be stored is not made."""
    world.script.at("before create", failing(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        world.service().create("shell")
    assert world.provider.workspaces() == set()
    assert "before make" not in world.script.passed


def test_sweep_fails_creation_that_could_not_be_stored(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A creation stored neither as running nor as error becomes an error in the next sweep."""
    world.script.always("before update", failing(OSError(28, "No space left on device")))
    service = world.service()
    with pytest.raises(OSError, match="No space left"):
        service.create("shell")
    assert "not stored" in caplog.text
    [stored] = world.store.find_all()
    assert stored.status is Status.CREATING
    world.script.reset()
    assert service.sweep().failed == [stored.id]
    assert world.stored(stored.id).status is Status.ERROR
    assert service.destroy(stored.id)
    assert not world.exists(stored.id)


def test_unknown_outcome_of_last_step_keeps_workspace(world: World) -> None:
    """An environment whose change to running has an unknown outcome keeps its workspace."""
    world.script.at("after update", failing(OutcomeUnknownError("journal")))
    with pytest.raises(OutcomeUnknownError):
        world.service().create("shell")
    [stored] = world.store.find_all()
    assert stored.status is Status.RUNNING
    assert world.service().probe(stored.id).is_running


def test_unknown_outcome_of_first_step_makes_no_workspace(world: World) -> None:
    """An environment that is stored with an unknown outcome becomes an error in the next sweep."""
    world.script.at("after create", failing(OutcomeUnknownError("journal")))
    service = world.service()
    with pytest.raises(OutcomeUnknownError):
        service.create("shell")
    [stored] = world.store.find_all()
    assert "before make" not in world.script.passed
    assert service.sweep().failed == [stored.id]
    assert service.destroy(stored.id)


def test_close_waits_for_creation(world: World) -> None:
    """Closing waits until its timeout, and leaves a running creation as it is."""
    gate = Gate()
    world.script.at("halfway make", gate)
    service = world.service()
    with ThreadPoolExecutor(2) as pool:
        creation = pool.submit(service.create, "shell")
        gate.wait_until_reached()
        assert not service.close(timeout=0)
        assert world.provider.is_closed
        assert world.store.find_all()[0].status is Status.CREATING
        closing = pool.submit(service.close, timeout=TIMEOUT_S)
        gate.open()
        assert creation.result(TIMEOUT_S).is_running
        assert closing.result(TIMEOUT_S)


def test_environment_destroyed_during_creation_leaves_nothing(world: World) -> None:
    """An environment that is destroyed while it is made leaves no record and no workspace."""
    service = world.service(takeover_after=0)

    def destroy() -> None:
        [stored] = world.real_store.find_all()
        assert service.destroy(stored.id)

    world.script.at("halfway make", destroy)
    with pytest.raises(EnvironmentNotFoundError):
        service.create("shell")
    assert world.store.find_all() == []
    assert world.provider.workspaces() == set()


def test_manual_edit_during_creation_wins(world: World) -> None:
    """An environment that a manual edit sets to running while it is made is returned, and works."""

    def set_running() -> None:
        [stored] = world.real_store.find_all()
        world.real_store.update(stored.id, lambda one: one.transition_to(Status.RUNNING))

    world.script.at("halfway make", set_running)
    created = world.service().create("shell")
    assert created.is_running
    assert world.provider.workspaces() == {created.id}


@pytest.mark.parametrize("error", [ProviderError("fake", "interrupted"), KeyboardInterrupt()])
@pytest.mark.parametrize("point", ["after remove", "after delete"])
def test_failed_creation_after_destroy_leaves_nothing(
    world: World, point: str, error: BaseException
) -> None:
    """A failing creation removes what it made after the environment was destroyed."""
    service = world.service(takeover_after=0)
    gate = Gate()
    destroyed: list[Future[bool]] = []

    def fail_after_removal() -> None:
        [stored] = world.real_store.find_all()
        destroyed.append(pool.submit(service.destroy, stored.id))
        gate.wait_until_reached()
        (world.provider.root / stored.id).mkdir()
        raise error

    world.script.at("halfway make", fail_after_removal)
    world.script.at(point, gate)
    expected = KeyboardInterrupt if type(error) is KeyboardInterrupt else EnvironmentNotFoundError
    with ThreadPoolExecutor(1) as pool:
        try:
            with pytest.raises(expected):
                service.create("shell")
        finally:
            gate.open()
        assert destroyed[0].result(TIMEOUT_S)
    assert world.store.find_all() == []
    assert world.provider.workspaces() == set()


def test_creation_in_closed_store_raises(tmp_path: Path) -> None:
    """The store raises, and the provider is not called."""
    script = Script()
    store = FileStore(tmp_path / "store", durable=False)
    service = EnvironmentService(store, DirectoryProvider(tmp_path / "workspaces", script))
    store.close()
    with pytest.raises(StoreClosedError):
        service.create("shell")
    assert script.passed == []
