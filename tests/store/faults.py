# SPDX-License-Identifier: Apache-2.0
"""Planted faults: ways to break the package on purpose, to see that a test notices."""

import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import pytest

from waggle_fsstore.domain import audit, environment
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.store import file_store
from waggle_fsstore.store.format import codec, layout
from waggle_fsstore.store.fs import disk, in_place_file, lock, lost_and_found, safe_read
from waggle_fsstore.store.journal import (
    changes,
    damage,
    latest,
    lines,
    live_segment,
    segments,
    state,
)
from waggle_fsstore.store.maintenance import fsck, prune, restore, snapshot
from waggle_fsstore.store.read import (
    document_cache,
    documents,
    history,
    inotify,
    stat_signature,
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
        # A folder of its own: others clear away old ones of the usual place meanwhile.
        options = ["-q", "-x", "--color=no", "--assert=plain", f"--basetemp={output}.d"]
        code = pytest.main([*options, *plugins, FAULTS[name].test])
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


@fault("tests/store/test_durability.py::test_save_flushes_once_between_staging_and_publishing")
def no_file_flush(patch: Patch) -> None:
    patch.setattr(disk.Disk, "flush", _nothing)


@fault("tests/store/test_durability.py::test_founding_flushes_every_folder_and_the_marker_last")
def no_folder_flush(patch: Patch) -> None:
    patch.setattr(disk.Disk, "flush_folder", _nothing)


@fault("tests/store/test_durability.py::test_founding_flushes_every_folder_and_the_marker_last")
def no_flush_of_the_folder_above(patch: Patch) -> None:
    real = disk.Disk.make_folder
    patch.setattr(disk.Disk, "make_folder", lambda _, path: real(disk.Disk(durable=False), path))


@fault("tests/store/test_durability.py::test_folders_left_unflushed_are_flushed")
def ancestors_taken_for_durable(patch: Patch) -> None:
    patch.setattr(initialize, "_flush_ancestors", _nothing)


@fault("tests/store/write/test_initialize.py::test_a_strange_umask[191]")
def files_left_to_the_umask(patch: Patch) -> None:
    patch.setattr(os, "fchmod", _nothing)


@fault("tests/store/test_failures.py::test_each_call_failing_once[28-save]")
def temporary_file_leaked_on_a_full_disk(patch: Patch) -> None:
    patch.setattr(disk.Disk, "discard", _nothing)


@fault("tests/store/test_failures.py::test_each_call_failing_once[5-save_all]")
def failed_batch_left_half_done(patch: Patch) -> None:
    patch.setattr(writer, "take_back", lambda *_: False)


@fault("tests/store/test_failures.py::test_each_call_failing_for_good[save]")
def unknown_outcome_reported_as_failure(patch: Patch) -> None:
    patch.setattr(writer, "OutcomeUnknownError", lambda path: OSError(5, "failed", path))


@fault("tests/store/test_failures.py::test_interrupt_at_each_call[True-save_all]")
def interrupted_rename_forgotten(patch: Patch) -> None:
    real = publish.take_back
    patch.setattr(writer, "take_back", lambda steps, *rest: real(steps[:-1], *rest))


@fault("tests/store/test_failures.py::test_short_writes")
def short_write_taken_for_whole(patch: Patch) -> None:
    patch.setattr(disk, "write", lambda fd, data, offset=0: disk._pwrite(fd, data, offset))


@fault("tests/store/test_failures.py::test_errors_name_the_file")
def error_without_a_file_name(patch: Patch) -> None:
    for module in (disk, in_place_file, live_segment):
        patch.setattr(module, "name_file", _nothing)


@fault("tests/store/write/test_initialize.py::test_everything_is_private")
def files_readable_by_all(patch: Patch) -> None:
    for module in (disk, documents, publish):
        patch.setattr(module, "FILE_MODE", 0o644)


@fault("tests/store/test_file_store.py::test_replaced_files_keep_their_mode")
def mode_of_the_old_file_lost(patch: Patch) -> None:
    patch.setattr(documents, "mode_of", lambda _: disk.FILE_MODE)


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


@fault("tests/store/format/test_codec.py::test_unknown_keys_are_kept")
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
    patch.setattr(inputs, "checked", lambda value: value)


@fault(
    "tests/store/test_file_store.py::test_a_newer_document_is_neither_read_nor_replaced_nor_deleted"
)
def newer_schema_overwritten(patch: Patch) -> None:
    patch.setattr(codec, "SCHEMA", 99)


@fault("tests/store/test_file_store.py::test_a_change_by_hand_is_a_conflict")
def checksum_ignored(patch: Patch) -> None:
    patch.setattr(codec, "is_intact", lambda _: True)


@fault("tests/store/test_file_store.py::test_a_change_by_hand_is_seen_by_the_next_read")
def reads_from_a_stale_cache(patch: Patch) -> None:
    cached = lru_cache(safe_read.read)
    patch.setattr(documents, "read", cached)
    patch.setattr(document_cache, "read", cached)


@fault("tests/store/read/test_document_cache.py::test_changes_within_a_tick")
def remembered_within_the_tick(patch: Patch) -> None:
    patch.setattr(stat_signature, "_SETTLED", -(1 << 62))


@fault("tests/store/read/test_document_cache.py::test_a_change_by_hand_is_seen_at_once")
def signature_without_the_time_of_change(patch: Patch) -> None:
    names = ("st_ino", "st_size", "st_mtime_ns", "st_mode", "st_dev")
    patch.setattr(document_cache, "signature_of", attrgetter(*names))


@fault("tests/store/read/test_document_cache.py::test_folders_exchanged_while_it_is_read")
def signature_of_what_was_not_read(patch: Patch) -> None:
    real = document_cache.read_document

    def read(name: str, path: str) -> tuple[environment.Environment, os.stat_result]:
        found, _ = real(name, path)
        return found, os.lstat(path)

    patch.setattr(document_cache, "read_document", read)


@fault("tests/store/read/test_document_cache.py::test_what_is_found_is_the_callers")
def remembered_values_handed_out(patch: Patch) -> None:
    patch.setattr(environment.Environment, "twin", lambda self: self)


@fault("tests/store/read/test_document_cache.py::test_capacity_counts_what_hands_did")
def count_from_memory(patch: Patch) -> None:
    real = document_cache.Listing.live

    def live(self: document_cache.Listing) -> set[str]:
        return (self._seen or document_cache._NOTHING).live or real(self)

    patch.setattr(document_cache.Listing, "live", live)


@fault("tests/store/read/test_document_cache.py::test_a_child_inherits_what_is_remembered")
def notices_shared_with_a_child(patch: Patch) -> None:
    patch.setattr(document_cache.Listing, "forget_after_fork", lambda _: None)


@fault("tests/store/read/test_document_cache.py::test_a_name_in_another_folder")
def notices_alone_relied_on(patch: Patch) -> None:
    patch.setattr(document_cache, "_LOOKS_EVERY", float("inf"))


@fault("tests/store/read/test_inotify.py::test_a_folder_above_is_exchanged")
def notices_of_a_folder_that_was_exchanged(patch: Patch) -> None:
    patch.setattr(inotify.Notices, "is_in_place", lambda _: True)


@fault("tests/store/read/test_document_cache.py::test_a_folder_remade_under_the_same_number")
def notices_relied_on_after_their_end(patch: Patch) -> None:
    patch.setattr(inotify, "_OVER", 0)


@fault("tests/store/read/test_document_cache.py::test_a_listing_in_the_middle_of_one")
def notices_taken_by_a_signal_handler(patch: Patch) -> None:
    real = document_cache.Listing._look

    def look(self: document_cache.Listing) -> document_cache._Seen:
        self._seen = self._seen or document_cache._NOTHING
        return real(self)

    patch.setattr(document_cache.Listing, "_look", look)


@fault("tests/store/read/test_document_cache.py::test_a_listing_that_ends_in_the_middle")
def notices_lost_with_a_listing(patch: Patch) -> None:
    real = document_cache.Listing._look

    def look(self: document_cache.Listing) -> document_cache._Seen:
        before, noticed = self._seen, self._notices
        try:
            return real(self)
        except BaseException:
            self._seen, self._notices = before, noticed
            raise

    patch.setattr(document_cache.Listing, "_look", look)


@fault("tests/store/read/test_inotify.py::test_more_than_the_system_keeps")
def lost_notices_not_missed(patch: Patch) -> None:
    real = inotify.Notices.changed

    def changed(self: inotify.Notices) -> set[str]:
        return real(self) or set()

    patch.setattr(inotify.Notices, "changed", changed)


@fault("tests/store/test_file_store.py::test_deleting_a_corrupt_document_keeps_the_evidence")
def corrupt_documents_destroyed(patch: Patch) -> None:
    def destroy(self: batch.Change, environment_id: str) -> None:
        path = self._batch.layout.document(environment_id)
        with suppress(OSError):
            os.unlink(path)
        with suppress(OSError):
            os.rmdir(path)

    patch.setattr(batch.Change, "set_aside", destroy)


@fault("tests/store/test_file_store.py::test_trouble_with_one_file_is_no_corruption")
def trouble_taken_for_corruption(patch: Patch) -> None:
    patch.setattr(file_store, "CorruptDocumentError", Exception)
    patch.setattr(batch, "revision_in", lambda _: 0)


@fault("tests/store/test_file_store.py::test_a_corrupt_document_harms_no_other")
def symbolic_links_followed(patch: Patch) -> None:
    patch.setattr(safe_read, "_FLAGS", safe_read._FLAGS & ~os.O_NOFOLLOW)


@fault("tests/store/test_file_store.py::test_a_corrupt_document_harms_no_other")
def one_bad_document_hides_all(patch: Patch) -> None:
    def strict(self: documents.Documents) -> Any:
        return [self.find(name.removesuffix(".json")) for name in self.names()], []

    patch.setattr(documents.Documents, "read_all", strict)


@fault("tests/store/write/test_recovery.py::test_a_line_that_was_written_while_it_was_copied")
def half_lines_of_a_copy_taken_for_damage(patch: Patch) -> None:
    patch.setattr(session, "mend_copy", lambda *_: [])


@fault("tests/store/write/test_recovery.py::test_a_line_that_was_written_while_it_was_copied")
def damage_taken_for_half_lines(patch: Patch) -> None:
    patch.setattr(damage, "_was_room", lambda *_: True)


@fault("tests/store/read/test_history.py::test_following_another_store")
def places_of_another_store(patch: Patch) -> None:
    real = history.History.events

    def events(self: history.History, *arguments: Any) -> Any:
        if self._last_seen:
            here = self._view.state().identity
            self._last_seen = self._last_seen._replace(identity=here)
        return real(self, *arguments)

    patch.setattr(history.History, "events", events)


@fault("tests/store/write/test_recovery.py::test_a_line_that_was_written_while_it_was_copied")
def an_original_taken_for_a_copy(patch: Patch) -> None:
    patch.setattr(changes, "is_another_store", lambda *_: True)


@fault("tests/store/journal/test_lines.py::test_it_looks_at_few")
def reading_that_begins_too_late(patch: Patch) -> None:
    real = lines.start_after
    patch.setattr(lines, "start_after", lambda data, seq: real(data, seq + 2))


@fault("tests/store/journal/test_lines.py::test_what_does_not_mention_it_is_left_out")
def damage_passed_over(patch: Patch) -> None:
    def mentioning(data: bytes, start: int, about: bytes) -> list[lines.Line]:
        good = [
            lines.Line(*span, lines.decode(data[span[0] : span[1] - 1]) or {})
            for span in lines.split(data, start)
        ]
        return [line for line in good if about in data[line.start : line.end]]

    patch.setattr(lines, "_mentioning", mentioning)


# Names


@fault("tests/store/test_file_store.py::test_no_id_leads_out_of_the_root")
def escape_from_the_root(patch: Patch) -> None:
    patch.setattr(layout, "document_name", lambda environment_id: f"{environment_id}.json")


@fault("tests/store/format/test_layout.py::test_no_two_ids_share_a_name")
def upper_case_not_escaped(patch: Patch) -> None:
    real = layout.document_name
    patch.setattr(
        layout, "document_name", lambda name: f"{name}.json" if name.isalnum() else real(name)
    )
    patch.setattr(
        "tests.store.format.test_layout.document_name", layout.document_name, raising=False
    )


# Locks, processes and revisions


@fault("tests/store/test_contracts.py::TestFileStorePersistence::test_updates_from_several_handles")
def unlocked_update(patch: Patch) -> None:
    def run(self: lock.StoreLock, work: Callable[[], object], **_: object) -> None:
        self._open()
        self._locked = True
        work()

    patch.setattr(lock.StoreLock, "run", run)


@fault("tests/store/test_contracts.py::TestFileStore::test_update_runs_again_on_what_it_missed")
def update_without_comparing(patch: Patch) -> None:
    real = documents.Documents.stored

    def stored(self: documents.Documents, environment_id: str) -> documents.Stored | None:
        found = real(self, environment_id)
        if found is not None:
            found.data = b"the same"
        return found

    patch.setattr(documents.Documents, "stored", stored)


@fault("tests/store/fs/test_lock.py::test_the_lock_file_is_permanent")
def lock_file_unlinked(patch: Patch) -> None:
    real = lock.StoreLock._release

    def release(self: lock.StoreLock) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._file.path)
        real(self)

    patch.setattr(lock.StoreLock, "_release", release)


@fault("tests/store/fs/test_lock.py::test_an_interrupt_at_any_instruction")
def lock_kept_after_an_interrupt(patch: Patch) -> None:
    def run(self: lock.StoreLock, work: Callable[[], object], **_: object) -> None:
        self._acquire(self._timeout)
        try:
            work()
        finally:
            self._release()

    patch.setattr(lock.StoreLock, "run", run)


@fault("tests/store/fs/test_lock.py::test_a_removed_lock_file_is_noticed")
def removed_lock_file_unnoticed(patch: Patch) -> None:
    patch.setattr(in_place_file.PermanentFile, "is_in_place", lambda _: True)


@fault("tests/store/fs/test_lock.py::test_parent_and_child_exclude_each_other")
def descriptor_kept_across_fork(patch: Patch) -> None:
    patch.setattr(lock.StoreLock, "forget_after_fork", _nothing)


@fault("tests/store/fs/test_lock.py::test_reads_do_not_wait_for_a_stopped_holder")
def readers_take_the_lock(patch: Patch) -> None:
    real = file_store.FileStore._begin_reading

    def begin(self: file_store.FileStore) -> None:
        real(self)
        self._writer.recover(timeout=0)

    patch.setattr(file_store.FileStore, "_begin_reading", begin)


@fault("tests/store/test_contracts.py::TestFileStore::test_update_refuses_to_write_inside")
def writing_inside_update_allowed(patch: Patch) -> None:
    patch.setattr(inputs, "refuse_inside", _nothing)


@fault("tests/store/test_contracts.py::TestFileStore::test_revisions_rise_across_deletes")
def revisions_from_the_documents_alone(patch: Patch) -> None:
    real = session.Position.catch_up

    def catch_up(self: session.Position) -> None:
        real(self)
        self.committed = documents.Documents(self._layout).highest_revision()

    patch.setattr(session.Position, "catch_up", catch_up)


@fault("tests/store/journal/test_state.py::test_another_boot")
def record_of_another_boot_trusted(patch: Patch) -> None:
    for module in (session, view):
        patch.setattr(module, "identity", lambda layout: f"boot:{state.place(layout)}")


@fault("tests/store/journal/test_state.py::test_another_mount")
def record_of_another_mount_trusted(patch: Patch) -> None:
    for module in (session, view):
        patch.setattr(module, "identity", lambda layout: f"boot:{state.place(layout)}")


@fault("tests/store/journal/test_state.py::test_every_flipped_byte_is_noticed")
def record_without_a_checksum(patch: Patch) -> None:
    patch.setattr(state, "int", lambda *_: 0, raising=False)
    patch.setattr(state, "crc32", lambda _: 0)


@fault("tests/store/test_contracts.py::TestFileStore::test_create_within_capacity")
def leftovers_count_as_live(patch: Patch) -> None:
    patch.setattr(Status, "is_live", True)


@fault("tests/store/read/test_view.py::test_what_a_listing_misses_is_in_the_journal")
def scan_that_trusts_one_listing(patch: Patch) -> None:
    patch.setattr(view, "changes", lambda *_, **__: iter(()))


@fault("tests/store/read/test_view.py::test_a_writer_that_was_stopped_in_the_middle")
def change_under_way_overlooked(patch: Patch) -> None:
    real = state.peek

    def peek(path: str) -> state.State | None:
        found = real(path)
        return found and found._replace(published=found.committed)

    patch.setattr(view, "peek", peek)


@fault("tests/store/write/test_initialize.py::test_a_folder_of_somebody_else_is_refused")
def any_folder_taken(patch: Patch) -> None:
    patch.setattr(initialize, "_is_adoptable", lambda _: False)


@fault("tests/store/write/test_initialize.py::test_left_over_files_are_cleared")
def temporary_files_never_cleared(patch: Patch) -> None:
    patch.setattr(disk.Disk, "clear", _nothing)


@fault("tests/store/test_model.py::TestStores::runTest")
def revision_0_matches_anything(patch: Patch) -> None:
    real = file_store.FileStore.save

    def save(
        self: file_store.FileStore,
        environment: environment.Environment,
        *,
        if_revision: int | None = None,
    ) -> int:
        return real(self, environment, if_revision=if_revision or None)

    patch.setattr(file_store.FileStore, "save", save)


# The journal


@fault("tests/store/test_durability.py::test_save_flushes_once_between_staging_and_publishing")
def published_before_the_flush(patch: Patch) -> None:
    def append(self: live_segment.Journal, line: bytes) -> None:
        disk.write(self._file(), line, self.tail)
        self.tail += len(line)

    real = session.Position.note

    def note(self: session.Position, **given: int) -> None:
        if "published" in given:
            self.journal.flush()
        real(self, **given)

    patch.setattr(live_segment.Journal, "append", append)
    patch.setattr(session.Position, "note", note)


@fault("tests/store/write/test_writer.py::test_waiting_threads_share_a_flush")
def many_lines_a_flush(patch: Patch) -> None:
    def line(self: batch.Batch) -> bytes:
        return b"".join(lines.encode(lines.CHANGES, [change]) for change in self._changes)

    patch.setattr(batch.Batch, "line", line)


@fault("tests/store/test_durability.py::test_a_checkpoint_comes_after_the_documents_are_durable")
def no_flush_at_a_checkpoint(patch: Patch) -> None:
    patch.setattr(writer, "flush_window", _nothing)


@fault("tests/store/test_durability.py::test_a_checkpoint_comes_after_the_documents_are_durable")
def checkpoint_before_the_documents_are_durable(patch: Patch) -> None:
    flush = checkpoint.flush_window
    finish = writer.Writer._finish_checkpoint
    patch.setattr(writer, "flush_window", _nothing)

    def finish_first(self: writer.Writer, *given: Any) -> None:
        finish(self, *given)
        flush(self._layout, self._disk, 1 << 50, self._position.folder())

    patch.setattr(writer.Writer, "_finish_checkpoint", finish_first)


@fault(
    "tests/store/test_durability.py::test_a_switch_makes_the_new_segment_durable_before_it_counts"
)
def new_segment_not_flushed(patch: Patch) -> None:
    real = disk.Disk.stage
    patch.setattr(disk.Disk, "stage", lambda self, *given, **_: real(self, *given, flush=False))


@fault(
    "tests/store/test_durability.py::test_a_switch_makes_the_new_segment_durable_before_it_counts"
)
def name_of_the_new_segment_not_flushed(patch: Patch) -> None:
    patch.setattr(disk.Disk, "flush_folder", _nothing)


@fault("tests/store/test_durability.py::test_after_a_failed_flush_documents_are_written_anew")
def flush_repeated_after_it_failed(patch: Patch) -> None:
    patch.setattr(session.Position, "publish_anew", _nothing)


@fault("tests/store/test_failures.py::test_a_segment_whose_flush_failed_is_left")
def segment_reused_after_a_failed_flush(patch: Patch) -> None:
    def stay(self: live_segment.Journal, _: int, cut: int, **__: object) -> None:
        disk.write(self._file(), b" " * 4096, cut)
        self.tail = cut

    patch.setattr(live_segment.Journal, "switch", stay)


@fault("tests/store/write/test_recovery.py::test_recovery_never_goes_back")
def replay_that_regresses(patch: Patch) -> None:
    patch.setattr(recovery, "_is_outdated", lambda *_, **__: True)


@fault("tests/store/write/test_recovery.py::test_a_torn_temporary_file_is_of_no_use")
def replay_from_a_temporary_file(patch: Patch) -> None:
    def publish(store: layout.Layout, disk: disk.Disk, path: str, *_: object, **__: object) -> None:
        for name in os.listdir(store.temporary):
            disk.replace(os.path.join(store.temporary, name), path)

    patch.setattr(disk.Disk, "clear", _nothing)
    patch.setattr(recovery, "_publish", publish)


@fault("tests/store/write/test_recovery.py::test_an_unknown_version_is_kept_as_evidence")
def displaced_documents_destroyed(patch: Patch) -> None:
    patch.setattr(recovery, "_keep_unknown", _nothing)


@fault("tests/store/write/test_recovery.py::test_a_journal_flipped_at_every_byte")
def lines_without_a_checksum(patch: Patch) -> None:
    patch.setattr(lines, "crc32", lambda *_: 0)


@fault("tests/store/write/test_recovery.py::test_a_journal_flipped_at_every_byte")
def damage_taken_for_a_torn_tail(patch: Patch) -> None:
    patch.setattr(segments.Segment, "refuse_damage", _nothing)


@fault("tests/store/write/test_recovery.py::test_stale_and_doubled_lines")
def stale_lines_counted(patch: Patch) -> None:
    def all_changes(layout: layout.Layout, **_: object) -> Any:
        for first in segments.listed(layout):
            for line in segments.segment(layout, first, None).good:
                yield from line.changes

    patch.setattr(changes, "changes", all_changes)
    patch.setattr("waggle_fsstore.store.read.history.changes", all_changes)


@fault("tests/store/write/test_recovery.py::test_a_copy_older_than_its_checkpoint")
def copy_taken_for_the_original(patch: Patch) -> None:
    for module in (state, session, view):
        patch.setattr(module, "place", lambda _: "the place")
    patch.setattr("waggle_fsstore.store.write.checkpoint.place", lambda _: "the place")


@fault("tests/store/write/test_recovery.py::test_what_a_dead_writer_left_is_finished")
def what_a_dead_writer_left_overwritten(patch: Patch) -> None:
    patch.setattr(live_segment.Journal, "is_undisturbed", lambda _: True)


@fault("tests/store/write/test_writer.py::test_each_has_its_own_author")
def leader_signs_for_all(patch: Patch) -> None:
    real = batch.Change.__init__
    patch.setattr(
        batch.Change,
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

    real = group_commit.Request.__init__

    def init(self: group_commit.Request, *given: Any, **options: Any) -> None:
        real(self, *given, **options)
        self.claim = Claim()  # type: ignore[assignment]

    patch.setattr(group_commit.Request, "__init__", init)


@fault("tests/store/read/test_history.py::test_what_is_not_published_is_not_shown")
def history_of_what_may_be_taken_back(patch: Patch) -> None:
    real = view.View.state

    def state_of(self: view.View) -> state.State:
        found = real(self)
        return found._replace(published=found.committed, offset=0)

    patch.setattr(view.View, "state", state_of)


@fault("tests/store/read/test_history.py::test_a_change_by_hand_is_an_event_of_its_own")
def changes_by_hand_forgotten(patch: Patch) -> None:
    patch.setattr(batch.Change, "_noted", lambda _, stored: stored)


# Checks, repairs, copies


@fault("tests/store/maintenance/test_fsck.py::test_changes_during_a_check_are_no_findings")
def check_without_a_second_look(patch: Patch) -> None:
    patch.setattr(
        fsck._Examiner, "examine", lambda self, name: self._compare(name, self._words.get(name))
    )


@fault("tests/store/maintenance/test_fsck.py::test_a_deleted_document_is_not_missed")
def deleted_ones_brought_back(patch: Patch) -> None:
    real = fsck._Examiner._missing
    patch.setattr(
        fsck._Examiner,
        "_missing",
        lambda self, path, word: real(self, path, word and word._replace(is_deleted=False)),
    )
    patch.setattr(latest.LastWords, "present", lambda self: sorted(self._words))


@fault("tests/store/maintenance/test_fsck.py::test_nothing_is_ever_deleted")
def repair_without_evidence(patch: Patch) -> None:
    patch.setattr(lost_and_found, "keep", lambda *_: "nowhere")


@fault("tests/store/maintenance/test_fsck.py::test_the_same_evidence_is_kept_once")
def evidence_that_piles_up(patch: Patch) -> None:
    patch.setattr(lost_and_found, "_of_stem", lambda *_: [])


@fault("tests/store/maintenance/test_fsck.py::test_a_damaged_line_during_a_watch")
def damage_cut_out(patch: Patch) -> None:
    def cut(_: layout.Layout, segment: segments.Segment, __: list[int]) -> bytes:
        return b"".join(segment.text(line) for line in segment.good).ljust(1 << 16)

    patch.setattr(damage, "_blanked", cut)


@fault("tests/store/maintenance/test_snapshot.py::test_changes_during_the_copy")
def snapshot_of_several_moments(patch: Patch) -> None:
    patch.setattr(snapshot._Copy, "lay_over", lambda *_: [])


@fault("tests/store/maintenance/test_snapshot.py::test_order_of_the_calls[3]")
def snapshot_named_before_it_is_durable(patch: Patch) -> None:
    patch.setattr(snapshot._Copy, "_flush", _nothing)


@fault("tests/store/maintenance/test_snapshot.py::test_a_corrupt_document")
def snapshot_without_the_corrupt(patch: Patch) -> None:
    real = snapshot._Copy.lay_over
    patch.setattr(snapshot._Copy, "lay_over", lambda self, over: real(self, over)[:0])


@fault("tests/store/maintenance/test_snapshot.py::test_a_snapshot_that_was_damaged[change_a_byte]")
def sums_not_looked_at(patch: Patch) -> None:
    patch.setattr(restore, "_sums_of", _nothing)


@fault("tests/store/maintenance/test_prune.py::test_without_flushes")
def pruning_what_recovery_needs(patch: Patch) -> None:
    patch.setattr(prune, "find_window", lambda *_: changes.Window(1 << 50, 1 << 50, 0, False))


@fault("tests/store/maintenance/test_prune.py::test_the_order_of_the_calls")
def removals_that_leave_holes(patch: Patch) -> None:
    patch.setattr(disk.Disk, "flush_folder", _nothing)


@fault("tests/store/maintenance/test_prune.py::test_a_checkpoint_comes_first")
def pruning_without_a_checkpoint(patch: Patch) -> None:
    patch.setattr(writer.Writer, "checkpoint", _nothing)
