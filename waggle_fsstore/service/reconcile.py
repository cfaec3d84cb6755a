# SPDX-License-Identifier: Apache-2.0
"""Reconciling: what the store says and what the provider has, brought together."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.duration import format_duration
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    EnvironmentNotFoundError,
    LockTimeoutError,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.in_progress import IN_HAND, is_with_others
from waggle_fsstore.service.provider import Provider
from waggle_fsstore.service.removal import Removal

_log: Final = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Reconciliation:
    """What was found and done; ids, but for the last four.

    - ``failed``: was being created by a process that is gone; is in error now.
    - ``finished``: was being removed by such a one; is removed now.
    - ``lost``: was running, and its workspace is gone; is in error now.
    - ``expired``: was idle for too long; is removed now.
    - ``strays``: workspaces without a record, by the names that the provider gives them.
    - ``unreadable``: the errors of documents that cannot be read.
    - ``problems``: what failed on the way, in words without paths.
    - ``is_complete``: whether all were looked at. Where the provider cannot work, or the
      store lock was not to be had in time, for which each would wait as long, the rest is
      left to the next pass.
    """

    failed: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    unreadable: list[Exception] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_complete: bool = True

    @contextmanager
    def noting_problems(
        self, about: str, *, stops: type[Exception] = LockTimeoutError
    ) -> Iterator[None]:
        """Keep what fails inside from stopping the rest, unless it is of the kind that does."""
        try:
            yield
        except (EnvironmentNotFoundError, transitions.NotWantedError):
            pass  # Somebody else was faster.
        except Exception as error:  # noqa: BLE001  # Whatever it is, the others have no part in it.
            _log.error("%s: %s", about, error)
            self.problems.append(f"{about}: {reason_of(error)}")
            if isinstance(error, stops):
                self.is_complete = False


def settle(
    repository: TransactionalRepository,
    removal: Removal,
    environment: Environment,
    result: Reconciliation,
) -> bool:
    """Go on with what a process that is gone was doing; whether there was such a thing."""
    if not _is_interrupted(environment):
        return False
    if environment.status is Status.CREATING:
        has_owner = environment.owner is not None
        whose = "the process that was at it ended" if has_owner else "nobody is at it"
        reason = f"could not be created: {whose}"
        with audit(actor="reconcile"):
            transitions.to_error(
                repository,
                environment.id,
                reason,
                only_if=lambda stored: stored.status is Status.CREATING and _is_interrupted(stored),
            )
        result.failed.append(environment.id)
    else:
        with audit(actor="reconcile", reason="the process that was removing it ended"):
            if removal.destroy(environment.id, _is_left):
                result.finished.append(environment.id)
    return True


def verify(
    repository: TransactionalRepository,
    provider: Provider,
    environment: Environment,
    result: Reconciliation,
) -> None:
    """Set a running environment to error if its workspace is gone."""
    if not environment.is_running or environment.provider != provider.name:
        return
    try:
        provider.probe(environment)
    except WorkspaceGoneError as error:
        with audit(actor="reconcile"):
            transitions.to_error(
                repository, environment.id, error.reason, only_if=lambda stored: stored.is_running
            )
        result.lost.append(environment.id)


def expire(
    removal: Removal,
    environment: Environment,
    result: Reconciliation,
    idle_time: Callable[[Environment], timedelta],
    is_expired: Callable[[Environment], bool],
) -> None:
    """Remove an environment that was idle for too long, running or in error."""

    def is_still(stored: Environment) -> bool:
        return stored.status not in (Status.CREATING, Status.DESTROYING) and is_expired(stored)

    if not is_still(environment):
        return
    idle = format_duration(timedelta(seconds=idle_time(environment) // timedelta(seconds=1)))
    reason = f"idle {idle} > {format_duration(environment.timeout)}"
    with audit(actor="reaper", reason=reason):
        if removal.destroy(environment.id, is_still):
            result.expired.append(environment.id)


def _is_interrupted(environment: Environment) -> bool:
    is_halfway = environment.status in (Status.CREATING, Status.DESTROYING)
    return is_halfway and not IN_HAND.is_in_progress(environment)


def _is_left(environment: Environment) -> bool:
    """Whether nobody goes on with a removal, once it is in the hand of this thread."""
    return environment.status is Status.DESTROYING and not is_with_others(environment)
