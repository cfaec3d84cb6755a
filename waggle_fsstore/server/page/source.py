# SPDX-License-Identifier: Apache-2.0
"""Where the page gets its facts: from a store alone, or from the server of one."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from waggle_fsstore.domain.audit import host_name
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import WaggleError
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.figures import Survey
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.page.health import Row, Running, rows
from waggle_fsstore.server.page.makers import Makers
from waggle_fsstore.server.page.trail import latest
from waggle_fsstore.store.maintenance.last_check import LastCheck


class Source:
    """The facts of a store without a server. Changes nothing. Each method reads files."""

    def __init__(self, store: TransactionalRepository) -> None:
        self.store = store
        self.makers = Makers(store)
        self._is_ending = False

    @property
    def is_ending(self) -> bool:
        """Whether no viewer is to be kept waiting any more."""
        return self._is_ending

    def end(self) -> None:
        """Keep no viewer waiting any more."""
        self._is_ending = True

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC)

    def environments(self) -> tuple[list[Environment], list[str]]:
        """Return all environments, and what is wrong with each document that is unreadable."""
        unreadable: list[Exception] = []
        found = self.store.find_all(on_corrupt=unreadable.append)
        return found, list(map(self.describe, unreadable))

    def find(self, environment_id: str) -> Environment:
        """Return an environment. Raises as :meth:`Repository.find_by_id` does."""
        return self.store.find_by_id(environment_id)

    def time_left(self, environment: Environment) -> timedelta | None:
        """Return how much longer an environment may be idle, ``None`` if it never expires."""
        if environment.timeout <= timedelta(0):
            return None
        return environment.last_used + environment.timeout - self.now()

    def host_of(self, environment: Environment) -> str:
        """Return the name of the host that has the files of an environment, "" if none has."""
        return environment.host_id or ""

    def health(self, stored: list[Environment], unreadable: list[str]) -> list[Row]:
        """Return the rows about the health of store and server."""
        check = self._last_check()
        return rows(stored, unreadable, self._info(), check, self._running(), self.now())

    def latest(self) -> int:
        """Return the number of the last change."""
        return latest(self.store)

    def watch(self, after: int | str, timeout: float) -> Iterator[Event]:
        """Return the new events, as :meth:`TransactionalRepository.watch` does."""
        return self.store.watch(after=after, timeout=timeout)

    def describe(self, error: Exception) -> str:
        """Return what is wrong, with no path of this machine but those inside the store."""
        root = os.path.join(str(getattr(self.store, "path", "")), "")
        return str(error).replace(root, "") if root else str(error)

    def _running(self) -> Running | None:
        return None

    def _info(self) -> Any:
        try:
            return self.store.info() if hasattr(self.store, "info") else None
        except (WaggleError, OSError):
            return None  # The environments cannot be read either, which the page says.

    def _last_check(self) -> LastCheck | None:
        found: LastCheck | None = getattr(self.store, "last_check", lambda: None)()
        return found


class ServerSource(Source):
    """The facts of a server, which knows of uses that are not stored yet."""

    def __init__(self, host: ServiceHost, survey: Survey, capacity: int) -> None:
        super().__init__(host.repository)
        self._host = host
        self._survey = survey
        self._capacity = capacity

    @property
    def is_ending(self) -> bool:
        """See :class:`Source`."""
        return self._host.is_interrupted

    def now(self) -> datetime:
        """Return the time by the clock that all hosts share."""
        return self._host.service.membership.now()

    def environments(self) -> tuple[list[Environment], list[str]]:
        """See :class:`Source`."""
        unreadable: list[Exception] = []
        found = self._host.service.find_all(on_corrupt=unreadable.append)
        return found, list(map(self.describe, unreadable))

    def find(self, environment_id: str) -> Environment:
        """See :class:`Source`."""
        return self._host.service.find_by_id(environment_id)

    def time_left(self, environment: Environment) -> timedelta | None:
        """See :class:`Source`."""
        return self._host.service.time_left(environment)

    def host_of(self, environment: Environment) -> str:
        """See :class:`Source`. The only host is this machine."""
        membership = self._host.service.membership
        return host_name() if membership.hosts is None else membership.name_of(environment)

    def _running(self) -> Running:
        service = self._host.service
        figures = self._survey.figures()
        reason = service.workspaces.why_no_execution()
        return Running(
            is_ready=figures.is_ready,
            leads=figures.leads,
            is_substitute=figures.is_substitute,
            can_execute=figures.can_execute,
            execution=f"off: {reason}" if reason else service.workspaces.kind,
            own=sum(figures.own.get(status, 0) for status in ("creating", "running", "destroying")),
            capacity=self._capacity,
            orphans=figures.counts["orphans"],
            problems=figures.counts["problems"],
            trash_bytes=figures.trash_bytes,
        )

    def _info(self) -> Any:
        return self._survey.figures().info
