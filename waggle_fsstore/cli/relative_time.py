# SPDX-License-Identifier: Apache-2.0
"""Times as people read them on a terminal: how long ago, or until when, in one unit."""

from datetime import datetime, timedelta

from waggle_fsstore.domain.duration import short_duration as short_duration
from waggle_fsstore.domain.environment import Environment, Status


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
