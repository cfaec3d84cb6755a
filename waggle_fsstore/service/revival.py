# SPDX-License-Identifier: Apache-2.0
"""The return of environments: removed ones are undeleted, and errors that are over end."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    CapacityError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    NoFreePortError,
    ProviderError,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.membership import Membership
from waggle_fsstore.service.port_reservation import make_port_unique, reserved_port
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider


class Revival:
    """Brings environments back, while fewer than ``capacity`` are live."""

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        ports: Ports,
        membership: Membership,
        now: Callable[[], datetime],
        *,
        capacity: int,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._ports = ports
        self._membership = membership
        self._now = now
        self._capacity = capacity

    def undelete(self, environment_id: str, *, record_only: bool) -> Environment:
        """Bring a removed environment back, see :meth:`EnvironmentService.undelete`."""
        environment = self._last_version(environment_id)
        transitions.require_provider(environment, self._provider)
        if self._membership.is_unclaimed(environment):
            environment.host_id = self._membership.id
        else:
            self._membership.require(environment, self._provider.name)
        with (
            IN_PROGRESS.hold(environment_id),
            transitions.with_reason(f"undeleted revision {environment.revision}"),
        ):
            environment.last_used = self._now()
            environment.discard_files = False
            environment.provider = self._provider.name  # The last version may have a former one.
            environment.idempotency = None  # Its caller may have used the key again.
            if record_only:
                return self._restore_record(environment)
            if not self._provider.has_files(environment):
                reason = "its files are gone, and only its record can be brought back"
                raise WorkspaceGoneError(self._provider.name, reason)
            environment.status = Status.CREATING
            environment.status_reason = ""
            environment.owner = this_process()
            with reserved_port(self._ports, self._repository, environment):
                revision = self._repository.create(environment, capacity=self._capacity)
            try:
                make_port_unique(self._ports, self._repository, environment, revision)
                return self._restore_files(environment)
            except (ProviderError, NoFreePortError):
                self._undo(environment)
                raise
            except transitions.PreconditionFailedError:
                # A manual edit has changed the status.
                return self._repository.find_by_id(environment_id)

    def resume(self, environment: Environment) -> bool:
        """Finish an interrupted :meth:`undelete`, or undo it if the files are gone.

        Returns whether the environment is running.
        """
        try:
            return self._restore_files(environment).is_running
        except WorkspaceGoneError:
            self._undo(environment)
            return False

    def revive(self, environment: Environment) -> bool:
        """Change an environment from error to running if it was once, and is whole again.

        Returns false if it is not whole, or if there is no capacity or no port for it.
        """
        if not was_running(environment) or not transitions.belongs_to(environment, self._provider):
            return False
        try:
            with suppress(WorkspaceGoneError):  # Only its record may have been undeleted.
                self._provider.restore(environment)
            self._provider.adopt(environment)
            capabilities = self._provider.probe(environment)
            with reserved_port(self._ports, self._repository, environment):
                running = transitions.to_running_again(
                    self._repository,
                    environment,
                    capabilities,
                    self._now(),
                    capacity=self._capacity,
                )
        except (ProviderError, CapacityError, NoFreePortError):
            return False  # The record already says what is wrong with it.
        make_port_unique(self._ports, self._repository, environment, running.revision)
        return True

    def _last_version(self, environment_id: str) -> Environment:
        """Return the last version before the removal of an environment that is not stored."""
        try:
            self._repository.find_by_id(environment_id)
        except EnvironmentNotFoundError:
            pass
        else:
            raise EnvironmentAlreadyExistsError(environment_id)
        last = None
        for event in self._repository.history(environment_id):
            version = event.environment
            if version is not None and version.status not in (
                Status.DESTROYING,
                Status.DESTROYED,
            ):
                last = version
        if last is None:
            raise EnvironmentNotFoundError(environment_id)
        return last

    def _restore_record(self, environment: Environment) -> Environment:
        environment.status = Status.ERROR
        environment.status_reason = "only its record was brought back"
        environment.owner = None
        environment.ssh_port = 0
        environment.revision = self._repository.create(environment)
        return environment

    def _restore_files(self, environment: Environment) -> Environment:
        """Bring the files back, and store that the environment is running, or in error.

        Raises :class:`ProviderError` while nothing is stored but *creating*.
        """
        self._provider.restore(environment)
        try:
            if was_running(environment):  # A creation that failed has no complete workspace.
                self._provider.adopt(environment)
            capabilities = self._provider.probe(environment)
        except ProviderError as error:
            transitions.to_error(
                self._repository,
                environment.id,
                error.reason,
                only_if=lambda stored: stored.status is Status.CREATING,
            )
            self._ports.unassign(environment.id)
            return self._repository.find_by_id(environment.id)
        return transitions.to_running(self._repository, environment.id, capabilities, self._now())

    def _undo(self, environment: Environment) -> None:
        """Remove the record again: the files, if there are any, are where they were."""
        self._repository.delete(environment.id)
        self._ports.unassign(environment.id)


def was_running(environment: Environment) -> bool:
    """Return whether an environment was once running, so that it may have files of a user."""
    return environment.capabilities is not None
