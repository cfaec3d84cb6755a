# SPDX-License-Identifier: Apache-2.0
"""Work in the workspaces of environments: which are reached, and what the history says of it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.service.fakes import MINUTE, SECOND, START, TIMEOUT_S, World, failing
from waggle_fsstore import (
    Environment,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    EnvironmentService,
    ExecutionUnavailableError,
    ProviderError,
    Runtime,
    Status,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.execution import Execution, Stdio, Stop
from waggle_fsstore.domain.workspace_file import FileEntry, FilePart
from waggle_fsstore.service import workspaces

FILE = FileEntry("a", 1, is_dir=False, mode="-rw-r--r--", modified=START)


def execution(exit_code: int = 0, stopped: Stop = Stop.NONE) -> Execution:
    return Execution(
        stdout="",
        stderr="",
        exit_code=exit_code,
        duration_ms=1,
        stdout_bytes=0,
        stderr_bytes=0,
        truncated=False,
        stopped=stopped,
    )


class FakeExecutor:
    """Returns the results that a test has given, and calls ``during`` while a program runs."""

    is_isolated = True
    may_install = True

    def __init__(self) -> None:
        self.reason = ""
        self.results = [execution()]
        self.calls: list[tuple[str, object]] = []
        self.during: Callable[[Callable[[], Stop]], object] = lambda stop: stop()
        self.is_closed = False

    def why_unavailable(self) -> str:
        return self.reason

    def execute(
        self,
        environment: Environment,
        code: str,
        language: Runtime,
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
    ) -> Execution:
        self.calls.append((code, (environment.id, language, timeout)))
        self.during(stop)
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]

    def run(
        self,
        environment: Environment,
        command: Sequence[str],
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
        stdio: Stdio,
    ) -> Execution:
        self.calls.append((" ".join(command), (environment.id, timeout, stdio)))
        self.during(stop)
        return self.results[0]

    def install(
        self,
        environment: Environment,
        packages: Sequence[str],
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
    ) -> Execution:
        self.calls.append((" ".join(packages), (environment.id, timeout)))
        self.during(stop)
        return self.results[0]

    def close(self) -> None:
        self.is_closed = True


class FakeFiles:
    """One file, and the error that a test has given."""

    error: Exception | None = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def read(self, environment: Environment, path: str, *, offset: int, limit: int) -> FilePart:
        self._check(environment, path)
        return FilePart(f"{environment.id}{path}{offset}{limit}".encode(), 1)

    def write(self, environment: Environment, path: str, content: bytes, *, offset: int = 0) -> int:
        self._check(environment, path)
        return offset + len(content)

    def entries(self, environment: Environment, path: str) -> list[FileEntry]:
        self._check(environment, path)
        return [FILE]

    def _check(self, environment: Environment, path: str) -> None:
        self.calls.append((environment.id, path))
        if self.error is not None:
            raise self.error


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


@pytest.fixture
def service(world: World, executor: FakeExecutor, files: FakeFiles) -> Iterator[EnvironmentService]:
    service = world.service(executor=executor, files=files)
    yield service
    service.close()


#: Each way to work in an environment.
WORK: dict[str, Callable[[EnvironmentService, str], object]] = {
    "execute": lambda service, name: service.workspaces.execute(name, "1"),
    "run": lambda service, name: service.workspaces.run(name, ["ls"]),
    "install": lambda service, name: service.workspaces.install(name, ["six"]),
    "read": lambda service, name: service.workspaces.read(name, "a", offset=0, limit=1),
    "write": lambda service, name: service.workspaces.write(name, "a", b"1"),
    "entries": lambda service, name: service.workspaces.entries(name, "."),
}


@pytest.mark.parametrize("way", WORK)
def test_work_counts_as_use(world: World, service: EnvironmentService, way: str) -> None:
    """Each call resets the idle timer."""
    name = service.create("python").id
    world.clock.advance(5 * MINUTE)
    WORK[way](service, name)
    assert service.find_by_id(name).last_used == world.clock.time


@pytest.mark.parametrize("way", WORK)
def test_work_needs_running_environment(
    world: World, service: EnvironmentService, executor: FakeExecutor, way: str
) -> None:
    """An environment that is missing, in error or going is refused before anything is done."""
    with pytest.raises(EnvironmentNotFoundError):
        WORK[way](service, "missing")
    for status in (Status.ERROR, Status.CREATING, Status.DESTROYING):
        name = world.store_environment(status=status)
        with pytest.raises(EnvironmentNotRunningError):
            WORK[way](service, name)
    assert executor.calls == []


@pytest.mark.parametrize("way", WORK)
def test_work_needs_own_provider(
    world: World, service: EnvironmentService, executor: FakeExecutor, way: str
) -> None:
    """The files of another provider are not reached."""
    name = world.store_environment(status=Status.RUNNING, provider="elsewhere")
    with pytest.raises(ProviderError, match="belongs to provider 'elsewhere'"):
        WORK[way](service, name)
    assert executor.calls == []


def test_code_runs_in_language_of_environment(
    service: EnvironmentService, executor: FakeExecutor
) -> None:
    """The runtime is the default language, and thirty seconds the default timeout."""
    name = service.create("node").id
    service.workspaces.execute(name, "1")
    service.workspaces.execute(name, "2", language=Runtime.SHELL, timeout=SECOND)
    assert executor.calls == [
        ("1", (name, Runtime.NODE, 30 * SECOND)),
        ("2", (name, Runtime.SHELL, SECOND)),
    ]


def test_running_program_is_in_use(
    world: World,
    service: EnvironmentService,
    executor: FakeExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What runs for longer than the idle timeout does not expire while it runs."""
    name = service.create("python", timeout=MINUTE).id
    elapsed = timedelta(0)
    monkeypatch.setattr(workspaces, "monotonic", lambda: elapsed.total_seconds())

    def during(stop: Callable[[], Stop]) -> None:
        nonlocal elapsed
        for _ in range(20):
            elapsed += 20 * SECOND
            world.clock.advance(20 * SECOND)
            assert stop() is Stop.NONE
            assert service.sweep().expired == []

    executor.during = during
    service.workspaces.execute(name, "1")
    assert service.find_by_id(name).last_used == world.clock.time


def test_cancelled_program_is_stopped(service: EnvironmentService, executor: FakeExecutor) -> None:
    """A program asks whether it is still wanted, and hears when it is not."""
    name = service.create("python").id
    answers: list[Stop] = []
    executor.during = lambda stop: answers.append(stop())
    service.workspaces.execute(name, "1", is_cancelled=lambda: True)
    service.workspaces.install(name, ["six"], is_cancelled=lambda: True)
    assert answers == [Stop.CANCELLED, Stop.CANCELLED]


def test_history_sums_up_executions(
    world: World, service: EnvironmentService, executor: FakeExecutor
) -> None:
    """The next use that is stored says who ran how many programs, and how the last one ended."""
    name = service.create("python").id
    executor.results = [execution(), execution(3), execution(-1, Stop.TIMEOUT)]
    with audit(actor="mcp:one"):
        service.workspaces.execute(name, "1")
        service.workspaces.execute(name, "2")
    before = len(world.events_of(name))
    world.touches.flush()
    with audit(actor="mcp:two"):
        service.workspaces.execute(name, "3")
    world.touches.flush()
    world.touches.flush()
    events = world.events_of(name)[before:]
    assert [(event.actor, event.reason) for event in events] == [
        ("touch", "in use: mcp:one ran 2 programs, the last one ended with exit code 3"),
        ("touch", "in use: mcp:two ran 1 program, the last one ended with timeout"),
    ]


def test_execution_during_flush_is_counted_once(world: World, service: EnvironmentService) -> None:
    """A program that ends while earlier uses are being stored is in the next summary."""
    name = service.create("python").id
    service.workspaces.execute(name, "1")
    world.clock.advance(SECOND)
    world.script.at("before update", lambda: service.workspaces.execute(name, "2"))
    world.touches.flush()
    world.touches.flush()
    reasons = [event.reason for event in world.events_of(name) if event.actor == "touch"]
    assert len([reason for reason in reasons if "ran 1 program" in reason]) == 2


def test_destroy_keeps_pending_executions(world: World, service: EnvironmentService) -> None:
    """What ran is in the history before the removal, also if that follows at once."""
    name = service.create("python").id
    with audit(actor="mcp:one"):
        service.workspaces.execute(name, "1")
    service.destroy(name)
    reasons = [event.reason for event in world.events_of(name)]
    summary = "in use: mcp:one ran 1 program, the last one ended with exit code 0"
    assert reasons[2:4] == [summary, "destroy was called"]


def test_installation_is_an_event(
    world: World, service: EnvironmentService, executor: FakeExecutor
) -> None:
    """It is stored at once, with the packages and the outcome, also if it fails."""
    name = service.create("python").id
    with audit(actor="mcp:one"):
        service.workspaces.install(name, ["six", "attrs>=2"])
        executor.results = [execution(1)]
        service.workspaces.install(name, ["missing"])
    events = world.events_of(name)[2:]
    assert [(event.actor, event.reason) for event in events] == [
        ("mcp:one", "installed six attrs>=2: exit code 0"),
        ("mcp:one", "installed missing: exit code 1"),
    ]
    assert world.stored(name).is_running


def test_file_of_destroyed_environment_is_not_found(
    service: EnvironmentService, files: FakeFiles
) -> None:
    """An environment that is destroyed during a call is the error, and not its workspace."""
    name = service.create("python").id
    files.error = WorkspaceGoneError("fake", "its workspace is gone")
    with pytest.raises(WorkspaceGoneError):
        service.workspaces.entries(name, ".")
    assert service.find_by_id(name).is_running

    class Destroying(FakeFiles):
        def _check(self, environment: Environment, path: str) -> None:
            service.destroy(environment.id)
            raise WorkspaceGoneError("fake", f"{path} is gone")

    service.workspaces._files = Destroying()
    with pytest.raises(EnvironmentNotFoundError):
        service.workspaces.entries(name, ".")


def test_missing_execution_is_explained(
    world: World, service: EnvironmentService, executor: FakeExecutor
) -> None:
    """Where programs cannot be run, the reason is the error; files can still be reached."""
    name = service.create("python").id
    executor.reason = "no bubblewrap"
    assert service.workspaces.kind == "off"
    for way in ("execute", "install"):
        with pytest.raises(ExecutionUnavailableError, match="no bubblewrap"):
            WORK[way](service, name)
    assert service.workspaces.entries(name, ".") == [FILE]
    assert world.service().workspaces.why_no_execution()
    assert service.workspaces.read(name, "a", offset=1, limit=2).content == f"{name}a12".encode()


def test_close_stops_programs(service: EnvironmentService, executor: FakeExecutor) -> None:
    """The end of a service ends what runs."""
    service.close()
    assert executor.is_closed


def test_program_of_destroyed_environment_is_in_history(
    world: World, service: EnvironmentService, executor: FakeExecutor
) -> None:
    """An environment that is destroyed while a program runs has it in its history."""
    name = service.create("python").id
    executor.during = lambda _: service.destroy(name)
    with audit(actor="mcp:one"):
        service.workspaces.execute(name, "1")
    reasons = [event.reason for event in world.events_of(name)]
    assert "in use: mcp:one ran 1 program" in reasons
    assert not world.exists(name)


def test_refused_program_is_not_in_history(
    world: World, service: EnvironmentService, executor: FakeExecutor
) -> None:
    """A program that could not be started was not run."""
    name = service.create("python").id
    executor.during = failing_with(ProviderError("fake", "too many"))
    with pytest.raises(ProviderError):
        service.workspaces.execute(name, "1")
    world.clock.advance(SECOND)
    world.touches.flush()
    assert "ran" not in world.events_of(name)[-1].reason


def failing_with(error: Exception) -> Callable[[Callable[[], Stop]], object]:
    def fail(_: Callable[[], Stop]) -> None:
        raise error

    return fail


def test_running_program_does_not_wait_for_the_store(
    world: World,
    service: EnvironmentService,
    executor: FakeExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its use is noted without the store: one that is slow must not suspend its limits."""
    name = service.create("python").id
    now = 0.0
    monkeypatch.setattr(workspaces, "monotonic", lambda: now)

    def during(stop: Callable[[], Stop]) -> None:
        nonlocal now
        now += 60
        world.script.at("before find_by_id", failing(AssertionError("the store is read")))
        assert stop() is Stop.NONE

    executor.during = during
    assert service.workspaces.execute(name, "1").exit_code == 0
    world.script.reset()
    world.clock.advance(SECOND)
    world.touches.flush()
    assert "ran 1 program" in world.events_of(name)[-1].reason


def test_close_waits_for_end_of_programs(
    world: World, executor: FakeExecutor, files: FakeFiles
) -> None:
    """What a program that is being stopped comes to is stored before a service is closed."""
    service = world.service(executor=executor, files=files)
    name = service.create("python").id
    begun, closing = threading.Event(), threading.Event()

    def during(_: Callable[[], Stop]) -> None:
        begun.set()
        assert closing.wait(TIMEOUT_S)

    executor.during = during
    executor.results = [execution(-1, Stop.SHUTDOWN)]
    executor.close = closing.set  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(service.workspaces.execute, name, "1")
        assert begun.wait(TIMEOUT_S)
        assert service.close(timeout=TIMEOUT_S)
        assert running.result().stopped is Stop.SHUTDOWN
    assert world.events_of(name)[-1].reason.endswith("the last one ended with shutdown")


def test_history_names_only_those_who_ran(world: World, service: EnvironmentService) -> None:
    """Names with commas stay whole, many are counted, and none is there twice."""
    name = service.create("python").id
    for actor in ("mcp:a, b", "mcp:c"):
        with audit(actor=actor):
            service.workspaces.execute(name, "1")
    world.clock.advance(SECOND)
    world.touches.flush()
    assert "mcp:a, b, mcp:c ran 2 programs" in world.events_of(name)[-1].reason
    for number in range(8):
        with audit(actor=f"mcp:{number}"):
            service.workspaces.execute(name, "1")
    world.clock.advance(SECOND)
    world.touches.flush()
    reason = world.events_of(name)[-1].reason
    assert "mcp:0, mcp:1, mcp:2, mcp:3, mcp:4 and 3 others ran 8 programs" in reason
