# SPDX-License-Identifier: Apache-2.0
"""The warning before an environment expires: an event in its history, once while it is idle."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Final

from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.duration import format_duration
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions

# A warning comes when this part of the timeout is left, and at most this time.
_PART: Final = 5
_MAX_LEAD: Final = timedelta(minutes=5)

_SECOND: Final = timedelta(seconds=1)


class ExpiryWarnings:
    """The warnings that this process has stored.

    ``time_left`` returns how much longer an environment may be idle, ``None`` for ever.
    """

    def __init__(
        self,
        repository: TransactionalRepository,
        time_left: Callable[[Environment], timedelta | None],
    ) -> None:
        self._repository = repository
        self._time_left = time_left
        # By id: the last use before the warning.
        self._warned: dict[str, datetime] = {}

    def begin_pass(self, known: Collection[str]) -> None:
        """Begin a pass over all environments, and forget those whose id is not ``known``."""
        self._warned = {key: at for key, at in self._warned.items() if key in known}

    def visit(self, environment: Environment, last_used: datetime) -> None:
        """Warn that an environment expires soon, if it does and this was not said already.

        The stored change changes no field: it is no use. Raises
        :class:`PreconditionFailedError` if the environment is used in the meantime.
        """
        left = self._time_left(environment)
        if left is None or not self._is_due(environment):
            self._warned.pop(environment.id, None)
        elif self._warned.get(environment.id) != last_used:
            reason = f"expires in {format_duration(left // _SECOND * _SECOND)} unless it is used"
            with audit(actor="reaper"):
                transitions.note(self._repository, environment.id, reason, only_if=self._is_due)
            self._warned[environment.id] = last_used

    def _is_due(self, environment: Environment) -> bool:
        left = self._time_left(environment)
        lead = min(environment.timeout / _PART, _MAX_LEAD)
        return environment.is_running and left is not None and timedelta(0) <= left <= lead
