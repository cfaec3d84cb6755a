# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the file-system layer: each breaks one thing that it promises."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.store import file_store
from waggle_fsstore.store.fs import disk, in_place_file, linux, lock, lost_and_found, safe_read
from waggle_fsstore.store.write import publish


@fault("tests/store/fs/test_disk.py::test_simulated_open_reaches_no_other_file[temp-False]")
def write_to_descriptors_of_a_simulation(patch: Patch) -> None:
    patch.setattr(disk, "_refuse_another_file", nothing)


@fault("tests/store/fs/test_disk.py::test_temp_files_are_named_without_system_calls")
def draw_random_number_for_each_temp_file(patch: Patch) -> None:
    patch.setattr(publish, "temp_path", lambda path: f"{path}{os.sep}{os.urandom(8).hex()}.tmp")


@fault("tests/store/fs/test_disk.py::test_forked_child_gives_other_temp_names")
def share_temp_names_with_forked_child(patch: Patch) -> None:
    patch.setattr(disk._TempNames, "reset_after_fork", nothing)


@fault("tests/store/fs/test_lock.py::test_timeout_ends_where_time_is_frozen")
def wait_for_lock_by_frozen_clock(patch: Patch) -> None:
    patch.setattr(lock, "monotonic", lambda: time.monotonic())


@fault("tests/store/test_durability.py::test_save_over_old_version_syncs_alike")
def overwrite_instead_of_rename(patch: Patch) -> None:
    def replace(_: disk.Disk, source: str, target: str) -> None:
        with open(source, "rb") as new, open(target, "wb") as old:
            old.write(new.read())
        os.unlink(source)

    patch.setattr(disk.Disk, "replace", replace)


@fault("tests/store/test_durability.py::test_save_syncs_once_between_staging_and_publishing")
def skip_fsync_of_files(patch: Patch) -> None:
    patch.setattr(disk.Disk, "sync", nothing)


@fault("tests/store/test_durability.py::test_initialization_syncs_every_directory_and_marker_last")
def skip_fsync_of_directories(patch: Patch) -> None:
    patch.setattr(disk.Disk, "sync_dir", nothing)


@fault("tests/store/test_durability.py::test_initialization_syncs_every_directory_and_marker_last")
def skip_fsync_of_parent_directories(patch: Patch) -> None:
    real = disk.Disk.make_dir
    patch.setattr(disk.Disk, "make_dir", lambda _, path: real(disk.Disk(durable=False), path))


@fault("tests/store/test_failures.py::test_change_fails_whole_if_one_call_fails[28-save]")
def leak_temp_files(patch: Patch) -> None:
    patch.setattr(disk.Disk, "discard", nothing)


@fault("tests/store/test_failures.py::test_short_writes_are_continued")
def treat_short_write_as_complete(patch: Patch) -> None:
    patch.setattr(disk, "write", lambda fd, data, offset=0: os.pwrite(fd, data, offset))


@fault("tests/store/test_file_store.py::test_corrupt_document_harms_no_other")
def follow_symbolic_links(patch: Patch) -> None:
    patch.setattr(safe_read, "_FLAGS", safe_read._FLAGS & ~os.O_NOFOLLOW)


@fault("tests/store/fs/test_safe_read.py::test_lack_of_resources_is_raised")
def blame_file_for_lack_of_resources(patch: Patch) -> None:
    patch.setattr(safe_read, "_OUT_OF_RESOURCES", frozenset())


def _replace_run(patch: Patch, run: Callable[..., object]) -> None:
    def run_if_free(self: lock.StoreLock, work: Callable[[], object]) -> bool:
        run(self, work)
        return True

    patch.setattr(lock.StoreLock, "run", run)
    patch.setattr(lock.StoreLock, "run_if_free", run_if_free)


@fault("tests/store/fs/test_lock.py::test_timeout_ends_where_time_is_frozen")
def run_without_lock(patch: Patch) -> None:
    def run(self: lock.StoreLock, work: Callable[[], object], **_: object) -> object:
        self._open()
        self._locked = True
        return work()

    _replace_run(patch, run)


@fault("tests/store/fs/test_lock.py::test_lock_file_is_permanent")
def delete_lock_file_on_release(patch: Patch) -> None:
    real = lock.StoreLock._release

    def release(self: lock.StoreLock) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._file.path)
        real(self)

    patch.setattr(lock.StoreLock, "_release", release)


@fault("tests/store/fs/test_lock.py::test_interrupt_at_any_instruction_frees_lock")
def keep_lock_after_interrupt(patch: Patch) -> None:
    def run(self: lock.StoreLock, work: Callable[[], object], **_: object) -> object:
        self._acquire(self.timeout)
        try:
            return work()
        finally:
            self._release()

    _replace_run(patch, run)


@fault("tests/store/fs/test_lock.py::test_description_of_other_holder_is_replaced")
def keep_description_of_other_holder(patch: Patch) -> None:
    real = lock.StoreLock._describe_holder

    def describe_once(self: lock.StoreLock) -> None:
        if not self._described:
            real(self)

    patch.setattr(lock.StoreLock, "_describe_holder", describe_once)


@fault("tests/store/fs/test_lock.py::test_description_of_other_holder_is_replaced_after_interrupt")
def hold_lock_before_description(patch: Patch) -> None:
    real = lock.StoreLock._describe_holder

    def describe(self: lock.StoreLock) -> None:
        self._locked = True
        real(self)

    patch.setattr(lock.StoreLock, "_describe_holder", describe)


@fault("tests/store/fs/test_lock.py::test_description_with_fine_time_is_known_at_once")
def wait_for_tick_after_each_description(patch: Patch) -> None:
    def time_of_description(self: lock.StoreLock) -> int:
        clock: int = vars(lock)["file_clock"]()  # As the test sets it.
        return self._file.modified if self._file.modified < clock else 0

    patch.setattr(lock.StoreLock, "_time_of_description", time_of_description)


@fault("tests/store/fs/test_lock.py::test_description_in_same_tick_is_replaced")
def trust_description_in_same_tick(patch: Patch) -> None:
    patch.setattr(lock.StoreLock, "_time_of_description", lambda self: self._file.modified)


@fault("tests/store/fs/test_lock.py::test_description_on_whole_second_is_replaced")
def trust_description_on_whole_second(patch: Patch) -> None:
    patch.setattr(lock.StoreLock, "_time_of_description", lambda self: self._file.modified)


@fault("tests/store/fs/test_lock.py::test_description_is_replaced_where_files_have_no_change_times")
def trust_times_of_any_file_system(patch: Patch) -> None:
    patch.setattr(lock.StoreLock, "_shows_changes", lambda _: True)


@fault("tests/store/fs/test_lock.py::test_holder_is_described_once_a_second")
def describe_holder_at_each_lock(patch: Patch) -> None:
    patch.setattr(lock.StoreLock, "_time_of_description", lambda _: 0)


@fault("tests/store/fs/test_lock.py::test_removed_lock_file_is_noticed")
def ignore_removal_of_lock_file(patch: Patch) -> None:
    patch.setattr(in_place_file.InPlaceFile, "is_in_place", lambda _: True)


@fault("tests/store/fs/test_lock.py::test_parent_and_child_exclude_each_other")
def keep_descriptor_after_fork(patch: Patch) -> None:
    patch.setattr(lock.StoreLock, "reset_after_fork", nothing)


@fault("tests/store/fs/test_lock.py::test_reads_do_not_wait_for_stopped_holder")
def lock_for_reading(patch: Patch) -> None:
    real = file_store.FileStore._begin_reading

    def begin(self: file_store.FileStore) -> None:
        real(self)
        self._writer.recover(timeout=0)

    patch.setattr(file_store.FileStore, "_begin_reading", begin)


@fault("tests/store/test_durability.py::test_rotation_makes_new_segment_durable_before_use")
def skip_fsync_of_new_segment(patch: Patch) -> None:
    real = disk.Disk.write_temp
    patch.setattr(disk.Disk, "write_temp", lambda self, *given, **_: real(self, *given, sync=False))


@fault("tests/store/test_durability.py::test_rotation_makes_new_segment_durable_before_use")
def skip_fsync_of_segment_name(patch: Patch) -> None:
    patch.setattr(disk.Disk, "sync_dir", nothing)


@fault("tests/store/fs/test_lost_and_found.py::test_unreadable_file_stops_no_copy")
def fail_on_unreadable_file_in_lost_and_found(patch: Patch) -> None:
    patch.setattr(lost_and_found, "read_or_error", lambda read: read())


@fault("tests/store/fs/test_lock.py::test_changing_inode_is_an_error")
def lock_changing_file_for_ever(patch: Patch) -> None:
    patch.setattr(lock, "_MAX_REPLACEMENTS", 1 << 40)


@fault("tests/store/fs/test_linux.py::test_python_without_ctypes_is_enough")
def require_ctypes(patch: Patch) -> None:
    def function(name: str) -> Any:
        import ctypes

        return getattr(ctypes.CDLL(None, use_errno=True), name)

    patch.setattr(linux, "_function", function)


@fault("tests/store/write/test_initialize.py::test_file_system_without_modes_is_used")
def require_modes(patch: Patch) -> None:
    patch.setattr(disk, "_NO_MODES", frozenset())
