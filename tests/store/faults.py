# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the whole store: each breaks one thing that it promises."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.domain import environment
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.event import Event
from waggle_fsstore.store import file_store, memory_store
from waggle_fsstore.store.fs import disk, in_place_file
from waggle_fsstore.store.journal import (
    live_segment,
)
from waggle_fsstore.store.read import document_cache
from waggle_fsstore.store.write import batch, reserve, writer
from waggle_fsstore.store.write.batch import WriteBatch


@fault("tests/store/test_file_store.py::test_io_error_is_no_corruption")
def treat_io_error_as_corruption(patch: Patch) -> None:
    patch.setattr(file_store, "CorruptDocumentError", Exception)
    patch.setattr(batch, "revision_in", lambda _: 0)


@fault("tests/store/test_model.py::TestStores::runTest")
def ignore_expected_revision_0(patch: Patch) -> None:
    real = file_store.FileStore.save

    def save(
        self: file_store.FileStore,
        environment: environment.Environment,
        *,
        if_revision: int | None = None,
    ) -> int:
        return real(self, environment, if_revision=if_revision or None)

    patch.setattr(file_store.FileStore, "save", save)


@fault("tests/store/test_file_store.py::test_pickled_store_is_opened_again[5]")
def pickle_locks_of_store(patch: Patch) -> None:
    patch.delattr(file_store.FileStore, "__reduce__")


@fault("tests/store/test_file_store.py::test_pickled_store_is_opened_again[5]")
def drop_options_of_pickled_store(patch: Patch) -> None:
    patch.setattr(file_store, "partial", lambda kind, **_: kind)


@fault("tests/store/test_failures.py::test_errors_name_the_file")
def omit_file_name_from_errors(patch: Patch) -> None:
    for module in (disk, in_place_file, live_segment):
        patch.setattr(module, "name_file", nothing)


@fault("tests/store/test_contracts.py::TestMemoryStore::test_saved_argument_is_copied")
def share_labels_between_copies(patch: Patch) -> None:
    patch.setattr(environment, "string_dict", lambda _, labels: labels)


@fault("tests/store/test_contracts.py::TestMemoryStore::test_results_are_copies")
def share_nested_values_between_copies(patch: Patch) -> None:
    patch.setattr(environment, "json_object", lambda _, value, __: dict(value))


@fault("tests/store/write/test_writer.py::test_idempotency_key_is_stored_once_in_one_line")
def look_for_key_on_disk_only(patch: Patch) -> None:
    def find(self: WriteBatch, new: Environment) -> str | None:
        return next((one.id for one in self._documents.with_key_of(new)), None)

    patch.setattr(WriteBatch, "find_key_of", find)


@fault("tests/store/test_contracts.py::TestFileStore::test_capacity_counts_live_environments")
def count_failed_environments_as_live(patch: Patch) -> None:
    patch.setattr(Status, "is_live", True)


@fault("tests/store/test_memory_store.py::test_unapplied_event_is_applied_by_next_call")
def apply_events_only_in_commit(patch: Patch) -> None:
    def commit(self: memory_store.MemoryStore, events: list[Event]) -> None:
        self._events.extend(events)
        for event in events:
            if event.environment is not None:
                self._environments[event.environment_id] = event.environment

    patch.setattr(memory_store.MemoryStore, "_commit", commit)
    patch.setattr(memory_store.MemoryStore, "_apply", nothing)


@fault("tests/store/test_full_disk.py::test_reserve_serves_what_frees_room")
def keep_reserve_on_full_disk(patch: Patch) -> None:
    patch.setattr(reserve.Reserve, "_spend", lambda _: False)


@fault("tests/store/test_full_disk.py::test_reserve_serves_what_frees_room")
def spend_reserve_on_any_change(patch: Patch) -> None:
    patch.setattr(batch.WriteBatch, "frees_room", True)


@fault("tests/store/test_full_disk.py::test_reserve_serves_what_frees_room")
def lose_reserve_at_first_use(patch: Patch) -> None:
    patch.setattr(reserve.Reserve, "_take_back", nothing)


@fault("tests/store/test_full_disk.py::test_delete_that_shares_a_line_is_served")
def fail_group_as_a_whole_on_full_disk(patch: Patch) -> None:
    patch.setattr(writer, "NO_SPACE", frozenset())


@fault(
    "tests/store/test_file_store.py::test_copy_of_document_is_counted_and_reported[x-laptop.json]"
)
def leave_copies_out_of_listing(patch: Patch) -> None:
    real = document_cache.DocumentCache.read_all

    def read_all(self: document_cache.DocumentCache) -> tuple[list[Any], list[Any]]:
        good, bad = real(self)
        return good, [error for error in bad if "copy" not in str(error)]

    patch.setattr(document_cache.DocumentCache, "read_all", read_all)


@fault("tests/store/test_memory_store.py::test_change_in_signal_handler_is_apart_or_refused[save]")
def divide_changes_in_memory(patch: Patch) -> None:
    def change(self: memory_store.MemoryStore, work: Callable[[], object]) -> object:
        with self._lock:
            self._check_open()
            return work()

    patch.setattr(memory_store.MemoryStore, "_change", change)


@fault("tests/store/test_full_disk.py::test_lack_of_reserve_fails_no_change")
def fail_for_want_of_reserve(patch: Patch) -> None:
    patch.setattr(reserve, "suppress", lambda *_: nullcontext())
