# SPDX-License-Identifier: Apache-2.0
"""Planted faults of reading: each breaks one thing that it promises."""

import os
from functools import lru_cache
from operator import attrgetter
from typing import Any

from tests.planted import Patch, fault
from waggle_fsstore.domain import environment
from waggle_fsstore.store.fs import disk, safe_read
from waggle_fsstore.store.journal import (
    state,
)
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
)


@fault("tests/store/test_file_store.py::test_replaced_files_keep_their_mode")
def mode_of_the_old_file_lost(patch: Patch) -> None:
    patch.setattr(documents, "mode_of", lambda _: disk.FILE_MODE)


@fault("tests/store/test_file_store.py::test_a_change_by_hand_is_seen_by_the_next_read")
def reads_from_a_stale_cache(patch: Patch) -> None:
    cached = lru_cache(safe_read.read_regular)
    patch.setattr(documents, "read_regular", cached)
    patch.setattr(document_cache, "read_regular", cached)


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
    patch.setattr(environment.Environment, "copy_unchecked", lambda self: self)


@fault("tests/store/read/test_document_cache.py::test_capacity_counts_what_hands_did")
def count_from_memory(patch: Patch) -> None:
    real = document_cache.DocumentCache.live

    def live(self: document_cache.DocumentCache) -> set[str]:
        return (self._seen or document_cache._NOTHING).live or real(self)

    patch.setattr(document_cache.DocumentCache, "live", live)


@fault("tests/store/read/test_document_cache.py::test_a_child_inherits_what_is_remembered")
def notices_shared_with_a_child(patch: Patch) -> None:
    patch.setattr(document_cache.DocumentCache, "reset_after_fork", lambda _: None)


@fault("tests/store/read/test_document_cache.py::test_a_name_in_another_folder")
def notices_alone_relied_on(patch: Patch) -> None:
    patch.setattr(document_cache, "_LOOKS_EVERY", float("inf"))


@fault("tests/store/read/test_inotify.py::test_a_folder_above_is_exchanged")
def notices_of_a_folder_that_was_exchanged(patch: Patch) -> None:
    patch.setattr(inotify.DirectoryWatcher, "is_in_place", lambda _: True)


@fault("tests/store/read/test_document_cache.py::test_a_folder_remade_under_the_same_number")
def notices_relied_on_after_their_end(patch: Patch) -> None:
    patch.setattr(inotify, "_OVER", 0)


@fault("tests/store/read/test_document_cache.py::test_a_listing_in_the_middle_of_one")
def notices_taken_by_a_signal_handler(patch: Patch) -> None:
    real = document_cache.DocumentCache._refresh

    def look(self: document_cache.DocumentCache) -> document_cache._Contents:
        self._seen = self._seen or document_cache._NOTHING
        return real(self)

    patch.setattr(document_cache.DocumentCache, "_refresh", look)


@fault("tests/store/read/test_document_cache.py::test_a_listing_that_ends_in_the_middle")
def notices_lost_with_a_listing(patch: Patch) -> None:
    real = document_cache.DocumentCache._refresh

    def look(self: document_cache.DocumentCache) -> document_cache._Contents:
        before, noticed = self._seen, self._notices
        try:
            return real(self)
        except BaseException:
            self._seen, self._notices = before, noticed
            raise

    patch.setattr(document_cache.DocumentCache, "_refresh", look)


@fault("tests/store/read/test_inotify.py::test_more_than_the_system_keeps")
def lost_notices_not_missed(patch: Patch) -> None:
    real = inotify.DirectoryWatcher.changed

    def changed(self: inotify.DirectoryWatcher) -> set[str]:
        return real(self) or set()

    patch.setattr(inotify.DirectoryWatcher, "changed", changed)


@fault("tests/store/test_file_store.py::test_a_corrupt_document_harms_no_other")
def one_bad_document_hides_all(patch: Patch) -> None:
    def strict(self: documents.Documents) -> Any:
        return [self.find(name.removesuffix(".json")) for name in self.names()], []

    patch.setattr(documents.Documents, "read_all", strict)


@fault("tests/store/read/test_history.py::test_following_another_store")
def places_of_another_store(patch: Patch) -> None:
    real = history.History.events

    def events(self: history.History, *arguments: Any) -> Any:
        if self._last_seen:
            here = self._view.state().mounted_id
            self._last_seen = self._last_seen._replace(mounted_id=here)
        return real(self, *arguments)

    patch.setattr(history.History, "events", events)


@fault("tests/store/test_contracts.py::TestFileStore::test_update_runs_again_on_what_it_missed")
def update_without_comparing(patch: Patch) -> None:
    real = documents.Documents.stored

    def stored(self: documents.Documents, environment_id: str) -> documents.StoredDocument | None:
        found = real(self, environment_id)
        if found is not None:
            found.data = b"the same"
        return found

    patch.setattr(documents.Documents, "stored", stored)


@fault("tests/store/read/test_view.py::test_what_a_listing_misses_is_in_the_journal")
def scan_that_trusts_one_listing(patch: Patch) -> None:
    patch.setattr(view, "changes", lambda *_, **__: iter(()))


@fault("tests/store/read/test_view.py::test_a_writer_that_was_stopped_in_the_middle")
def change_under_way_overlooked(patch: Patch) -> None:
    real = state.read_state

    def peek(path: str) -> state.State | None:
        found = real(path)
        return found and found._replace(published=found.committed)

    patch.setattr(view, "read_state", peek)


@fault("tests/store/read/test_history.py::test_what_is_not_published_is_not_shown")
def history_of_what_may_be_taken_back(patch: Patch) -> None:
    real = view.View.state

    def state_of(self: view.View) -> state.State:
        found = real(self)
        return found._replace(published=found.committed, offset=0)

    patch.setattr(view.View, "state", state_of)


@fault("tests/store/read/test_history.py::test_a_change_by_hand_is_an_event_of_its_own")
def changes_by_hand_forgotten(patch: Patch) -> None:
    patch.setattr(batch.Transaction, "_noted", lambda _, stored: stored)
