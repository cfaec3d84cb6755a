# SPDX-License-Identifier: Apache-2.0
"""The figures of a server that have to be counted: environments, files, and what is wrong."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.errors import WaggleError
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.readiness import Readiness

#: Counting lists the store and its files: it is done at most this often.
MAX_AGE_S: Final = 15.0

#: The statuses that an environment is stored with.
_STORED: Final = (Status.CREATING, Status.RUNNING, Status.DESTROYING, Status.ERROR)


class Room(NamedTuple):
    """The size of a file system, and what is free of it, in bytes."""

    size: int
    free: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What was counted at one moment.

    - ``own``: the environments of this host, by status; ``stored``: those of the store, by status
      and host. Without an entry where the store cannot be read.
    - ``counts``: those of ``/readyz``.
    - ``info``: the store in figures, as its class has them; ``None`` if it has none, or cannot
      be read.
    - ``room``: the file systems of the store and of the workspaces.
    """

    is_ready: bool
    leads: bool
    is_substitute: bool
    can_execute: bool
    own: dict[str, int]
    stored: dict[tuple[str, ...], int]
    counts: dict[str, int]
    trash_bytes: int
    info: Any
    room: dict[str, Room]


class Survey:
    """Counts the figures of a host, and remembers them for ``MAX_AGE_S``."""

    def __init__(
        self, host: ServiceHost, readiness: Readiness, clock: Callable[[], float] = monotonic
    ) -> None:
        self._host = host
        self._readiness = readiness
        self._clock = clock
        # A thread that asks while another one counts gets the figures of that one.
        self._lock = threading.Lock()
        self._counted_at = 0.0
        self._figures: Figures | None = None

    def figures(self) -> Figures:
        """Return the figures, which are at most ``MAX_AGE_S`` old."""
        with self._lock:
            now = self._clock()
            if self._figures is None or now - self._counted_at >= MAX_AGE_S:
                self._figures = self._count()
                self._counted_at = now
            return self._figures

    def _count(self) -> Figures:
        host, service = self._host, self._host.service
        is_ready, report = self._readiness.report()
        own, stored = self._environments()
        return Figures(
            is_ready=is_ready,
            leads=host.reaper.reconciliation is not None,
            is_substitute=host.is_substitute,
            can_execute=not service.workspaces.why_no_execution(),
            own=own,
            stored=stored,
            counts=report["counts"],
            trash_bytes=service.leftovers.trash_bytes,
            info=self._info(),
            room=self._room(),
        )

    def _environments(self) -> tuple[dict[str, int], dict[tuple[str, ...], int]]:
        membership = self._host.service.membership
        stored: Counter[tuple[str, ...]] = Counter()
        own: Counter[str] = Counter()
        try:
            found = self._host.repository.find_all(on_corrupt=lambda _: None)
        except (WaggleError, OSError):
            return {}, {}  # Readiness has logged it.
        for environment in found:
            status = environment.status.value
            stored[status, membership.name_of(environment)] += 1
            own[status] += membership.owns(environment)
        hosts = {membership.name, *(host for _, host in stored)}
        return (
            {status.value: own[status.value] for status in _STORED},
            {(one.value, host): stored[one.value, host] for one in _STORED for host in hosts},
        )

    def _info(self) -> Any:
        info: Callable[[], Any] | None = getattr(self._host.repository, "info", None)
        try:
            return None if info is None else info()
        except (WaggleError, OSError):
            return None  # Readiness has logged it.

    def _room(self) -> dict[str, Room]:
        places = {
            "store": getattr(self._host.repository, "path", None),
            "workspaces": getattr(self._host.service.provider, "root", None),
        }
        room = {}
        for name, path in places.items():
            try:
                if path is not None:
                    usage = shutil.disk_usage(path)
                    room[name] = Room(usage.total, usage.free)
            except OSError:
                continue  # It is not there yet, or not any more, which readiness has logged.
        return room
