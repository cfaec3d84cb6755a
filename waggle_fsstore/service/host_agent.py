# SPDX-License-Identifier: Apache-2.0
"""The host agent: a background thread of each server of a store that several hosts share."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol, Self

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import HostRefusedError
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.host import HEARTBEAT
from waggle_fsstore.service.environments import EnvironmentService

# How soon the thread notices that it is to stop.
_STOP_POLL_S: Final = 0.5

_log: Final = logging.getLogger(__name__)


class Watched(Protocol):
    """A store whose changes can be followed from the last one on."""

    def last_change(self) -> int:
        """Return the number of the last change, 0 without one."""
        ...

    def watch(
        self, *, after: int | str | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`."""
        ...


class HostAgent:
    """Shows that this host works, and removes at once what other hosts ask it to remove.

    It follows the history of ``store`` from its start on. ``on_refused`` is called, once, if the
    host may not use the store any more.
    """

    def __init__(
        self,
        service: EnvironmentService,
        store: Watched,
        on_refused: Callable[[HostRefusedError], None],
    ) -> None:
        self._service = service
        self._store = store
        self._on_refused = on_refused
        self._stopping = threading.Event()
        self._cursor: int | str | None = None
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="host agent", daemon=True)

    def start(self) -> None:
        """Start the thread. A ``with`` block starts and stops it."""
        self._thread.start()

    def stop(self, *, timeout: float = 3.0) -> bool:
        """Stop, and return whether the thread ended within ``timeout`` seconds.

        Can be repeated.
        """
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._service.membership.beat()
                self._follow(monotonic() + HEARTBEAT.total_seconds())
                self._is_failing = False
            except HostRefusedError as error:
                self._on_refused(error)
                return
            except Exception as error:  # noqa: BLE001  # The next attempt may succeed.
                level = logging.DEBUG if self._is_failing else logging.ERROR
                _log.log(level, "this host does not see what the others ask for: %s", error)
                self._is_failing = True
                # The history may be lost there, or an event be damaged: go on after the last one.
                self._cursor = None
                self._stopping.wait(HEARTBEAT.total_seconds())

    def _follow(self, until: float) -> None:
        """Do what the events up to a time ask for, and at first what earlier ones asked for."""
        if self._cursor is None:
            last = self._store.last_change()
            self._service.finish_removals()
            self._cursor = last
        while not self._stopping.is_set() and (left := until - monotonic()) > 0:
            timeout = min(left, _STOP_POLL_S)
            for event in self._store.watch(after=self._cursor, timeout=timeout):
                self._cursor = event.cursor
                self._handle(event)
                if self._stopping.is_set() or monotonic() >= until:
                    return

    def _handle(self, event: Event) -> None:
        if event.environment is None:
            return
        try:
            self._service.finish_removal(event.environment)
        except Exception as error:  # noqa: BLE001  # The next sweep tries again.
            _log.error("environment %s: %s", event.environment_id, error)
