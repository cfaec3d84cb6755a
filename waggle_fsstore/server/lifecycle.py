# SPDX-License-Identifier: Apache-2.0
"""What a server needs, opened in the order that harms nobody, and closed again."""

import logging
import threading
from typing import Final, Self

from waggle_fsstore.config import Settings
from waggle_fsstore.domain.errors import ServerRunningError, SettingError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.reaper import Reaper
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.wiring import open_repository, open_service, server_lock

#: Which of the servers of a store reconciles and sweeps.
_LEADER_LOCK: Final = "server.lock"

#: Which server listens for HTTP.
_HTTP_LOCK: Final = "http.lock"

# How long the reaper may take to end, and then the calls that are under way (seconds).
_PATIENCE: Final = 1.5

_log: Final = logging.getLogger(__name__)


class Serving:
    """A store with its provider, its service and its reaper, from :meth:`open` on.

    Raises :class:`SettingError` for a location that is none.
    """

    repository: TransactionalRepository
    service: EnvironmentService
    reaper: Reaper

    def __init__(
        self, settings: Settings, location: str | None = None, *, is_http: bool = False
    ) -> None:
        self._settings = settings
        self._location = location
        try:
            self._http = server_lock(_HTTP_LOCK, location) if is_http else None
            self._leader = server_lock(_LEADER_LOCK, location)
        except ValueError as error:
            where = "WAGGLE_STORE_PATH" if location is None else "--store"
            raise SettingError(where, str(error)) from None
        # Of who opens it or closes it.
        self._lock = threading.Lock()
        self._is_open = False
        self._is_cut_short = False
        self._is_closed = False

    def open(self) -> bool:
        """Take the locks, open the store, reconcile, and begin to sweep.

        Whether it is to be served then: another thread may cut it short meanwhile, which
        ends the reconciling too. Raises :class:`ServerRunningError` before it has changed anything,
        if this is for HTTP and another server has the store already; what opening a store
        raises.
        """
        with self._lock:
            if self._is_closed:
                return False
            try:
                self._open()
            except BaseException:
                self._is_closed = True
                _release(self._http, self._leader)
                raise
            self._is_open = True
        if not self._is_cut_short:
            self.reaper.start()
        return not self._is_cut_short

    def _open(self) -> None:
        if self._http is not None and not self._http.try_acquire():
            raise ServerRunningError(self._http.holder())
        self.repository = open_repository(self._location)
        self.service = open_service(self.repository, self._settings)
        self.reaper = Reaper(
            self.service, interval=self._settings.reaper_interval, is_leader=self.try_to_lead
        )

    def try_to_lead(self) -> bool:
        """Become the server that reconciles and sweeps, if no other is; whether this one is it."""
        if self._http is not None:
            self._http.try_acquire()  # Anew, if somebody took its file away.
        return self._leader is None or self._leader.try_acquire()

    @property
    def fields(self) -> dict[str, object]:
        """What the log says of it at the start."""
        return {
            "store": str(getattr(self.repository, "path", "memory:")),
            "workspaces": str(getattr(self.service.provider, "root", "")),
            "leads": self.reaper.reconciliation is not None,
        }

    def cut_short(self) -> None:
        """Let no environment begin, and those end that are being created; sweep no more."""
        self._is_cut_short = True
        if self._is_open:
            self.reaper.stop(timeout=0)
            self.service.provider.close()

    def close(self) -> None:
        """End, destroying nothing: what is stored is what there is. Safe to repeat."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.cut_short()
            if self._is_open:
                self._close()
            _release(self._http, self._leader)
            _log.info("stopped; no environment was destroyed")

    def _close(self) -> None:
        if not self.reaper.stop(timeout=_PATIENCE):
            _log.warning("a sweep goes on; the next start goes on with it")
        if not self.service.close(timeout=_PATIENCE):
            _log.warning("a call goes on; the next start goes on with it")
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
