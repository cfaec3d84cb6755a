# SPDX-License-Identifier: Apache-2.0
"""The steps of an environment's life as the store keeps them, each one atomic.

Each looks at the version that it changes in the same step: whatever happened since
somebody looked, nothing goes back, and what is gone stays gone.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from waggle_fsstore.domain.audit import audit, current_author
from waggle_fsstore.domain.environment import Capabilities, Environment, Status
from waggle_fsstore.domain.errors import EnvironmentNotRunningError, ProviderError
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service.in_progress import is_with_others

# What went wrong can be long. The history takes 2,000 characters.
_MAX_REASON: Final = 1_000


class NotWantedError(Exception):
    """The stored version is not one that the step is for; it stays as it is."""


class BusyError(Exception):
    """Another process is creating or removing the environment."""


def because(reason: str) -> audit:
    """The block to make a change in; the reason of the caller's block wins over this one."""
    return audit(reason=current_author().reason or reason)


def require_running(environment: Environment) -> None:
    """Raise :class:`EnvironmentNotRunningError` if it cannot be used."""
    if not environment.is_running:
        raise EnvironmentNotRunningError(environment.id, environment.status)


def require_of(environment: Environment, provider: str) -> None:
    """Raise :class:`ProviderError` if another provider made it."""
    if not is_of(environment, provider):
        raise ProviderError(provider, f"it was made by {environment.provider!r}, which is not here")


def set_port(repository: TransactionalRepository, environment_id: str, port: int) -> Environment:
    """Give an environment that is being created another port.

    Raises :class:`NotWantedError` if it was taken away meanwhile.
    """

    def change(stored: Environment) -> None:
        if stored.status is not Status.CREATING:
            raise NotWantedError
        stored.ssh_port = port

    with because("another environment has the same port"):
        return repository.update(environment_id, change)


def set_capabilities(
    repository: TransactionalRepository, environment_id: str, capabilities: Capabilities
) -> Environment:
    """Store what a probe found in a running environment."""

    def change(stored: Environment) -> None:
        require_running(stored)
        stored.capabilities = capabilities

    with because("probed"):
        return repository.update(environment_id, change)


def to_running(
    repository: TransactionalRepository,
    environment_id: str,
    capabilities: Capabilities,
    now: datetime,
) -> Environment:
    """From creating to running. Raises :class:`NotWantedError` if it was taken away meanwhile."""

    def change(stored: Environment) -> None:
        if stored.status is not Status.CREATING:
            raise NotWantedError
        stored.transition_to(Status.RUNNING)
        stored.capabilities = capabilities
        stored.owner = None
        stored.touch(now)

    with because("its workspace is ready"):
        return repository.update(environment_id, change)


def to_error(
    repository: TransactionalRepository,
    environment_id: str,
    reason: str,
    *,
    only_if: Callable[[Environment], bool],
) -> None:
    """To error, with a reason. Raises :class:`NotWantedError` where ``only_if`` says no."""

    def change(stored: Environment) -> None:
        if not only_if(stored):
            raise NotWantedError
        stored.transition_to(Status.ERROR)
        stored.status_reason = reason
        stored.owner = None
        stored.ssh_port = 0  # Nobody can use it any more, and others need one.

    with audit(reason=reason[:_MAX_REASON]):
        repository.update(environment_id, change)


def to_destroying(
    repository: TransactionalRepository,
    environment_id: str,
    provider: str,
    *,
    only_if: Callable[[Environment], bool],
    is_forced: bool,
) -> Environment:
    """From whatever status to destroying, by this process, unless another one is at it.

    Raises :class:`NotWantedError` where ``only_if`` says no, :class:`BusyError` if another
    process is creating or removing it and it is not forced, and :class:`ProviderError` if
    it is not of this provider.
    """

    def change(stored: Environment) -> None:
        if not only_if(stored):
            raise NotWantedError
        require_of(stored, provider)
        if is_with_others(stored) and not is_forced:
            raise BusyError
        if stored.status is Status.CREATING:
            stored.transition_to(Status.ERROR)
        if stored.status in (Status.ERROR, Status.RUNNING):
            stored.transition_to(Status.DESTROYING)
        stored.owner = this_process()

    with because("destroy was called"):
        return repository.update(environment_id, change)


def to_nobody(repository: TransactionalRepository, environment_id: str, reason: str) -> None:
    """Note that a removal failed and is in nobody's hand any more, so that all may go on."""

    def change(stored: Environment) -> None:
        stored.owner = None
        stored.status_reason = reason

    with audit(reason=reason[:_MAX_REASON]):
        repository.update(environment_id, change)


def is_of(environment: Environment, provider: str) -> bool:
    """Whether a provider can work on an environment: it made it, or nobody did yet."""
    return environment.provider in (None, provider)
