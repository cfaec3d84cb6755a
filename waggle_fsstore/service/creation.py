# SPDX-License-Identifier: Apache-2.0
"""The creation of an environment: stored as creating, made by the provider, stored as running."""

import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from waggle_fsstore.domain.environment import Environment, Idempotency, Runtime, Status
from waggle_fsstore.domain.errors import (
    CreationCancelledError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    WaggleError,
)
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.domain.validation import title
from waggle_fsstore.service import transitions
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.idempotency import await_creation, digest, find_key_of
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.membership import Membership
from waggle_fsstore.service.port_reservation import make_port_unique, reserved_port
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider
from waggle_fsstore.service.removal import Removal
from waggle_fsstore.service.timeout_limit import check_timeout

_log: Final = logging.getLogger(__name__)


class Creation:
    """Creates environments while fewer than ``capacity`` are live.

    ``removal`` destroys cancelled ones, and may not wait for the thread that creates them.
    """

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        ports: Ports,
        removal: Removal,
        membership: Membership,
        now: Callable[[], datetime],
        *,
        capacity: int,
        default_timeout: timedelta,
        max_timeout: timedelta,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._ports = ports
        self._removal = removal
        self._membership = membership
        self._now = now
        self._capacity = capacity
        self._default_timeout = default_timeout
        self._max_timeout = max_timeout

    def create(
        self,
        runtime: Runtime | str,
        name: str | None,
        timeout: timedelta | None,
        labels: dict[str, str] | None,
        idempotency_key: str | None,
        cancellation: Cancellation,
    ) -> tuple[Environment, bool]:
        """Create an environment, see :meth:`EnvironmentService.create`.

        Returns it, and whether this call created it: an earlier one may have, with the same
        idempotency key.
        """
        new = self._new_environment(runtime, name, timeout, labels)
        if idempotency_key is not None:
            arguments = digest(new.runtime, name, timeout, labels)
            key = title("idempotency_key", idempotency_key)
            new.idempotency = Idempotency(key=key, arguments=arguments)
        existing = find_key_of(self._repository, new)
        while True:
            if existing is not None:
                created = await_creation(
                    self._repository, existing, new, cancellation, self._membership.owns
                )
                if created is not None:
                    return created, False
            try:
                return self._create(new, cancellation), True
            except EnvironmentAlreadyExistsError as error:
                existing = error.environment_id  # Stored since this call has looked.

    def _create(self, environment: Environment, cancellation: Cancellation) -> Environment:
        with IN_PROGRESS.hold(environment.id):
            cancellation.check()
            revision = self._register(environment)
            try:
                cancellation.arm(partial(self._undo, environment.id))
                make_port_unique(self._ports, self._repository, environment, revision)
                capabilities = self._provider.create(environment)
                created = transitions.to_running(
                    self._repository, environment.id, capabilities, self._now()
                )
                cancellation.check()
                return created
            except BaseException as error:
                self._clean_up(environment, error, cancellation)
                if isinstance(error, transitions.PreconditionFailedError):
                    # A manual edit has changed the status.
                    return self._repository.find_by_id(environment.id)
                raise

    def _clean_up(
        self, environment: Environment, error: BaseException, cancellation: Cancellation
    ) -> None:
        """Store that a creation failed; if it was cancelled, destroy what is left of it."""
        if not cancellation.is_requested:
            self._record_failure(environment, error)
            return
        with suppress(EnvironmentNotFoundError):
            self._record_failure(environment, error)
            self._undo(environment.id)
        raise CreationCancelledError from error

    def _undo(self, environment_id: str) -> None:
        with (
            suppress(EnvironmentNotFoundError),
            transitions.with_reason("the creation was cancelled"),
        ):
            self._removal.destroy(environment_id, lambda _: True)

    def _new_environment(
        self,
        runtime: Runtime | str,
        name: str | None,
        timeout: timedelta | None,
        labels: dict[str, str] | None,
    ) -> Environment:
        timeout = self._default_timeout if timeout is None else timeout
        timeout = check_timeout(timeout, self._max_timeout)
        self._membership.join()
        now = self._now()
        environment_id = str(uuid.uuid4())
        return Environment(
            id=environment_id,
            name=f"{runtime}-{environment_id[:8]}" if name is None else title("name", name),
            runtime=runtime,  # type: ignore[arg-type]  # The constructor converts a string.
            created_at=now,
            last_used=now,
            timeout=timeout,
            labels=labels or {},
            provider=self._provider.name,
            host_id=self._membership.id,
            owner=this_process(),
        )

    def _register(self, environment: Environment) -> int:
        with (
            reserved_port(self._ports, self._repository, environment),
            transitions.with_reason("create was called"),
        ):
            return self._repository.create(environment, capacity=self._capacity)

    def _record_failure(self, environment: Environment, error: BaseException) -> None:
        """Store that a creation failed. An incomplete workspace is removed with it later.

        If the environment was destroyed in the meantime, remove the workspace, and raise
        :class:`EnvironmentNotFoundError`. Leave a manual edit of the status as it is.
        """
        reason = f"could not be created: {reason_of(error)}"
        try:
            transitions.to_error(
                self._repository,
                environment.id,
                reason,
                only_if=lambda stored: stored.status is Status.CREATING,
            )
            self._ports.unassign(environment.id)
        except (EnvironmentNotFoundError, transitions.PreconditionFailedError):
            if self._is_destroyed(environment.id):
                self._provider.remove(environment)
                if isinstance(error, Exception):
                    raise EnvironmentNotFoundError(environment.id) from error
        except (WaggleError, OSError) as problem:
            # Once no thread holds it, the next sweep finds it interrupted.
            _log.error("environment %s %s; not stored: %s", environment.id, reason, problem)

    def _is_destroyed(self, environment_id: str) -> bool:
        try:
            return self._repository.find_by_id(environment_id).status is Status.DESTROYING
        except EnvironmentNotFoundError:
            return True
