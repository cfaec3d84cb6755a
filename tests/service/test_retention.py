# SPDX-License-Identifier: Apache-2.0
"""The keeper of the history: when it limits it, and what it never takes."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from waggle_fsstore import LockTimeoutError
from waggle_fsstore.domain.retention import Retention
from waggle_fsstore.service.retention import HistoryKeeper

DAY_S = 86_400.0
KEEP = Retention(days=90)


class FakeHistory:
    """Records the calls; its size grows by 100 bytes with each of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Retention, datetime | None]] = []
        self.failures: list[Exception] = []

    def limit(self, retention: Retention, keep_since: datetime | None) -> dict[str, object]:
        self.calls.append((retention, keep_since))
        if self.failures:
            raise self.failures.pop()
        return {"bytes": self.size()}

    def size(self) -> int:
        return 1_000 + 100 * len(self.calls)


class Clock:
    seconds = 5_000.0

    def __call__(self) -> float:
        return self.seconds


def keeper(history: FakeHistory, clock: Clock, kept_since: datetime | None = None) -> HistoryKeeper:
    return HistoryKeeper(history, KEEP, lambda: kept_since, clock=clock)


def test_history_is_limited_at_start_and_daily() -> None:
    """The first call limits the history, and then one a day, whenever the calls come."""
    history, clock = FakeHistory(), Clock()
    made = keeper(history, clock)
    times: list[float] = []
    for minute in range(3 * 24 * 60):
        clock.seconds = 5_000 + 60.0 * minute
        made.run_if_due()
        if len(history.calls) > len(times):
            times.append(clock.seconds)
    assert times == [5_000, 5_000 + DAY_S, 5_000 + 2 * DAY_S]
    assert history.calls == [(KEEP, None)] * 3


def test_failed_run_is_repeated_in_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged, harms nothing, and is not repeated at every sweep."""
    history, clock = FakeHistory(), Clock()
    history.failures = [LockTimeoutError("/a", None, 1.0)]
    made = keeper(history, clock)
    made.run_if_due()
    assert "next try follows in an hour" in caplog.text
    clock.seconds += 3_599
    made.run_if_due()
    assert len(history.calls) == 1
    clock.seconds += 1
    made.run_if_due()
    assert len(history.calls) == 2


def test_history_of_kept_files_stays() -> None:
    """What undelete needs of files in the trash is younger than the time that is handed over."""
    history, removed = FakeHistory(), datetime(2026, 1, 2, tzinfo=UTC)
    keeper(history, Clock(), removed).run_if_due()
    [(_, keep_since)] = history.calls
    assert keep_since == removed - timedelta(hours=1)


def test_size_and_growth_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says how much history there is, and how much more than the day before."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    made = keeper(FakeHistory(), clock)
    made.run_if_due()
    clock.seconds += DAY_S
    made.run_if_due()
    assert caplog.messages == [
        "the history takes 1100 bytes, +0 since the last look",
        "the history takes 1200 bytes, +100 since the last look",
    ]
