# SPDX-License-Identifier: Apache-2.0
"""The makers of environments: who created each one, as the history says."""

import threading
from collections.abc import Callable
from typing import Final

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import HistoryLostError, HistoryPrunedError
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.domain.repository import TransactionalRepository

# How long a view may wait for the history to be read. The next view continues.
_BUDGET_S: Final = 1.0

# The clock is looked at after this number of events.
_BATCH: Final = 1_000


class Makers:
    """Reads the history once, and then what is new; remembers who created what is not deleted."""

    def __init__(
        self, store: TransactionalRepository, clock: Callable[[], float] = monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._cursor: int | str = 0
        self._makers: dict[str, str] = {}

    def by_id(self) -> dict[str, str]:
        """Return the actor that created each environment, as far as that is known.

        Reads the history for a second at most. Raises what reading it raises.
        """
        with self._lock:
            try:
                self._read()
            except (HistoryPrunedError, HistoryLostError):
                self._cursor = 0
                self._makers.clear()
                self._read()
            return self._makers.copy()

    def _read(self) -> None:
        deadline = self._clock() + _BUDGET_S
        for number, event in enumerate(self._store.history(after=self._cursor), 1):
            if event.kind is EventKind.DELETED:
                self._makers.pop(event.environment_id, None)
            elif event.previous_status is None:
                self._makers[event.environment_id] = event.actor
            self._cursor = event.cursor
            if number % _BATCH == 0 and self._clock() > deadline:
                return
