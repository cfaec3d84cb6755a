# SPDX-License-Identifier: Apache-2.0
"""What Windows needs: patience with files that somebody has open."""

import time
from collections.abc import Callable
from typing import Final

# It refuses to replace a file that somebody has open, a virus scanner for one.
_SHARING_VIOLATIONS: Final = frozenset({5, 32, 33})
_PATIENCE: Final = 2.0
_PAUSE: Final = 0.005


def retry_on_sharing_violation(call: Callable[[], None]) -> None:
    """Do it, again and again for two seconds while somebody has the file open."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            call()
            return
        except OSError as error:
            violation = getattr(error, "winerror", None) in _SHARING_VIOLATIONS
            if not violation or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)
