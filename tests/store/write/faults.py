# SPDX-License-Identifier: Apache-2.0
"""Planted faults of writing: each breaks one thing that it promises."""

import os
import time
from contextlib import suppress
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.domain import audit
from waggle_fsstore.store.format import layout
from waggle_fsstore.store.fs import disk, linux, safe_read
from waggle_fsstore.store.journal import (
    changes,
    damage,
    lines,
    live_segment,
    segments,
    state,
)
from waggle_fsstore.store.read import (
    documents,
    history,
)
from waggle_fsstore.store.write import (
    batch,
    checkpoint,
    group_commit,
    initialize,
    inputs,
    publish,
    recovery,
    session,
    sync,
    writer,
)


@fault("tests/store/test_durability.py::test_unsynced_directories_are_synced_later")
def skip_sync_of_ancestors(patch: Patch) -> None:
    patch.setattr(initialize, "_sync_ancestors", nothing)


@fault("tests/store/write/test_initialize.py::test_umask_keeps_owner_rights[191]")
def skip_fchmod_after_umask(patch: Patch) -> None:
    patch.setattr(os, "fchmod", nothing)


@fault("tests/store/test_failures.py::test_change_fails_whole_if_one_call_fails[5-save_all]")
def skip_rollback(patch: Patch) -> None:
    patch.setattr(writer, "rollback", lambda *_: False)


@fault("tests/store/test_failures.py::test_change_fails_whole_if_calls_keep_failing[save]")
def report_unknown_outcome_as_failure(patch: Patch) -> None:
    patch.setattr(writer, "OutcomeUnknownError", lambda path: OSError(5, "failed", path))


@fault("tests/store/test_failures.py::test_interrupted_change_is_done_or_undone[True-save_all]")
def forget_interrupted_rename_in_rollback(patch: Patch) -> None:
    real = publish.rollback
    patch.setattr(writer, "rollback", lambda writes, *rest: real(writes[:-1], *rest))


@fault("tests/store/write/test_initialize.py::test_files_and_directories_are_private")
def create_files_readable_by_all(patch: Patch) -> None:
    for module in (disk, documents, batch):
        patch.setattr(module, "FILE_MODE", 0o644)


@fault("tests/store/test_contracts.py::TestFileStore::test_bad_value_is_refused")
def skip_validation_on_save(patch: Patch) -> None:
    patch.setattr(inputs, "checked_copy", lambda value: value)


@fault("tests/store/test_file_store.py::test_delete_keeps_corrupt_document_in_lost_and_found")
def delete_corrupt_documents(patch: Patch) -> None:
    def destroy(self: batch.Transaction, environment_id: str) -> None:
        path = self._batch.layout.document(environment_id)
        with suppress(OSError):
            os.unlink(path)
        with suppress(OSError):
            os.rmdir(path)

    patch.setattr(batch.Transaction, "quarantine", destroy)


@fault("tests/store/write/test_recovery.py::test_line_copied_while_it_was_written")
def treat_torn_lines_of_copy_as_damage(patch: Patch) -> None:
    patch.setattr(recovery, "repair_copy", lambda *_: [])


@fault("tests/store/write/test_recovery.py::test_line_copied_while_it_was_written")
def treat_damage_as_torn_lines_of_copy(patch: Patch) -> None:
    patch.setattr(damage, "_was_blank", lambda *_: True)


@fault("tests/store/write/test_recovery.py::test_line_copied_while_it_was_written")
def treat_every_store_as_copy(patch: Patch) -> None:
    real = changes.redo_range
    patch.setattr(recovery, "redo_range", lambda layout: real(layout)._replace(is_copy=True))


@fault("tests/store/test_contracts.py::TestFileStore::test_update_refuses_write_inside")
def allow_writes_inside_update(patch: Patch) -> None:
    patch.setattr(inputs, "refuse_inside", nothing)


@fault("tests/store/test_contracts.py::TestFileStore::test_revisions_rise_across_deletes")
def number_changes_from_documents_only(patch: Patch) -> None:
    real = session.WriterSession.catch_up

    def catch_up(self: session.WriterSession) -> None:
        real(self)
        self.committed = documents.Documents(self._layout).highest_revision()

    patch.setattr(session.WriterSession, "catch_up", catch_up)


@fault("tests/store/write/test_initialize.py::test_foreign_directory_is_refused")
def adopt_any_directory(patch: Patch) -> None:
    patch.setattr(initialize, "_is_adoptable", lambda _: False)


@fault("tests/store/write/test_initialize.py::test_orphaned_temp_files_are_removed")
def keep_orphaned_temp_files(patch: Patch) -> None:
    patch.setattr(disk.Disk, "clear_temp_files", nothing)


@fault("tests/store/write/test_writer.py::test_waiting_threads_share_one_sync")
def write_one_line_per_change(patch: Patch) -> None:
    def line(self: batch.WriteBatch) -> bytes:
        return b"".join(lines.encode(lines.CHANGES, [change]) for change in self._changes)

    patch.setattr(batch.WriteBatch, "line", line)


@fault("tests/store/test_durability.py::test_checkpoint_follows_durable_documents")
def skip_sync_at_checkpoint(patch: Patch) -> None:
    patch.setattr(checkpoint, "sync_redo_range", nothing)


@fault("tests/store/test_durability.py::test_checkpoint_follows_durable_documents")
def write_checkpoint_before_sync(patch: Patch) -> None:
    real = checkpoint.Checkpointer._write
    patch.setattr(checkpoint, "sync_redo_range", nothing)

    def write_first(self: checkpoint.Checkpointer, *given: Any) -> None:
        real(self, *given)
        directory = self._session.documents_directory()
        sync.sync_redo_range(self._layout, self._disk, 1 << 50, directory, 0)

    patch.setattr(checkpoint.Checkpointer, "_write", write_first)


_CHECKPOINT = "tests/store/write/test_checkpoint.py"


@fault(f"{_CHECKPOINT}::test_batch_that_fills_a_segment_waits_for_no_checkpoint")
def write_checkpoint_after_the_change(patch: Patch) -> None:
    real = writer.Writer.run

    def run(self: writer.Writer, *rest: Any, **options: Any) -> Any:
        result = real(self, *rest, **options)
        if self._checkpointer.is_due:
            self._checkpointer.run()
        return result

    patch.setattr(writer.Writer, "run", run)


@fault(f"{_CHECKPOINT}::test_journal_to_recover_stays_bounded")
def write_no_checkpoint_before_close(patch: Patch) -> None:
    patch.setattr(checkpoint.Checkpointer, "sync_if_due", nothing)


@fault(f"{_CHECKPOINT}::test_close_writes_the_checkpoint_that_was_synced")
def close_without_the_checkpoint_that_was_synced(patch: Patch) -> None:
    real = checkpoint.Checkpointer.run_before_close

    def run(self: checkpoint.Checkpointer) -> None:
        self._synced = None
        real(self)

    patch.setattr(checkpoint.Checkpointer, "run_before_close", run)


@fault(f"{_CHECKPOINT}::test_success_after_a_failed_sync_proves_nothing")
def trust_the_last_sync(patch: Patch) -> None:
    real = checkpoint.Checkpointer._sync

    def sync_again(self: checkpoint.Checkpointer) -> Any:
        self._has_failed = False
        return real(self)

    patch.setattr(checkpoint.Checkpointer, "_sync", sync_again)


@fault(f"{_CHECKPOINT}::test_sync_before_a_recovery_proves_nothing")
def trust_syncs_before_a_recovery(patch: Patch) -> None:
    never = property(lambda _: 0, lambda *_: None)
    patch.setattr(session.WriterSession, "recoveries", never, raising=False)


@fault(f"{_CHECKPOINT}::test_interrupted_sync_is_made_again")
def forget_an_interrupted_sync(patch: Patch) -> None:
    real = checkpoint.Checkpointer._sync

    def sync_once(self: checkpoint.Checkpointer) -> Any:
        try:
            return real(self)
        except BaseException:
            self.is_due = False
            raise

    patch.setattr(checkpoint.Checkpointer, "_sync", sync_once)


@fault(f"{_CHECKPOINT}::test_change_is_stored_although_its_checkpoint_fails")
def fail_with_the_checkpoint(patch: Patch) -> None:
    def write(self: checkpoint.Checkpointer) -> None:
        synced, self._synced = self._synced, None
        if synced is not None:
            self._write(synced)

    patch.setattr(checkpoint.Checkpointer, "write_if_synced", write)


@fault("tests/store/test_durability.py::test_failed_fsync_rewrites_documents")
def repeat_failed_sync_instead_of_rewriting(patch: Patch) -> None:
    patch.setattr(session.WriterSession, "rewrite_all", nothing)


@fault("tests/store/write/test_recovery.py::test_recovery_never_regresses")
def replay_older_versions(patch: Patch) -> None:
    patch.setattr(recovery, "_is_outdated", lambda *_, **__: True)


@fault("tests/store/write/test_recovery.py::test_temp_files_are_never_published")
def replay_from_temp_files(patch: Patch) -> None:
    def publish(
        store: layout.Layout, disk: disk.Disk, change: dict[str, Any], *_: object, **__: object
    ) -> None:
        for name in os.listdir(store.temporary):
            disk.replace(os.path.join(store.temporary, name), store.document(change["id"]))

    patch.setattr(disk.Disk, "clear_temp_files", nothing)
    patch.setattr(recovery, "_publish", publish)


@fault("tests/store/write/test_recovery.py::test_unknown_version_is_saved_to_lost_and_found")
def destroy_unknown_versions(patch: Patch) -> None:
    real = recovery._with_known_versions
    patch.setattr(recovery, "_with_known_versions", lambda *given: {*given[0], *real(*given)})


@fault("tests/store/write/test_recovery.py::test_unreadable_document_is_moved_without_reading")
def overwrite_unreadable_documents(patch: Patch) -> None:
    def is_replaceable(entry: Any) -> bool:
        return not isinstance(entry.stored, documents.StoredDocument)

    patch.setattr(recovery, "_is_remnant", is_replaceable)


@fault("tests/store/write/test_recovery.py::test_failed_recovery_has_reported_what_it_moved")
def report_at_the_end_of_recovery(patch: Patch) -> None:
    real: Any = recovery.replay

    def replay(*given: Any, **options: Any) -> None:
        *others, report = given
        found: list[Any] = []
        real(*others, found.append, **options)
        for finding in found:
            report(finding)

    patch.setattr(recovery, "replay", replay)


@fault("tests/store/write/test_recovery.py::test_lack_of_resources_ends_recovery")
def blame_document_for_lack_of_resources(patch: Patch) -> None:
    patch.setattr(safe_read, "_OUT_OF_RESOURCES", frozenset())


@fault("tests/store/write/test_recovery.py::test_unreadable_live_segment_is_kept")
def overwrite_unreadable_segment(patch: Patch) -> None:
    real = recovery._ignored

    def ignored(store: layout.Layout, disk: disk.Disk, live: segments.Segment) -> Any:
        return real(store, disk, live._replace(data=b""))

    patch.setattr(recovery, "_ignored", ignored)


@fault("tests/store/write/test_recovery.py::test_repair_reports_what_its_recovery_moved")
def omit_findings_of_recovery_from_repair(patch: Patch) -> None:
    patch.setattr(writer.Writer, "take_repaired", lambda _: [])


@fault("tests/store/write/test_recovery.py::test_journal_flipped_at_every_byte_is_detected")
def skip_checksums_of_lines(patch: Patch) -> None:
    patch.setattr(lines, "crc32", lambda *_: 0)


@fault("tests/store/write/test_recovery.py::test_journal_flipped_at_every_byte_is_detected")
def treat_damage_as_torn_tail(patch: Patch) -> None:
    patch.setattr(segments.Segment, "raise_on_damage", nothing)


@fault("tests/store/write/test_recovery.py::test_repeated_and_stale_lines_are_ignored")
def count_stale_lines(patch: Patch) -> None:
    def all_entries(layout: layout.Layout, *_: object, **__: object) -> Any:
        for first in segments.list_segments(layout):
            segment = segments.read_segment(layout, first, None)
            for line in segment.good:
                yield from ((change, segment, line) for change in line.changes)

    patch.setattr(history, "entries", all_entries)
    patch.setattr(
        recovery, "changes", lambda *_, **__: (change for change, _, _ in all_entries(*_))
    )


@fault("tests/store/write/test_recovery.py::test_checkpoint_does_not_count_in_copy")
def treat_copy_as_original(patch: Patch) -> None:
    patch.setattr(changes, "is_valid", lambda *_: True)


@fault("tests/store/write/test_recovery.py::test_unpublished_line_of_dead_writer_is_published")
def overwrite_lines_of_dead_writer(patch: Patch) -> None:
    patch.setattr(live_segment.LiveSegment, "tail_is_intact", lambda _: True)


@fault("tests/store/write/test_writer.py::test_calls_of_one_line_keep_their_authors")
def record_leader_as_author_of_all(patch: Patch) -> None:
    real = batch.Transaction.__init__
    patch.setattr(
        batch.Transaction,
        "__init__",
        lambda self, batch, _: real(self, batch, audit.current_author()),
    )


_SLEEPERS = "tests/store/write/test_group_commit.py"


@fault(f"{_SLEEPERS}::test_waiting_threads_are_woken[3]")
def wake_no_follower(patch: Patch) -> None:
    real = group_commit.Call.wake

    def wake(call: group_commit.Call) -> None:
        if not call.is_done():
            real(call)

    patch.setattr(group_commit.Call, "wake", wake)


@fault(f"{_SLEEPERS}::test_waiting_threads_are_woken[1]")
def release_lock_silently(patch: Patch) -> None:
    patch.setattr(group_commit, "_wake_next", nothing)


@fault(f"{_SLEEPERS}::test_call_committed_before_its_turn_is_not_run_again")
def run_committed_call_again(patch: Patch) -> None:
    patch.setattr(group_commit.Call, "is_done", lambda _: False)


@fault(f"{_SLEEPERS}::test_thread_that_gives_up_wakes_next")
def keep_turn_of_thread_that_gives_up(patch: Patch) -> None:
    def remove(queue: group_commit.CommitQueue, call: group_commit.Call) -> None:
        queue._waiting.remove(call)

    patch.setattr(group_commit.CommitQueue, "_remove", remove)


@fault(f"{_SLEEPERS}::test_thread_that_is_not_woken_looks_again")
def sleep_until_woken(patch: Patch) -> None:
    patch.setattr(group_commit.Call, "sleep", lambda call, _: call._asleep.acquire())


@fault("tests/store/write/test_writer.py::test_committed_call_is_never_run_again")
def run_waiting_calls_twice(patch: Patch) -> None:
    patch.setattr(group_commit.Call, "claim", lambda _: True)
    patch.setattr(group_commit.Call, "unclaim", nothing)


_LOOKS = "tests/store/write/test_looks.py"


@fault(f"{_LOOKS}::test_change_looks_at_the_times_of_no_file_that_it_changes")
def look_at_times_of_the_segment(patch: Patch) -> None:
    patch.setattr(live_segment, "timeless_status", lambda path: os.stat(path))


@fault(f"{_LOOKS}::test_change_looks_at_the_times_of_no_file_that_it_changes")
def look_at_times_of_the_directory(patch: Patch) -> None:
    patch.setattr(session.WriterSession, "file_clock", lambda _: 0)


@fault(f"{_LOOKS}::test_new_umask_is_noticed_within_a_second")
def look_at_new_files_once(patch: Patch) -> None:
    patch.setattr(disk.Disk, "look_again", nothing)


_TIME_OF_CHANGE = "tests/store/write/test_session.py::test_state_record_has_time_of_last_change"


@fault(f"{_TIME_OF_CHANGE}[True]")
def keep_time_of_first_change(patch: Patch) -> None:
    real = session.WriterSession.write_state

    def write_state(self: session.WriterSession, *, published: int = 0, **given: Any) -> None:
        self.published = published or self.published
        real(self, **{**given, "changed_after": 0})

    patch.setattr(session.WriterSession, "write_state", write_state)


@fault(f"{_TIME_OF_CHANGE}[True]")
def record_time_without_a_change_of_documents(patch: Patch) -> None:
    real = session.WriterSession.write_state

    def write_state(self: session.WriterSession, **given: Any) -> None:
        real(self, **{**given, "changed_after": given.get("published") and self.file_clock()})

    patch.setattr(session.WriterSession, "write_state", write_state)


@fault(f"{_TIME_OF_CHANGE}[False]")
def record_a_clock_that_sets_no_times(patch: Patch) -> None:
    patch.setattr(session.WriterSession, "file_clock", lambda _: time.time_ns() + 10**12)


_LOOK = "tests/store/write/test_session.py::test_checkpoint_has_the_time_of_the_directory"


@fault(_LOOK)
def checkpoint_the_clock(patch: Patch) -> None:
    patch.setattr(checkpoint, "last_modified", lambda layout: state.last_modified(layout) - 1)


@fault(
    "tests/store/write/test_session.py::test_state_record_has_whole_seconds_where_the_directory_has"
)
def record_fractions_of_seconds(patch: Patch) -> None:
    patch.setattr(session.WriterSession, "file_clock", lambda _: linux.file_clock())


@fault("tests/store/write/test_session.py::test_interrupted_resume_keeps_suspicion")
def forget_suspicion_while_resuming(patch: Patch) -> None:
    real = session.WriterSession.write_state

    def write_state(self: session.WriterSession, **given: Any) -> None:
        is_suspect, self._is_suspect = self._is_suspect, False
        real(self, **given)
        self._is_suspect = is_suspect

    patch.setattr(session.WriterSession, "write_state", write_state)


@fault("tests/store/write/test_session.py::test_copy_of_suspect_store_is_rewritten")
def checkpoint_suspect_documents(patch: Patch) -> None:
    def forget(self: session.WriterSession) -> None:
        self._is_suspect = False

    patch.setattr(session.WriterSession, "rewrite_all", forget)


@fault("tests/store/write/test_session.py::test_failed_sync_of_earlier_files_rewrites_them")
def repeat_failed_sync_of_earlier_files(patch: Patch) -> None:
    patch.setattr(session.WriterSession, "_suspect_earlier_files", nothing)


@fault("tests/store/write/test_session.py::test_failed_sync_of_suspect_copy_is_repeated")
def treat_suspect_as_synced(patch: Patch) -> None:
    real = state.StateRecord.write

    def write(record: state.StateRecord, mounted_id: str, durable: int, *rest: int) -> None:
        real(record, mounted_id, min(durable, state.SUSPECT), *rest)

    patch.setattr(state.StateRecord, "write", write)


@fault("tests/store/write/test_writer.py::test_calls_leave_no_reference_cycle")
def keep_calls_of_group(patch: Patch) -> None:
    class Calls(list[Any]):
        def clear(self) -> None:
            pass

    real = group_commit.Group.__init__

    def init(self: group_commit.Group, leader: group_commit.Call) -> None:
        real(self, leader)
        self.calls = Calls(self.calls)

    patch.setattr(group_commit.Group, "__init__", init)


@fault("tests/store/write/test_initialize.py::test_mount_inside_store_is_refused[journal-False]")
def write_across_mounts(patch: Patch) -> None:
    patch.setattr(initialize, "refuse_mounts", nothing)
