# SPDX-License-Identifier: Apache-2.0
"""The size and the growth of a history, over days of a simulated clock."""

from datetime import datetime

from waggle_fsstore.domain.retention import Retention
from waggle_fsstore.server.history import Growth

HOUR_S = 3_600.0


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
