# SPDX-License-Identifier: Apache-2.0
"""The keeper of the history: removes once a day what the operator does not want to keep.

It compresses the rest, and says how much there is and how fast it grows.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol, cast

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import WaggleError
from waggle_fsstore.domain.retention import Retention

_DAY_S: Final = timedelta(days=1).total_seconds()

# A failed run is repeated after this time.
_RETRY_S: Final = timedelta(hours=1).total_seconds()

# An environment was removed a moment before its files came to the trash.
_MARGIN: Final = timedelta(hours=1)

_log: Final = logging.getLogger(__name__)


class History(Protocol):
    """The history of a store, as its owner or another operator limits it."""

    def size(self) -> int:
        """Return the size that the history has now, in bytes."""
        ...

    def limit(self, retention: Retention, keep_since: datetime | None) -> dict[str, object]:
        """Limit and compress the history, where this program may; return facts for the log.

        Changes since ``keep_since`` stay. One fact is ``bytes``, its size now.
        """
        ...


class HistoryKeeper:
    """Limits the history of a store when it is due: at the first call, and then once a day.

    What :meth:`EnvironmentService.undelete` needs of environments whose files are kept stays.
    ``kept_since`` returns since when there are such files.
    """

    def __init__(
        self,
        history: History,
        retention: Retention,
        kept_since: Callable[[], datetime | None],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._history = history
        self._retention = retention
        self._kept_since = kept_since
        self._clock = clock
        self._due = clock()
        self._size: int | None = None

    def run_if_due(self) -> None:
        """Limit the history if that is due. A failure is logged, and tried again in an hour."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + _DAY_S
        try:
            self._run()
        except (WaggleError, OSError) as error:
            self._due = self._clock() + _RETRY_S
            _log.error("the history is not limited; the next try follows in an hour: %s", error)

    def _run(self) -> None:
        kept_since = self._kept_since()
        facts = self._history.limit(
            self._retention, None if kept_since is None else kept_since - _MARGIN
        )
        size = cast("int", facts["bytes"])
        growth = 0 if self._size is None else size - self._size
        self._size = size
        _log.info(
            "the history takes %d bytes, %+d since the last look",
            size,
            growth,
            extra={"fields": {**facts, "growth_bytes": growth}},
        )
