# SPDX-License-Identifier: Apache-2.0
"""The clock of waits: it runs on where a test freezes the time."""

import time

import pytest

from waggle_fsstore.domain.clock import monotonic


def test_clock_advances_where_time_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is later after a pause, although the other clocks stand still."""
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: 0)
    before = monotonic()
    time.sleep(0.001)
    assert monotonic() - before >= 0.001
