# SPDX-License-Identifier: Apache-2.0
"""How an environment goes: stored as destroying, torn down by the provider, deleted."""

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, WaggleError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.in_progress import IN_HAND
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider

# How often to look whether another process is done (seconds).
_PAUSE: Final = 0.02

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_log: Final = logging.getLogger(__name__)


class Removal:
    """Removes environments.

    It waits ``patience`` seconds at most for who is creating or removing one already; then
    it does so beside them, which a provider allows for.
    """

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        ports: Ports,
        *,
        patience: float,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._ports = ports
        self._patience = patience

    def destroy(self, environment_id: str, only_if: Callable[[Environment], bool]) -> bool:
        """See :meth:`EnvironmentService.destroy`."""
        self._repository.find_by_id(environment_id)
        deadline = time.monotonic() + self._patience
        with IN_HAND.hold(environment_id, deadline=deadline):
            try:
                environment = self._claim(environment_id, only_if, deadline)
            except EnvironmentNotFoundError:
                return True  # Somebody else has done what was asked for.
            except transitions.NotWantedError:
                return False
            self._tear_down(environment)
        return True

    def _claim(
        self, environment_id: str, only_if: Callable[[Environment], bool], deadline: float
    ) -> Environment:
        has_room = True
        while True:
            try:
                return transitions.to_destroying(
                    self._repository,
                    environment_id,
                    self._provider.name,
                    only_if=only_if,
                    is_forced=time.monotonic() >= deadline,
                )
            except transitions.BusyError:
                time.sleep(_PAUSE)
            except OSError as error:
                if error.errno not in _DISK_FULL or not has_room:
                    raise
                has_room = False
                self._make_room(environment_id, only_if)

    def _make_room(self, environment_id: str, only_if: Callable[[Environment], bool]) -> None:
        """On a full disk, remove the workspace before that is stored: it makes the room for it.

        Whoever is killed just then leaves a record without a workspace, which becomes error.
        """
        environment = self._repository.find_by_id(environment_id)
        transitions.require_of(environment, self._provider.name)
        if not only_if(environment):
            raise transitions.NotWantedError
        _log.warning("environment %s: the disk is full; its files go first", environment_id)
        self._provider.remove(environment)

    def _tear_down(self, environment: Environment) -> None:
        """Remove the workspace, then the record."""
        try:
            self._provider.remove(environment)
        except BaseException as error:
            reason = f"could not be removed: {reason_of(error)}"
            try:
                transitions.to_nobody(self._repository, environment.id, reason)
            except (WaggleError, OSError) as problem:
                # Of this process, and not in hand any more: that tells the same.
                _log.error("environment %s %s; not stored: %s", environment.id, reason, problem)
            raise
        with suppress(EnvironmentNotFoundError), transitions.because("its workspace is removed"):
            self._repository.delete(environment.id)
        self._ports.forget(environment.id)
