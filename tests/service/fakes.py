# SPDX-License-Identifier: Apache-2.0
"""A provider that keeps folders, a store that tells each call, and what a test does at them."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from waggle_fsstore import (
    Capabilities,
    Environment,
    EnvironmentNotFoundError,
    EnvironmentService,
    Event,
    ProviderError,
    TransactionalRepository,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.audit import host_name
from waggle_fsstore.domain.environment import Owner
from waggle_fsstore.domain.process import boot_id
from waggle_fsstore.service.in_progress import IN_HAND
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.touch_buffer import Touches

T = TypeVar("T")

#: For how long anything may take that should take no time, in seconds.
LONG = 60.0

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CAPABILITIES = Capabilities(detected_at=START, path="/bin")


class Script:
    """What a test has done at points such as ``before update``; notes all that are passed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._actions: dict[tuple[str, int], Callable[[], object]] = {}
        self._always: dict[str, Callable[[], object]] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def at(self, point: str, action: Callable[[], object], *, nth: int = 1) -> None:
        """Do it when the point is passed for the n-th time from now on."""
        self._actions[point, self._counts[point] + nth] = action

    def always(self, point: str, action: Callable[[], object]) -> None:
        """Do it whenever the point is passed."""
        self._always[point] = action

    def forget(self) -> None:
        """Do nothing any more, and begin to note anew."""
        with self._lock:
            self._actions.clear()
            self._always.clear()
            self.passed.clear()

    def __call__(self, point: str) -> None:
        with self._lock:
            self.passed.append(point)
            self._counts[point] += 1
            actions = [
                self._actions.pop((point, self._counts[point]), None),
                self._always.get(point),
            ]
        for action in actions:
            if action is not None:
                action()


class Gate:
    """Holds up a thread at a point, until the test lets it go."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._open.wait(LONG), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(LONG), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


def failing(error: BaseException) -> Callable[[], object]:
    """An action that raises."""

    def fail() -> None:
        raise error

    return fail


class FolderProvider:
    """Keeps each environment in a folder, which is whole once ``whole`` is in it."""

    def __init__(self, root: Path, script: Script, *, name: str = "fake") -> None:
        self.root = root
        self.name = name
        self.is_closed = False
        self._script = script

    def create(self, environment: Environment) -> Capabilities:
        self._script("before make")
        folder = self.root / environment.id
        folder.mkdir(parents=True)
        (folder / "half").touch()
        self._script("halfway make")
        # Somebody may have removed it by now: not every provider notices that.
        folder.mkdir(exist_ok=True)
        (folder / "whole").touch()
        self._script("after make")
        return CAPABILITIES

    def probe(self, environment: Environment) -> Capabilities:
        self._script("before probe")
        if not (self.root / environment.id / "whole").exists():
            raise WorkspaceGoneError(self.name, "its workspace is gone")
        self._script("after probe")
        return CAPABILITIES

    def locate(self, environment: Environment) -> str:
        return str(self.root / environment.id)

    def remove(self, environment: Environment) -> None:
        self._script("before remove")
        folder = self.root / environment.id
        (folder / "whole").unlink(missing_ok=True)
        self._script("halfway remove")
        shutil.rmtree(folder, ignore_errors=True)
        self._script("after remove")

    def find_strays(self, known: Iterable[str]) -> list[str]:
        self._script("before find_strays")
        return sorted(self.workspaces() - set(known))

    def check(self) -> None:
        self._script("before check")
        if self.is_closed:
            raise ProviderError(self.name, "the provider was closed")

    def close(self) -> None:
        self.is_closed = True

    def workspaces(self) -> set[str]:
        """What is there, whole or not."""
        return {path.name for path in self.root.iterdir()} if self.root.exists() else set()


class Told:
    """A store that passes a point of a script before and after each call of another one."""

    def __init__(self, real: TransactionalRepository, script: Script) -> None:
        self.real = real
        self._script = script

    def _call(self, name: str, call: Callable[[], T]) -> T:
        self._script(f"before {name}")
        result = call()
        self._script(f"after {name}")
        return result

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        return self._call("create", lambda: self.real.create(environment, capacity=capacity))

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        return self._call("save", lambda: self.real.save(environment, if_revision=if_revision))

    def update(self, environment_id: str, change: Callable[[Environment], object]) -> Environment:
        return self._call("update", lambda: self.real.update(environment_id, change))

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        return self._call("save_all", lambda: self.real.save_all(environments))

    def find_by_id(self, environment_id: str) -> Environment:
        return self._call("find_by_id", lambda: self.real.find_by_id(environment_id))

    def find_all(
        self, *, on_corrupt: Callable[[Exception], object] | None = None
    ) -> list[Environment]:
        return self._call("find_all", lambda: self.real.find_all(on_corrupt=on_corrupt))

    def delete(self, environment_id: str) -> None:
        self._call("delete", lambda: self.real.delete(environment_id))

    def count(self) -> int:
        return self._call("count", self.real.count)

    def history(
        self, environment_id: str | None = None, *, after: int = 0, until: int | None = None
    ) -> Iterator[Event]:
        return self.real.history(environment_id, after=after, until=until)

    def watch(self, *, after: int | None = None, timeout: float | None = None) -> Iterator[Event]:
        return self.real.watch(after=after, timeout=timeout)

    def close(self) -> None:
        self.real.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Clock:
    """The time of day and the uptime, which pass when a test says so."""

    def __init__(self) -> None:
        self.time = START
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.time

    def uptime(self) -> float:
        return self.seconds

    def pass_by(self, duration: timedelta) -> None:
        self.time += duration
        self.seconds += duration.total_seconds()


class Step(NamedTuple):
    """What a test looks at in an event."""

    kind: str
    status: str | None
    actor: str
    reason: str


class World:
    """A store, a provider, a clock, and the services over them."""

    def __init__(self, store: TransactionalRepository, root: Path) -> None:
        self.script = Script()
        self.store = Told(store, self.script)
        self.provider = FolderProvider(root, self.script)
        self.clock = Clock()
        self._services: list[EnvironmentService] = []

    def service(self, *, keeps_time: bool = False, **options: Any) -> EnvironmentService:
        """A service; to one that keeps no time, a clock that leaps is no stop of its process."""
        options.setdefault("ports", Ports(range(20_000, 20_100), is_free=lambda _: True))
        options.setdefault("patience", LONG)
        repository = options.pop("repository", self.store)
        provider = options.pop("provider", self.provider)
        # Nobody stores them by himself, however slow the machine: it is another clock that counts.
        options.setdefault("touches", Touches(repository, interval=timedelta(days=1)))
        service = EnvironmentService(
            repository, provider, now=self.clock.now, uptime=self.clock.uptime, **options
        )
        if not keeps_time:
            service.keep_time = lambda _: None  # type: ignore[assignment,method-assign]
        self._services.append(service)
        return service

    def story(self, environment_id: str) -> list[Step]:
        """All that happened to an environment."""
        return [
            Step(event.kind, event.status, event.actor, event.reason)
            for event in self.store.history(environment_id)
        ]

    def stored(self, environment_id: str) -> Environment:
        return self.store.real.find_by_id(environment_id)

    def is_there(self, environment_id: str) -> bool:
        """Whether it has a record, or a workspace, whole or not."""
        try:
            self.stored(environment_id)
        except EnvironmentNotFoundError:
            return environment_id in self.provider.workspaces()
        return True

    def close(self) -> None:
        self.script.forget()
        for service in self._services:
            service.close(patience=0)
        assert IN_HAND.wait_until_idle(0), "something is left in hand"
        self.store.close()


def together(*calls: Callable[[], T]) -> list[T | Exception]:
    """Make the calls at once, in threads; what each returns or raises."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | Exception:
        barrier.wait(LONG)
        try:
            return call()
        except Exception as error:  # noqa: BLE001  # For the test to look at.
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def owner(**fields: Any) -> Owner:
    """A process that never was, of this boot of this machine."""
    values: dict[str, Any] = {
        "host": host_name(),
        "boot_id": boot_id(),
        "pid": 2**22 + 1,  # Above what Linux gives out.
        "process_started": 5,
    }
    return Owner(**{**values, **fields})
