# SPDX-License-Identifier: Apache-2.0
"""The creation of an environment: stored as creating, made by the provider, stored as running."""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from waggle_fsstore.domain.defaults import MAX_IDLE_TIMEOUT
from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.errors import (
    EnvironmentNotFoundError,
    InvalidEnvironmentError,
    NoFreePortError,
    WaggleError,
)
from waggle_fsstore.domain.process import this_process
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider

_MAX_NAME_LENGTH: Final = 200

_log: Final = logging.getLogger(__name__)


class Creation:
    """Creates environments while fewer than ``capacity`` are live."""

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        ports: Ports,
        now: Callable[[], datetime],
        *,
        capacity: int,
        default_timeout: timedelta,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._ports = ports
        self._now = now
        self._capacity = capacity
        self._default_timeout = default_timeout

    def create(
        self,
        runtime: Runtime | str,
        name: str | None,
        timeout: timedelta | None,
        labels: dict[str, str] | None,
    ) -> Environment:
        """Create an environment, see :meth:`EnvironmentService.create`."""
        environment = self._new_environment(runtime, name, timeout, labels)
        with IN_PROGRESS.hold(environment.id):
            revision = self._register(environment)
            try:
                self._make_port_unique(environment, revision)
                capabilities = self._provider.create(environment)
                return transitions.to_running(
                    self._repository, environment.id, capabilities, self._now()
                )
            except BaseException as error:
                self._record_failure(environment, error)
                if isinstance(error, transitions.PreconditionFailedError):
                    # A manual edit has changed the status.
                    return self._repository.find_by_id(environment.id)
                raise

    def _new_environment(
        self,
        runtime: Runtime | str,
        name: str | None,
        timeout: timedelta | None,
        labels: dict[str, str] | None,
    ) -> Environment:
        timeout = self._default_timeout if timeout is None else timeout
        if not isinstance(timeout, timedelta) or not timedelta(0) < timeout <= MAX_IDLE_TIMEOUT:
            raise InvalidEnvironmentError("timeout", "must be above 0 and at most 60 minutes")
        if name is not None and not (0 < len(name) <= _MAX_NAME_LENGTH and name.isprintable()):
            reason = f"must be 1-{_MAX_NAME_LENGTH} printable characters"
            raise InvalidEnvironmentError("name", reason)
        now = self._now()
        environment_id = str(uuid.uuid4())
        return Environment(
            id=environment_id,
            name=f"{runtime}-{environment_id[:8]}" if name is None else name,
            runtime=runtime,  # type: ignore[arg-type]  # The constructor converts a string.
            created_at=now,
            last_used=now,
            timeout=timeout,
            labels=labels or {},
            provider=self._provider.name,
            owner=this_process(),
        )

    def _register(self, environment: Environment) -> int:
        with self._reserved_port(environment), transitions.with_reason("create was called"):
            return self._repository.create(environment, capacity=self._capacity)

    def _make_port_unique(self, environment: Environment, revision: int) -> None:
        """Change the port if another process stored the same one concurrently.

        Of two processes that stored the same port, the later one sees it, and any process
        that sees it changes its own.
        """
        while True:
            self._ports.catch_up(self._repository, revision)
            if not self._ports.is_shared(environment):
                return
            with self._reserved_port(environment):
                revision = transitions.set_port(
                    self._repository, environment.id, environment.ssh_port
                ).revision

    @contextmanager
    def _reserved_port(self, environment: Environment) -> Iterator[None]:
        """Reserve a free port for an environment that is stored within the block."""
        try:
            port = self._ports.reserve()
        except NoFreePortError:
            self._ports.load(self._repository)  # Another process may have released some.
            port = self._ports.reserve()
        environment.ssh_port = port
        try:
            yield
        except BaseException:
            self._ports.release(port)
            raise
        self._ports.assign(port, environment.id)

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
