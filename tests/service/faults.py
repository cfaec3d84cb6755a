# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the service: each breaks one thing that it promises."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.config import Settings
from waggle_fsstore.domain import process
from waggle_fsstore.domain.environment import Capabilities, Environment, Owner, Runtime, Status
from waggle_fsstore.domain.errors import CapacityError, ProviderError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import creation, in_progress, reconcile, transitions
from waggle_fsstore.service.creation import Creation
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.idle_clock import Idleness
from waggle_fsstore.service.in_progress import InHand
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.service.reaper import Reaper
from waggle_fsstore.service.reconcile import Reconciliation
from waggle_fsstore.service.removal import Removal
from waggle_fsstore.service.touch_buffer import Touches
from waggle_fsstore.store.fs.in_place_file import InPlaceFile

# Creating


@fault("tests/service/test_creation.py::test_stored_before_it_is_made[memory]")
def creation_stored_after_the_provider(patch: Patch) -> None:
    def create(
        self: Creation,
        runtime: Runtime | str,
        name: str | None,
        timeout: timedelta | None,
        labels: dict[str, str] | None,
    ) -> Environment:
        environment = self._new(runtime, name, timeout, labels)
        capabilities = self._provider.create(environment)
        self._register(environment)
        return transitions.to_running(self._repository, environment.id, capabilities, self._now())

    patch.setattr(Creation, "create", create)


@fault("tests/service/test_capacity.py::test_many_threads[memory]")
def capacity_looked_at_before(patch: Patch) -> None:
    def register(self: Creation, environment: Environment) -> None:
        live = sum(stored.status.is_live for stored in self._repository.find_all())
        if live >= self._capacity:
            raise CapacityError(self._capacity)
        environment.ssh_port = self._ports.take()
        self._repository.create(environment)

    patch.setattr(Creation, "_register", register)


@fault("tests/service/test_creation.py::test_errors_take_no_capacity[memory]")
def failed_creation_left_creating(patch: Patch) -> None:
    patch.setattr(Creation, "_give_up", nothing)


@fault(
    "tests/service/test_creation.py::"
    "test_destroyed_meanwhile_and_failed[memory-after delete-error0]"
)
def workspace_of_what_was_destroyed_meanwhile(patch: Patch) -> None:
    patch.setattr(Creation, "_is_destroyed", lambda *_: False)


@fault("tests/service/test_ports.py::test_two_services_at_once[memory]")
def port_of_another_process_not_looked_for(patch: Patch) -> None:
    patch.setattr(Creation, "_make_port_unique", nothing)


@fault("tests/service/test_ports.py::test_given_back_by_another_service[memory]")
def ports_of_other_processes_never_free(patch: Patch) -> None:
    patch.setattr(creation, "NoFreePortError", KeyError)


@fault("tests/service/test_ports.py::test_after_a_restart[memory]")
def ports_not_learned_at_the_start(patch: Patch) -> None:
    patch.setattr(Ports, "learn", nothing)


@fault("tests/service/test_ports.py::test_following_is_as_good_as_looking")
def ports_of_the_deleted_not_followed(patch: Patch) -> None:
    real = Ports._note

    def note(self: Ports, environment_id: str, port: int) -> None:
        if port:
            real(self, environment_id, port)

    patch.setattr(Ports, "_note", note)


@fault("tests/service/test_ports.py::test_destroyed_before_its_port_is_changed[memory]")
def port_that_leaks(patch: Patch) -> None:
    patch.setattr(Ports, "give_back", nothing)


# Using


def _save(
    repository: TransactionalRepository,
    environment_id: str,
    change: Callable[[Environment], object],
) -> Environment:
    """Between the two, others change it or destroy it."""
    environment = repository.find_by_id(environment_id)
    change(environment)
    repository.save(environment)
    return environment


@fault("tests/service/test_races.py::test_a_use_that_is_late[memory-after delete-touch]")
def touch_by_find_and_save(patch: Patch) -> None:
    patch.setattr(
        Touches,
        "_store",
        lambda self, name, at: _save(self._repository, name, lambda one: one.touch(at)),
    )


@fault("tests/service/test_races.py::test_a_use_that_is_late[memory-after delete-probe]")
def probe_by_find_and_save(patch: Patch) -> None:
    def set_capabilities(
        repository: TransactionalRepository, name: str, found: Capabilities
    ) -> Environment:
        def change(one: Environment) -> None:
            transitions.require_running(one)
            one.capabilities = found

        return _save(repository, name, change)

    patch.setattr(transitions, "set_capabilities", set_capabilities)


@fault("tests/service/test_touch_buffer.py::test_many_are_stored_as_one[memory]")
def each_touch_stored(patch: Patch) -> None:
    patch.setattr(Touches, "note", lambda self, name, at: self._store(name, at))


@fault("tests/service/test_touch_buffer.py::test_while_it_is_stored[memory]")
def touch_forgotten_before_it_is_stored(patch: Patch) -> None:
    real = Touches._store

    def store(self: Touches, name: str, at: datetime) -> None:
        self._pending.pop(name)
        real(self, name, at)

    patch.setattr(Touches, "_store", store)


@fault("tests/service/test_touch_buffer.py::test_stored_at_the_end[memory]")
def touches_lost_at_the_end(patch: Patch) -> None:
    patch.setattr(Touches, "close", nothing)


# Destroying


@fault("tests/service/test_removal.py::test_only_if_is_asked_about_what_is_stored_now[memory]")
def destroy_without_reading_again(patch: Patch) -> None:
    real = transitions.to_destroying

    def to_destroying(
        repository: TransactionalRepository,
        name: str,
        provider: str,
        *,
        only_if: Callable[[Environment], bool],
        is_forced: bool,
    ) -> Environment:
        if not only_if(repository.find_by_id(name)):
            raise transitions.NotWantedError
        return real(repository, name, provider, only_if=lambda _: True, is_forced=is_forced)

    patch.setattr(transitions, "to_destroying", to_destroying)


@fault("tests/service/test_removal.py::test_the_record_goes_last[memory]")
def workspace_removed_after_the_record(patch: Patch) -> None:
    def tear_down(self: Removal, environment: Environment) -> None:
        self._repository.delete(environment.id)
        self._provider.remove(environment)

    patch.setattr(Removal, "_tear_down", tear_down)


@fault("tests/service/test_removal.py::test_the_provider_fails[memory]")
def failed_removal_keeps_its_owner(patch: Patch) -> None:
    patch.setattr(transitions, "to_nobody", nothing)


@fault("tests/service/test_removal.py::test_two_threads[memory]")
def threads_that_do_not_wait(patch: Patch) -> None:
    @contextmanager
    def hold(*_: object, **__: object) -> Iterator[None]:
        yield

    patch.setattr(InHand, "hold", hold)


@fault("tests/service/test_reconcile.py::test_what_another_process_is_at[memory-True-creating]")
def others_taken_for_gone(patch: Patch) -> None:
    patch.setattr(in_progress, "is_gone", lambda _: True)


# Reconciling


@fault(
    "tests/service/test_reconcile.py::"
    "test_an_interrupted_creation[memory-its number is another's now]"
)
def a_number_taken_for_a_process(patch: Patch) -> None:
    def is_gone(owner: Owner) -> bool:
        return process._started(owner.pid) is None

    patch.setattr(in_progress, "is_gone", is_gone)


@fault("tests/domain/test_process.py::test_process_hidden_by_proc_counts_as_alive[missing]")
def hidden_processes_taken_for_gone(patch: Patch) -> None:
    patch.setattr(process, "_started_without_proc", nothing)


@fault("tests/domain/test_process.py::test_process_of_earlier_boot_counts_as_gone")
def boots_not_told_apart(patch: Patch) -> None:
    patch.setattr(process, "boot_id", lambda: "")


@fault("tests/service/test_reconcile.py::test_an_interrupted_creation[memory-no such process]")
def interrupted_creation_left_creating(patch: Patch) -> None:
    real = reconcile._is_interrupted
    patch.setattr(
        reconcile,
        "_is_interrupted",
        lambda one: one.status is not Status.CREATING and real(one),
    )


@fault("tests/service/test_removal.py::test_the_store_fails_too[memory-before delete]")
def own_removal_never_finished(patch: Patch) -> None:
    patch.setattr(reconcile, "_is_left", reconcile._is_interrupted)


@fault("tests/service/test_reconcile.py::test_unreadable_documents[no JSON]")
def unreadable_document_stops_it(patch: Patch) -> None:
    real = EnvironmentService.reconcile

    def reconcile(self: EnvironmentService, **options: Any) -> Reconciliation:
        self._repository.find_all()
        return real(self, **options)

    patch.setattr(EnvironmentService, "reconcile", reconcile)


@fault("tests/service/test_reconcile.py::test_the_store_fails_in_the_middle[memory-error0]")
def first_problem_stops_it(patch: Patch) -> None:
    patch.setattr(Reconciliation, "noting_problems", lambda *_: nullcontext())


@fault("tests/service/test_reconcile.py::test_the_lock_is_not_to_be_had[memory]")
def lock_waited_for_again_and_again(patch: Patch) -> None:
    real = Reconciliation.noting_problems
    patch.setattr(
        Reconciliation,
        "noting_problems",
        lambda self, about, **_: real(self, about, stops=KeyError),
    )


@fault("tests/service/test_reaper.py::test_not_complete[memory]")
def what_was_left_never_looked_at(patch: Patch) -> None:
    real = EnvironmentService.reconcile

    def reconcile(self: EnvironmentService, **options: Any) -> Reconciliation:
        result = real(self, **options)
        result.is_complete = True
        return result

    patch.setattr(EnvironmentService, "reconcile", reconcile)


@fault("tests/service/test_reconcile.py::test_a_provider_that_cannot_tell[memory-error0]")
def doubt_taken_for_loss(patch: Patch) -> None:
    patch.setattr(reconcile, "WorkspaceGoneError", ProviderError)


@fault("tests/service/test_reconcile.py::test_a_provider_that_cannot_work[memory]")
def judged_without_the_provider(patch: Patch) -> None:
    patch.setattr(EnvironmentService, "_check_provider", nothing)


# Expiring


@fault("tests/service/test_sweeping.py::test_time_without_the_provider[memory-True]")
def idle_while_nothing_could_be_used(patch: Patch) -> None:
    patch.setattr(Idleness, "end_pass", nothing)


@fault("tests/service/test_sweeping.py::test_time_before_the_start[memory]")
def idle_before_the_start(patch: Patch) -> None:
    def idle_time(self: EnvironmentService, environment: Environment) -> timedelta:
        return self._now() - self._touches.last_used(environment)

    patch.setattr(EnvironmentService, "idle_time", idle_time)


@fault("tests/service/test_sweeping.py::test_a_clock_that_is_set_forward[memory]")
def clocks_trusted(patch: Patch) -> None:
    def of(_: Idleness, __: str, last_used: datetime, now: datetime) -> timedelta:
        return now - last_used

    patch.setattr(Idleness, "of", of)


@fault("tests/service/test_sweeping.py::test_a_process_that_was_stopped[memory]")
def stops_counted(patch: Patch) -> None:
    patch.setattr(Idleness, "keep_time", nothing)


@fault("tests/service/test_sweeping.py::test_what_never_expires[memory-timeout0]")
def never_taken_for_at_once(patch: Patch) -> None:
    patch.setattr(
        EnvironmentService, "is_expired", lambda self, one: self.idle_time(one) > one.timeout
    )


@fault("tests/service/test_reaper.py::test_only_who_leads[memory]")
def a_leader_for_ever(patch: Patch) -> None:
    real = Reaper.turn

    def turn(self: Reaper) -> None:
        if self.reconciliation is not None:
            self._leads = lambda: True
        real(self)

    patch.setattr(Reaper, "turn", turn)


@fault("tests/service/test_reaper.py::test_survives[memory-error1]")
def a_reaper_that_dies(patch: Patch) -> None:
    def run(self: Any) -> None:
        self.turn()
        self._has_looked.set()
        while not self._stopping.wait(self._pause()) and self._reconciliation is not None:
            self.turn()

    patch.setattr(Reaper, "_run", run)
    patch.setattr("tests.service.fakes.LONG", 0.5)


@fault("tests/store/test_server_lock.py::test_removed_lock_file_loses_lock")
def a_lock_that_nobody_sees(patch: Patch) -> None:
    patch.setattr(InPlaceFile, "is_in_place", lambda _: True)


# Forks


@fault("tests/service/test_forks.py::test_a_child_goes_on")
def hands_that_a_child_inherits(patch: Patch) -> None:
    patch.setattr("tests.service.fakes.LONG", 3.0)
    patch.setattr(InHand, "reset_after_fork", nothing)


@fault("tests/service/test_forks.py::test_a_child_goes_on")
def uses_that_a_child_inherits(patch: Patch) -> None:
    patch.setattr("tests.service.fakes.LONG", 3.0)
    patch.setattr(Touches, "reset_after_fork", nothing)


@fault("tests/service/test_forks.py::test_a_port_that_the_parent_is_about_to_store")
def ports_that_a_child_inherits(patch: Patch) -> None:
    patch.setattr(Ports, "reset_after_fork", nothing)


# Settings


@fault("tests/test_config.py::test_addresses_that_others_reach[0.0.0.0:80]")
def open_to_all(patch: Patch) -> None:
    patch.setattr(Settings, "is_loopback", True)


@fault(f"tests/service/test_removal.py::test_a_full_disk[memory-{errno.ENOSPC}]")
def no_room_made(patch: Patch) -> None:
    patch.setattr(Removal, "_make_room", nothing)
