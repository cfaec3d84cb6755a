# SPDX-License-Identifier: Apache-2.0
"""How an environment is created: stored first, then made, then stored as what it became."""

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.fakes import (
    CAPABILITIES,
    LONG,
    START,
    FolderProvider,
    Gate,
    Script,
    Step,
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
from waggle_fsstore.service.in_progress import IN_HAND


def test_stored_before_it_is_made(world: World) -> None:
    """When the provider is called, the store knows what is going on, and who is at it."""
    seen: list[Environment] = []
    world.script.at("before make", lambda: seen.extend(world.store.real.find_all()))
    created = world.service().create("python")
    [early] = seen
    assert (early.id, early.status, early.provider) == (created.id, Status.CREATING, "fake")
    assert early.owner == this_process()
    assert early.ssh_port == created.ssh_port == 20_000
    assert early.created_at == early.last_used == START


def test_what_it_is_in_the_end(world: World) -> None:
    """Running, with what the provider found, in nobody's hand, and returned as stored."""
    created = world.service().create(Runtime.NODE, labels={"team": "red"})
    assert created == world.stored(created.id)
    assert created.revision == world.stored(created.id).revision
    assert created.status is Status.RUNNING
    assert created.capabilities == CAPABILITIES
    assert created.owner is None
    assert created.labels == {"team": "red"}
    assert world.provider.workspaces() == {created.id}


def test_it_is_used_from_when_it_is_ready(world: World) -> None:
    """The time that its making took is no idle time."""
    world.script.at("after make", lambda: world.clock.pass_by(timedelta(minutes=2)))
    created = world.service().create("shell")
    assert created.created_at == START
    assert created.last_used == START + timedelta(minutes=2)


def test_the_history_of_it(world: World) -> None:
    """Two events, and no more, of the caller, each with the reason of its step."""
    with audit(actor="maja"):
        created = world.service().create("shell")
    assert world.story(created.id) == [
        Step("created", "creating", "maja", "create was called"),
        Step("updated", "running", "maja", "its workspace is ready"),
    ]


def test_the_reason_of_the_caller(world: World) -> None:
    """What the caller has to say goes before what the steps say."""
    with audit(actor="maja", reason="a demo"):
        created = world.service().create("shell")
    assert [step.reason for step in world.story(created.id)] == ["a demo", "a demo"]


def test_two_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation costs a flush of the journal before the provider, one after, and no more."""
    with FileStore(tmp_path / "store") as store:
        service = World(store, tmp_path / "workspaces").service()
        service.create("shell")  # Founds the store.
        recorder = record(monkeypatch)
        service.create("shell")
        flushes = [call for call in recorder.calls if call.name in {"fdatasync", "fsync"}]
        assert [call.files for call in flushes] == [("0000000000000001.jsonl",)] * 2


@pytest.mark.parametrize("runtime", list(Runtime))
def test_the_default_name(world: World, runtime: Runtime) -> None:
    """It is called like its runtime and the beginning of its id."""
    for given in (runtime, runtime.value):
        created = world.service().create(given)
        assert re.fullmatch(rf"{runtime.value}-[0-9a-f]{{8}}", created.name)
        assert created.name == f"{runtime.value}-{created.id[:8]}"


def test_a_name_of_its_own(world: World) -> None:
    """A name is kept as it is given, and need not be the only one."""
    service = world.service()
    assert [service.create("shell", name="Bücher 1").name for _ in range(2)] == ["Bücher 1"] * 2


def test_the_default_timeout(world: World) -> None:
    """Half an hour, or what the service was told."""
    assert world.service().create("shell").timeout == timedelta(minutes=30)
    brief = world.service(default_timeout=timedelta(minutes=5))
    assert brief.create("shell").timeout == timedelta(minutes=5)


@pytest.mark.parametrize("timeout", [timedelta(microseconds=1), timedelta(minutes=60)])
def test_timeouts_that_can_be(world: World, timeout: timedelta) -> None:
    """Above zero, and an hour at most."""
    assert world.service().create("shell", timeout=timeout).timeout == timeout


Call = Callable[[EnvironmentService], object]
MINUTE = timedelta(minutes=1)

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
    "labels that are no texts": (lambda s: s.create("shell", labels={"a": 1}), "labels"),  # type: ignore[dict-item]
    "unknown runtime": (lambda s: s.create("cobol"), "runtime"),
    "empty runtime": (lambda s: s.create(""), "runtime"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(world: World, case: str) -> None:
    """The error names the field; nothing is stored and the provider is not asked."""
    call, field = REFUSED[case]
    with pytest.raises(InvalidEnvironmentError) as caught:
        call(world.service())
    assert caught.value.field == field
    assert isinstance(caught.value, InvalidRuntimeError) == (field == "runtime")
    assert list(world.store.history()) == []
    assert not {"before create", "before make"} & set(world.script.passed)


def test_the_provider_fails(world: World) -> None:
    """The error is raised, and stored with the record, which is in nobody's hand."""
    world.script.at("halfway make", failing(ProviderError("fake", "no room")))
    with pytest.raises(ProviderError, match="no room"), audit(actor="maja"):
        world.service().create("shell")
    [stored] = world.store.find_all()
    assert stored.status is Status.ERROR
    assert stored.status_reason == "could not be created: no room"
    assert stored.owner is None
    assert world.story(stored.id)[1:] == [
        Step("updated", "error", "maja", "could not be created: no room")
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError(), ValueError()])
def test_whatever_ends_the_provider(world: World, error: BaseException) -> None:
    """An interrupt or a fault of the provider is raised as it is, and leaves no creation."""
    world.script.at("halfway make", failing(error))
    with pytest.raises(type(error)):
        world.service().create("shell")
    [stored] = world.store.find_all()
    assert stored.status is Status.ERROR
    assert stored.status_reason == f"could not be created: it failed ({type(error).__name__})"
    assert IN_HAND.wait_until_idle(0)


def test_a_long_reason(world: World) -> None:
    """What a provider has to tell may be longer than what the history takes."""
    world.script.at("halfway make", failing(ProviderError("fake", "x" * 5_000)))
    with pytest.raises(ProviderError):
        world.service().create("shell")
    assert world.store.find_all()[0].status_reason.endswith("x" * 5_000)


def test_errors_take_no_capacity(world: World) -> None:
    """However many creations failed, there is room for those that do not."""
    service = world.service(capacity=10)
    world.script.always("halfway make", failing(ProviderError("fake", "no room")))
    for _ in range(10):
        with pytest.raises(ProviderError):
            service.create("shell")
    world.script.forget()
    for _ in range(10):
        service.create("shell")
    with pytest.raises(CapacityError):
        service.create("shell")


def test_no_room(world: World) -> None:
    """Above the capacity nothing is stored, and the port stays free."""
    service = world.service(capacity=1)
    created = service.create("shell")
    with pytest.raises(CapacityError):
        service.create("shell")
    assert world.store.find_all() == [created]
    assert service.destroy(created.id)
    assert [event.environment_id for event in world.store.history()] == [created.id] * 4


def test_the_store_fails_first(world: World) -> None:
    """What cannot be stored is not made."""
    world.script.at("before create", failing(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        world.service().create("shell")
    assert world.provider.workspaces() == set()
    assert "before make" not in world.script.passed


def test_the_store_fails_afterwards(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What neither becomes running nor error in the store is an error to the next sweep."""
    world.script.always("before update", failing(OSError(28, "No space left on device")))
    service = world.service()
    with pytest.raises(OSError, match="No space left"):
        service.create("shell")
    assert "not stored" in caplog.text
    [stored] = world.store.find_all()
    assert stored.status is Status.CREATING
    world.script.forget()
    assert service.sweep().failed == [stored.id]
    assert world.stored(stored.id).status is Status.ERROR
    assert service.destroy(stored.id)
    assert not world.is_there(stored.id)


def test_a_doubt_about_the_last_step(world: World) -> None:
    """One that became running, though nobody can tell, keeps its workspace."""
    world.script.at("after update", failing(OutcomeUnknownError("journal")))
    with pytest.raises(OutcomeUnknownError):
        world.service().create("shell")
    [stored] = world.store.find_all()
    assert stored.status is Status.RUNNING
    assert world.service().probe(stored.id).is_running


def test_a_doubt_about_the_first_step(world: World) -> None:
    """One that is stored, though nobody can tell, is not made, and an error to the next sweep."""
    world.script.at("after create", failing(OutcomeUnknownError("journal")))
    service = world.service()
    with pytest.raises(OutcomeUnknownError):
        service.create("shell")
    [stored] = world.store.find_all()
    assert "before make" not in world.script.passed
    assert service.sweep().failed == [stored.id]
    assert service.destroy(stored.id)


def test_closed_while_it_is_made(world: World) -> None:
    """Who closes the service waits for a while, and leaves what goes on as it is."""
    gate = Gate()
    world.script.at("halfway make", gate)
    service = world.service()
    with ThreadPoolExecutor(2) as pool:
        creation = pool.submit(service.create, "shell")
        gate.wait_until_reached()
        assert not service.close(patience=0)
        assert world.provider.is_closed
        assert world.store.find_all()[0].status is Status.CREATING
        closing = pool.submit(service.close, patience=LONG)
        gate.open()
        assert creation.result(LONG).is_running
        assert closing.result(LONG)


def test_destroyed_meanwhile(world: World) -> None:
    """What is destroyed by force while it is made leaves no record and no workspace."""
    service = world.service(patience=0)

    def destroy() -> None:
        [stored] = world.store.real.find_all()
        assert service.destroy(stored.id)

    world.script.at("halfway make", destroy)
    with pytest.raises(EnvironmentNotFoundError):
        service.create("shell")
    assert world.store.find_all() == []
    assert world.provider.workspaces() == set()


def test_changed_by_a_hand_meanwhile(world: World) -> None:
    """What a hand set to running while it was made is returned as it is, with its workspace."""

    def change() -> None:
        [stored] = world.store.real.find_all()
        world.store.real.update(stored.id, lambda one: one.transition_to(Status.RUNNING))

    world.script.at("halfway make", change)
    created = world.service().create("shell")
    assert created.is_running
    assert world.provider.workspaces() == {created.id}


@pytest.mark.parametrize("error", [ProviderError("fake", "cut short"), KeyboardInterrupt()])
@pytest.mark.parametrize("point", ["after remove", "after delete"])
def test_destroyed_meanwhile_and_failed(world: World, point: str, error: BaseException) -> None:
    """So does what fails after that, also if it was made in part behind the removal."""
    service = world.service(patience=0)
    gate = Gate()
    destroyed: list[Future[bool]] = []

    def go_on() -> None:
        [stored] = world.store.real.find_all()
        destroyed.append(pool.submit(service.destroy, stored.id))
        gate.wait_until_reached()
        (world.provider.root / stored.id).mkdir()
        raise error

    world.script.at("halfway make", go_on)
    world.script.at(point, gate)
    expected = KeyboardInterrupt if type(error) is KeyboardInterrupt else EnvironmentNotFoundError
    with ThreadPoolExecutor(1) as pool:
        try:
            with pytest.raises(expected):
                service.create("shell")
        finally:
            gate.open()
        assert destroyed[0].result(LONG)
    assert world.store.find_all() == []
    assert world.provider.workspaces() == set()


def test_after_the_store_was_closed(tmp_path: Path) -> None:
    """The store says so, and the provider is not asked."""
    script = Script()
    store = FileStore(tmp_path / "store", durable=False)
    service = EnvironmentService(store, FolderProvider(tmp_path / "workspaces", script))
    store.close()
    with pytest.raises(StoreClosedError):
        service.create("shell")
    assert script.passed == []
