# SPDX-License-Identifier: Apache-2.0
"""The makers of environments: who created each one, as the history says."""

import logging
import threading
from typing import Final

from waggle_fsstore.domain.errors import (
    HistoryLostError,
    HistoryPrunedError,
    StoreClosedError,
    WaggleError,
)
from waggle_fsstore.domain.event import Event, EventFilter, EventKind
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.page.trail import latest, newest, select

# A view waits for this number of new changes to be read. More of them are read by a thread.
_AT_ONCE: Final = 1_000

# How far before the last change the thread looks for its event: numbers may be skipped.
_MAX_SKIPPED: Final = 50

_log: Final = logging.getLogger(__name__)

_WANTED: Final = EventFilter(kinds=frozenset(EventKind) - {EventKind.UPDATED})


class Makers:
    """Reads the history once, and then what is new; remembers who created what is not deleted."""

    def __init__(self, store: TransactionalRepository) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._makers: dict[str, str] = {}
        # The last change that was read.
        self._cursor: int | str = 0
        self._seq = 0
        self._is_behind = False
        self._thread: threading.Thread | None = None
        self._reported = ""

    def by_id(self) -> dict[str, str]:
        """Return the actor that created each environment, as far as that is known.

        Of a long history nothing is known until :meth:`read_on` has read it. Raises what reading
        the history raises.
        """
        with self._lock:
            if self._thread is None:
                self._catch_up()
            return self._makers.copy()

    def read_on(self) -> threading.Thread | None:
        """Start to read what the last view did not wait for; return the thread that does it."""
        with self._lock:
            if self._is_behind and self._thread is None:
                self._thread = threading.Thread(target=self._read_all, name="makers", daemon=True)
                self._thread.start()
            return self._thread

    def _catch_up(self) -> None:
        last = latest(self._store)
        if self._seq and last - self._seq <= _AT_ONCE:
            try:
                self._read(last)
            except (HistoryPrunedError, HistoryLostError):
                self._forget()
        if not self._seq and last <= _AT_ONCE:
            self._read(last)
        self._is_behind = last - self._seq > _AT_ONCE

    def _read(self, last: int) -> None:
        for event in self._store.history(after=self._cursor, until=last):
            self._add(event)
            self._cursor, self._seq = event.cursor, event.seq

    def _read_all(self) -> None:
        try:
            last = latest(self._store)
            for event in select(self._store, _WANTED, after=self._cursor, until=last):
                with self._lock:
                    self._add(event)
            end = newest(self._store, max(self._seq, last - _MAX_SKIPPED), last)
            with self._lock:
                if end is not None:
                    self._cursor, self._seq = end.cursor, end.seq
        except (HistoryPrunedError, HistoryLostError):
            with self._lock:
                self._forget()
        except StoreClosedError:
            pass  # The server ends.
        except (WaggleError, OSError) as error:
            self._report(error)  # After the next view, a thread tries again.
        finally:
            with self._lock:
                self._thread, self._is_behind = None, False

    def _add(self, event: Event) -> None:
        if event.kind is EventKind.DELETED:
            self._makers.pop(event.environment_id, None)
        elif event.previous_status is None:
            self._makers[event.environment_id] = event.actor

    def _report(self, error: Exception) -> None:
        """Log why the page does not say who made what, once for each reason."""
        if str(error) != self._reported:
            self._reported = str(error)
            _log.warning("the page does not know who created environments: %s", error)

    def _forget(self) -> None:
        self._makers.clear()
        self._cursor, self._seq = 0, 0
