# SPDX-License-Identifier: Apache-2.0
"""The life of environments: created, used, destroyed, each step of it stored first."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from waggle_fsstore.domain.defaults import DEFAULT_CAPACITY, DEFAULT_IDLE_TIMEOUT, DEFAULT_PORTS
from waggle_fsstore.domain.environment import Environment, Runtime
from waggle_fsstore.domain.errors import ProviderError, WorkspaceGoneError
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.creation import Creation
from waggle_fsstore.service.error_text import id_in
from waggle_fsstore.service.idle_clock import Idleness
from waggle_fsstore.service.in_progress import IN_HAND
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider
from waggle_fsstore.service.reconcile import Reconciliation, expire, settle, verify
from waggle_fsstore.service.removal import Removal
from waggle_fsstore.service.touch_buffer import INTERVAL, Touches

# How long to wait for whoever is creating or removing an environment (seconds).
_PATIENCE: Final = 30.0


class EnvironmentService:
    """Creates and destroys environments, so that none is lost and none comes back.

    Every step is stored before what it announces is done: whatever process is killed
    wherever, the next :meth:`reconcile` knows what was going on. Several services, in
    several processes, may share a store.

    ``capacity`` is the number of live environments at most, over all who share the store
    and use the same number; ``default_timeout`` the idle time after which one expires;
    ``ports`` where each gets its ``ssh_port``. ``now`` tells the time, ``uptime`` the
    seconds since some moment, without those in which the machine slept. ``patience`` is
    how many seconds :meth:`destroy` waits for others that work on the same environment.

    Actor and reason of each change are those of the :class:`audit` block of the caller;
    where that gives no reason, the step itself does. Where a step fails, the failure is
    the reason.
    """

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        *,
        capacity: int = DEFAULT_CAPACITY,
        default_timeout: timedelta = DEFAULT_IDLE_TIMEOUT,
        ports: Ports | None = None,
        touches: Touches | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        uptime: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._now = now
        self._idleness = Idleness(uptime)
        self._touches = touches or Touches(repository)
        self._ports = ports or Ports(DEFAULT_PORTS)
        self._creation = Creation(
            repository,
            provider,
            self._ports,
            now,
            capacity=capacity,
            default_timeout=default_timeout,
        )
        self._removal = Removal(repository, provider, self._ports, patience=patience)
        self._ports.learn(repository)

    @property
    def provider(self) -> Provider:
        """What makes the environments of this service real."""
        return self._provider

    def create(
        self,
        runtime: Runtime | str,
        *,
        name: str | None = None,
        timeout: timedelta | None = None,
        labels: dict[str, str] | None = None,
    ) -> Environment:
        """Make a new environment, and return it when it is running.

        Without a ``name`` it is called like its runtime and the beginning of its id.
        ``timeout`` is above zero and at most an hour. ``labels`` are for the provider and
        for whoever reads them.

        Raises :class:`InvalidEnvironmentError` (:class:`InvalidRuntimeError`),
        :class:`CapacityError` and :class:`NoFreePortError`, and has then stored nothing;
        :class:`ProviderError`, and the environment is then stored in status error, with
        the reason, as it is if another process took the last port just now;
        :class:`EnvironmentNotFoundError` when it was destroyed meanwhile.
        """
        return self._creation.create(runtime, name, timeout, labels)

    def find_by_id(self, environment_id: str) -> Environment:
        """One environment. Raises :class:`EnvironmentNotFoundError`; changes nothing."""
        return self._as_used(self._repository.find_by_id(environment_id))

    def find_all(
        self, *, on_corrupt: Callable[[Exception], object] | None = None
    ) -> list[Environment]:
        """All environments, sorted by id; see :meth:`TransactionalRepository.find_all`."""
        return [self._as_used(one) for one in self._repository.find_all(on_corrupt=on_corrupt)]

    def touch(self, environment_id: str) -> Environment:
        """Note that an environment is used now, which puts off its expiry; returns it.

        Stored within five seconds, together with later touches. Raises
        :class:`EnvironmentNotFoundError` and :class:`EnvironmentNotRunningError`.
        """
        environment = self._repository.find_by_id(environment_id)
        transitions.require_running(environment)
        now = self._now()
        self._touches.note(environment_id, now)
        self._idleness.note(environment_id, self._touches.last_used(environment))
        return self._as_used(environment)

    def probe(self, environment_id: str) -> Environment:
        """Have the provider look what an environment can do, and store what it finds.

        Raises :class:`EnvironmentNotFoundError`, :class:`EnvironmentNotRunningError`, also
        if it is destroyed meanwhile, and :class:`ProviderError`.
        """
        environment = self._repository.find_by_id(environment_id)
        transitions.require_running(environment)
        transitions.require_of(environment, self._provider.name)
        try:
            capabilities = self._provider.probe(environment)
        except WorkspaceGoneError:
            # As it is when somebody destroys it.
            transitions.require_running(self._repository.find_by_id(environment_id))
            raise
        stored = transitions.set_capabilities(self._repository, environment_id, capabilities)
        return self._as_used(stored)

    def locate(self, environment: Environment) -> str:
        """Where its user finds an environment; empty if another provider made it."""
        is_ours = transitions.is_of(environment, self._provider.name)
        return self._provider.locate(environment) if is_ours else ""

    def destroy(
        self,
        environment_id: str,
        *,
        only_if: Callable[[Environment], bool] = lambda _: True,
    ) -> bool:
        """Remove an environment and what it runs in, from whatever status it is in.

        Returns when nothing is left of it but its history. Who is creating or removing it
        is waited for; what nobody goes on with is finished here. Where ``only_if`` says no
        to the version that would be marked as destroying, nothing is done, and this is
        false.

        Raises :class:`EnvironmentNotFoundError`; :class:`ProviderError`, and it then
        stays in status destroying, so that it can be tried again, or as it is if another
        provider made it.
        """
        return self._removal.destroy(environment_id, only_if)

    def history(self, environment_id: str, *, after: int = 0) -> Iterator[Event]:
        """What happened to an environment, oldest first, also to one that is gone."""
        return self._repository.history(environment_id, after=after)

    def reconcile(self, *, is_stopping: Callable[[], bool] = lambda: False) -> Reconciliation:
        """Bring store and provider together, as after a restart; what was found and done.

        What a process that is gone was creating becomes error, what it was removing is
        removed. What is running without its workspace becomes error. Workspaces without a
        record are reported, and so is each document that cannot be read. No failure stops
        it, but for a provider that cannot work, such as one whose disk is not mounted, and
        a store lock that is not to be had in time; ``is_stopping`` does.
        """
        result = Reconciliation()
        workspaces: list[str] = []
        with result.noting_problems("workspaces"):
            # All that there are, before the records are read: whoever makes one stores it first.
            workspaces += self._provider.find_strays(())
        environments = self._repository.find_all(on_corrupt=result.unreadable.append)
        self._check_provider(result)
        for environment in environments:
            if not result.is_complete or is_stopping():
                break
            with result.noting_problems(f"environment {environment.id}"):
                if not settle(self._repository, self._removal, environment, result):
                    verify(self._repository, self._provider, environment, result)
        if workspaces:
            with result.noting_problems("workspaces"):
                known = [one.id for one in environments]
                # What cannot be read has a workspace too.
                known += [id_in(error) for error in result.unreadable]
                strays = self._provider.find_strays(known)
                result.strays += [name for name in strays if name in workspaces]
        return result

    def sweep(self, *, is_stopping: Callable[[], bool] = lambda: False) -> Reconciliation:
        """Remove what has expired, and go on with what a process that is gone began.

        What is in error expires too. No failure stops it, but for those that stop
        :meth:`reconcile`; ``is_stopping`` does.
        """
        result = Reconciliation()
        environments = self._repository.find_all(on_corrupt=result.unreadable.append)
        self._check_provider(result)
        self._idleness.begin_pass({one.id for one in environments})
        for environment in environments:
            if not result.is_complete or is_stopping():
                break
            with result.noting_problems(f"environment {environment.id}"):
                if not settle(self._repository, self._removal, environment, result):
                    expire(self._removal, environment, result, self.idle_time, self.is_expired)
        self._idleness.end_pass()
        return result

    def keep_time(self, interval: timedelta) -> None:
        """Note that time passes, at least every ``interval``.

        Of a longer pause only so much counts as idle time: this process was stopped then.
        """
        self._idleness.keep_time((interval + INTERVAL).total_seconds())

    def is_expired(self, environment: Environment) -> bool:
        """Whether an environment was idle for longer than its timeout.

        Only time in which this service ran counts, and another one may know of a use that
        it has not stored yet.
        """
        never = environment.timeout <= timedelta(0)
        return not never and self.idle_time(environment) > environment.timeout + INTERVAL

    def idle_time(self, environment: Environment) -> timedelta:
        """How long an environment has not been used, since this service began at most.

        No clock that is set makes it longer, nor does a time in which this process was
        stopped.
        """
        last_used = self._touches.last_used(environment)
        return self._idleness.of(environment.id, last_used, self._now())

    def close(self, *, patience: float = 3.0) -> bool:
        """End: cut creations short, wait for what is in hand, store the last touches.

        Destroys nothing. Returns whether all threads were done after ``patience`` seconds;
        what was not is left as the store has it, for the next :meth:`reconcile`. Does not
        close the repository.
        """
        self._provider.close()
        is_idle = IN_HAND.wait_until_idle(patience)
        self._touches.close()
        return is_idle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_provider(self, result: Reconciliation) -> None:
        """Have nothing judged while the provider cannot work; what nobody can use is not idle."""
        with result.noting_problems("workspaces", stops=ProviderError):
            self._provider.check()
        if not result.is_complete:
            self._idleness.begin_pass(())
            self._idleness.end_pass()

    def _as_used(self, environment: Environment) -> Environment:
        environment.last_used = self._touches.last_used(environment)
        return environment
