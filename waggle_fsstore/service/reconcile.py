# SPDX-License-Identifier: Apache-2.0
"""Reconciliation: finish the work of ended processes, and find lost workspaces."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    EnvironmentNotFoundError,
    LockTimeoutError,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.in_progress import IN_PROGRESS, is_owned_elsewhere
from waggle_fsstore.service.provider import Provider
from waggle_fsstore.service.removal import Removal
from waggle_fsstore.service.revival import Revival, was_running
from waggle_fsstore.service.tally import Failure, Tally

_log: Final = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Reconciliation:
    """The result of a pass over all environments.

    The first five are lists of ids:

    - ``failed``: an ended process was creating it; it is in error now.
    - ``finished``: an ended process was removing it; it is removed now.
    - ``lost``: it was running, but its workspace is gone; it is in error now.
    - ``revived``: it is running: it was in error and is whole again, or an ended process was
      undeleting it.
    - ``expired``: it was idle for too long; it is removed now.
    - ``orphans``: workspaces without a record, by the names that the provider gives them.
    - ``unreadable``: the errors of documents that cannot be read.
    - ``problems``: failures of single environments or workspaces, as texts without paths.
    - ``is_complete``: whether all environments were checked. If the provider cannot work, or
      the store lock times out, the next pass checks the rest: each of them would fail too.
    """

    failed: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unreadable: list[Exception] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_complete: bool = True

    def count_failures(self, tally: Tally) -> None:
        """Add what was found wrong to a tally."""
        tally.failed(Failure.INTERRUPTED, len(self.failed))
        tally.failed(Failure.LOST, len(self.lost))
        tally.failed(Failure.SWEEP, len(self.problems))

    @contextmanager
    def collect_problems(
        self, subject: str, *, stop_on: type[Exception] = LockTimeoutError
    ) -> Iterator[None]:
        """Log and collect a failure of the block, so that the pass continues.

        A failure of type ``stop_on`` makes the pass incomplete.
        """
        try:
            yield
        except (EnvironmentNotFoundError, transitions.PreconditionFailedError):
            pass  # Another thread or process was faster.
        except Exception as error:  # noqa: BLE001  # No failure may affect the other environments.
            _log.error("%s: %s", subject, error)
            self.problems.append(f"{subject}: {reason_of(error)}")
            if isinstance(error, stop_on):
                self.is_complete = False


def finish_interrupted(
    repository: TransactionalRepository,
    removal: Removal,
    revival: Revival,
    environment: Environment,
    result: Reconciliation,
) -> bool:
    """Finish the work of an ended process on an environment; return whether there was any.

    An interrupted creation becomes *error*, an interrupted removal or undeletion is resumed.
    """
    if not _is_interrupted(environment):
        return False
    if environment.status is Status.CREATING and was_running(environment):
        with audit(actor="reconcile", reason="the process that was undeleting it ended"):
            if revival.resume(environment):
                result.revived.append(environment.id)
    elif environment.status is Status.CREATING:
        fail_interrupted_creation(repository, environment)
        result.failed.append(environment.id)
    elif finish_removal(removal, environment.id, "the process that was removing it ended"):
        result.finished.append(environment.id)
    return True


def finish_removal(removal: Removal, environment_id: str, reason: str) -> bool:
    """Remove an environment that is destroying, unless a process does; return whether it is gone.

    Raises :class:`EnvironmentNotFoundError`, and what the provider raises.
    """
    with audit(actor="reconcile", reason=reason):
        return removal.destroy(environment_id, _is_abandoned, discard=False)


def fail_interrupted_creation(
    repository: TransactionalRepository, environment: Environment
) -> None:
    """Change an environment to error if no process is creating it any more.

    Raises :class:`PreconditionFailedError` otherwise.
    """
    ended = "the process that was creating it ended"
    cause = ended if environment.owner is not None else "no process is creating it"
    with audit(actor="reconcile"):
        transitions.to_error(
            repository,
            environment.id,
            f"could not be created: {cause}",
            only_if=lambda stored: stored.status is Status.CREATING and _is_interrupted(stored),
        )


def check_workspace(
    repository: TransactionalRepository,
    provider: Provider,
    revival: Revival,
    environment: Environment,
    result: Reconciliation,
) -> None:
    """Change a running environment to error if its workspace is gone, and back if it is not."""
    if environment.status is Status.ERROR:
        revive(revival, environment, result)
    if not environment.is_running or environment.provider != provider.name:
        return
    try:
        provider.adopt(environment)
        provider.probe(environment)
    except WorkspaceGoneError as error:
        with audit(actor="reconcile"):
            transitions.to_error(
                repository, environment.id, error.reason, only_if=lambda stored: stored.is_running
            )
        result.lost.append(environment.id)


def revive(revival: Revival, environment: Environment, result: Reconciliation) -> bool:
    """Change an environment from error to running if it is whole again; return whether it is."""
    with audit(actor="reconcile"):
        is_revived = revival.revive(environment)
    if is_revived:
        result.revived.append(environment.id)
    return is_revived


def _is_interrupted(environment: Environment) -> bool:
    is_halfway = environment.status in (Status.CREATING, Status.DESTROYING)
    return is_halfway and not IN_PROGRESS.includes(environment)


def _is_abandoned(environment: Environment) -> bool:
    """Return whether no other process removes an environment that this thread holds."""
    return environment.status is Status.DESTROYING and not is_owned_elsewhere(environment)
