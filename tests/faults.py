# SPDX-License-Identifier: Apache-2.0
"""Planted faults: ways to break the package on purpose, to see that a test notices."""

import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import lru_cache
from typing import Any, NamedTuple

import pytest

from waggle_fsstore.domain import environment
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.store import (
    codec,
    disk,
    documents,
    file,
    founding,
    incoming,
    layout,
    lock,
    permanent,
    publishing,
    reading,
    state,
    writing,
)

Patch = pytest.MonkeyPatch


class Fault(NamedTuple):
    """How to plant it, and the test that has to turn red."""

    plant: Callable[[Patch], None]
    test: str


FAULTS: dict[str, Fault] = {}


def fault(test: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS[plant.__name__] = Fault(plant, test)
        return plant

    return register


def run(name: str, output: str) -> None:
    """Plant a fault in this process, run its test, and end with pytest's exit code."""
    os.environ["HYPOTHESIS_PROFILE"] = "faults"
    with open(output, "w") as file, redirect_stdout(file), redirect_stderr(file):
        FAULTS[name].plant(pytest.MonkeyPatch())
        plugins = [f"-pno:{name}" for name in ("cacheprovider", "randomly", "xdist")]
        # The modules under test are here already, too late to rewrite their assertions.
        code = pytest.main(["-q", "-x", "--assert=plain", *plugins, FAULTS[name].test])
    os._exit(code)


def _nothing(*_: object, **__: object) -> None:
    return None


# The write path


@fault("tests/store/test_durability.py::test_save_over_an_old_version_does_the_same")
def in_place_write(patch: Patch) -> None:
    def replace(_: disk.Disk, source: str, target: str) -> None:
        with open(source, "rb") as new, open(target, "wb") as old:
            old.write(new.read())
        os.unlink(source)

    patch.setattr(disk.Disk, "replace", replace)


@fault("tests/store/test_durability.py::test_save_flushes_before_and_after_the_rename")
def no_file_flush(patch: Patch) -> None:
    patch.setattr(disk.Disk, "flush", _nothing)


@fault("tests/store/test_durability.py::test_save_flushes_before_and_after_the_rename")
def no_folder_flush(patch: Patch) -> None:
    patch.setattr(disk.Disk, "flush_folder", _nothing)


@fault("tests/store/test_durability.py::test_founding_flushes_every_folder_and_the_marker_last")
def no_flush_of_the_folder_above(patch: Patch) -> None:
    real = disk.Disk.make_folder
    patch.setattr(disk.Disk, "make_folder", lambda _, path: real(disk.Disk(durable=False), path))


@fault("tests/store/test_durability.py::test_folders_left_unflushed_are_flushed")
def ancestors_taken_for_durable(patch: Patch) -> None:
    patch.setattr(founding, "_flush_ancestors", _nothing)


@fault("tests/store/test_durability.py::test_delete_flushes_the_number_first")
def deleted_numbers_not_flushed(patch: Patch) -> None:
    patch.setattr(state.StateRecord, "flush", _nothing)


@fault("tests/store/test_failures.py::test_each_call_failing_once[28-save]")
def temporary_file_leaked_on_a_full_disk(patch: Patch) -> None:
    stage = disk.Disk.stage

    def leaking(self: disk.Disk, *given: Any) -> None:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(os, "unlink", _nothing)
            stage(self, *given)

    patch.setattr(disk.Disk, "stage", leaking)
    patch.setattr(disk.Disk, "remove", _nothing)


@fault("tests/store/test_failures.py::test_each_call_failing_once[5-save_all]")
def failed_batch_left_half_done(patch: Patch) -> None:
    patch.setattr(writing, "take_back", lambda *_: False)


@fault("tests/store/test_failures.py::test_each_call_failing_for_good[save]")
def unknown_outcome_reported_as_failure(patch: Patch) -> None:
    patch.setattr(writing, "OutcomeUnknownError", lambda path: OSError(5, "failed", path))


@fault("tests/store/test_failures.py::test_interrupt_at_each_call[True-save_all]")
def interrupted_rename_forgotten(patch: Patch) -> None:
    real = publishing.take_back
    patch.setattr(writing, "take_back", lambda steps, *rest: real(steps[:-1], *rest))


@fault("tests/store/test_failures.py::test_short_writes")
def short_write_taken_for_whole(patch: Patch) -> None:
    patch.setattr(disk, "write", lambda descriptor, data: disk._pwrite(descriptor, data, 0))


@fault("tests/store/test_failures.py::test_errors_name_the_file")
def error_without_a_file_name(patch: Patch) -> None:
    patch.setattr(disk, "name_file", _nothing)
    patch.setattr(permanent, "name_file", _nothing)


@fault("tests/store/test_founding.py::test_everything_is_private")
def files_readable_by_all(patch: Patch) -> None:
    patch.setattr(disk, "FILE_MODE", 0o644)
    patch.setattr(writing, "FILE_MODE", 0o644)


@fault("tests/store/test_file.py::test_replaced_files_keep_their_mode")
def mode_of_the_old_file_lost(patch: Patch) -> None:
    real = disk.Disk.stage
    patch.setattr(disk.Disk, "stage", lambda self, folder, data, _=0: real(self, folder, data))


# What is stored


@fault("tests/store/test_contracts.py::TestFileStore::test_save_and_find")
def swapped_codec_fields(patch: Patch) -> None:
    real = codec._document

    def swapped(*arguments: Any) -> dict[str, Any]:
        document = real(*arguments)
        document["created_at"], document["last_used"] = (
            document["last_used"],
            document["created_at"],
        )
        return document

    patch.setattr(codec, "_document", swapped)


@fault("tests/store/test_codec.py::test_unknown_keys_are_kept")
def unknown_keys_dropped(patch: Patch) -> None:
    real = environment.Environment
    patch.setattr(codec, "Environment", lambda **values: real(**{**values, "extra": {}}))


@fault("tests/store/test_contracts.py::TestMemoryStore::test_copy_isolation_of_what_was_saved")
def shared_labels(patch: Patch) -> None:
    patch.setattr(environment, "string_dict", lambda _, labels: labels)


@fault("tests/store/test_contracts.py::TestMemoryStore::test_copy_isolation_of_what_was_found")
def shared_nested_values(patch: Patch) -> None:
    patch.setattr(environment, "json_object", lambda _, value, __: dict(value))


@fault("tests/store/test_contracts.py::TestFileStore::test_invalid_values")
def no_check_on_saving(patch: Patch) -> None:
    patch.setattr(incoming, "checked", lambda value: value)


@fault("tests/store/test_file.py::test_a_newer_document_is_neither_read_nor_replaced_nor_deleted")
def newer_schema_overwritten(patch: Patch) -> None:
    patch.setattr(codec, "SCHEMA", 99)


@fault("tests/store/test_file.py::test_a_change_by_hand_is_a_conflict")
def checksum_ignored(patch: Patch) -> None:
    patch.setattr(codec, "is_intact", lambda _: True)


@fault("tests/store/test_file.py::test_a_change_by_hand_is_seen_by_the_next_read")
def reads_from_a_stale_cache(patch: Patch) -> None:
    patch.setattr(documents, "read", lru_cache(reading.read))


@fault("tests/store/test_file.py::test_deleting_a_corrupt_document_keeps_the_evidence")
def corrupt_documents_destroyed(patch: Patch) -> None:
    def destroy(self: writing.Change, environment_id: str) -> None:
        path = self._layout.document(environment_id)
        with suppress(OSError):
            os.unlink(path)
        with suppress(OSError):
            os.rmdir(path)

    patch.setattr(writing.Change, "set_aside", destroy)


@fault("tests/store/test_file.py::test_trouble_with_one_file_is_no_corruption")
def trouble_taken_for_corruption(patch: Patch) -> None:
    patch.setattr(file, "CorruptDocumentError", Exception)
    patch.setattr(writing, "revision_in", lambda _: 0)


@fault("tests/store/test_file.py::test_a_corrupt_document_harms_no_other")
def symbolic_links_followed(patch: Patch) -> None:
    patch.setattr(reading, "_FLAGS", reading._FLAGS & ~os.O_NOFOLLOW)


@fault("tests/store/test_file.py::test_a_corrupt_document_harms_no_other")
def one_bad_document_hides_all(patch: Patch) -> None:
    def strict(self: documents.Documents, names: list[str]) -> Any:
        return [self.find(name.removesuffix(".json")).environment for name in names], []

    patch.setattr(documents.Documents, "read_all", strict)


# Names


@fault("tests/store/test_file.py::test_no_id_leads_out_of_the_root")
def escape_from_the_root(patch: Patch) -> None:
    patch.setattr(layout, "document_name", lambda environment_id: f"{environment_id}.json")


@fault("tests/store/test_layout.py::test_no_two_ids_share_a_name")
def upper_case_not_escaped(patch: Patch) -> None:
    real = layout.document_name
    patch.setattr(
        layout, "document_name", lambda name: f"{name}.json" if name.isalnum() else real(name)
    )
    patch.setattr("tests.store.test_layout.document_name", layout.document_name, raising=False)


# Locks, processes and revisions


@fault("tests/store/test_contracts.py::TestFileStorePersistence::test_updates_from_several_handles")
def unlocked_update(patch: Patch) -> None:
    def run(self: lock.StoreLock, work: Callable[[], object]) -> object:
        self._open()
        self._locked = True
        return work()

    patch.setattr(lock.StoreLock, "run", run)


@fault("tests/store/test_contracts.py::TestFileStore::test_update_runs_again_on_what_it_missed")
def update_without_comparing(patch: Patch) -> None:
    real = documents.Documents.find

    def find(self: documents.Documents, environment_id: str) -> documents.Stored:
        return real(self, environment_id)._replace(data=b"the same")

    patch.setattr(documents.Documents, "find", find)


@fault("tests/store/test_lock.py::test_the_lock_file_is_permanent")
def lock_file_unlinked(patch: Patch) -> None:
    real = lock.StoreLock._release

    def release(self: lock.StoreLock) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._file.path)
        real(self)

    patch.setattr(lock.StoreLock, "_release", release)


@fault("tests/store/test_lock.py::test_an_interrupt_at_any_instruction")
def lock_kept_after_an_interrupt(patch: Patch) -> None:
    def run(self: lock.StoreLock, work: Callable[[], object]) -> object:
        self._acquire(self._timeout)
        try:
            return work()
        finally:
            self._release()

    patch.setattr(lock.StoreLock, "run", run)


@fault("tests/store/test_lock.py::test_a_removed_lock_file_is_noticed")
def removed_lock_file_unnoticed(patch: Patch) -> None:
    patch.setattr(permanent.PermanentFile, "is_in_place", lambda _: True)


@fault("tests/store/test_lock.py::test_parent_and_child_exclude_each_other")
def descriptor_kept_across_fork(patch: Patch) -> None:
    patch.setattr(lock.StoreLock, "forget_after_fork", _nothing)


@fault("tests/store/test_lock.py::test_reads_do_not_wait_for_a_stopped_holder")
def readers_take_the_lock(patch: Patch) -> None:
    patch.setattr(file, "_FREE_SCANS", 0)


@fault("tests/store/test_contracts.py::TestFileStore::test_update_refuses_to_write_inside")
def writing_inside_update_allowed(patch: Patch) -> None:
    patch.setattr(incoming, "refuse_inside", _nothing)


@fault("tests/store/test_contracts.py::TestFileStore::test_revisions_rise_across_deletes")
def revisions_from_the_documents_alone(patch: Patch) -> None:
    def read(self: writing.Writer) -> state.State:
        number = documents.Documents(self._layout).highest_revision()
        return state.State(self._identity, number, number)

    patch.setattr(writing.Writer, "_read_state", read)


@fault("tests/store/test_state.py::test_another_boot")
def record_of_another_boot_trusted(patch: Patch) -> None:
    def read(self: writing.Writer) -> state.State:
        found = self._record.read() or state.State("", 0, 0)
        return found._replace(identity=self._identity)

    patch.setattr(writing.Writer, "_read_state", read)


@fault("tests/store/test_state.py::test_another_mount")
def record_of_another_mount_trusted(patch: Patch) -> None:
    def identity(environments: str) -> str:
        status = os.stat(environments)
        return f"{status.st_dev:x}:{status.st_ino:x}"

    patch.setattr(writing, "identity", identity)


@fault("tests/store/test_state.py::test_every_flipped_byte_is_noticed")
def record_without_a_checksum(patch: Patch) -> None:
    patch.setattr(state, "int", lambda *_: 0, raising=False)
    patch.setattr(state, "crc32", lambda _: 0)


@fault("tests/store/test_contracts.py::TestFileStore::test_create_within_capacity")
def leftovers_count_as_live(patch: Patch) -> None:
    patch.setattr(Status, "is_live", True)


@fault("tests/store/test_scan.py::test_a_listing_that_a_change_cut_across_is_repeated")
def scan_that_trusts_one_listing(patch: Patch) -> None:
    patch.setattr(file.FileStore, "_scan", lambda self, collect: collect(self._documents.names()))


@fault("tests/store/test_scan.py::test_a_change_that_began_before_the_scan")
def change_under_way_overlooked(patch: Patch) -> None:
    real = state.peek

    def peek(path: str) -> state.State | None:
        found = real(path)
        return found and found._replace(published=found.committed)

    patch.setattr(file, "peek", peek)


@fault("tests/store/test_founding.py::test_a_folder_of_somebody_else_is_refused")
def any_folder_taken(patch: Patch) -> None:
    patch.setattr(founding, "_is_adoptable", lambda _: False)


@fault("tests/store/test_founding.py::test_left_over_files_are_cleared")
def temporary_files_never_cleared(patch: Patch) -> None:
    patch.setattr(disk.Disk, "clear", _nothing)


@fault("tests/store/test_model.py::TestStores::runTest")
def revision_0_matches_anything(patch: Patch) -> None:
    real = file.FileStore.save

    def save(
        self: file.FileStore,
        environment: environment.Environment,
        *,
        if_revision: int | None = None,
    ) -> int:
        return real(self, environment, if_revision=if_revision or None)

    patch.setattr(file.FileStore, "save", save)
