# SPDX-License-Identifier: Apache-2.0
"""The removal of an environment: stored as destroying, removed by the provider, deleted."""

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    DestroyPendingError,
    EnvironmentNotFoundError,
    WaggleError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.membership import Membership
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider
from waggle_fsstore.service.tally import Tally

# How often to check whether another process is done.
_POLL_INTERVAL_S: Final = 0.02

# How often to check whether another host is done.
_HOST_POLL_S: Final = 0.1

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_log: Final = logging.getLogger(__name__)


class Removal:
    """Removes environments.

    While another thread or process is creating or removing the environment, it waits, up to
    ``takeover_after`` seconds. Then it removes the environment concurrently, which
    every provider allows. What another host has, that host removes.
    """

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        ports: Ports,
        membership: Membership,
        tally: Tally,
        *,
        takeover_after: float,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._ports = ports
        self._membership = membership
        self._tally = tally
        self._takeover_after = takeover_after

    def destroy(
        self, environment_id: str, only_if: Callable[[Environment], bool], *, discard: bool = True
    ) -> bool:
        """Destroy an environment, see :meth:`EnvironmentService.destroy`.

        Without ``discard`` its files are kept in the trash, unless an earlier call has stored
        that they are not.
        """
        environment = self._repository.find_by_id(environment_id)
        deadline = monotonic() + self._takeover_after
        try:
            if self._membership.is_elsewhere(environment) and self._is_removed_by_host(
                environment_id, only_if, deadline, discard=discard
            ):
                return True
        except transitions.PreconditionFailedError:
            return False
        with IN_PROGRESS.hold(environment_id, deadline=deadline):
            try:
                environment = self._claim(environment_id, only_if, deadline, discard=discard)
            except EnvironmentNotFoundError:
                return True  # Another thread or process has removed it in the meantime.
            except transitions.PreconditionFailedError:
                return False
            self._tear_down(environment)
        return True

    def _is_removed_by_host(
        self,
        environment_id: str,
        only_if: Callable[[Environment], bool],
        deadline: float,
        *,
        discard: bool,
    ) -> bool:
        """Ask the host of an environment to remove it, and return whether that is done.

        False if an operator has declared that host gone in the meantime. Raises
        :class:`DestroyPendingError` at the deadline.
        """
        try:
            environment = self._repository.find_by_id(environment_id)
            transitions.request_destroying(
                self._repository, environment_id, only_if=only_if, discard=discard
            )
            while self._membership.is_elsewhere(environment):
                if monotonic() >= deadline:
                    host = self._membership.describe_host_of(environment)
                    raise DestroyPendingError(environment_id, host)
                time.sleep(_HOST_POLL_S)
                self._membership.refresh()
                environment = self._repository.find_by_id(environment_id)
        except EnvironmentNotFoundError:
            return True
        return False

    def _claim(
        self,
        environment_id: str,
        only_if: Callable[[Environment], bool],
        deadline: float,
        *,
        discard: bool,
    ) -> Environment:
        while True:
            try:
                return transitions.to_destroying(
                    self._repository,
                    environment_id,
                    self._provider,
                    only_if=only_if,
                    is_forced=monotonic() >= deadline,
                    discard=discard,
                )
            except transitions.BusyError:
                time.sleep(_POLL_INTERVAL_S)
            except OSError as error:
                if error.errno not in _DISK_FULL or not self._free_space(environment_id, only_if):
                    raise

    def _free_space(self, environment_id: str, only_if: Callable[[Environment], bool]) -> bool:
        """Make room for *destroying* on a full disk; return whether that was possible.

        The workspace itself goes last. A process that is killed after that leaves *running*
        without a workspace, which :meth:`EnvironmentService.reconcile` changes to *error*.
        """
        environment = self._repository.find_by_id(environment_id)
        transitions.require_provider(environment, self._provider)
        transitions.require(only_if(environment))
        _log.warning("environment %s: the disk is full; making room first", environment_id)
        return self._provider.free_space(environment)

    def _tear_down(self, environment: Environment) -> None:
        """Remove the workspace, then the record, so that an interrupted removal can be resumed."""
        try:
            self._provider.remove(environment, keep=not environment.discard_files)
        except BaseException as error:
            reason = f"could not be removed: {reason_of(error)}"
            try:
                transitions.release_owner(self._repository, environment.id, reason)
            except (WaggleError, OSError) as problem:
                # This process stays the owner, but no thread holds it: the next sweep resumes it.
                _log.error("environment %s %s; not stored: %s", environment.id, reason, problem)
            raise
        with (
            suppress(EnvironmentNotFoundError),
            transitions.with_reason("its workspace is removed"),
        ):
            self._repository.delete(environment.id)
            self._tally.removed(has_expired=not environment.discard_files)
        self._ports.unassign(environment.id)
