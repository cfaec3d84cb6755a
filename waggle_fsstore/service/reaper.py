# SPDX-License-Identifier: Apache-2.0
"""The reaper: a background thread that reconciles once, then sweeps at an interval."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Self

from waggle_fsstore.domain.defaults import DEFAULT_REAPER_INTERVAL
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.reconcile import Reconciliation
from waggle_fsstore.service.tally import Failure

# How often a server that is not the leader asks whether it has become the leader.
_LEADER_POLL_S: Final = 2.0

_log: Final = logging.getLogger(__name__)


class Reaper:
    """Reconciles once, and then sweeps every ``interval``, while ``is_leader`` returns true.

    After an incomplete reconciliation the next run reconciles again instead of sweeping.
    Of the servers of a store, one at a time leads; the next leader begins with a
    reconciliation. ``afterwards`` is called after each complete sweep.
    """

    def __init__(
        self,
        service: EnvironmentService,
        *,
        interval: timedelta = DEFAULT_REAPER_INTERVAL,
        is_leader: Callable[[], bool] = lambda: True,
        afterwards: Callable[[], object] = lambda: None,
    ) -> None:
        self._service = service
        self._interval = interval
        self._is_leader = is_leader
        self._afterwards = afterwards
        self._stopping = threading.Event()
        self._first_run_done = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reconciliation: Reconciliation | None = None

    @property
    def reconciliation(self) -> Reconciliation | None:
        """The result of the reconciliation as the leader; ``None`` while not the leader."""
        return self._reconciliation

    def run_once(self) -> None:
        """Reconcile or sweep, whichever is due. A failure is logged; the next run retries."""
        try:
            self._service.tick(self._interval)
            if not self._is_leader():
                self._reconciliation = None
            elif self._reconciliation is None or not self._reconciliation.is_complete:
                self._reconciliation = self._service.reconcile(is_stopping=self._stopping.is_set)
                for error in self._reconciliation.unreadable:
                    _log.warning("a document cannot be read: %s", error)
                _log_result("reconciled", self._reconciliation)
            else:
                result = self._service.sweep(is_stopping=self._stopping.is_set)
                _log_result("swept", result)
                if result.is_complete:
                    self._afterwards()
        except Exception:  # noqa: BLE001  # The next run may succeed, whatever the failure was.
            self._service.tally.failed(Failure.SWEEP)
            _log.exception("the sweep failed; the next one follows in %g s", self._pause_s())

    def start(self) -> None:
        """Start the thread, and return once it has reconciled. Can be called only once.

        :meth:`stop`, called by another thread, ends the wait. A ``with`` block starts and
        stops the reaper.
        """
        with self._start_lock:
            if self._thread is not None:
                raise RuntimeError("the reaper was started already")
            self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
            self._thread.start()
        try:
            self._first_run_done.wait()
        except BaseException:  # After Ctrl-C the with block is not entered, so never left.
            self._stopping.set()
            raise

    def stop(self, *, timeout: float = 3.0) -> bool:
        """Stop, and return whether the thread ended within ``timeout`` seconds.

        Can be repeated.
        """
        self._stopping.set()
        with self._start_lock:
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.run_once()
            self._first_run_done.set()
            self._stopping.wait(self._pause_s())
        self._first_run_done.set()

    def _pause_s(self) -> float:
        is_leading = self._reconciliation is not None
        interval = self._interval.total_seconds()
        return interval if is_leading else min(interval, _LEADER_POLL_S)


def _log_result(action: str, result: Reconciliation) -> None:
    """Log what was done. The problems were logged where they occurred."""
    fields = {
        "failed": result.failed,
        "finished": result.finished,
        "lost": result.lost,
        "revived": result.revived,
        "expired": result.expired,
        "strays": result.orphans,
    }
    fields = {name: values for name, values in fields.items() if values}
    if fields:
        text = "; ".join(f"{name}: {', '.join(values)}" for name, values in fields.items())
        _log.info("%s: %s", action, text, extra={"fields": fields})
