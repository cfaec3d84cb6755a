# SPDX-License-Identifier: Apache-2.0
"""The reaper: sweeps every now and then, in a thread of its own."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from waggle_fsstore.domain.defaults import DEFAULT_REAPER_INTERVAL
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.reconcile import Reconciliation

# How often a server that may not sweep asks whether it may by now (seconds).
_OFTEN: Final = 2.0

_log: Final = logging.getLogger(__name__)


class Reaper:
    """Reconciles once, and then sweeps every ``interval``, while ``leads`` says that it may.

    One that is not complete is made again in the place of the next sweep. Of several
    servers of a store one at a time leads. The next one reconciles anew.
    """

    def __init__(
        self,
        service: EnvironmentService,
        *,
        interval: timedelta = DEFAULT_REAPER_INTERVAL,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._service = service
        self._interval = interval
        self._leads = leads
        self._stopping = threading.Event()
        self._has_looked = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reconciliation: Reconciliation | None = None

    @property
    def reconciliation(self) -> Reconciliation | None:
        """What was found when this one began to lead; ``None`` while it does not."""
        return self._reconciliation

    def turn(self) -> None:
        """Do what is to be done now. What fails is told to the log, and tried again later."""
        try:
            self._service.keep_time(self._interval)
            if not self._leads():
                self._reconciliation = None
            elif self._reconciliation is None or not self._reconciliation.is_complete:
                self._reconciliation = self._service.reconcile(is_stopping=self._stopping.is_set)
                for error in self._reconciliation.unreadable:
                    _log.warning("a document cannot be read: %s", error)
                _report("reconciled", self._reconciliation)
            else:
                _report("swept", self._service.sweep(is_stopping=self._stopping.is_set))
        except Exception:  # noqa: BLE001  # Whatever it is, the next sweep may do.
            _log.exception("no sweep was made; the next one comes in %g s", self._pause())

    def start(self) -> None:
        """Reconcile now, and begin to sweep. Once only; so does ``with``, which stops it too.

        Another thread may stop it meanwhile: that ends the reconciling.
        """
        with self._starting:
            if self._thread is not None:
                raise RuntimeError("the reaper was started already")
            self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
            self._thread.start()
        try:
            self._has_looked.wait()
        except BaseException:  # Ctrl-C: no block is entered, and none will be left.
            self._stopping.set()
            raise

    def stop(self, *, patience: float = 3.0) -> bool:
        """Sweep no more; whether it ended within some seconds. Safe to repeat."""
        self._stopping.set()
        with self._starting:
            thread = self._thread
        if thread is None:
            return True
        thread.join(patience)
        return not thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.turn()
            self._has_looked.set()
            self._stopping.wait(self._pause())
        self._has_looked.set()

    def _pause(self) -> float:
        is_leading = self._reconciliation is not None
        interval = self._interval.total_seconds()
        return interval if is_leading else min(interval, _OFTEN)


def _report(what: str, result: Reconciliation) -> None:
    """Tell what was done. Problems were told where they arose."""
    names = ("failed", "finished", "lost", "expired", "strays")
    found = {name: getattr(result, name) for name in names if getattr(result, name)}
    if found:
        told = "; ".join(f"{name}: {', '.join(values)}" for name, values in found.items())
        _log.info("%s: %s", what, told, extra={"fields": found})
