# SPDX-License-Identifier: Apache-2.0
"""Windows: retry what fails while another program has the file open."""

import time
from collections.abc import Callable
from typing import Final

from waggle_fsstore.domain.clock import monotonic

# Windows refuses to replace a file that another program, such as a virus scanner, has open.
_SHARING_VIOLATIONS: Final = frozenset({5, 32, 33})
_RETRY_TIMEOUT_S: Final = 2.0
_RETRY_PAUSE_S: Final = 0.005


def retry_on_sharing_violation(call: Callable[[], None]) -> None:
    """Call ``call``, and repeat it for two seconds while another program has the file open."""
    deadline = monotonic() + _RETRY_TIMEOUT_S
    while True:
        try:
            call()
            return
        except OSError as error:
            violation = getattr(error, "winerror", None) in _SHARING_VIOLATIONS
            if not violation or monotonic() >= deadline:
                raise
        time.sleep(_RETRY_PAUSE_S)
