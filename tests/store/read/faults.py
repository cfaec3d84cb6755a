# SPDX-License-Identifier: Apache-2.0
"""Planted faults of reading: each breaks one of its promises."""

import os
import time
from functools import lru_cache
from operator import attrgetter
from typing import Any
from unittest.mock import ANY

from tests.planted import Patch, fault, nothing
from waggle_fsstore.domain import environment
from waggle_fsstore.domain.errors import StoreGoneError
from waggle_fsstore.store import file_store
from waggle_fsstore.store.fs import disk, safe_read
from waggle_fsstore.store.journal import changes, live_segment, segments, state
from waggle_fsstore.store.read import (
    change_detector,
    document_cache,
    documents,
    history,
    inotify,
    pending_overlay,
    seen_store,
    stat_signature,
    view,
)
from waggle_fsstore.store.write import batch, initialize

CACHE = "tests/store/read/cache"


@fault("tests/store/test_contracts.py::TestFileStore::test_watch_ends_where_time_is_frozen")
def watch_by_frozen_clock(patch: Patch) -> None:
    patch.setattr(history, "monotonic", lambda: time.monotonic())


@fault("tests/store/test_file_store.py::test_replaced_files_keep_their_mode")
def ignore_mode_of_old_file(patch: Patch) -> None:
    patch.setattr(documents, "S_IMODE", lambda _: disk.FILE_MODE)


@fault("tests/store/test_file_store.py::test_manual_edit_is_seen_by_next_read")
def cache_file_contents_by_path(patch: Patch) -> None:
    cached = lru_cache(safe_read.read_with_status)
    patch.setattr(documents, "read_regular", lru_cache(safe_read.read_regular))
    patch.setattr(documents, "read_with_status", cached)
    patch.setattr(document_cache, "read_with_status", cached)


@fault(f"{CACHE}/test_manual_edits.py::test_rewrites_within_one_tick_are_all_seen")
def cache_within_the_tick(patch: Patch) -> None:
    patch.setattr(stat_signature, "_SETTLING_TIME_NS", -(1 << 62))


@fault(f"{CACHE}/test_manual_edits.py::test_manual_edit_is_seen_by_next_listing")
def omit_ctime_from_signature(patch: Patch) -> None:
    names = ("st_ino", "st_size", "st_mtime_ns", "st_mode", "st_dev")
    patch.setattr(stat_signature, "signature_of", attrgetter(*names))


@fault(f"{CACHE}/test_document_cache.py::test_directories_swapped_during_read_are_seen")
def take_signature_after_read(patch: Patch) -> None:
    real = document_cache.read_document

    def read(name: str, path: str) -> tuple[environment.Environment, os.stat_result]:
        found, _ = real(name, path)
        return found, os.lstat(path)

    patch.setattr(document_cache, "read_document", read)


@fault(f"{CACHE}/test_document_cache.py::test_changes_by_callers_do_not_reach_cache")
def return_cached_environments(patch: Patch) -> None:
    patch.setattr(environment.Environment, "copy_unchecked", lambda self: self)


@fault(f"{CACHE}/test_live_count.py::test_capacity_counts_manual_edits")
def count_live_without_refresh(patch: Patch) -> None:
    real = document_cache.DocumentCache._refresh
    patch.setattr(
        document_cache.DocumentCache, "_refresh", lambda self: self._contents or real(self)
    )


@fault(f"{CACHE}/test_concurrency.py::test_forked_child_checks_inherited_cache")
def share_watcher_with_child(patch: Patch) -> None:
    patch.setattr(document_cache.DocumentCache, "reset_after_fork", nothing)


@fault(
    f"{CACHE}/test_change_detector.py::test_edit_through_link_in_other_directory_is_seen_after_5_s"
)
def skip_complete_checks(patch: Patch) -> None:
    patch.setattr(change_detector, "_COMPLETE_CHECK_INTERVAL_S", float("inf"))


@fault("tests/store/read/test_inotify.py::test_replaced_parent_directory_is_detected")
def skip_check_of_watched_directory(patch: Patch) -> None:
    patch.setattr(inotify.DirectoryWatcher, "watches", lambda *_: True)


@fault(f"{CACHE}/test_change_detector.py::test_recreated_directory_with_same_inode_is_detected")
def ignore_end_of_watch(patch: Patch) -> None:
    patch.setattr(inotify, "_WATCH_ENDED", 0)


@fault(f"{CACHE}/test_change_detector.py::test_listing_in_signal_handler_takes_no_events")
def take_events_in_signal_handler(patch: Patch) -> None:
    real = document_cache.DocumentCache._refresh

    def refresh(self: document_cache.DocumentCache) -> document_cache._Contents:
        self._contents = self._contents or document_cache._EMPTY
        return real(self)

    patch.setattr(document_cache.DocumentCache, "_refresh", refresh)


@fault(f"{CACHE}/test_change_detector.py::test_interrupted_listing_loses_no_change")
def keep_cache_of_interrupted_listing(patch: Patch) -> None:
    real = document_cache.DocumentCache._refresh

    def refresh(self: document_cache.DocumentCache) -> document_cache._Contents:
        before = self._contents
        try:
            return real(self)
        except BaseException:
            self._contents, self._stale = before, set()
            raise

    patch.setattr(document_cache.DocumentCache, "_refresh", refresh)
    patch.setattr(change_detector.ChangeDetector, "stop", nothing)


@fault("tests/store/read/test_inotify.py::test_queue_overflow_is_reported_as_unknown")
def ignore_lost_events(patch: Patch) -> None:
    real = inotify.DirectoryWatcher.changed

    def changed(self: inotify.DirectoryWatcher) -> set[str]:
        return real(self) or set()

    patch.setattr(inotify.DirectoryWatcher, "changed", changed)


@fault("tests/store/test_file_store.py::test_corrupt_document_harms_no_other")
def fail_listing_on_one_bad_document(patch: Patch) -> None:
    def strict(self: documents.Documents) -> Any:
        return [self.find(name.removesuffix(".json")) for name in self.names()], []

    patch.setattr(documents.Documents, "read_all", strict)


@fault("tests/store/read/test_history.py::test_history_follows_replaced_store")
def continue_at_offset_of_other_store(patch: Patch) -> None:
    patch.setattr(segments, "is_in_place", lambda *_: True)


@fault("tests/store/test_contracts.py::TestFileStore::test_update_runs_again_on_missed_version")
def update_without_comparing(patch: Patch) -> None:
    real = documents.Documents.stored

    def stored(self: documents.Documents, environment_id: str) -> documents.StoredDocument | None:
        found = real(self, environment_id)
        if found is not None:
            found.data = b"the same"
        return found

    patch.setattr(documents.Documents, "stored", stored)


@fault("tests/store/read/test_view.py::test_scan_adds_what_listing_misses")
def omit_changes_during_scan(patch: Patch) -> None:
    patch.setattr(view, "changes", lambda *_, **__: iter(()))


@fault("tests/store/read/test_view.py::test_scan_sees_whole_batches_of_several_mounts")
def take_other_mount_for_other_store(patch: Patch) -> None:
    patch.setattr(view, "inode_of", lambda mounted_id: mounted_id)


@fault("tests/store/read/test_view.py::test_scan_agrees_with_writers_without_birth_times")
def take_missing_birth_time_for_other_store(patch: Patch) -> None:
    patch.setattr(view, "inode_of", lambda mounted_id: mounted_id.rpartition(":")[2])


@fault("tests/store/read/test_view.py::test_scan_sees_whole_batches_without_state_record")
def take_missing_record_for_empty_journal(patch: Patch) -> None:
    real = view.View.scan

    def scan(self: view.View, collect: Any) -> Any:
        if state.read_state(self._layout.state) is None:
            return pending_overlay.Scan(collect(), {}, 0)
        return real(self, collect)

    patch.setattr(view.View, "scan", scan)


@fault("tests/store/read/test_view.py::test_scan_of_exchanged_stores_is_an_error")
def merge_scans_of_different_stores(patch: Patch) -> None:
    patch.setattr(view, "inode_of", lambda _: "the same")


@fault("tests/store/read/test_view.py::test_scan_ends_where_its_overlay_ends")
def read_end_of_scan_after_its_overlay(patch: Patch) -> None:
    real = pending_overlay.PendingOverlay.scan

    def scan(self: pending_overlay.PendingOverlay, collect: Any) -> Any:
        return real(self, collect)._replace(seq=self.end().committed)

    patch.setattr(pending_overlay.PendingOverlay, "scan", scan)


@fault("tests/store/read/test_view.py::test_other_mounts_show_nothing_before_it_is_synced")
def overlook_live_writers_in_other_mounts(patch: Patch) -> None:
    patch.setattr(state, "is_in_use", lambda _: False)


@fault("tests/store/read/test_view.py::test_lines_of_dead_writer_are_synced_before_they_are_shown")
def show_unsynced_lines_of_dead_writer(patch: Patch) -> None:
    patch.setattr(pending_overlay, "boot_of", lambda _: "another")


@fault("tests/store/read/test_view.py::test_busy_writer_of_unknown_mount_delays_no_reader")
def wait_for_pause_of_busy_writer(patch: Patch) -> None:
    real = pending_overlay.PendingOverlay.end

    def end(self: pending_overlay.PendingOverlay) -> state.State:
        while (found := real(self)).mounted_id:
            pass
        return found

    patch.setattr(pending_overlay.PendingOverlay, "end", end)


@fault("tests/store/read/test_view.py::test_disk_image_without_fsync_is_read[True]")
def require_fsync_of_disk_image(patch: Patch) -> None:
    patch.setattr(pending_overlay, "NO_SYNC", frozenset())


@fault("tests/store/read/test_view.py::test_scan_sees_batch_of_stopped_writer")
def treat_committed_as_published(patch: Patch) -> None:
    real = state.read_state

    def read_state(path: str) -> state.State | None:
        found = real(path)
        return found and found._replace(published=found.committed)

    patch.setattr(view, "read_state", read_state)


@fault("tests/store/read/test_history.py::test_unpublished_changes_are_invisible")
def show_unpublished_changes(patch: Patch) -> None:
    real = view.View.state

    def state_of(self: view.View) -> state.State:
        found = real(self)
        return found._replace(published=found.committed, offset=0)

    patch.setattr(view.View, "state", state_of)


@fault("tests/store/read/test_history.py::test_manual_edit_is_an_event")
def omit_external_changes(patch: Patch) -> None:
    patch.setattr(batch.Transaction, "record_external", lambda _, stored: stored)


@fault("tests/store/read/test_history.py::test_watch_raises_again_after_error")
def end_watch_after_error(patch: Patch) -> None:
    real = history.History._follow

    def follow(self: history.History, cursor: Any) -> Any:
        next_event = real(self, cursor)

        def events() -> Any:
            while True:
                yield next_event()

        return events().__next__

    patch.setattr(history.History, "_follow", follow)


CURSORS = "tests/store/read/test_cursors.py"


@fault(f"{CURSORS}::test_older_state_put_back_is_noticed")
def trust_cursors_of_the_same_era(patch: Patch) -> None:
    patch.setattr(segments, "is_in_place", lambda *_: False)
    patch.setattr(segments, "locate", lambda *_: None)


@fault(f"{CURSORS}::test_copy_begins_an_era")
def keep_era_in_copy(patch: Patch) -> None:
    real = live_segment.LiveSegment.rotate

    def rotate(*arguments: Any, **options: Any) -> None:
        real(*arguments, **{**options, "begins_era": False})

    patch.setattr(live_segment.LiveSegment, "rotate", rotate)


@fault(f"{CURSORS}::test_new_journal_begins_an_era")
def number_eras_from_one(patch: Patch) -> None:
    patch.setattr(live_segment, "_new_era", lambda: "00000001")


@fault(f"{CURSORS}::test_prune_before_first_event_is_noticed")
def begin_history_at_oldest_segment(patch: Patch) -> None:
    real = changes._segments

    def lenient(*arguments: Any, **_: bool) -> Any:
        return real(*arguments, strict=False)

    patch.setattr(changes, "_segments", lenient)


@fault(f"{CURSORS}::test_older_state_put_back_between_segments_is_noticed")
def verify_position_once(patch: Patch) -> None:
    real = history.History._find
    patch.setattr(
        history.History,
        "_find",
        lambda self, anchor: anchor if anchor.seq > 1 else real(self, anchor),
    )


@fault(f"{CURSORS}::test_older_state_that_did_not_grow_is_noticed")
def end_watch_where_journal_ends(patch: Patch) -> None:
    patch.setattr(history.History, "_verify", lambda _, position: position.anchor)
    patch.setattr(history.History, "_find", lambda _, anchor: anchor)


@fault(f"{CURSORS}::test_position_is_the_last_change_that_was_seen")
def begin_watch_where_state_record_ends(patch: Patch) -> None:
    real = segments.locate

    def locate(layout: Any, seq: int) -> Any:
        found = real(layout, seq)
        return found and found._replace(seq=seq)

    patch.setattr(segments, "locate", locate)
    patch.setattr("tests.store.read.test_cursors.TIMEOUT_S", 1.0)


@fault(f"{CURSORS}::test_older_state_that_grew_to_the_same_number_is_noticed")
def look_at_higher_numbers_only(patch: Patch) -> None:
    real = history.History._read

    def read(self: history.History, position: Any, end: Any, only: Any) -> Any:
        return real(self, position, end, only) if end.seq > position.anchor.seq else iter(())

    patch.setattr(history.History, "_read", read)


@fault(f"{CURSORS}::test_watch_of_empty_store_does_not_begin_behind_a_gap")
def begin_watch_at_oldest_event(patch: Patch) -> None:
    patch.setattr(segments, "oldest_kept", lambda _: 0)


@fault(f"{CURSORS}::test_store_without_eras_keeps_its_cursors")
def begin_era_with_each_segment(patch: Patch) -> None:
    patch.setattr(segments, "era", lambda _: live_segment._new_era())


SEEN_STORE = "tests/store/read/test_seen_store.py"


@fault(f"{SEEN_STORE}::test_store_made_during_a_look_is_not_gone")
def remember_store_that_another_thread_makes_meanwhile(patch: Patch) -> None:
    def check(self: seen_store.SeenStore) -> bool:
        marker = self._layout.marker
        if not os.path.exists(marker):
            if self._seen == marker:
                raise StoreGoneError(self._layout.root)
            return False
        self._seen = marker
        return True

    patch.setattr(seen_store.SeenStore, "check", check)


@fault(f"{SEEN_STORE}::test_gone_store_is_an_error_until_it_is_back")
def take_gone_store_for_empty_one(patch: Patch) -> None:
    patch.setattr(seen_store.SeenStore, "check", lambda _: True)


@fault(f"{SEEN_STORE}::test_gone_store_is_an_error_until_it_is_back[put_file]")
def take_file_for_store(patch: Patch) -> None:
    real = seen_store.SeenStore.check

    def check(self: seen_store.SeenStore) -> bool:
        return os.path.isfile(self._layout.root) or real(self)

    patch.setattr(seen_store.SeenStore, "check", check)


@fault(f"{SEEN_STORE}::test_store_that_vanishes_during_a_read_is_noticed")
def check_presence_before_scans_only(patch: Patch) -> None:
    patch.setattr(file_store.FileStore, "_is_whole", lambda _: True)


@fault(f"{SEEN_STORE}::test_removed_documents_directory_is_recovered_by_reads")
def list_missing_directory_as_empty(patch: Patch) -> None:
    def check(self: file_store.FileStore) -> bool:
        return self._seen_store.check() or True

    patch.setattr(file_store.FileStore, "_is_whole", check)


@fault(f"{SEEN_STORE}::test_opening_begins_a_store_where_none_was_seen")
def forget_store_that_was_made_here(patch: Patch) -> None:
    real = initialize.initialize

    def forgetful(layout: Any, used: disk.Disk) -> None:
        real(layout, used)
        patch.setattr(seen_store.SeenStore, "check", lambda _: True)

    patch.setattr(initialize, "initialize", forgetful)


@fault(f"{SEEN_STORE}::test_server_lock_makes_nothing_where_a_store_was")
def make_lock_dir_without_asking(patch: Patch) -> None:
    patch.setattr(seen_store.SeenStore, "check", nothing)


@fault("tests/store/read/test_view.py::test_iteration_reads_each_document_at_its_turn")
def read_all_documents_before_iteration(patch: Patch) -> None:
    patch.setattr(file_store.FileStore, "iter_all", lambda self: iter(self.find_all()))


@fault("tests/store/read/test_view.py::test_iteration_adds_what_listing_misses")
def iterate_over_listing_alone(patch: Patch) -> None:
    patch.setattr(view.View, "names", lambda self: dict.fromkeys(self._documents.names()))


@fault("tests/store/read/test_view.py::test_iteration_gives_pending_changes")
def iterate_without_pending_changes(patch: Patch) -> None:
    real = view.View.find_named
    patch.setattr(view.View, "find_named", lambda self, name, _: real(self, name, None))


@fault("tests/store/test_contracts.py::TestFileStore::test_iteration_allows_changes")
def report_deleted_documents_of_iteration(patch: Patch) -> None:
    patch.setattr(view.View, "find_named", lambda self, name, _: self._documents.named(name))


@fault("tests/store/read/test_view.py::test_iteration_of_removed_store_raises")
def iterate_without_looking_at_store(patch: Patch) -> None:
    patch.setattr(file_store.FileStore, "_scan", lambda _, scan: scan())


@fault(f"{CACHE}/test_count.py::test_manual_edit_is_counted[removed-by signature]")
def count_names_once(patch: Patch) -> None:
    patch.setattr(document_cache.DocumentCache, "signature", lambda self: self._layout)
    real = document_cache.DocumentCache.listing
    patch.setattr(
        document_cache.DocumentCache, "listing", lambda self: (self._layout, real(self)[1])
    )


@fault(f"{CACHE}/test_count.py::test_unchanged_names_are_not_listed_again")
def list_names_for_each_count(patch: Patch) -> None:
    patch.setattr(document_cache.DocumentCache, "signature", nothing)


@fault(f"{CACHE}/test_count.py::test_change_before_its_rename_is_counted")
def count_without_committed_changes(patch: Patch) -> None:
    real = state.read_state

    def read_state(path: str) -> state.State | None:
        found = real(path)
        return found and found._replace(committed=found.published)

    patch.setattr(view, "read_state", read_state)


@fault(f"{CACHE}/test_count.py::test_stores_exchanged_during_listing_are_told_apart")
def list_names_by_path(patch: Patch) -> None:
    real = document_cache.DocumentCache.names
    patch.setattr(document_cache.DocumentCache, "names", lambda self, *_: real(self))


@fault(f"{CACHE}/test_count.py::test_names_added_within_one_tick_are_counted")
def trust_time_of_changing_directory(patch: Patch) -> None:
    patch.setattr(stat_signature, "_is_past", lambda *_: True)


@fault(f"{CACHE}/test_stress.py::test_reads_between_changes_show_the_last")
def answer_from_an_old_listing(patch: Patch) -> None:
    real = document_cache.DocumentCache._refresh
    patch.setattr(
        document_cache.DocumentCache, "_refresh", lambda self: self._contents or real(self)
    )


@fault(f"{CACHE}/test_found.py::test_manual_edit_is_found[found-in place-by signature]")
def find_what_was_found_before(patch: Patch) -> None:
    patch.setattr(documents, "signature_of", lambda _: ANY)


@fault(f"{CACHE}/test_found.py::test_unchanged_document_is_not_opened[found-by signature]")
def open_each_document_that_is_found(patch: Patch) -> None:
    patch.setattr(documents.Documents, "_remember", nothing)


@fault(f"{CACHE}/test_found.py::test_document_with_two_names_is_opened[by signature]")
def remember_documents_with_two_names(patch: Patch) -> None:
    real = document_cache.CachedDocument
    patch.setattr(
        document_cache, "CachedDocument", lambda found, signature, _: real(found, signature, False)
    )


@fault(f"{CACHE}/test_found.py::test_number_of_remembered_documents_is_bounded[by signature]")
def remember_every_document(patch: Patch) -> None:
    def remember(self: documents.Documents, name: str, document: Any) -> None:
        self._known[name] = document

    patch.setattr(documents.Documents, "_remember", remember)


_SAVED = f"{CACHE}/test_saved.py"


@fault(f"{_SAVED}::test_saved_document_is_compared[by signature]")
def decode_each_document_that_was_saved(patch: Patch) -> None:
    patch.setattr(documents.Documents, "remember_saved", nothing)


@fault(f"{_SAVED}::test_saved_document_is_not_opened_once_its_time_is_past[by signature]")
def open_each_document_that_was_saved(patch: Patch) -> None:
    patch.setattr(documents.Documents, "_signature", nothing)


@fault(f"{_SAVED}::test_manual_edit_right_after_a_save_is_found[in place-by signature]")
def find_what_was_saved(patch: Patch) -> None:
    real = documents.Documents._find_file

    def find(self: documents.Documents, environment_id: str) -> Any:
        known = self._known.get(environment_id)
        return known.environment if known is not None else real(self, environment_id)

    patch.setattr(documents.Documents, "_find_file", find)


@fault(f"{_SAVED}::test_manual_edit_right_after_a_save_is_recorded[in_place-by signature]")
def replace_what_was_saved(patch: Patch) -> None:
    patch.setattr(documents, "has_still", lambda *_: True)


@fault(f"{_SAVED}::test_saved_document_with_two_names_is_opened[by signature]")
def trust_status_of_saved_documents_with_two_names(patch: Patch) -> None:
    def signature(self: documents.Documents, status: os.stat_result, now: int) -> Any:
        return stat_signature.settled_signature(status, self._layout.environments, now)

    patch.setattr(documents.Documents, "_signature", signature)


@fault(f"{_SAVED}::test_large_saved_document_is_decoded[by signature]")
def remember_saved_documents_of_any_size(patch: Patch) -> None:
    patch.setattr(documents, "MAX_CACHED_BYTES", 1 << 30)


@fault(f"{_SAVED}::test_mode_is_that_of_the_look[by signature]")
def change_mode_of_shared_document(patch: Patch) -> None:
    def with_mode(self: documents.StoredDocument, mode: int) -> documents.StoredDocument:
        self.mode = mode
        return self

    patch.setattr(documents.StoredDocument, "with_mode", with_mode)


@fault(f"{_SAVED}::test_mode_of_saved_document_is_kept[by signature]")
def forget_mode_of_saved_documents(patch: Patch) -> None:
    real = documents.StoredDocument.of

    def with_mode(path: str, data: bytes, fields: Any, status: Any, _: int) -> Any:
        return real(path, data, fields, status, disk.FILE_MODE)

    patch.setattr(documents.StoredDocument, "of", with_mode)


_NOTICES = f"{CACHE}/test_count_by_notices.py"


@fault(f"{_NOTICES}::test_changes_are_counted_without_a_listing[0]")
def list_at_each_count_after_a_change(patch: Patch) -> None:
    patch.setattr(document_cache.DocumentCache, "count", lambda *_: (None, None))


@fault(f"{_NOTICES}::test_manual_edit_is_counted[removed-0]")
def count_names_that_are_gone(patch: Patch) -> None:
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        try:
            return real(path)
        except FileNotFoundError:
            return real(os.path.dirname(path))

    patch.setattr(os, "lstat", lstat)


@fault(f"{_NOTICES}::test_counted_changes_are_read_by_the_next_listing[0]")
def forget_what_a_count_was_told(patch: Patch) -> None:
    real = document_cache.DocumentCache.count

    def count(self: document_cache.DocumentCache, expected: int) -> Any:
        stale, counted = self._stale, real(self, expected)
        self._stale = stale and set()
        return counted

    patch.setattr(document_cache.DocumentCache, "count", count)


@fault(f"{_NOTICES}::test_batch_in_progress_is_counted_whole[0]")
def count_while_a_change_is_published(patch: Patch) -> None:
    patch.setattr(view.View, "_is_idle", lambda _: True)


@fault(f"{_NOTICES}::test_batch_that_ends_during_a_count_is_counted_whole[0]")
def count_what_has_changed_since(patch: Patch) -> None:
    patch.setattr(change_detector.ChangeDetector, "has_news", lambda _: False)


@fault("tests/store/read/test_inotify.py::test_events_that_wait_are_not_read")
def read_events_that_wait(patch: Patch) -> None:
    patch.setattr(inotify.DirectoryWatcher, "has_events", lambda self: bool(self._read()))


@fault(
    f"{CACHE}/test_change_detector.py::test_listing_in_signal_handler_sees_what_was_stored_before[0]"
)
def list_names_of_an_interrupted_listing(patch: Patch) -> None:
    real = document_cache.DocumentCache._updated

    def updated(
        self: document_cache.DocumentCache, before: Any, changed: set[str] | None, **options: Any
    ) -> Any:
        known = self._present if before is document_cache._EMPTY else changed
        return real(self, before, changed if known is None else known, **options)

    patch.setattr(document_cache.DocumentCache, "_updated", updated)


@fault(f"{_NOTICES}::test_interrupt_at_any_instruction_leaves_nothing_out[count-0]")
def keep_names_of_an_interrupted_count(patch: Patch) -> None:
    continue_after_an_interrupted_count(patch)


@fault(f"{_NOTICES}::test_name_that_cannot_be_looked_up_is_counted[0]")
def take_a_failed_look_for_a_missing_file(patch: Patch) -> None:
    real = document_cache.DocumentCache._take_notices

    def take_notices(self: document_cache.DocumentCache, *given: Any) -> None:
        failing = os.lstat

        def lstat(path: str) -> os.stat_result:
            try:
                return failing(path)
            except OSError:
                raise FileNotFoundError from None

        with Patch.context() as inner:
            inner.setattr(os, "lstat", lstat)
            real(self, *given)

    patch.setattr(document_cache.DocumentCache, "_take_notices", take_notices)


@fault(f"{_NOTICES}::test_interrupted_count_leaves_nothing_out[0]")
def continue_after_an_interrupted_count(patch: Patch) -> None:
    def forget(self: document_cache.DocumentCache) -> None:
        self._contents = document_cache._EMPTY

    patch.setattr(document_cache.DocumentCache, "_forget", forget)
