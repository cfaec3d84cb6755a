# SPDX-License-Identifier: Apache-2.0
"""The history of each kind of store: what limits it, its size and its growth."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.domain.retention import KEEP_ALL, Retention
from waggle_fsstore.service.retention import History
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.memory_store import MemoryStore

_HOUR_S: Final = timedelta(hours=1).total_seconds()
_DAY_S: Final = timedelta(days=1).total_seconds()

_log: Final = logging.getLogger(__name__)


def history_of(store: TransactionalRepository) -> History | None:
    """Return the history of a store, ``None`` for a store in memory, which ends soon enough."""
    if isinstance(store, MemoryStore):
        return None
    return _Files(store) if isinstance(store, FileStore) else _Tables(store)


class _Files:
    def __init__(self, store: FileStore) -> None:
        self._store = store

    def size(self) -> int:
        """See :class:`History`."""
        return self._store.history_size()

    def limit(self, retention: Retention, keep_since: datetime | None) -> dict[str, object]:
        """See :class:`History`."""
        pruned = self._store.prune_history(
            keep_days=retention.days,
            keep_bytes=retention.size_bytes,
            compress=True,
            keep_since=keep_since,
        )
        return {
            "bytes": self.size(),
            "oldest": pruned.oldest,
            "files_removed": pruned.segments_removed,
            "files_compressed": pruned.segments_compressed,
        }


class _Tables:
    """The history in a database: its owner limits it, and this program only reports."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def size(self) -> int:
        """See :class:`History`."""
        size: int = self._store.info().history_bytes
        return size

    def limit(self, retention: Retention, keep_since: datetime | None) -> dict[str, object]:  # noqa: ARG002
        """See :class:`History`."""
        if retention != KEEP_ALL:
            _log.warning(
                "WAGGLE_HISTORY_KEEP: the owner of the tables limits this history, with "
                "'waggle-fsstore history prune --keep-days N'"
            )
        info = self._store.info()
        return {
            "bytes": info.history_bytes,
            "oldest": info.oldest_seq,
            "since": str(info.oldest_at),
        }


class Growth:
    """The size of a history, and how much it has grown within a day."""

    def __init__(self, history: History, clock: Callable[[], float] = monotonic) -> None:
        self._history = history
        self._clock = clock
        # When a size was measured, and the size: one for each hour of the last day.
        self._measured: deque[tuple[float, int]] = deque()

    def measure(self) -> tuple[int, int]:
        """Return the size, and how much more that is than a day ago, both in bytes.

        During the first day it is how much more than at the first call. Raises what reading the
        store raises.
        """
        now, size = self._clock(), self._history.size()
        measured = self._measured
        if not measured or now - measured[-1][0] >= _HOUR_S:
            measured.append((now, size))
        while now - measured[0][0] > _DAY_S:
            measured.popleft()
        return size, size - measured[0][1]


class InBackground:
    """Makes a call in a thread, unless the one before still runs."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._thread: threading.Thread | None = None

    def __call__(self) -> None:
        """Begin a call, and return at once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._call, name="history", daemon=True)
            self._thread.start()
