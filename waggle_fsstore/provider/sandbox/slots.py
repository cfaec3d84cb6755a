# SPDX-License-Identifier: Apache-2.0
"""How many programs run at once: in one environment, and over all."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.clock import monotonic


class Slots:
    """Admits at most ``per_environment`` programs of one environment, and ``total`` over all."""

    def __init__(self, per_environment: int, total: int = 0) -> None:
        self._per_environment = per_environment
        self._total = total or 2 * (os.cpu_count() or 1)
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Forget the programs in a forked child: they belong to the parent."""
        self._running = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def hold(
        self, environment_id: str, wait_s: float, is_wanted: Callable[[], bool]
    ) -> Iterator[str]:
        """Run the block in a slot; it gets "", or why there was none within ``wait_s`` seconds."""
        with self._changed:
            deadline = monotonic() + wait_s
            while (reason := self._why_full(environment_id)) and is_wanted():
                remaining = deadline - monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(min(remaining, _LOOK_INTERVAL_S))
            if not reason:
                self._running[environment_id] += 1
        try:
            yield reason
        finally:
            if not reason:
                with self._changed:
                    self._running[environment_id] -= 1
                    if not self._running[environment_id]:
                        del self._running[environment_id]
                    self._changed.notify_all()

    def _why_full(self, environment_id: str) -> str:
        if self._running[environment_id] >= self._per_environment:
            return f"{self._per_environment} programs run in this environment already: try again"
        if self._running.total() >= self._total:
            return f"{self._total} programs run on this server already: try again"
        return ""


# Whether the call is still wanted is asked this often.
_LOOK_INTERVAL_S = 0.2
