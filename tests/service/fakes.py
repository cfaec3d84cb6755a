# SPDX-License-Identifier: Apache-2.0
"""Fakes: a provider, a store and a clock, and a script of what happens at their calls."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from waggle_fsstore import (
    Capabilities,
    Environment,
    EnvironmentNotFoundError,
    EnvironmentService,
    ProviderError,
    Runtime,
    TransactionalRepository,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.audit import host_name
from waggle_fsstore.domain.environment import Owner
from waggle_fsstore.domain.errors import HostNotFoundError, HostRefusedError
from waggle_fsstore.domain.host import Host
from waggle_fsstore.domain.process import boot_id
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Leftovers
from waggle_fsstore.service.touch_buffer import TouchBuffer

T = TypeVar("T")

#: How long to wait for what should happen at once.
TIMEOUT_S = 60.0

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CAPABILITIES = Capabilities(detected_at=START, path="/bin")


class Script:
    """Actions of a test at points such as ``before update``; records all points passed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._actions: dict[tuple[str, int], Callable[[], object]] = {}
        self._always: dict[str, Callable[[], object]] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def at(self, point: str, action: Callable[[], object], *, nth: int = 1) -> None:
        """Run an action when the point is passed for the n-th time from now on."""
        self._actions[point, self._counts[point] + nth] = action

    def always(self, point: str, action: Callable[[], object]) -> None:
        """Run an action whenever the point is passed."""
        self._always[point] = action

    def reset(self) -> None:
        """Drop all actions, and the record of the points passed."""
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
    """Holds a thread at a point until the test opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._open.wait(TIMEOUT_S), "the gate was not opened"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(TIMEOUT_S), "no thread reached the gate"

    def open(self) -> None:
        self._open.set()


def failing(error: BaseException) -> Callable[[], object]:
    """Return an action that raises."""

    def fail() -> None:
        raise error

    return fail


class DirectoryProvider:
    """Keeps each environment in a directory, which is complete once ``whole`` is in it."""

    def __init__(self, root: Path, script: Script, *, name: str = "fake") -> None:
        self.root = root
        self.name = name
        self.former_names = frozenset({f"{name}-former"})
        self.trash = root.parent / "trash"
        self.is_closed = False
        self.lived = timedelta(0)
        self.known: set[str] = set()
        self._script = script

    def create(self, environment: Environment) -> Capabilities:
        self._script("before make")
        directory = self.root / environment.id
        directory.mkdir(parents=True)
        (directory / "half").touch()
        self._script("halfway make")
        # It may have been removed by now, which not every provider notices.
        directory.mkdir(exist_ok=True)
        (directory / "whole").touch()
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

    def adopt(self, environment: Environment) -> None:
        self._script(f"before adopt {environment.id}")

    def remove(self, environment: Environment, *, keep: bool = False) -> None:
        self._script("before remove")
        directory = self.root / environment.id
        if keep and directory.exists():
            self.trash.mkdir(exist_ok=True)
            directory.rename(self.trash / environment.id)
            self._script("halfway remove")
        else:
            (directory / "whole").unlink(missing_ok=True)
            self._script("halfway remove")
            shutil.rmtree(directory, ignore_errors=True)
        self._script("after remove")

    def has_files(self, environment: Environment) -> bool:
        return any((place / environment.id).exists() for place in (self.root, self.trash))

    def restore(self, environment: Environment) -> None:
        self._script("before restore")
        directory = self.root / environment.id
        if not self.has_files(environment):
            raise WorkspaceGoneError(self.name, "its files are gone")
        if not directory.exists():
            (self.trash / environment.id).rename(directory)
        self._script("after restore")

    def tidy(self, lived: timedelta, known: Iterable[str]) -> None:
        self._script("before tidy")
        self.lived += lived
        self.known = set(known)

    def free_space(self, environment: Environment) -> bool:
        kept = sorted(self.trash.iterdir()) if self.trash.exists() else []
        places = [*kept, self.root / environment.id]
        found = [place for place in places if place.exists()]
        for place in found[:1]:
            shutil.rmtree(place)
        return bool(found)

    def kept_since(self) -> datetime | None:
        return None

    @property
    def leftovers(self) -> Leftovers:
        return Leftovers(0, 0)

    def find_orphans(self, known: Iterable[str]) -> list[str]:
        self._script("before find_orphans")
        return sorted(self.workspaces() - set(known))

    def check(self) -> None:
        self._script("before check")
        if self.is_closed:
            raise ProviderError(self.name, "the provider was closed")

    def close(self) -> None:
        self.is_closed = True

    def workspaces(self) -> set[str]:
        """Return the names of all workspaces, complete or not."""
        return {path.name for path in self.root.iterdir()} if self.root.exists() else set()


class _ScriptedStore:
    def __init__(self, real: TransactionalRepository, script: Script) -> None:
        self._real = real
        self._script = script

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)
        if name in ("history", "watch", "close"):
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            self._script(f"before {name}")
            result = method(*arguments, **options)
            self._script(f"after {name}")
            return result

        return call


def scripted(real: TransactionalRepository, script: Script) -> TransactionalRepository:
    """Return a store that passes a point before and after each call of the real one."""
    return cast("TransactionalRepository", _ScriptedStore(real, script))


class Clock:
    """The time of day and the uptime, which only a test advances."""

    def __init__(self) -> None:
        self.time = START
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.time

    def uptime(self) -> float:
        return self.seconds

    def advance(self, duration: timedelta) -> None:
        self.time += duration
        self.seconds += duration.total_seconds()


class EventSummary(NamedTuple):
    """The parts of an event that tests compare."""

    kind: str
    status: str | None
    actor: str
    reason: str


class World:
    """A store, a provider, a clock, and the services over them."""

    def __init__(self, store: TransactionalRepository, root: Path) -> None:
        self.script = Script()
        self.real_store = store
        self.store = scripted(store, self.script)
        self.provider = DirectoryProvider(root, self.script)
        self.clock = Clock()
        self._services: list[EnvironmentService] = []

    def service(self, *, ticks: bool = False, **options: Any) -> EnvironmentService:
        """Return a service; without ``ticks``, a leap of the clock is not a suspension."""
        options.setdefault("ports", Ports(range(20_000, 20_100), is_free=lambda _: True))
        options.setdefault("takeover_after", TIMEOUT_S)
        repository = options.pop("repository", self.store)
        provider = options.pop("provider", self.provider)
        # No timer stores them, however slow the machine is: tests use a clock of their own.
        buffer = TouchBuffer(repository, interval=timedelta(days=1))
        self.touches = options.setdefault("touch_buffer", buffer)
        options.setdefault("now", self.clock.now)
        service = EnvironmentService(repository, provider, uptime=self.clock.uptime, **options)
        if not ticks:
            service.tick = lambda _: None  # type: ignore[assignment,method-assign]
        self._services.append(service)
        return service

    def events_of(self, environment_id: str) -> list[EventSummary]:
        """Return the events of an environment."""
        return [
            EventSummary(event.kind, event.status, event.actor, event.reason)
            for event in self.store.history(environment_id)
        ]

    def stored(self, environment_id: str) -> Environment:
        return self.real_store.find_by_id(environment_id)

    def exists(self, environment_id: str) -> bool:
        """Return whether it has a record, or a workspace, complete or not."""
        try:
            self.stored(environment_id)
        except EnvironmentNotFoundError:
            return environment_id in self.provider.workspaces()
        return True

    def store_environment(
        self, *, workspace: bool = True, provider: str = "fake", **fields: Any
    ) -> str:
        """Store an environment as some process may have left it, and return its id."""
        environment = Environment(name="n", runtime=Runtime.SHELL, provider=provider, **fields)
        environment.created_at = environment.last_used = self.clock.time
        self.real_store.save(environment)
        if workspace:
            directory = self.provider.root / environment.id
            directory.mkdir(parents=True)
            (directory / "whole").touch()
        return environment.id

    def close(self) -> None:
        self.script.reset()
        for service in self._services:
            service.close(timeout=0)
        assert IN_PROGRESS.wait_until_empty(0), "a thread is still creating or removing"
        self.store.close()


def together(*calls: Callable[[], T]) -> list[T | Exception]:
    """Make the calls at once, in threads, and return what each returns or raises."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | Exception:
        barrier.wait(TIMEOUT_S)
        try:
            return call()
        except Exception as error:  # noqa: BLE001  # For the test to look at.
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def owner(**fields: Any) -> Owner:
    """Return a process of this boot of this machine that does not exist."""
    values: dict[str, Any] = {
        "host": host_name(),
        "boot_id": boot_id(),
        "pid": 2**22 + 1,  # Above the highest process id of Linux.
        "process_started": 5,
    }
    return Owner(**{**values, **fields})


class FakeHosts:
    """The hosts of a store, as a database keeps them; a test sets the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hosts: dict[str, Host] = {}
        self.error: Exception | None = None
        #: How many registrations another boot with the same id is still heard of.
        self.copies = 0

    def now(self) -> datetime:
        if self.error is not None:
            raise self.error
        return self._clock.now()

    def register(self, host_id: str, name: str, url: str, _: str) -> bool:
        self._refuse_removed(host_id)
        if self.copies:
            self.copies -= 1
            return False
        if any(one.name == name and one.id != host_id for one in self._hosts.values()):
            raise HostRefusedError(name, "another host has this name")
        self._hosts[host_id] = Host(id=host_id, name=name, url=url, seen_at=self.now())
        return True

    def beat(self, host_id: str, _: str) -> None:
        self._refuse_removed(host_id)
        self._hosts[host_id] = replace(self._hosts[host_id], seen_at=self.now())

    def find_all(self) -> list[Host]:
        return list(self._hosts.values())

    def remove(self, name: str) -> Host:
        for one in self._hosts.values():
            if one.name == name:
                self._hosts[one.id] = replace(one, removed_at=self.now())
                return self._hosts[one.id]
        raise HostNotFoundError(name)

    def _refuse_removed(self, host_id: str) -> None:
        host = self._hosts.get(host_id)
        if host is not None and host.removed_at is not None:
            raise HostRefusedError(host.name, "it was removed")
