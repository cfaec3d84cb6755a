# SPDX-License-Identifier: Apache-2.0
"""The lifecycle of a server: what it opens, in which order, and how it closes it again."""

import logging
import threading
from collections.abc import Callable
from typing import Final, Self, cast

from waggle_fsstore.config import Settings, why_temporary
from waggle_fsstore.domain.errors import HostRefusedError, ServerRunningError, SettingError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.history import InBackground, history_of
from waggle_fsstore.server.leadership import Leadership
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.host_agent import HostAgent, Watched
from waggle_fsstore.service.reaper import Reaper
from waggle_fsstore.service.retention import HistoryKeeper
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.wiring import (
    open_repository,
    open_service,
    require_store,
    server_lock,
    server_presence,
)

#: Held by the server that reconciles and sweeps, of all that serve a store.
_LEADER_LOCK: Final = "server.lock"

#: Held by the server that listens for HTTP: a store has at most one.
_HTTP_LOCK: Final = "http.lock"

# How long closing waits for the reaper, and then for the calls in progress.
_CLOSE_TIMEOUT_S: Final = 1.5

_log: Final = logging.getLogger(__name__)


class ServiceHost:
    """A store with its service and its reaper, for one server process.

    Begins no store where only the workspaces of one are left, unless ``may_init``.
    The attributes are set by :meth:`open`. Raises :class:`SettingError` for an invalid
    location. ``end`` is called, from a thread, where the server must end by itself: an operator
    has removed its host from those that share the store.
    """

    repository: TransactionalRepository
    service: EnvironmentService
    reaper: Reaper

    def __init__(
        self,
        settings: Settings,
        location: str | None = None,
        *,
        is_http: bool = False,
        may_init: bool = False,
    ) -> None:
        self._settings = settings
        self._may_init = may_init
        self._location = location
        try:
            self._http = server_lock(_HTTP_LOCK, location, settings) if is_http else None
            self._leader = server_lock(_LEADER_LOCK, location, settings)
            self._presence = server_presence(location, settings)
        except SettingError:
            raise
        except ValueError as error:
            raise SettingError("--store", str(error)) from None
        self._leadership = Leadership(self._leader, settings.reaper_interval)
        self.end: Callable[[], object] = self.interrupt
        self._agent: HostAgent | None = None
        # Held while opening or closing.
        self._lock = threading.Lock()
        self._is_open = False
        self._is_interrupted = False
        self._is_closed = False

    def open(self) -> bool:
        """Take the locks, open the store, reconcile, and start the reaper.

        Returns whether the server may serve: it may not if it was interrupted or closed in
        the meantime. Raises :class:`ServerRunningError`, before anything is changed, if this
        is for HTTP and another server already serves the store over HTTP; and what opening a
        store raises.
        """
        with self._lock:
            if self._is_closed:
                return False
            try:
                self._open()
            except BaseException:
                self._is_closed = True
                _release(self._http, self._leader, self._presence)
                raise
            self._is_open = True
        if not self._is_interrupted:
            self.reaper.start()
            if self._agent is not None:
                self._agent.start()
        return not self._is_interrupted

    def _open(self) -> None:
        if not self._may_init:
            require_store(self._location, self._settings)
        if self._http is not None and not self._http.try_acquire():
            raise ServerRunningError(self._http.holder())
        self.repository = open_repository(self._location)
        if warning := why_temporary(str(getattr(self.repository, "path", ""))):
            _log.warning("%s", warning)
        self.service = open_service(self.repository, self._settings)
        self._check_execution()
        self.service.membership.join()
        if self.service.membership.hosts is not None:
            store = cast("Watched", self.repository)
            self._agent = HostAgent(self.service, store, self._refuse)
        self.reaper = Reaper(
            self.service,
            interval=self._settings.reaper_interval,
            is_leader=self.try_to_lead,
            afterwards=self._limit_history(),
        )
        self._announce(logging.WARNING)

    def _limit_history(self) -> Callable[[], object]:
        """Return what limits the history of the store, when that is due."""
        history = history_of(self.repository)
        if history is None:
            return lambda: None
        keep = self._settings.history_keep
        keeper = HistoryKeeper(history, keep, self.service.provider.kept_since)
        return InBackground(keeper.run_if_due)

    def _check_execution(self) -> None:
        """Say how programs are run. Raises :class:`SettingError` if they have to be isolated."""
        reason = self.service.workspaces.why_no_execution()
        settings = self._settings.execution
        if settings.mode == "isolated" and reason:
            raise SettingError("WAGGLE_EXECUTION", f"programs cannot be isolated here: {reason}")
        if settings.mode == "unisolated":
            _log.warning(
                "WAGGLE_EXECUTION=unisolated: agents can do all that this user can, on this machine"
            )
        elif reason and settings.mode != "off":
            _log.warning("agents cannot run programs: %s", reason)
        if settings.network == "host" and not reason:
            _log.warning(
                "WAGGLE_NETWORK=host: programs of agents reach this machine's network, with all "
                "that listens on its loopback interface"
            )

    def _announce(self, level: int = logging.DEBUG) -> None:
        """Show the command line that this server runs. A full disk is no reason not to serve."""
        try:
            if self._presence is not None:
                self._presence.try_acquire()
        except OSError as error:
            _log.log(level, "the command line cannot see that this server runs: %s", error)

    def _refuse(self, error: HostRefusedError) -> None:
        _log.critical("%s; this server ends", error)
        self.end()

    def try_to_lead(self) -> bool:
        """Return whether this server reconciles and sweeps, taking that role if it is free."""
        if self._http is not None:
            self._http.try_acquire()  # Takes it back if the lock file was removed.
        self._announce()
        return self._leadership.try_to_lead()

    @property
    def is_interrupted(self) -> bool:
        """Whether this server is ending."""
        return self._is_interrupted

    @property
    def is_substitute(self) -> bool:
        """Whether this server sweeps in place of a leader that is stalled."""
        return self._leadership.is_substitute

    @property
    def log_fields(self) -> dict[str, object]:
        """The fields of the log entry that a server writes once it serves."""
        return {
            "store": str(
                getattr(self.repository, "path", getattr(self.repository, "location", "memory:"))
            ),
            "workspaces": str(getattr(self.service.provider, "root", "")),
            **({"host": name} if (name := self.service.membership.name) else {}),
            "execution": self.service.workspaces.kind,
            "leads": self.reaper.reconciliation is not None,
        }

    def interrupt(self) -> None:
        """Make creations fail soon, those in progress and later ones, and stop sweeping."""
        self._is_interrupted = True
        if self._is_open:
            self.reaper.stop(timeout=0)
            if self._agent is not None:
                self._agent.stop(timeout=0)
            self.service.provider.close()
            self.service.workspaces.close()

    def close(self) -> None:
        """Close everything. Destroys no environment. Safe to repeat."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.interrupt()
            if self._is_open:
                self._close()
            _release(self._http, self._leader, self._presence)
            _log.info("stopped; no environment was destroyed")

    def _close(self) -> None:
        if not self.reaper.stop(timeout=_CLOSE_TIMEOUT_S):
            _log.warning("a sweep did not end in time; the next start of a server completes it")
        if self._agent is not None:
            self._agent.stop(timeout=_CLOSE_TIMEOUT_S)
        if not self.service.close(timeout=_CLOSE_TIMEOUT_S):
            _log.warning("a call did not end in time; the next start of a server cleans up")
        self.repository.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _release(*locks: ServerLock | None) -> None:
    for lock in locks:
        if lock is not None:
            lock.release()
