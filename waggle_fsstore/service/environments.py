# SPDX-License-Identifier: Apache-2.0
"""The environment service: create, use, destroy and reconcile environments durably."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Self

from waggle_fsstore.domain.audit import audit, current_author
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.defaults import (
    DEFAULT_CAPACITY,
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_PORTS,
    MAX_IDLE_TIMEOUT,
)
from waggle_fsstore.domain.duration import format_duration
from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.errors import (
    CountMismatchError,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    HostNotFoundError,
    InvalidEnvironmentError,
    ProviderError,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.host import Host
from waggle_fsstore.domain.process import is_elsewhere
from waggle_fsstore.domain.repository import OnCorrupt, TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.bulk_removal import Outcome, destroy_each
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.creation import Creation
from waggle_fsstore.service.error_text import id_in
from waggle_fsstore.service.executor import Executor
from waggle_fsstore.service.expiry_warnings import ExpiryWarnings
from waggle_fsstore.service.files import Files
from waggle_fsstore.service.idle_clock import IdleClock
from waggle_fsstore.service.in_progress import IN_PROGRESS
from waggle_fsstore.service.membership import Membership
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Leftovers, Provider
from waggle_fsstore.service.reconcile import (
    Reconciliation,
    check_workspace,
    finish_interrupted,
    finish_removal,
    revive,
)
from waggle_fsstore.service.removal import Removal
from waggle_fsstore.service.revival import Revival, was_running
from waggle_fsstore.service.tally import Failure, Tally
from waggle_fsstore.service.timeout_limit import check_timeout
from waggle_fsstore.service.touch_buffer import FLUSH_INTERVAL, TouchBuffer, Use
from waggle_fsstore.service.workspaces import Workspaces

# No process takes this long to create or remove an environment.
_MAX_UNSEEN_WORK: Final = timedelta(hours=1)


class EnvironmentService:
    """Creates, uses and destroys environments.

    No environment gets lost, and none that was destroyed comes back: each transition is
    stored before the action that it announces, so that :meth:`reconcile` knows what was in
    progress when a process was killed. Several services, in several processes, may share a store.

    ``capacity`` is the maximum number of live environments in the store, if all services
    that share it use the same number. ``default_timeout`` is the idle time after which an
    environment expires, and ``max_timeout`` the longest that a caller may choose, zero for any
    and for never. Each environment gets its ``ssh_port`` from ``ports``. ``now`` returns the time,
    ``uptime`` monotonic seconds from any origin, not counting those in which the machine was
    asleep. :meth:`destroy` waits ``takeover_after`` seconds for other
    threads and processes that are creating or removing the environment. ``membership`` says
    which host this is, of those that share the store; without it, there is only this one.
    ``executor`` and ``files`` are for :attr:`workspaces`.

    Each change carries the actor and the reason of the :class:`audit` block of the caller.
    Without a reason in the block, the transition has a reason of its kind. The reason of a
    failed transition is the failure.
    """

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        *,
        capacity: int = DEFAULT_CAPACITY,
        default_timeout: timedelta = DEFAULT_IDLE_TIMEOUT,
        max_timeout: timedelta = MAX_IDLE_TIMEOUT,
        ports: Ports | None = None,
        touch_buffer: TouchBuffer | None = None,
        membership: Membership | None = None,
        executor: Executor | None = None,
        files: Files | None = None,
        now: Callable[[], datetime] | None = None,
        uptime: Callable[[], float] = monotonic,
        takeover_after: float = 30.0,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._membership = membership = membership or Membership()
        self._now = now or membership.now
        self._idle_clock = IdleClock(uptime)
        self._tidied_at = timedelta(0)
        self._max_timeout = max_timeout
        self._warnings = ExpiryWarnings(repository, self.time_left)
        self._touch_buffer = touch_buffer or TouchBuffer(repository)
        self._ports = ports or Ports(DEFAULT_PORTS)
        self._tally = Tally()
        # Waits for no thread that creates the environment.
        self._prompt_removal = Removal(
            repository, provider, self._ports, membership, self._tally, takeover_after=0.0
        )
        self._creation = Creation(
            repository,
            provider,
            self._ports,
            self._prompt_removal,
            membership,
            self._now,
            capacity=capacity,
            default_timeout=default_timeout,
            max_timeout=max_timeout,
        )
        self._removal = Removal(
            repository,
            provider,
            self._ports,
            membership,
            self._tally,
            takeover_after=takeover_after,
        )
        self._revival = Revival(
            repository, provider, self._ports, membership, self._now, capacity=capacity
        )
        self._workspaces = Workspaces(
            repository, provider, membership, self.touch, self._record, self._tally, executor, files
        )
        self._ports.load(repository)

    @property
    def workspaces(self) -> Workspaces:
        """What is done in the environments: programs, packages and files."""
        return self._workspaces

    @property
    def provider(self) -> Provider:
        """The provider that makes the environments of this service real."""
        return self._provider

    @property
    def tally(self) -> Tally:
        """What this service has done since it began, in numbers."""
        return self._tally

    @property
    def membership(self) -> Membership:
        """Which host this is, of those that share the store."""
        return self._membership

    def create(
        self,
        runtime: Runtime | str,
        *,
        name: str | None = None,
        timeout: timedelta | None = None,
        labels: dict[str, str] | None = None,
        idempotency_key: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> Environment:
        """Create an environment, and return it once it is running.

        The default ``name`` is the runtime and the beginning of the id. ``timeout`` is at most
        ``max_timeout``; zero is never. ``labels`` are for the provider and for readers.

        A call that repeats an ``idempotency_key`` and the arguments returns the environment of
        the first call, whatever its status is now, and waits while that is being created. The
        key holds for the whole store, and across restarts, until the creation fails or the
        removal of the environment begins. ``cancellation`` lets another thread end the call;
        it then raises :class:`CreationCancelledError`, and nothing that it created is left.

        Raises :class:`InvalidEnvironmentError` (:class:`InvalidRuntimeError`),
        :class:`IdempotencyKeyReusedError` for a key that was used with other arguments,
        :class:`CapacityError` or :class:`NoFreePortError` without having stored anything.
        Raises :class:`ProviderError` after having stored the environment in status error,
        with the reason; so does :class:`NoFreePortError` if another process took the last
        port concurrently. Raises :class:`EnvironmentNotFoundError` if the environment was
        destroyed in the meantime.
        """
        with self._tally.failures_of(Failure.CREATION):
            environment, is_new = self._creation.create(
                runtime, name, timeout, labels, idempotency_key, cancellation or Cancellation()
            )
        if is_new:
            self._tally.created += 1
            return environment
        with suppress(EnvironmentNotRunningError):
            return self.touch(environment.id)
        return environment

    def find_by_id(self, environment_id: str) -> Environment:
        """Return an environment, without touching it. Raises :class:`EnvironmentNotFoundError`."""
        return self._with_last_use(self._repository.find_by_id(environment_id))

    def find_all(
        self, *, labels: Mapping[str, str] | None = None, on_corrupt: OnCorrupt | None = None
    ) -> list[Environment]:
        """Return all environments that have all of ``labels``, by id.

        See :meth:`TransactionalRepository.find_all`.
        """
        found = self._repository.find_all(on_corrupt=on_corrupt)
        return [self._with_last_use(one) for one in found if one.has_labels(labels or {})]

    def touch(self, environment_id: str) -> Environment:
        """Record that an environment is used now, which resets its idle time; return it.

        The use is stored within a minute, together with later ones. Raises
        :class:`EnvironmentNotFoundError` and :class:`EnvironmentNotRunningError`.
        """
        environment = self._repository.find_by_id(environment_id)
        transitions.require_running(environment)
        self._touch_buffer.add(environment_id, self._now())
        self._idle_clock.restart(environment_id, self._touch_buffer.last_used(environment))
        return self._with_last_use(environment)

    def _record(self, environment_id: str, use: Use) -> None:
        self._touch_buffer.add(environment_id, self._now(), use)

    def extend(self, environment_id: str, timeout: timedelta) -> Environment:
        """Change the idle timeout of a running environment, which counts as use; return it.

        ``timeout`` is at most ``max_timeout``; zero is never. Raises
        :class:`InvalidEnvironmentError`, :class:`EnvironmentNotFoundError` and
        :class:`EnvironmentNotRunningError`.
        """
        timeout = check_timeout(timeout, self._max_timeout)
        stored = transitions.set_timeout(self._repository, environment_id, timeout, self._now())
        self._idle_clock.restart(environment_id, self._touch_buffer.last_used(stored))
        return self._with_last_use(stored)

    def probe(self, environment_id: str) -> Environment:
        """Ask the provider what an environment offers, and store the answer.

        Raises :class:`EnvironmentNotFoundError`, :class:`EnvironmentNotRunningError` (either
        of them if it is destroyed in the meantime) and :class:`ProviderError`.
        """
        environment = self._repository.find_by_id(environment_id)
        transitions.require_running(environment)
        transitions.require_provider(environment, self._provider)
        self._membership.require(environment, self._provider.name)
        try:
            capabilities = self._provider.probe(environment)
        except WorkspaceGoneError:
            # Destroyed in the meantime? Then that is the error.
            transitions.require_running(self._repository.find_by_id(environment_id))
            raise
        stored = transitions.set_capabilities(self._repository, environment_id, capabilities)
        return self._with_last_use(stored)

    def locate(self, environment: Environment) -> str:
        """Return the location of the workspace, "" if it is of another provider or host."""
        is_ours = transitions.belongs_to(environment, self._provider)
        is_ours = is_ours and self._membership.owns(environment)
        return self._provider.locate(environment) if is_ours else ""

    def destroy(
        self, environment_id: str, *, only_if: Callable[[Environment], bool] = lambda _: True
    ) -> bool:
        """Remove an environment, in any status, and its workspace.

        Once this returns, only its history is left; its files are deleted in the background.
        While another thread or process is creating or removing the environment, this waits, up
        to ``takeover_after`` seconds. It resumes an interrupted removal. Returns false, and has
        changed nothing, if ``only_if`` returns false for the version that is about to be marked
        as destroying.

        Raises :class:`EnvironmentNotFoundError`. Raises :class:`ProviderError` and leaves
        the environment in status destroying, so that the call can be repeated, or unchanged
        if another provider made it.
        """
        self._touch_buffer.store_executions(environment_id)
        with self._tally.failures_of(Failure.REMOVAL):
            return self._removal.destroy(environment_id, only_if, discard=True)

    def destroy_all(self, labels: Mapping[str, str], *, count: int) -> list[Outcome]:
        """Destroy all environments that have all of some labels, and return what became of each.

        Each is removed as by :meth:`destroy`, unless its labels change before that, and no failure
        stops the others. A record that cannot be read has no labels.

        Raises :class:`InvalidEnvironmentError` without any label, and
        :class:`CountMismatchError` if their number is not ``count``. Nothing has changed then.
        """
        if not labels:
            raise InvalidEnvironmentError("labels", "must not be empty")
        found = self.find_all(labels=labels, on_corrupt=lambda _: None)
        if len(found) != count:
            raise CountMismatchError(count, len(found))
        return destroy_each(found, labels, self.destroy, self.find_by_id)

    def undelete(self, environment_id: str, *, record_only: bool = False) -> Environment:
        """Bring a removed environment back, with the files that it had; return it.

        Its record is the last one before the removal, with a new revision and a new port. It
        is *running* if its workspace is whole, else *error* with the reason, and its idle time
        begins now. Only an environment that expired has files: those of a destroyed one are
        deleted. With ``record_only`` it comes back without files, as *error*.

        Raises :class:`EnvironmentAlreadyExistsError` if it is stored,
        :class:`EnvironmentNotFoundError` if the history does not know it,
        :class:`CapacityError`, :class:`NoFreePortError`, and :class:`ProviderError`:
        :class:`WorkspaceGoneError` if its files are gone. Nothing has changed then.
        """
        return self._revival.undelete(environment_id, record_only=record_only)

    @property
    def leftovers(self) -> Leftovers:
        """What is left of removed environments, as far as this process knows."""
        return self._provider.leftovers

    def history(self, environment_id: str, *, after: int | str = 0) -> Iterator[Event]:
        """Return the events of an environment, oldest first, even of a deleted one."""
        return self._repository.history(environment_id, after=after)

    def reconcile(self, *, is_stopping: Callable[[], bool] = lambda: False) -> Reconciliation:
        """Make store and provider agree again, as after a restart; return the result.

        Interrupted creations and running environments without a workspace become *error*;
        interrupted removals are finished. Workspaces without a record and unreadable
        documents are reported. The pass continues after a failure, except for a provider
        that cannot work, such as one whose disk is not mounted, and a timeout of the store
        lock. It ends early if ``is_stopping`` returns true.
        """
        result = Reconciliation()
        self._membership.refresh()
        self._tidied_at = self._idle_clock.elapsed  # Another server counted until now.
        workspaces: list[str] = []
        with result.collect_problems("workspaces"):
            # All of them, before the records are read: each record is stored before its workspace.
            workspaces += self._provider.find_orphans(())
        stored = self._repository.find_all(on_corrupt=result.unreadable.append)
        environments = self._of_this_host(stored, result)
        self._visit(environments, result, is_stopping, self._rename_provider)
        self._check_provider(result)
        check = partial(check_workspace, self._repository, self._provider, self._revival)
        self._visit(environments, result, is_stopping, partial(self._finish_or, check))
        if workspaces:
            with result.collect_problems("workspaces"):
                known = [one.id for one in environments]
                # An environment whose document is unreadable still has its workspace.
                known += [id_in(error) for error in result.unreadable]
                orphans = self._provider.find_orphans(known)
                result.orphans += [name for name in orphans if name in workspaces]
        self._tidy(stored, result)
        result.count_failures(self._tally)
        return result

    def sweep(self, *, is_stopping: Callable[[], bool] = lambda: False) -> Reconciliation:
        """Remove expired environments, and finish the work that ended processes left halfway.

        Those in status error expire too, and so does one that a process in another container has
        been creating or removing for an hour. A running one that expires soon gets a warning in
        its history. Failures and ``is_stopping``: see :meth:`reconcile`.
        """
        result = Reconciliation()
        self._membership.refresh()
        stored = self._repository.find_all(on_corrupt=result.unreadable.append)
        environments = self._of_this_host(stored, result)
        self._check_provider(result)
        known = {one.id for one in environments}
        self._idle_clock.begin_pass(known)
        self._warnings.begin_pass(known)
        remove = partial(self._finish_or, self._remove_if_expired)
        self._visit(environments, result, is_stopping, remove)
        self._idle_clock.end_pass()
        self._tidy(stored, result)
        result.count_failures(self._tally)
        return result

    def finish_removal(self, environment: Environment) -> None:
        """Remove an environment of this host that another one has asked to remove.

        Does nothing for any other environment, and one that a process is removing already. Does
        not wait for a creation, which then fails.
        """
        is_asked_for = environment.status is Status.DESTROYING and environment.owner is None
        if is_asked_for and self._membership.owns(environment):
            self._touch_buffer.store_executions(environment.id)
            with suppress(EnvironmentNotFoundError), self._tally.failures_of(Failure.REMOVAL):
                finish_removal(self._prompt_removal, environment.id, "another host asked for it")

    def finish_removals(self) -> None:
        """Remove all environments of this host that others have asked to remove."""
        for environment in self._repository.find_all(on_corrupt=lambda _: None):
            self.finish_removal(environment)

    def remove_host(self, name: str) -> Host:
        """Declare a host gone for good: its environments become *error*, or go if they were going.

        Any server can then destroy them. The host itself stops when it comes back, and its files
        are orphans. Can be repeated after an interruption. Raises :class:`HostNotFoundError`, also
        for a store of one machine.
        """
        if self._membership.hosts is None:
            raise HostNotFoundError(name)
        host = self._membership.hosts.remove(name)
        self._membership.refresh()
        why = current_author().reason
        reason = f"its host {name} was removed" + (f": {why}" if why else "")
        for environment in self._repository.find_all(on_corrupt=lambda _: None):
            if environment.host_id != host.id:
                continue
            with suppress(EnvironmentNotFoundError, transitions.PreconditionFailedError):
                if environment.status is Status.DESTROYING:
                    self._removal.destroy(environment.id, lambda _: True, discard=False)
                else:
                    transitions.to_error(
                        self._repository,
                        environment.id,
                        reason,
                        only_if=lambda stored: stored.status in (Status.CREATING, Status.RUNNING),
                    )
        return host

    def tick(self, interval: timedelta) -> None:
        """Advance the idle clock. Call it at least every ``interval``.

        Of a longer gap, in which this process was suspended, only ``interval`` and the flush
        interval of touches are idle time.
        """
        self._idle_clock.tick((interval + FLUSH_INTERVAL).total_seconds())

    def is_expired(self, environment: Environment) -> bool:
        """Return whether an environment was idle for longer than its timeout.

        Only time in which this service ran is idle time. The flush interval of touches is added
        to the timeout, because another service may have a use that is not stored yet.
        """
        left = self.time_left(environment)
        return left is not None and left < timedelta(0)

    def time_left(self, environment: Environment) -> timedelta | None:
        """Return how much longer an environment may be idle, ``None`` if it never expires.

        It is below zero if :meth:`is_expired` returns true.
        """
        if environment.timeout <= timedelta(0):
            return None
        return environment.timeout + FLUSH_INTERVAL - self.idle_time(environment)

    def idle_time(self, environment: Environment) -> timedelta:
        """Return how long an environment has been idle, at most since this service began.

        Neither a change of the system clock nor a suspension of this process adds to it.
        """
        last_used = self._touch_buffer.last_used(environment)
        return self._idle_clock.idle_time(environment.id, last_used, self._now())

    def close(self, *, timeout: float = 3.0) -> bool:
        """Interrupt creations and programs, wait for threads that work, store the touches.

        Destroys nothing. Returns whether all threads were done within ``timeout`` seconds;
        the next :meth:`reconcile` finishes the work of the others. The repository stays open.
        """
        self._provider.close()
        self._workspaces.close()
        is_done = IN_PROGRESS.wait_until_empty(timeout)
        is_done &= self._workspaces.wait_until_idle(timeout)
        self._touch_buffer.close()
        return is_done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_provider(self, result: Reconciliation) -> None:
        """Make the pass incomplete, and restart all idle times, while the provider fails.

        No environment can be used then, so none may become idle.
        """
        with result.collect_problems("workspaces", stop_on=ProviderError):
            self._provider.check()
        if not result.is_complete:
            self._idle_clock.begin_pass(())
            self._idle_clock.end_pass()

    def _of_this_host(self, stored: list[Environment], result: Reconciliation) -> list[Environment]:
        """Return the environments of this host, with those that it finds to be its own."""
        for environment in filter(self._membership.is_unclaimed, stored):
            with result.collect_problems(f"environment {environment.id}"):
                self._claim_files(environment)
        return list(filter(self._membership.owns, stored))

    def _claim_files(self, environment: Environment) -> None:
        """Store that this host has the files of an environment, if it has."""
        host_id = self._membership.id
        is_ours = transitions.belongs_to(environment, self._provider)
        if host_id is None or not is_ours or not self._provider.has_files(environment):
            return
        with audit(actor="reconcile"):
            name = self._membership.name
            transitions.set_host(self._repository, environment, host_id, name)
        environment.host_id = host_id

    def _rename_provider(self, environment: Environment, _: Reconciliation) -> None:
        """Store the name of the provider where an earlier version stored a former one.

        This comes before any change to a workspace: an earlier version leaves an environment of
        an unknown provider alone, in any status.
        """
        if environment.provider in self._provider.former_names:
            with audit(actor="reconcile"):
                transitions.set_provider(self._repository, environment.id, self._provider)
            environment.provider = self._provider.name

    def _tidy(self, environments: list[Environment], result: Reconciliation) -> None:
        """Let the provider delete what is due, unless it cannot work."""
        if not result.is_complete:
            return
        now = self._idle_clock.elapsed
        lived, self._tidied_at = now - self._tidied_at, now
        known = [one.id for one in environments if one.status is not Status.DESTROYING]
        with result.collect_problems("workspaces"):
            self._provider.tidy(lived, [*known, *map(id_in, result.unreadable)])

    def _visit(
        self,
        environments: list[Environment],
        result: Reconciliation,
        is_stopping: Callable[[], bool],
        act: Callable[[Environment, Reconciliation], None],
    ) -> None:
        """``act`` on each environment, unless the pass has become incomplete or is to stop."""
        for environment in environments:
            if not result.is_complete or is_stopping():
                break
            with result.collect_problems(f"environment {environment.id}"):
                act(environment, result)

    def _finish_or(
        self,
        act: Callable[[Environment, Reconciliation], None],
        environment: Environment,
        result: Reconciliation,
    ) -> None:
        """Finish an interrupted creation or removal, or else ``act`` on the environment."""
        if environment.status is Status.DESTROYING:
            self._touch_buffer.store_executions(environment.id)
        if not finish_interrupted(
            self._repository, self._removal, self._revival, environment, result
        ):
            act(environment, result)

    def _remove_if_expired(self, environment: Environment, result: Reconciliation) -> None:
        if environment.status is Status.ERROR and revive(self._revival, environment, result):
            return
        if not self._may_expire(environment) or self._is_error_with_files(environment):
            if transitions.belongs_to(environment, self._provider):
                self._warnings.visit(environment, self._touch_buffer.last_used(environment))
            return
        idle = timedelta(seconds=self.idle_time(environment) // timedelta(seconds=1))
        self._touch_buffer.store_executions(environment.id)
        reason = f"idle {format_duration(idle)} > {format_duration(environment.timeout)}"
        with audit(actor="reaper", reason=reason):
            if self._removal.destroy(environment.id, self._may_expire, discard=False):
                result.expired.append(environment.id)

    def _may_expire(self, stored: Environment) -> bool:
        if stored.status in (Status.CREATING, Status.DESTROYING):
            # A container that was killed may never come back, or come back as another one.
            is_unseen = stored.owner is not None and is_elsewhere(stored.owner)
            return is_unseen and self.idle_time(stored) > _MAX_UNSEEN_WORK
        return self.is_expired(stored)

    def _is_error_with_files(self, environment: Environment) -> bool:
        """Return whether files of a user would be lost because of an error."""
        is_ours = transitions.belongs_to(environment, self._provider)
        is_error = environment.status is Status.ERROR and was_running(environment)
        return is_error and is_ours and self._provider.has_files(environment)

    def _with_last_use(self, environment: Environment) -> Environment:
        environment.last_used = self._touch_buffer.last_used(environment)
        return environment
