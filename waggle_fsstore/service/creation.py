# SPDX-License-Identifier: Apache-2.0
"""How an environment comes to be: stored as creating, made by the provider, stored as running."""

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
from waggle_fsstore.service.in_progress import IN_HAND
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider

_MAX_NAME: Final = 200

_log: Final = logging.getLogger(__name__)


class Creation:
    """Makes environments, ``capacity`` live ones at most."""

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
        """See :meth:`EnvironmentService.create`."""
        environment = self._new(runtime, name, timeout, labels)
        with IN_HAND.hold(environment.id):
            revision = self._register(environment)
            try:
                self._make_port_unique(environment, revision)
                capabilities = self._provider.create(environment)
                return transitions.to_running(
                    self._repository, environment.id, capabilities, self._now()
                )
            except BaseException as error:
                self._give_up(environment, error)
                if isinstance(error, transitions.NotWantedError):
                    return self._repository.find_by_id(environment.id)  # A hand was faster.
                raise

    def _new(
        self,
        runtime: Runtime | str,
        name: str | None,
        timeout: timedelta | None,
        labels: dict[str, str] | None,
    ) -> Environment:
        timeout = self._default_timeout if timeout is None else timeout
        if not isinstance(timeout, timedelta) or not timedelta(0) < timeout <= MAX_IDLE_TIMEOUT:
            raise InvalidEnvironmentError("timeout", "is not above 0 and at most 60 minutes")
        if name is not None and not (0 < len(name) <= _MAX_NAME and name.isprintable()):
            raise InvalidEnvironmentError("name", f"is not 1-{_MAX_NAME} printable characters")
        now = self._now()
        environment_id = str(uuid.uuid4())
        return Environment(
            id=environment_id,
            name=f"{runtime}-{environment_id[:8]}" if name is None else name,
            runtime=runtime,  # type: ignore[arg-type]  # The constructor turns a string to it.
            created_at=now,
            last_used=now,
            timeout=timeout,
            labels=labels or {},
            provider=self._provider.name,
            owner=this_process(),
        )

    def _register(self, environment: Environment) -> int:
        with self._another_port(environment), transitions.because("create was called"):
            return self._repository.create(environment, capacity=self._capacity)

    def _make_port_unique(self, environment: Environment, revision: int) -> None:
        """Take another port, if another process has stored the same one just now.

        Whoever sees that does so; whoever of the two stored last sees it.
        """
        while True:
            self._ports.follow(self._repository, revision)
            if not self._ports.is_shared(environment):
                return
            with self._another_port(environment):
                revision = transitions.set_port(
                    self._repository, environment.id, environment.ssh_port
                ).revision

    @contextmanager
    def _another_port(self, environment: Environment) -> Iterator[None]:
        """Give it a port that is free, to be stored in the block."""
        try:
            port = self._ports.take()
        except NoFreePortError:
            self._ports.learn(self._repository)  # Another process may have given some back.
            port = self._ports.take()
        environment.ssh_port = port
        try:
            yield
        except BaseException:
            self._ports.give_back(port)
            raise
        self._ports.keep(port, environment.id)

    def _give_up(self, environment: Environment, error: BaseException) -> None:
        """Store that a creation failed. The workspace, as far as it came, goes with it later.

        If somebody lost patience and destroyed it meanwhile, what was made of it since goes
        now, and :class:`EnvironmentNotFoundError` is raised. What a hand changed stays.
        """
        reason = f"could not be created: {reason_of(error)}"
        try:
            transitions.to_error(
                self._repository,
                environment.id,
                reason,
                only_if=lambda stored: stored.status is Status.CREATING,
            )
            self._ports.forget(environment.id)
        except (EnvironmentNotFoundError, transitions.NotWantedError):
            if self._is_destroyed(environment.id):
                self._provider.remove(environment)
                if isinstance(error, Exception):
                    raise EnvironmentNotFoundError(environment.id) from error
        except (WaggleError, OSError) as problem:
            # It is not in hand any more: the next sweep finds that.
            _log.error("environment %s %s; not stored: %s", environment.id, reason, problem)

    def _is_destroyed(self, environment_id: str) -> bool:
        try:
            return self._repository.find_by_id(environment_id).status is Status.DESTROYING
        except EnvironmentNotFoundError:
            return True
