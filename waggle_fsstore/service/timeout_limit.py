# SPDX-License-Identifier: Apache-2.0
"""The limit of the idle timeouts that a caller may choose."""

from datetime import timedelta

from waggle_fsstore.domain.duration import format_duration, format_timeout
from waggle_fsstore.domain.errors import InvalidEnvironmentError


def check_timeout(timeout: object, longest: timedelta) -> timedelta:
    """Return an idle timeout that is at most ``longest``; zero stands for never in both.

    Raises :class:`InvalidEnvironmentError`, which names the longest one.
    """
    if not isinstance(timeout, timedelta):
        raise InvalidEnvironmentError("timeout", "is not a timedelta")
    if timeout < timedelta(0):
        raise InvalidEnvironmentError("timeout", "is below zero")
    if longest and not timedelta(0) < timeout <= longest:
        reason = f"{format_timeout(timeout)} is above the maximum, {format_duration(longest)}"
        raise InvalidEnvironmentError("timeout", reason)
    return timeout
