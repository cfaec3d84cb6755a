# SPDX-License-Identifier: Apache-2.0
"""The clock of all waits and intervals, which runs on where a test freezes the time.

freezegun and time-machine replace ``time.time``, ``time.monotonic`` and ``datetime.now``. The times
in documents and events follow them. A timeout that did would never end.
"""

import sys
import time

if sys.platform == "win32":  # pragma: no cover
    monotonic = time.monotonic
else:

    def monotonic() -> float:
        """Return seconds since some moment in the past, not counting adjustments of the time."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)
