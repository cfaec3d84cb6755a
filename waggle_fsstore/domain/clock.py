# SPDX-License-Identifier: Apache-2.0
"""The clock of all waits and intervals, which runs on where a test freezes the time.

freezegun and time-machine replace ``time.time``, ``time.monotonic`` and ``datetime.now``. The times
in documents and events follow them. A timeout that did so would never end. Windows has no other
clock.
"""

import sys
import time
from typing import Final

if sys.platform == "win32":  # pragma: no cover
    monotonic = time.monotonic
else:
    # On macOS, the other one counts the time in which the machine is asleep.
    _CLOCK: Final[int] = getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)

    def monotonic() -> float:
        """Return seconds since some moment in the past, in which the machine was awake."""
        return time.clock_gettime(_CLOCK)
