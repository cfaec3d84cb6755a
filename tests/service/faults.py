# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the service: each breaks one of its promises."""

import errno
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.config import Settings
from waggle_fsstore.domain import process
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Capabilities, Environment, Owner, Runtime, Status
from waggle_fsstore.domain.errors import CapacityError, NoFreePortError, ProviderError
from waggle_fsstore.domain.execution import Stop
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.service import (
    bulk_removal,
    creation,
    environments,
    expiry_warnings,
    idempotency,
    in_progress,
    port_reservation,
    ports,
    reconcile,
    retention,
    revival,
    tally,
    transitions,
    workspaces,
)
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.creation import Creation
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.expiry_warnings import ExpiryWarnings
from waggle_fsstore.service.idle_clock import IdleClock
from waggle_fsstore.service.in_progress import InProgress
from waggle_fsstore.service.membership import Membership, SharedMembership
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.provider import Provider
from waggle_fsstore.service.reaper import Reaper
from waggle_fsstore.service.reconcile import Reconciliation
from waggle_fsstore.service.removal import Removal
from waggle_fsstore.service.revival import Revival
from waggle_fsstore.service.tally import Tally
from waggle_fsstore.service.touch_buffer import IN_USE, TouchBuffer, Use, _Pending
from waggle_fsstore.service.workspaces import Workspaces
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.store.memory_store import MemoryStore
from waggle_fsstore.store.read import history
from waggle_fsstore.store.write.batch import WriteBatch

# Creating


@fault("tests/service/test_creation.py::test_creation_is_stored_before_provider_is_called[memory]")
def store_creation_after_provider(patch: Patch) -> None:
    def create(
        self: Creation,
        runtime: Runtime | str,
        name: str | None,
        timeout: timedelta | None,
        labels: dict[str, str] | None,
        *_: object,
    ) -> tuple[Environment, bool]:
        new = self._new_environment(runtime, name, timeout, labels)
        capabilities = self._provider.create(new)
        self._register(new)
        return transitions.to_running(self._repository, new.id, capabilities, self._now()), True

    patch.setattr(Creation, "create", create)


@fault("tests/service/test_capacity.py::test_capacity_holds_for_threads[memory]")
def check_capacity_before_create(patch: Patch) -> None:
    def register(self: Creation, environment: Environment) -> None:
        live = sum(stored.status.is_live for stored in self._repository.find_all())
        if live >= self._capacity:
            raise CapacityError(self._capacity)
        environment.ssh_port = self._ports.reserve()
        self._repository.create(environment)

    patch.setattr(Creation, "_register", register)


@fault("tests/service/test_creation.py::test_environments_in_error_take_no_capacity[memory]")
def skip_storing_creation_failure(patch: Patch) -> None:
    patch.setattr(Creation, "_record_failure", nothing)


@fault(
    "tests/service/test_creation.py::"
    "test_failed_creation_after_destroy_leaves_nothing[memory-after delete-error0]"
)
def keep_workspace_of_environment_destroyed_during_creation(patch: Patch) -> None:
    patch.setattr(Creation, "_is_destroyed", lambda *_: False)


@fault("tests/service/test_ports.py::test_port_is_checked_where_tests_disable_sockets")
def check_ports_with_replaced_class(patch: Patch) -> None:
    patch.setattr(socket, "SocketType", lambda: socket.socket())


@fault("tests/service/test_ports.py::test_port_is_given_out_where_no_socket_can_be_made")
def require_sockets_for_ports(patch: Patch) -> None:
    patch.setattr(ports, "_NO_SOCKETS", ())


@fault("tests/service/test_ports.py::test_later_of_two_services_changes_shared_port[memory]")
def skip_check_for_shared_ports(patch: Patch) -> None:
    patch.setattr(Ports, "is_shared", lambda *_: False)


@fault("tests/service/test_ports.py::test_port_freed_by_another_service_is_found[memory]")
def skip_reload_of_ports_when_exhausted(patch: Patch) -> None:
    patch.setattr(port_reservation, "NoFreePortError", KeyError)


@fault("tests/service/test_ports.py::test_new_service_knows_stored_ports[memory]")
def skip_load_of_ports_at_start(patch: Patch) -> None:
    patch.setattr(Ports, "load", nothing)


@fault("tests/service/test_ports.py::test_catching_up_equals_listing")
def ignore_deletions_when_catching_up_ports(patch: Patch) -> None:
    real = Ports._set

    def set_port(self: Ports, environment_id: str, port: int) -> None:
        if port:
            real(self, environment_id, port)

    patch.setattr(Ports, "_set", set_port)


@fault(
    "tests/service/test_ports.py::"
    "test_environment_destroyed_before_port_change_releases_new_port[memory]"
)
def leak_reserved_ports(patch: Patch) -> None:
    patch.setattr(Ports, "release", nothing)


# Cancelling, and repeating


@fault(
    "tests/service/test_cancellation.py::test_cancelled_creation_leaves_nothing[memory-before make]"
)
def leave_cancelled_creation_in_error(patch: Patch) -> None:
    patch.setattr(Creation, "_undo", nothing)


@fault("tests/service/test_cancellation.py::test_creation_is_interrupted_at_once[memory]")
def wait_for_creation_before_its_cancellation(patch: Patch) -> None:
    real = Cancellation.request

    def request(self: Cancellation) -> None:
        self._undo, undo = None, self._undo
        real(self)
        self._undo = undo

    patch.setattr(Cancellation, "request", request)


@fault("tests/service/test_cancellation.py::test_cancellation_after_creation_destroys[memory]")
def disarm_cancellation_after_creation(patch: Patch) -> None:
    real = EnvironmentService.create

    def create(self: EnvironmentService, runtime: str, **options: Any) -> Environment:
        created = real(self, runtime, **options)
        if options.get("cancellation"):
            options["cancellation"]._undo = None
        return created

    patch.setattr(EnvironmentService, "create", create)


@fault("tests/service/test_idempotency.py::test_repeated_call_returns_first_environment[memory]")
def ignore_idempotency_key(patch: Patch) -> None:
    patch.setattr(Environment, "has_key_of", lambda *_: False)


@fault("tests/service/test_idempotency.py::test_key_with_other_arguments_is_refused")
def ignore_arguments_of_idempotency_key(patch: Patch) -> None:
    patch.setattr(creation, "digest", lambda *_: "")


@fault("tests/service/test_idempotency.py::test_second_call_waits_for_first[memory]")
def return_environment_that_is_being_created(patch: Patch) -> None:
    patch.setattr("tests.service.fakes.TIMEOUT_S", 5.0)
    patch.setattr(
        creation, "await_creation", lambda repository, name, *_: repository.find_by_id(name)
    )


@fault("tests/service/test_idempotency.py::test_concurrent_calls_create_one_environment[file]")
def look_for_key_outside_of_create(patch: Patch) -> None:
    patch.setattr(WriteBatch, "find_key_of", nothing)


# Using


def _save(
    repository: TransactionalRepository,
    environment_id: str,
    change: Callable[[Environment], object],
) -> Environment:
    """Save without looking whether it was changed or destroyed in the meantime."""
    environment = repository.find_by_id(environment_id)
    change(environment)
    repository.save(environment)
    return environment


@fault("tests/service/test_races.py::test_late_use_stores_nothing[memory-after delete-touch]")
def store_touch_by_find_and_save(patch: Patch) -> None:
    patch.setattr(
        TouchBuffer,
        "_store",
        lambda self, name, uses: _save(self._repository, name, lambda one: one.touch(uses.at)),
    )


@fault("tests/service/test_races.py::test_late_use_stores_nothing[memory-after delete-probe]")
def store_probe_by_find_and_save(patch: Patch) -> None:
    def set_capabilities(
        repository: TransactionalRepository, name: str, found: Capabilities
    ) -> Environment:
        def change(one: Environment) -> None:
            transitions.require_running(one)
            one.capabilities = found

        return _save(repository, name, change)

    patch.setattr(transitions, "set_capabilities", set_capabilities)


@fault("tests/service/test_touch_buffer.py::test_uses_within_interval_are_stored_once[memory]")
def store_each_touch_at_once(patch: Patch) -> None:
    patch.setattr(
        TouchBuffer, "add", lambda self, name, at, use=IN_USE: self._store(name, _Pending(at, use))
    )


@fault("tests/service/test_touch_buffer.py::test_use_is_visible_while_it_is_stored[memory]")
def discard_touch_before_it_is_stored(patch: Patch) -> None:
    real = TouchBuffer._store

    def store(self: TouchBuffer, name: str, uses: _Pending) -> None:
        self._pending.pop(name)
        real(self, name, uses)

    patch.setattr(TouchBuffer, "_store", store)


@fault("tests/service/test_touch_buffer.py::test_close_stores_uses[memory]")
def skip_storing_touches_on_close(patch: Patch) -> None:
    patch.setattr(TouchBuffer, "close", nothing)


# Destroying


@fault("tests/service/test_removal.py::test_only_if_checks_stored_version[memory]")
def check_only_if_before_update(patch: Patch) -> None:
    real = transitions.to_destroying

    def to_destroying(
        repository: TransactionalRepository,
        name: str,
        provider: Provider,
        *,
        only_if: Callable[[Environment], bool],
        **options: Any,
    ) -> Environment:
        transitions.require(only_if(repository.find_by_id(name)))
        return real(repository, name, provider, only_if=lambda _: True, **options)

    patch.setattr(transitions, "to_destroying", to_destroying)


@fault("tests/service/test_removal.py::test_record_is_deleted_after_workspace[memory]")
def delete_record_before_workspace(patch: Patch) -> None:
    def tear_down(self: Removal, environment: Environment) -> None:
        self._repository.delete(environment.id)
        self._provider.remove(environment)

    patch.setattr(Removal, "_tear_down", tear_down)


@fault("tests/service/test_removal.py::test_provider_failure_leaves_destroying[memory]")
def skip_release_of_failed_removal(patch: Patch) -> None:
    patch.setattr(transitions, "release_owner", nothing)


@fault("tests/service/test_removal.py::test_second_thread_waits_for_first[memory]")
def skip_waiting_for_other_threads(patch: Patch) -> None:
    @contextmanager
    def hold(*_: object, **__: object) -> Iterator[None]:
        yield

    patch.setattr(InProgress, "hold", hold)


@fault(
    "tests/service/test_reconcile.py::"
    "test_environment_of_live_process_is_left_alone[memory-True-creating]"
)
def treat_other_processes_as_gone(patch: Patch) -> None:
    patch.setattr(in_progress, "is_gone", lambda _: True)


# Reconciling


@fault(
    "tests/service/test_reconcile.py::test_interrupted_creation_becomes_error[memory-reused pid]"
)
def compare_owner_by_pid_only(patch: Patch) -> None:
    def is_gone(owner: Owner) -> bool:
        return process._started(owner.pid) is None

    patch.setattr(in_progress, "is_gone", is_gone)


@fault("tests/domain/test_process.py::test_process_of_another_pid_namespace_counts_as_alive")
def compare_owner_across_pid_namespaces(patch: Patch) -> None:
    real = process.is_gone
    patch.setattr(
        "tests.domain.test_process.is_gone", lambda owner: real(replace(owner, pid_namespace=0))
    )


@fault("tests/domain/test_process.py::test_process_hidden_by_proc_counts_as_alive[missing]")
def treat_hidden_processes_as_gone(patch: Patch) -> None:
    patch.setattr(process, "_started_without_proc", nothing)


@fault("tests/domain/test_process.py::test_process_of_earlier_boot_counts_as_gone")
def ignore_boot_id(patch: Patch) -> None:
    patch.setattr(process, "boot_id", lambda: "")


@fault(
    "tests/service/test_reconcile.py::"
    "test_interrupted_creation_becomes_error[memory-no such process]"
)
def skip_interrupted_creations(patch: Patch) -> None:
    real = reconcile._is_interrupted
    patch.setattr(
        reconcile, "_is_interrupted", lambda one: one.status is not Status.CREATING and real(one)
    )


@fault(
    "tests/service/test_removal.py::"
    "test_sweep_finishes_removal_that_could_not_be_released[memory-before delete]"
)
def skip_own_interrupted_removals(patch: Patch) -> None:
    patch.setattr(reconcile, "_is_abandoned", reconcile._is_interrupted)


@fault("tests/service/test_reconcile.py::test_unreadable_document_does_not_stop_reconcile[no JSON]")
def stop_reconcile_at_unreadable_document(patch: Patch) -> None:
    real = EnvironmentService.reconcile

    def reconcile(self: EnvironmentService, **options: Any) -> Reconciliation:
        self._repository.find_all()
        return real(self, **options)

    patch.setattr(EnvironmentService, "reconcile", reconcile)


@fault("tests/service/test_reconcile.py::test_store_failure_does_not_stop_reconcile[memory-error0]")
def stop_reconcile_at_first_problem(patch: Patch) -> None:
    patch.setattr(Reconciliation, "collect_problems", lambda *_: nullcontext())


@fault("tests/service/test_reconcile.py::test_lock_timeout_ends_pass[memory]")
def wait_for_lock_once_per_environment(patch: Patch) -> None:
    real = Reconciliation.collect_problems
    patch.setattr(
        Reconciliation,
        "collect_problems",
        lambda self, subject, **_: real(self, subject, stop_on=KeyError),
    )


@fault("tests/service/test_reaper.py::test_incomplete_reconcile_is_repeated[memory]")
def treat_incomplete_reconcile_as_complete(patch: Patch) -> None:
    real = EnvironmentService.reconcile

    def reconcile(self: EnvironmentService, **options: Any) -> Reconciliation:
        result = real(self, **options)
        result.is_complete = True
        return result

    patch.setattr(EnvironmentService, "reconcile", reconcile)


@fault(
    "tests/service/test_reconcile.py::test_failed_probe_does_not_give_environment_up[memory-error0]"
)
def treat_provider_error_as_workspace_gone(patch: Patch) -> None:
    patch.setattr(reconcile, "WorkspaceGoneError", ProviderError)


@fault("tests/service/test_reconcile.py::test_former_name_of_provider_is_replaced[memory-error]")
def keep_former_name_of_provider(patch: Patch) -> None:
    patch.setattr(EnvironmentService, "_rename_provider", nothing)


@fault("tests/service/test_reconcile.py::test_former_name_of_provider_is_replaced[memory-running]")
def adopt_before_provider_is_renamed(patch: Patch) -> None:
    real = EnvironmentService._rename_provider
    patch.setattr(EnvironmentService, "_rename_provider", nothing)
    tidy = EnvironmentService._tidy

    def rename_late(
        service: EnvironmentService, environments: list[Environment], result: Reconciliation
    ) -> None:
        for environment in environments:
            real(service, environment, result)
        tidy(service, environments, result)

    patch.setattr(EnvironmentService, "_tidy", rename_late)


@fault(
    "tests/service/test_reconcile.py"
    "::test_environment_with_former_name_of_provider_is_destroyed[memory]"
)
def take_former_name_for_another_provider(patch: Patch) -> None:
    def belongs_to(environment: Environment, provider: Provider) -> bool:
        return environment.provider in (None, provider.name)

    patch.setattr(transitions, "belongs_to", belongs_to)


@fault("tests/service/test_reconcile.py::test_lock_timeout_ends_renaming_of_provider[memory]")
def rename_provider_after_lock_timeout(patch: Patch) -> None:
    real = EnvironmentService._visit

    def visit(
        service: EnvironmentService,
        environments: list[Environment],
        result: Reconciliation,
        *arguments: Any,
    ) -> None:
        for environment in environments:
            real(service, [environment], result, *arguments)
            result.is_complete = True

    patch.setattr(EnvironmentService, "_visit", visit)


@fault("tests/test_wiring.py::test_workspaces_of_former_provider_are_awaited")
def make_root_of_former_provider_anew(patch: Patch) -> None:
    patch.setattr(LocalProvider, "former_names", frozenset())


@fault("tests/service/test_reconcile.py::test_failed_provider_check_changes_nothing[memory]")
def skip_provider_check(patch: Patch) -> None:
    patch.setattr(EnvironmentService, "_check_provider", nothing)


# Expiring


@fault(
    "tests/service/test_sweeping.py::"
    "test_unseen_work_of_another_container_expires[memory-{'host': 'another'}-creating]"
)
def keep_unseen_work_for_ever(patch: Patch) -> None:
    patch.setattr(environments, "_MAX_UNSEEN_WORK", timedelta.max)


@fault("tests/service/test_sweeping.py::test_work_of_live_process_does_not_expire[memory]")
def expire_work_of_live_processes(patch: Patch) -> None:
    patch.setattr(environments, "is_elsewhere", lambda _: True)


@fault("tests/service/test_sweeping.py::test_time_without_provider_is_not_idle_time[memory-True]")
def count_time_without_provider_as_idle(patch: Patch) -> None:
    patch.setattr(IdleClock, "end_pass", nothing)


@fault("tests/service/test_sweeping.py::test_time_before_start_is_not_idle_time[memory]")
def count_time_before_start_as_idle(patch: Patch) -> None:
    def idle_time(self: EnvironmentService, environment: Environment) -> timedelta:
        return self._now() - self._touch_buffer.last_used(environment)

    patch.setattr(EnvironmentService, "idle_time", idle_time)


@fault("tests/service/test_sweeping.py::test_clock_set_forward_adds_no_idle_time[memory]")
def use_wall_clock_for_idle(patch: Patch) -> None:
    def idle_time(_: IdleClock, __: str, last_used: datetime, now: datetime) -> timedelta:
        return now - last_used

    patch.setattr(IdleClock, "idle_time", idle_time)


@fault("tests/service/test_sweeping.py::test_suspended_process_adds_little_idle_time[memory]")
def count_suspended_time_as_idle(patch: Patch) -> None:
    patch.setattr(IdleClock, "tick", nothing)


@fault(
    "tests/service/test_sweeping.py::test_timeout_of_zero_or_less_never_expires[memory-timeout0]"
)
def treat_no_timeout_as_zero(patch: Patch) -> None:
    patch.setattr(
        EnvironmentService, "is_expired", lambda self, one: self.idle_time(one) > one.timeout
    )


@fault("tests/service/test_reaper.py::test_only_leader_reconciles_and_sweeps[memory]")
def ask_for_lead_only_once(patch: Patch) -> None:
    real = Reaper.run_once

    def run_once(self: Reaper) -> None:
        if self.reconciliation is not None:
            self._is_leader = lambda: True
        real(self)

    patch.setattr(Reaper, "run_once", run_once)


@fault("tests/service/test_reaper.py::test_reaper_survives_exception[memory-error1]")
def end_reaper_after_exception(patch: Patch) -> None:
    def run(self: Any) -> None:
        self.run_once()
        self._first_run_done.set()
        while not self._stopping.wait(self._pause_s()) and self._reconciliation is not None:
            self.run_once()

    patch.setattr(Reaper, "_run", run)
    patch.setattr("tests.service.test_reaper.TIMEOUT_S", 0.5)


@fault("tests/store/test_server_lock.py::test_removed_lock_file_loses_lock")
def keep_lock_of_removed_file(patch: Patch) -> None:
    patch.setattr(InPlaceFile, "is_in_place", lambda _: True)


# Forks


@fault("tests/service/test_forks.py::test_service_works_in_forked_child")
def keep_in_progress_after_fork(patch: Patch) -> None:
    patch.setattr("tests.service.test_forks.TIMEOUT_S", 3.0)
    patch.setattr(InProgress, "reset_after_fork", nothing)


@fault("tests/service/test_forks.py::test_service_works_in_forked_child")
def keep_touches_after_fork(patch: Patch) -> None:
    patch.setattr("tests.service.test_forks.TIMEOUT_S", 3.0)
    patch.setattr(TouchBuffer, "reset_after_fork", nothing)


@fault("tests/service/test_forks.py::test_port_reserved_by_parent_is_free_in_child")
def keep_reserved_ports_after_fork(patch: Patch) -> None:
    patch.setattr(Ports, "reset_after_fork", nothing)


# Settings


@fault("tests/test_config.py::test_open_address_is_recognised[0.0.0.0:80]")
def treat_every_address_as_loopback(patch: Patch) -> None:
    patch.setattr(Settings, "is_loopback", True)


@fault(
    f"tests/service/test_removal.py::test_full_disk_removes_workspace_first[memory-{errno.ENOSPC}]"
)
def skip_delete_on_full_disk(patch: Patch) -> None:
    patch.setattr(Removal, "_free_space", nothing)


@fault("tests/service/test_ports.py::test_journal_that_began_again_falls_back_to_documents")
def follow_ports_by_number(patch: Patch) -> None:
    patch.setattr(history, "cursor_of", lambda seq, _: str(seq))


# Returning


@fault("tests/service/test_revival.py::test_intent_survives_kill[memory-destroy]")
def forget_intent_of_removal(patch: Patch) -> None:
    real = transitions.to_destroying
    patch.setattr(
        transitions,
        "to_destroying",
        lambda *args, **options: real(*args, **{**options, "discard": False}),
    )


@fault("tests/service/test_revival.py::test_unknown_intent_keeps_files[memory]")
def discard_files_of_unknown_intent(patch: Patch) -> None:
    real = Removal.destroy
    patch.setattr(
        Removal, "destroy", lambda self, name, only_if, **_: real(self, name, only_if, discard=True)
    )


@fault(
    "tests/service/test_revival.py::"
    "test_killed_undeletion_is_finished_or_undone[memory-before restore]"
)
def treat_interrupted_undeletion_as_creation(patch: Patch) -> None:
    patch.setattr(reconcile, "was_running", lambda _: False)


@fault("tests/service/test_revival.py::test_failed_restore_undoes_undeletion[memory]")
def keep_record_of_failed_undeletion(patch: Patch) -> None:
    patch.setattr(Revival, "_undo", nothing)


@fault("tests/service/test_revival.py::test_undeletion_without_unique_port_is_undone[memory]")
def keep_record_without_unique_port(patch: Patch) -> None:
    real = Revival._undo

    def undo(self: Revival, environment: Environment) -> None:
        if not isinstance(sys.exception(), NoFreePortError):
            real(self, environment)

    patch.setattr(Revival, "_undo", undo)


@fault("tests/service/test_revival.py::test_failed_creation_is_not_completed_by_undeletion[memory]")
def complete_failed_creation(patch: Patch) -> None:
    patch.setattr(revival, "was_running", lambda _: True)


@fault("tests/service/test_revival.py::test_record_gets_files_back_that_are_kept[memory]")
def leave_kept_files_of_record(patch: Patch) -> None:
    real = Revival.revive

    def revive(self: Revival, environment: Environment) -> bool:
        if environment.status_reason.startswith("only its record"):
            return False
        return real(self, environment)

    patch.setattr(Revival, "revive", revive)


@fault("tests/service/test_revival.py::test_destroyed_environment_has_no_files_to_undelete[memory]")
def undelete_without_files(patch: Patch) -> None:
    patch.setattr("tests.service.fakes.DirectoryProvider.has_files", lambda *_: True)


@fault("tests/service/test_revival.py::test_error_ends_once_workspace_is_whole[memory]")
def keep_every_error(patch: Patch) -> None:
    patch.setattr(Revival, "revive", lambda *_: False)


@fault("tests/service/test_revival.py::test_error_stays_without_capacity_or_port[memory-capacity]")
def revive_beyond_capacity(patch: Patch) -> None:
    real = transitions.to_running_again
    patch.setattr(
        transitions,
        "to_running_again",
        lambda *args, **_: real(*args, capacity=1_000),
    )


@fault("tests/service/test_revival.py::test_files_never_expire_because_of_an_error[memory]")
def expire_files_because_of_error(patch: Patch) -> None:
    patch.setattr(EnvironmentService, "_is_error_with_files", lambda *_: False)


@fault("tests/service/test_revival.py::test_failed_creation_expires_and_is_not_revived[memory]")
def revive_failed_creation(patch: Patch) -> None:
    patch.setattr(revival, "was_running", lambda _: True)


@fault("tests/service/test_revival.py::test_sweep_counts_lived_time_for_provider[memory]")
def count_time_of_earlier_leader(patch: Patch) -> None:
    real = EnvironmentService.reconcile

    def reconcile(self: EnvironmentService, **options: Any) -> Reconciliation:
        before = self._tidied_at
        result = real(self, **options)
        self._tidied_at = before
        return result

    patch.setattr(EnvironmentService, "reconcile", reconcile)


@fault("tests/store/test_contracts.py::TestMemoryStore::test_update_keeps_capacity")
def ignore_capacity_of_updates(patch: Patch) -> None:
    patch.setattr(MemoryStore, "_check_capacity", nothing)


@fault("tests/service/test_revival.py::test_workspace_of_earlier_version_keeps_running")
def skip_adoption_before_probe(patch: Patch) -> None:
    patch.setattr(LocalProvider, "adopt", nothing)


@fault("tests/test_wiring.py::test_files_of_error_are_awaited_while_their_disk_is_unmounted")
def expect_no_files_of_error(patch: Patch) -> None:
    """A missing root directory is a new one, even if an environment in error has files there."""
    patch.setattr("waggle_fsstore.service.revival.was_running", lambda _: False)


# Several hosts


_HOSTS = "tests/service/test_membership.py"


def _wait_briefly(patch: Patch) -> None:
    """Shorten the waits of the tests, for what does not happen with the fault."""
    patch.setattr("tests.service.test_membership.WAIT_S", 1.0)


@fault(f"{_HOSTS}::test_pass_leaves_environments_of_other_hosts_alone[sweep-creating]")
def judge_environments_of_other_hosts(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(EnvironmentService, "_of_this_host", lambda _, stored, __: stored)


@fault(f"{_HOSTS}::test_removal_on_another_host_is_done_by_the_host_with_the_files")
def remove_record_of_other_host(patch: Patch) -> None:
    patch.setattr(Membership, "is_elsewhere", lambda *_: False)


@fault(f"{_HOSTS}::test_removal_elsewhere_keeps_owner_that_is_at_work")
def take_removal_from_its_owner(patch: Patch) -> None:
    def request(
        repository: TransactionalRepository,
        environment_id: str,
        *,
        only_if: Callable[[Environment], bool],
        discard: bool,
    ) -> None:
        def change(stored: Environment) -> None:
            transitions.require(only_if(stored))
            stored.status, stored.owner, stored.discard_files = Status.DESTROYING, None, discard

        repository.update(environment_id, change)

    patch.setattr(transitions, "request_destroying", request)


@fault(f"{_HOSTS}::test_environments_of_removed_host_become_errors")
def leave_environments_of_removed_host_to_it(patch: Patch) -> None:
    _wait_briefly(patch)

    def owns(self: SharedMembership, environment: Environment) -> bool:
        return environment.host_id == self.id

    patch.setattr(SharedMembership, "owns", owns)


@fault(f"{_HOSTS}::test_wait_for_host_ends_with_its_removal")
def wait_for_host_as_it_was_known(patch: Patch) -> None:
    _wait_briefly(patch)
    refresh = SharedMembership.refresh

    def refresh_once(self: SharedMembership) -> None:
        if self._offset is None:
            refresh(self)

    patch.setattr(SharedMembership, "refresh", refresh_once)


@fault(f"{_HOSTS}::test_files_are_claimed_by_the_host_that_has_them")
def claim_files_of_other_host(patch: Patch) -> None:
    patch.setattr("tests.service.fakes.DirectoryProvider.has_files", lambda *_: True)


@fault(f"{_HOSTS}::test_files_are_claimed_by_the_host_that_has_them")
def claim_nothing(patch: Patch) -> None:
    patch.setattr(EnvironmentService, "_claim_files", nothing)


@fault(f"{_HOSTS}::test_time_is_that_of_the_store")
def trust_clock_of_the_machine(patch: Patch) -> None:
    patch.setattr(SharedMembership, "now", lambda self: self._wall())


@fault(f"{_HOSTS}::test_hosts_use_the_same_ports")
def keep_ports_of_other_hosts_free(patch: Patch) -> None:
    init = Ports.__init__

    def count_all(self: Ports, ports: range, **options: Any) -> None:
        init(self, ports, **{**options, "is_here": lambda _: True})

    patch.setattr(Ports, "__init__", count_all)


@fault(f"{_HOSTS}::test_repeated_call_waits_for_creation_of_another_host")
def judge_creation_of_another_host(patch: Patch) -> None:
    def await_creation(
        repository: TransactionalRepository,
        environment_id: str,
        new: Environment,
        cancellation: Cancellation,
        _: object,
    ) -> Environment | None:
        return idempotency.await_creation(
            repository, environment_id, new, cancellation, lambda _: True
        )

    patch.setattr(creation, "await_creation", await_creation)


@fault(f"{_HOSTS}::test_removed_host_is_refused")
def go_on_as_removed_host(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(SharedMembership, "beat", nothing)


@fault(f"{_HOSTS}::test_agent_goes_on_after_failures")
def miss_what_was_asked_for_before(patch: Patch) -> None:
    _wait_briefly(patch)
    patch.setattr(EnvironmentService, "finish_removals", nothing)


@fault(f"{_HOSTS}::test_removal_that_takes_long_is_told_with_the_host")
def say_that_removal_elsewhere_is_done(patch: Patch) -> None:
    patch.setattr(Removal, "_is_removed_by_host", lambda *_, **__: True)


@fault(f"{_HOSTS}::test_host_waits_for_its_earlier_boot")
def refuse_quick_reboot(patch: Patch) -> None:
    patch.setattr("waggle_fsstore.service.membership._MAX_WAIT", timedelta(0))


@fault(f"{_HOSTS}::test_agent_does_not_wait_for_creation")
def wait_for_creation_in_agent(patch: Patch) -> None:
    _wait_briefly(patch)
    init = EnvironmentService.__init__

    def same_removal(self: EnvironmentService, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        self._prompt_removal = self._removal

    patch.setattr(EnvironmentService, "__init__", same_removal)


# Work in workspaces

_WORK = "tests/service/test_workspaces.py"


@fault(f"{_WORK}::test_running_program_is_in_use")
def let_running_program_expire(patch: Patch) -> None:
    patch.setattr(workspaces, "_USE_INTERVAL_S", 10_000.0)


@fault(f"{_WORK}::test_history_sums_up_executions")
def leave_executions_out_of_history(patch: Patch) -> None:
    patch.setattr(Use, "has_news", False)
    patch.setattr(Use, "reason", "in use")


@fault(f"{_WORK}::test_execution_during_flush_is_counted_once")
def count_executions_again_after_flush(patch: Patch) -> None:
    patch.setattr(TouchBuffer, "_take", lambda self, name: self._pending.get(name))


@fault(f"{_WORK}::test_destroy_keeps_pending_executions")
def forget_executions_on_destroy(patch: Patch) -> None:
    patch.setattr(TouchBuffer, "store_executions", nothing)


@fault(f"{_WORK}::test_installation_is_an_event")
def leave_installations_out_of_history(patch: Patch) -> None:
    patch.setattr(transitions, "note", nothing)


@fault(f"{_WORK}::test_work_needs_own_provider")
def work_in_files_of_other_provider(patch: Patch) -> None:
    patch.setattr(transitions, "require_provider", nothing)


@fault(f"{_WORK}::test_cancelled_program_is_stopped")
def ignore_cancellation_of_program(patch: Patch) -> None:
    patch.setattr(Workspaces, "_stop", lambda *_: lambda: Stop.NONE)


@fault(f"{_WORK}::test_close_stops_programs")
def let_programs_outlive_service(patch: Patch) -> None:
    patch.setattr(Workspaces, "close", nothing)


# Limiting the history

_RETENTION = "tests/service/test_retention.py"


@fault(f"{_RETENTION}::test_history_is_limited_at_start_and_daily")
def limit_history_at_each_sweep(patch: Patch) -> None:
    patch.setattr(retention, "_DAY_S", 0.0)


@fault(f"{_RETENTION}::test_failed_run_is_repeated_in_an_hour")
def repeat_failed_run_at_next_sweep(patch: Patch) -> None:
    patch.setattr(retention, "_RETRY_S", 0.0)


@fault(f"{_RETENTION}::test_history_of_kept_files_stays")
def limit_history_up_to_removal_of_kept_files(patch: Patch) -> None:
    patch.setattr(retention, "_MARGIN", timedelta(0))


# The tally

_TALLY = "tests/service/test_tally.py"


@fault(f"{_TALLY}::test_each_environment_is_counted_once")
def count_expiries_as_removals(patch: Patch) -> None:
    real = Tally.removed
    patch.setattr(Tally, "removed", lambda self, **_: real(self, has_expired=False))


@fault(f"{_TALLY}::test_failures_are_counted_by_kind")
def count_mistakes_of_callers(patch: Patch) -> None:
    patch.setattr(tally, "_NO_FAILURES", ())


@fault(f"{_TALLY}::test_findings_of_a_pass_are_failures")
def count_no_findings_of_passes(patch: Patch) -> None:
    patch.setattr(Reconciliation, "count_failures", nothing)


@fault(f"{_TALLY}::test_programs_are_counted_by_language_and_end")
def count_stopped_programs_as_failed(patch: Patch) -> None:
    patch.setattr(tally, "_outcome", lambda result: "failed" if result.exit_code else "ok")


# Idle timeouts, and the warning before one ends

_WARNING = "tests/service/test_expiry_warning.py"
_EXTENDING = "tests/service/test_extending.py"


@fault(f"{_WARNING}::test_warning_is_stored_once[memory]")
def warn_at_each_sweep(patch: Patch) -> None:
    patch.setattr(ExpiryWarnings, "begin_pass", lambda self, _: self._warned.clear())


@fault(f"{_WARNING}::test_warning_comes_when_fifth_of_timeout_is_left[memory-timeout3-lead3]")
def warn_far_ahead_of_long_timeouts(patch: Patch) -> None:
    patch.setattr(expiry_warnings, "_MAX_LEAD", timedelta(hours=1))


@fault(f"{_WARNING}::test_warning_changes_no_field[memory]")
def count_warning_as_use(patch: Patch) -> None:
    def note(
        repository: TransactionalRepository, environment_id: str, reason: str, **_: object
    ) -> None:
        with audit(reason=reason):
            repository.update(environment_id, lambda one: one.touch())

    patch.setattr(transitions, "note", note)


@fault(f"{_WARNING}::test_use_between_sweeps_begins_idle_period[memory]")
def warn_once_until_restart(patch: Patch) -> None:
    real = ExpiryWarnings.visit

    def visit(self: ExpiryWarnings, environment: Environment, _: datetime) -> None:
        real(self, environment, environment.created_at)

    patch.setattr(ExpiryWarnings, "visit", visit)


@fault(f"{_WARNING}::test_idle_time_that_restarts_is_warned_of_again[memory]")
def remember_warnings_of_ended_idle_periods(patch: Patch) -> None:
    real = ExpiryWarnings.visit

    def visit(self: ExpiryWarnings, environment: Environment, last_used: datetime) -> None:
        if self._is_due(environment):
            real(self, environment, last_used)

    patch.setattr(ExpiryWarnings, "visit", visit)


@fault(f"{_WARNING}::test_use_before_warning_prevents_it[memory]")
def warn_of_what_is_used_in_the_meantime(patch: Patch) -> None:
    real = transitions.note

    def note(
        repository: TransactionalRepository, environment_id: str, reason: str, **_: object
    ) -> None:
        real(repository, environment_id, reason)

    patch.setattr(transitions, "note", note)


@fault(f"{_EXTENDING}::test_extend_changes_timeout_and_restarts_idle_time[memory]")
def extend_without_use(patch: Patch) -> None:
    patch.setattr(Environment, "touch", nothing)
    patch.setattr(IdleClock, "restart", nothing)


@fault(f"{_EXTENDING}::test_extend_needs_running_environment[memory-error]")
def extend_in_any_status(patch: Patch) -> None:
    patch.setattr(transitions, "require_running", nothing)


@fault(f"{_EXTENDING}::test_timeout_above_maximum_is_refused[memory-too long]")
def extend_beyond_maximum(patch: Patch) -> None:
    patch.setattr(environments, "check_timeout", lambda timeout, _: timeout)


@fault(f"{_EXTENDING}::test_never_does_not_expire[memory]")
def expire_without_timeout(patch: Patch) -> None:
    def time_left(self: EnvironmentService, environment: Environment) -> timedelta:
        return environment.timeout - self.idle_time(environment)

    patch.setattr(EnvironmentService, "time_left", time_left)


# Environments with the same labels

_LABELS = "tests/service/test_labels.py"


@fault(f"{_LABELS}::test_find_by_labels_needs_all_of_them[memory]")
def find_environments_with_any_of_labels(patch: Patch) -> None:
    def has_labels(self: Environment, labels: dict[str, str]) -> bool:
        return not labels or bool(labels.items() & self.labels.items())

    patch.setattr(Environment, "has_labels", has_labels)


@fault(f"{_LABELS}::test_destroy_all_with_other_count_changes_nothing[memory-1]")
def destroy_more_than_the_caller_saw(patch: Patch) -> None:
    real = EnvironmentService.destroy_all

    def destroy_all(self: EnvironmentService, labels: dict[str, str], *, count: int) -> object:
        return real(self, labels, count=max(count, len(self.find_all(labels=labels))))

    patch.setattr(EnvironmentService, "destroy_all", destroy_all)


@fault(f"{_LABELS}::test_environment_that_loses_labels_is_kept[memory]")
def destroy_by_labels_that_were_read_earlier(patch: Patch) -> None:
    real = bulk_removal._destroy_one

    def destroy_one(one: Environment, _: object, destroy: Any, find: Any) -> object:
        return real(one, {}, destroy, find)

    patch.setattr(bulk_removal, "_destroy_one", destroy_one)


@fault(f"{_LABELS}::test_failure_of_one_stops_no_other[memory]")
def stop_at_first_failed_removal(patch: Patch) -> None:
    patch.setattr(bulk_removal, "Exception", KeyError, raising=False)


@fault("tests/service/test_membership.py::test_removal_on_another_host_keeps_executions")
def forget_executions_of_other_hosts(patch: Patch) -> None:
    patch.setattr(TouchBuffer, "store_executions", nothing)


@fault(f"{_WORK}::test_program_of_destroyed_environment_is_in_history")
def record_programs_after_their_end(patch: Patch) -> None:
    real = Workspaces.__init__

    def init(self: Workspaces, *arguments: Any) -> None:
        real(self, *arguments)
        record = self._record

        def record_end(name: str, use: Use) -> None:
            if use.outcome:
                record(name, use._replace(actors=("mcp:one",), executions=1))

        self._record = record_end

    patch.setattr(Workspaces, "__init__", init)


@fault(f"{_WORK}::test_running_program_does_not_wait_for_the_store")
def read_the_store_while_a_program_runs(patch: Patch) -> None:
    real = Workspaces.__init__

    def init(self: Workspaces, *arguments: Any) -> None:
        real(self, *arguments)
        record = self._record
        self._record = lambda name, use: self._touch(name) if use == IN_USE else record(name, use)

    patch.setattr(Workspaces, "__init__", init)


@fault(f"{_WORK}::test_close_waits_for_end_of_programs")
def close_before_programs_have_ended(patch: Patch) -> None:
    patch.setattr(Workspaces, "wait_until_idle", lambda *_: True)
    patch.setattr(TouchBuffer, "_start_timer", nothing)
