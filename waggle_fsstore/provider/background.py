# SPDX-License-Identifier: Apache-2.0
"""Work that continues in a background thread after its caller has returned."""

import logging
import threading
from collections.abc import Callable

from waggle_fsstore.domain.at_fork import register_at_fork

_log = logging.getLogger(__name__)

# How long work may go on at the end, and then how long it has to notice that it must stop.
_GRACE_PERIOD_S = 1.0
_STOP_TIMEOUT_S = 2.0


class Background:
    """Runs ``work`` in a separate thread, once for any number of calls of :meth:`start`.

    ``work`` is given a function that returns whether it should end early.
    """

    def __init__(self, work: Callable[[Callable[[], bool]], None], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = threading.Lock()
        self._is_due = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Forget the thread of the parent, which does not exist in a forked child."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = None

    def start(self) -> None:
        """Make sure that the work is done after this call, unless :meth:`stop` was called."""
        with self._lock:
            self._is_due = True
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the work, within a second if it can be, and begin none again."""
        self.wait(_GRACE_PERIOD_S)
        with self._lock:
            self._stopping.set()
            thread = self._thread
        if thread is not None:
            thread.join(_STOP_TIMEOUT_S)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the work that is due is done, at most ``timeout`` seconds."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _run(self) -> None:
        while self._takes_turn():
            try:
                self._work(self._stopping.is_set)
            except Exception:  # noqa: BLE001  # The next start tries again, whatever it was.
                _log.exception("the work %r in the background failed", self._name)

    def _takes_turn(self) -> bool:
        with self._lock:
            is_due, self._is_due = self._is_due, False
            if not is_due or self._stopping.is_set():
                self._thread = None
                return False
            return True
