# SPDX-License-Identifier: Apache-2.0
"""Logins: the random ids that browsers present instead of a token, kept in memory."""

from collections import OrderedDict
from collections.abc import Callable
from secrets import token_urlsafe
from typing import Final, NamedTuple

from waggle_fsstore.domain.clock import monotonic

#: How long a login lasts, whether it is used or not.
LIFETIME_S: Final = 12 * 3600.0

#: The number of logins that are remembered; the oldest makes room for a new one.
_MAX_LOGINS: Final = 1_000

_ID_BYTES: Final = 32


class _Login(NamedTuple):
    name: str
    ends_at: float


class Logins:
    """Who has logged in. A restart of the server ends all logins."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._logins: OrderedDict[str, _Login] = OrderedDict()

    def begin(self, name: str) -> str:
        """Begin a login for the holder of a token, and return its id."""
        login_id = token_urlsafe(_ID_BYTES)
        self._logins[login_id] = _Login(name, self._clock() + LIFETIME_S)
        if len(self._logins) > _MAX_LOGINS:
            self._logins.popitem(last=False)
        return login_id

    def find(self, login_id: str) -> str | None:
        """Return the name of the token of a login, ``None`` if it has ended or never began."""
        login = self._logins.get(login_id)
        if login is None:
            return None
        if self._clock() >= login.ends_at:
            self.end(login_id)
            return None
        return login.name

    def end(self, login_id: str) -> None:
        """End a login, if there is one with this id."""
        self._logins.pop(login_id, None)
