# SPDX-License-Identifier: Apache-2.0
"""The size, the growth and the retention of a history, over days of a simulated clock."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.domain.retention import Retention
from waggle_fsstore.server.history import Growth, history_of
from waggle_fsstore.service.retention import HistoryKeeper
from waggle_fsstore.store.maintenance import prune
from waggle_fsstore.store.write import batch
from waggle_fsstore.testing import make_environment

HOUR_S = 3_600.0
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_STEP = timedelta(minutes=10)
_DAY = timedelta(days=1)


class FakeHistory:
    """Grows by a byte each second, until it is limited at the start of the third day."""

    seconds = 0.0

    def size(self) -> int:
        seconds = int(self.seconds)
        return seconds if seconds < 48 * HOUR_S else seconds - 100_000

    def limit(self, retention: Retention, keep_since: datetime | None) -> dict[str, object]:
        raise NotImplementedError


def test_growth_is_that_of_a_day() -> None:
    """At first it is that since the first answer; what was removed counts as negative."""
    history = FakeHistory()
    growth = Growth(history, lambda: history.seconds)
    found = {}
    for minute in range(3 * 24 * 60 + 1):
        history.seconds = 60.0 * minute
        found[minute] = growth.measure()
    assert found[0] == (0, 0)
    assert found[90] == (5_400, 5_400)
    assert found[24 * 60] == (86_400, 86_400)
    assert found[36 * 60] == (129_600, 86_400)
    assert found[48 * 60] == (72_800, 86_400 - 100_000)
    assert found[72 * 60 - 1][1] > 80_000 - 100_000


def test_growth_is_measured_in_little_memory() -> None:
    """However often probes ask, one size is kept for each hour of a day."""
    history = FakeHistory()
    growth = Growth(history, lambda: history.seconds)
    for second in range(0, 40 * int(HOUR_S), 5):
        history.seconds = second
        growth.measure()
    assert len(growth._measured) <= 25


class SimulatedTime(datetime):
    """A clock that the test sets."""

    at = _BEGIN

    @classmethod
    def now(cls, _: object = None) -> datetime:  # type: ignore[override]
        return cls.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[SimulatedTime]:
    """Return the clock by which the store dates changes, and finds out which are old."""
    for module in (batch, prune):
        monkeypatch.setattr(module, "datetime", SimulatedTime)
    monkeypatch.setattr(SimulatedTime, "at", _BEGIN)
    return SimulatedTime


def test_history_of_two_days_is_kept(root: Path, clock: type[SimulatedTime]) -> None:
    """Once a day what is older goes, in whole files, except what undelete needs; none else does.

    An environment is used every ten minutes. On the second day the files of another one come to
    the trash, where they stay for four days.
    """
    removed, emptied = _BEGIN + _DAY, _BEGIN + 5 * _DAY
    with FileStore(root) as store:

        def kept_since() -> datetime | None:
            return removed if removed <= clock.at < emptied else None

        history = history_of(store)
        assert history is not None
        keeper = HistoryKeeper(
            history,
            Retention(days=2),
            kept_since,
            clock=lambda: (clock.at - _BEGIN).total_seconds(),
        )
        oldest = {}
        for step in range(6 * 144 + 1):
            clock.at = _BEGIN + step * _STEP
            keeper.run_if_due()
            if step % 144 == 0:
                events = list(store.history())
                oldest[step // 144] = events[0].at if events else None
                expected = min(clock.at - 2 * _DAY, kept_since() or clock.at)
                assert [event.at for event in events if event.at >= expected] == [
                    _BEGIN + one * _STEP for one in range(step) if _BEGIN + one * _STEP >= expected
                ]
            store.save(make_environment(id="one", extra={"padding": "x" * 5_000}))
    # Whole files go. One has the changes of less than a day: 512 KiB at most.
    assert oldest[0] is None
    assert oldest[1] == oldest[2] == _BEGIN
    for day, limit in ((3, removed), (4, removed), (5, _BEGIN + 3 * _DAY), (6, _BEGIN + 4 * _DAY)):
        first = oldest[day]
        assert first is not None
        assert limit - _DAY < first <= limit
    assert oldest[3] == oldest[4]
    assert list(root.glob("journal/*.gz"))
