# SPDX-License-Identifier: Apache-2.0
"""Planted faults of writing: each breaks one thing that it promises."""

import os
from contextlib import suppress
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.domain import audit
from waggle_fsstore.store.format import layout
from waggle_fsstore.store.fs import disk
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
    view,
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
    writer,
)


@fault("tests/store/test_durability.py::test_folders_left_unflushed_are_flushed")
def ancestors_taken_for_durable(patch: Patch) -> None:
    patch.setattr(initialize, "_sync_ancestors", nothing)


@fault("tests/store/write/test_initialize.py::test_a_strange_umask[191]")
def files_left_to_the_umask(patch: Patch) -> None:
    patch.setattr(os, "fchmod", nothing)


@fault("tests/store/test_failures.py::test_each_call_failing_once[5-save_all]")
def failed_batch_left_half_done(patch: Patch) -> None:
    patch.setattr(writer, "rollback", lambda *_: False)


@fault("tests/store/test_failures.py::test_each_call_failing_for_good[save]")
def unknown_outcome_reported_as_failure(patch: Patch) -> None:
    patch.setattr(writer, "OutcomeUnknownError", lambda path: OSError(5, "failed", path))


@fault("tests/store/test_failures.py::test_interrupt_at_each_call[True-save_all]")
def interrupted_rename_forgotten(patch: Patch) -> None:
    real = publish.rollback
    patch.setattr(writer, "rollback", lambda steps, *rest: real(steps[:-1], *rest))


@fault("tests/store/write/test_initialize.py::test_everything_is_private")
def files_readable_by_all(patch: Patch) -> None:
    for module in (disk, documents, publish):
        patch.setattr(module, "FILE_MODE", 0o644)


@fault("tests/store/test_contracts.py::TestFileStore::test_invalid_values_are_refused")
def no_check_on_saving(patch: Patch) -> None:
    patch.setattr(inputs, "checked", lambda value: value)


@fault("tests/store/test_file_store.py::test_deleting_a_corrupt_document_keeps_the_evidence")
def corrupt_documents_destroyed(patch: Patch) -> None:
    def destroy(self: batch.Transaction, environment_id: str) -> None:
        path = self._batch.layout.document(environment_id)
        with suppress(OSError):
            os.unlink(path)
        with suppress(OSError):
            os.rmdir(path)

    patch.setattr(batch.Transaction, "quarantine", destroy)


@fault("tests/store/write/test_recovery.py::test_a_line_that_was_written_while_it_was_copied")
def half_lines_of_a_copy_taken_for_damage(patch: Patch) -> None:
    patch.setattr(session, "repair_copy", lambda *_: [])


@fault("tests/store/write/test_recovery.py::test_a_line_that_was_written_while_it_was_copied")
def damage_taken_for_half_lines(patch: Patch) -> None:
    patch.setattr(damage, "_was_blank", lambda *_: True)


@fault("tests/store/write/test_recovery.py::test_a_line_that_was_written_while_it_was_copied")
def an_original_taken_for_a_copy(patch: Patch) -> None:
    patch.setattr(changes, "is_copy", lambda *_: True)


@fault("tests/store/test_contracts.py::TestFileStore::test_update_refuses_to_write_inside")
def writing_inside_update_allowed(patch: Patch) -> None:
    patch.setattr(inputs, "refuse_inside", nothing)


@fault("tests/store/test_contracts.py::TestFileStore::test_revisions_rise_across_deletes")
def revisions_from_the_documents_alone(patch: Patch) -> None:
    real = session.WriterSession.catch_up

    def catch_up(self: session.WriterSession) -> None:
        real(self)
        self.committed = documents.Documents(self._layout).highest_revision()

    patch.setattr(session.WriterSession, "catch_up", catch_up)


@fault("tests/store/write/test_initialize.py::test_a_folder_of_somebody_else_is_refused")
def any_folder_taken(patch: Patch) -> None:
    patch.setattr(initialize, "_is_adoptable", lambda _: False)


@fault("tests/store/write/test_initialize.py::test_left_over_files_are_cleared")
def temporary_files_never_cleared(patch: Patch) -> None:
    patch.setattr(disk.Disk, "clear_temp_files", nothing)


@fault("tests/store/write/test_writer.py::test_waiting_threads_share_a_flush")
def many_lines_a_flush(patch: Patch) -> None:
    def line(self: batch.WriteBatch) -> bytes:
        return b"".join(lines.encode(lines.CHANGES, [change]) for change in self._changes)

    patch.setattr(batch.WriteBatch, "line", line)


@fault("tests/store/test_durability.py::test_a_checkpoint_comes_after_the_documents_are_durable")
def no_flush_at_a_checkpoint(patch: Patch) -> None:
    patch.setattr(writer, "sync_redo_range", nothing)


@fault("tests/store/test_durability.py::test_a_checkpoint_comes_after_the_documents_are_durable")
def checkpoint_before_the_documents_are_durable(patch: Patch) -> None:
    flush = checkpoint.sync_redo_range
    finish = writer.Writer._finish_checkpoint
    patch.setattr(writer, "sync_redo_range", nothing)

    def finish_first(self: writer.Writer, *given: Any) -> None:
        finish(self, *given)
        flush(self._layout, self._disk, 1 << 50, self._position.folder())

    patch.setattr(writer.Writer, "_finish_checkpoint", finish_first)


@fault("tests/store/test_durability.py::test_after_a_failed_flush_documents_are_written_anew")
def flush_repeated_after_it_failed(patch: Patch) -> None:
    patch.setattr(session.WriterSession, "rewrite_all", nothing)


@fault("tests/store/write/test_recovery.py::test_recovery_never_goes_back")
def replay_that_regresses(patch: Patch) -> None:
    patch.setattr(recovery, "_is_outdated", lambda *_, **__: True)


@fault("tests/store/write/test_recovery.py::test_a_torn_temporary_file_is_of_no_use")
def replay_from_a_temporary_file(patch: Patch) -> None:
    def publish(store: layout.Layout, disk: disk.Disk, path: str, *_: object, **__: object) -> None:
        for name in os.listdir(store.temporary):
            disk.replace(os.path.join(store.temporary, name), path)

    patch.setattr(disk.Disk, "clear_temp_files", nothing)
    patch.setattr(recovery, "_publish", publish)


@fault("tests/store/write/test_recovery.py::test_an_unknown_version_is_kept_as_evidence")
def displaced_documents_destroyed(patch: Patch) -> None:
    patch.setattr(recovery, "_keep_unknown", nothing)


@fault("tests/store/write/test_recovery.py::test_a_journal_flipped_at_every_byte")
def lines_without_a_checksum(patch: Patch) -> None:
    patch.setattr(lines, "crc32", lambda *_: 0)


@fault("tests/store/write/test_recovery.py::test_a_journal_flipped_at_every_byte")
def damage_taken_for_a_torn_tail(patch: Patch) -> None:
    patch.setattr(segments.Segment, "raise_on_damage", nothing)


@fault("tests/store/write/test_recovery.py::test_stale_and_doubled_lines")
def stale_lines_counted(patch: Patch) -> None:
    def all_changes(layout: layout.Layout, *_: object, **__: object) -> Any:
        for first in segments.list_segments(layout):
            for line in segments.read_segment(layout, first, None).good:
                yield from line.changes

    for module in (session, view):
        patch.setattr(module, "changes", all_changes)
    patch.setattr("waggle_fsstore.store.read.history.changes", all_changes)


@fault("tests/store/write/test_recovery.py::test_a_copy_older_than_its_checkpoint")
def copy_taken_for_the_original(patch: Patch) -> None:
    for module in (state, changes, session):
        patch.setattr(module, "store_id", lambda _: "the place")


@fault("tests/store/write/test_recovery.py::test_what_a_dead_writer_left_is_finished")
def what_a_dead_writer_left_overwritten(patch: Patch) -> None:
    patch.setattr(live_segment.LiveSegment, "tail_is_intact", lambda _: True)


@fault("tests/store/write/test_writer.py::test_each_has_its_own_author")
def leader_signs_for_all(patch: Patch) -> None:
    real = batch.Transaction.__init__
    patch.setattr(
        batch.Transaction,
        "__init__",
        lambda self, batch, _: real(self, batch, audit.current_author()),
    )


@fault("tests/store/write/test_writer.py::test_what_is_done_is_not_done_again")
def waiting_work_done_twice(patch: Patch) -> None:
    class Claim:
        def acquire(self, **_: object) -> bool:
            return True

        def release(self) -> None:
            pass

    real = group_commit.Call.__init__

    def init(self: group_commit.Call, *given: Any, **options: Any) -> None:
        real(self, *given, **options)
        self.claim = Claim()  # type: ignore[assignment]

    patch.setattr(group_commit.Call, "__init__", init)
