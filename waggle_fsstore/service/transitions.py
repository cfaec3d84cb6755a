# SPDX-License-Identifier: Apache-2.0
"""The state transitions of a stored environment, each one an atomic update.

Each checks the stored version in the same update that changes it. So no status moves
backwards, and a deleted environment stays deleted.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from waggle_fsstore.domain.audit import as_reason, audit, current_author
from waggle_fsstore.domain.duration import format_timeout
from waggle_fsstore.domain.environment import Capabilities, Environment, Status
from waggle_fsstore.domain.errors import (
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    ProviderError,
)
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service.in_progress import is_owned_elsewhere
from waggle_fsstore.service.provider import Provider

# A status_reason may be longer. The history takes reasons of at most 2,000 characters.
_MAX_REASON_LENGTH: Final = 1_000


class PreconditionFailedError(Exception):
    """The stored version does not meet the precondition of a transition, and is unchanged."""


class BusyError(Exception):
    """Another process is creating or removing the environment."""


def with_reason(reason: str) -> audit:
    """Return an audit block with the caller's reason; ``reason`` is used if it gave none."""
    return audit(reason=current_author().reason or reason)


def require(condition: bool) -> None:
    """Raise :class:`PreconditionFailedError` unless a condition is true."""
    if not condition:
        raise PreconditionFailedError


def require_running(environment: Environment) -> None:
    """Raise :class:`EnvironmentNotRunningError` unless an environment is running."""
    if not environment.is_running:
        raise EnvironmentNotRunningError(environment.id, environment.status)


def require_provider(environment: Environment, provider: Provider) -> None:
    """Raise :class:`ProviderError` if another provider made an environment."""
    if not belongs_to(environment, provider):
        made_by, ours = environment.provider, provider.name
        reason = f"the environment belongs to provider {made_by!r}; this server uses {ours!r}"
        raise ProviderError(ours, reason)


def belongs_to(environment: Environment, provider: Provider) -> bool:
    """Return whether a provider made an environment, or none has made it yet."""
    return environment.provider in (None, provider.name, *provider.former_names)


def set_provider(
    repository: TransactionalRepository, environment_id: str, provider: Provider
) -> None:
    """Store the name of the provider in place of a former one.

    Raises :class:`PreconditionFailedError` if it has no former name by now.
    """

    def rename(stored: Environment) -> None:
        require(stored.provider in provider.former_names)
        stored.provider = provider.name

    with with_reason("its provider has a new name"):
        repository.update(environment_id, rename)


def set_host(
    repository: TransactionalRepository, environment: Environment, host_id: str, name: str
) -> None:
    """Store which host has the files of an environment that came from another store.

    Raises :class:`PreconditionFailedError` if another host has claimed them in the meantime.
    """

    def claim(stored: Environment) -> None:
        require(stored.host_id == environment.host_id)
        stored.host_id = host_id

    with with_reason(f"its workspace is on host {name}"):
        repository.update(environment.id, claim)


def set_port(repository: TransactionalRepository, environment_id: str, port: int) -> Environment:
    """Give an environment that is being created, or is running again, another port.

    Raises :class:`PreconditionFailedError` if it is in another status by now.
    """

    def change_port(stored: Environment) -> None:
        require(stored.status in (Status.CREATING, Status.RUNNING))
        stored.ssh_port = port

    with with_reason("another environment has the same port"):
        return repository.update(environment_id, change_port)


def set_capabilities(
    repository: TransactionalRepository, environment_id: str, capabilities: Capabilities
) -> Environment:
    """Store what a probe found in a running environment.

    Raises :class:`EnvironmentNotRunningError`.
    """

    def change_capabilities(stored: Environment) -> None:
        require_running(stored)
        stored.capabilities = capabilities

    with with_reason("probed"):
        return repository.update(environment_id, change_capabilities)


def to_running(
    repository: TransactionalRepository,
    environment_id: str,
    capabilities: Capabilities,
    now: datetime,
) -> Environment:
    """Change an environment from creating to running.

    Raises :class:`PreconditionFailedError` if it is no longer being created.
    """

    def run(stored: Environment) -> None:
        require(stored.status is Status.CREATING)
        stored.transition_to(Status.RUNNING)
        stored.capabilities = capabilities
        stored.owner = None
        stored.touch(now)

    with with_reason("its workspace is ready"):
        return repository.update(environment_id, run)


def to_running_again(
    repository: TransactionalRepository,
    environment: Environment,
    capabilities: Capabilities,
    now: datetime,
    *,
    capacity: int,
) -> Environment:
    """Change an environment from error to running, with the port of ``environment``.

    Raises :class:`PreconditionFailedError` if it is no longer in error, and
    :class:`CapacityError` if as many are live as the capacity allows.
    """

    def run(stored: Environment) -> None:
        require(stored.status is Status.ERROR)
        stored.transition_to(Status.RUNNING)
        stored.capabilities = capabilities
        stored.status_reason = ""
        stored.ssh_port = environment.ssh_port
        stored.touch(now)

    with with_reason("its workspace is whole again"):
        return repository.update(environment.id, run, capacity=capacity)


def to_error(
    repository: TransactionalRepository,
    environment_id: str,
    reason: str,
    *,
    only_if: Callable[[Environment], bool],
) -> None:
    """Change an environment to error, with a reason.

    Raises :class:`PreconditionFailedError` if ``only_if`` returns false.
    """

    def fail(stored: Environment) -> None:
        require(only_if(stored))
        if stored.status is Status.CREATING:
            stored.idempotency = None  # A repeated call tries again.
        stored.transition_to(Status.ERROR)
        stored.status_reason = reason
        stored.owner = None
        stored.ssh_port = 0  # It is unusable now, and other environments need a port.

    with audit(reason=reason[:_MAX_REASON_LENGTH]):
        repository.update(environment_id, fail)


def to_destroying(
    repository: TransactionalRepository,
    environment_id: str,
    provider: Provider,
    *,
    only_if: Callable[[Environment], bool],
    is_forced: bool,
    discard: bool,
) -> Environment:
    """Change an environment from any status to destroying, with this process as owner.

    ``discard`` says to delete its files at once. What is stored says that too once a caller
    has asked for it, so that any process can resume the removal.

    Raises :class:`PreconditionFailedError` if ``only_if`` returns false, :class:`BusyError`
    if another process is creating or removing it and the change is not forced, and
    :class:`ProviderError` if another provider made it.
    """

    def destroy(stored: Environment) -> None:
        require(only_if(stored))
        require_provider(stored, provider)
        if is_owned_elsewhere(stored) and not is_forced:
            raise BusyError
        _mark_destroying(stored, discard=discard)
        stored.owner = this_process()

    with with_reason("destroy was called"):
        return repository.update(environment_id, destroy)


def request_destroying(
    repository: TransactionalRepository,
    environment_id: str,
    *,
    only_if: Callable[[Environment], bool],
    discard: bool,
) -> None:
    """Change an environment from any status to destroying: its host does the rest.

    It has no owner then, unless one is removing it. Raises :class:`PreconditionFailedError` if
    ``only_if`` returns false.
    """

    def request(stored: Environment) -> None:
        require(only_if(stored))
        if stored.status is not Status.DESTROYING:
            stored.owner = None
        _mark_destroying(stored, discard=discard)

    with with_reason("destroy was called"):
        repository.update(environment_id, request)


def set_timeout(
    repository: TransactionalRepository, environment_id: str, timeout: timedelta, now: datetime
) -> Environment:
    """Change the idle timeout of a running environment, which is a use of it.

    Raises :class:`EnvironmentNotRunningError`.
    """

    def change_timeout(stored: Environment) -> None:
        require_running(stored)
        stored.timeout = timeout
        stored.touch(now)

    with with_reason(f"its timeout is {format_timeout(timeout)} now"):
        return repository.update(environment_id, change_timeout)


def note(
    repository: TransactionalRepository,
    environment_id: str,
    reason: str,
    *,
    only_if: Callable[[Environment], bool] = lambda _: True,
) -> None:
    """Store a change that only the reason describes, such as the installation of a package.

    Raises :class:`PreconditionFailedError` if ``only_if`` returns false.
    """
    with suppress(EnvironmentNotFoundError), audit(reason=as_reason(reason)):
        repository.update(environment_id, lambda stored: require(only_if(stored)))


def release_owner(repository: TransactionalRepository, environment_id: str, reason: str) -> None:
    """Store why a removal failed, and no owner, so that any process may resume it."""

    def release(stored: Environment) -> None:
        stored.owner = None
        stored.status_reason = reason

    with audit(reason=reason[:_MAX_REASON_LENGTH]):
        repository.update(environment_id, release)


def _mark_destroying(stored: Environment, *, discard: bool) -> None:
    stored.idempotency = None  # A repeated call creates a new one.
    if stored.status is Status.CREATING:
        stored.transition_to(Status.ERROR)
    if stored.status in (Status.ERROR, Status.RUNNING):
        stored.transition_to(Status.DESTROYING)
    stored.discard_files = stored.discard_files or discard
