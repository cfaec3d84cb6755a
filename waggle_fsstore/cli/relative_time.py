# SPDX-License-Identifier: Apache-2.0
"""Times as people read them on a terminal: how long ago, or until when, in one unit."""

from datetime import datetime, timedelta
from typing import Final

from waggle_fsstore.domain.environment import Environment, Status

_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


def short_duration(duration: timedelta) -> str:
    """Return a duration in its largest unit, rounded down: ``45s``, ``12m``, ``30h``, ``9d``."""
    if duration < _MINUTE:
        return f"{max(duration, timedelta(0)) // timedelta(seconds=1)}s"
    if duration < _HOUR:
        return f"{duration // _MINUTE}m"
    if duration < 2 * _DAY:
        return f"{duration // _HOUR}h"
    return f"{duration // _DAY}d"


def until_expiry(environment: Environment, now: datetime) -> str:
    """Return after what time a running environment expires, if no one uses it until then.

    The server may keep it for longer: only time in which a server runs is idle time.
    """
    if environment.status is not Status.RUNNING:
        return ""
    if environment.timeout <= timedelta(0):
        return "never"
    left = environment.last_used + environment.timeout - now
    return short_duration(left) if left > timedelta(0) else "now"
