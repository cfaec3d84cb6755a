# SPDX-License-Identifier: Apache-2.0
"""Planted faults of maintenance: each breaks one thing that it promises."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.domain import progress
from waggle_fsstore.store.format import canonical_json, codec, layout
from waggle_fsstore.store.fs import disk, lost_and_found
from waggle_fsstore.store.journal import (
    changes,
    damage,
    latest,
    lines,
    segments,
)
from waggle_fsstore.store.maintenance import copy, fsck, info, prune, restore, snapshot
from waggle_fsstore.store.write import (
    writer,
)


@fault("tests/store/maintenance/test_progress.py::test_copy_counts_changes")
def count_changes_by_their_numbers(patch: Patch) -> None:
    def report(done: int, _: int | None, what: str) -> None:
        progress.report(done, 1_000, what)

    patch.setattr(copy, "report", report)


@fault("tests/store/maintenance/test_progress.py::test_restore_counts_what_it_reads_and_compares")
def report_progress_only_before_an_item(patch: Patch) -> None:
    def tracked(items: Any, what: str) -> Any:
        for done, item in enumerate(items):
            progress.report(done, len(items), what)
            yield item

    patch.setattr(restore, "tracked", tracked)


@fault("tests/store/maintenance/fsck/test_documents.py::test_concurrent_changes_are_no_findings")
def compare_documents_once(patch: Patch) -> None:
    patch.setattr(
        fsck._Examiner, "examine", lambda self, name: self._compare(name, self._latest.get(name))
    )


@fault("tests/store/maintenance/fsck/test_documents.py::test_deleted_document_is_no_finding")
def report_deleted_documents_as_missing(patch: Patch) -> None:
    real = fsck._Examiner._missing
    patch.setattr(
        fsck._Examiner,
        "_missing",
        lambda self, path, word: real(self, path, word and word._replace(is_deleted=False)),
    )
    patch.setattr(latest.LatestChanges, "present", lambda self: sorted(self._latest))


@fault("tests/store/maintenance/fsck/test_fsck.py::test_repair_deletes_nothing")
def skip_copy_of_damaged_segment(patch: Patch) -> None:
    patch.setattr(lost_and_found, "save_copy", lambda *_: "nowhere")


@fault("tests/store/maintenance/fsck/test_documents.py::test_equal_corrupt_files_are_kept_once")
def keep_every_equal_copy(patch: Patch) -> None:
    patch.setattr(lost_and_found, "_candidates", lambda *_: [])


@fault("tests/store/maintenance/fsck/test_journal.py::test_damaged_first_line_is_rewritten")
def delete_damaged_lines(patch: Patch) -> None:
    def cut(_: layout.Layout, segment: segments.Segment, __: list[int]) -> bytes:
        return b"".join(segment.text(line) for line in segment.good).ljust(1 << 16)

    patch.setattr(damage, "_blanked", cut)


@fault("tests/store/maintenance/test_snapshot.py::test_concurrent_changes_are_applied")
def ignore_changes_during_copy(patch: Patch) -> None:
    patch.setattr(snapshot._Copy, "apply_changes", lambda *_: [])


@fault("tests/store/maintenance/test_snapshot.py::test_documents_are_synced_before_checksums[3]")
def rename_snapshot_before_sync(patch: Patch) -> None:
    patch.setattr(snapshot._Copy, "_sync", nothing)


@fault("tests/store/maintenance/test_snapshot.py::test_corrupt_document_is_reported")
def omit_corrupt_documents_silently(patch: Patch) -> None:
    real = snapshot._Copy.apply_changes
    patch.setattr(snapshot._Copy, "apply_changes", lambda self, over: real(self, over)[:0])


@fault("tests/store/maintenance/test_restore.py::test_damaged_snapshot_is_refused[change_a_byte]")
def ignore_checksums_of_snapshot(patch: Patch) -> None:
    patch.setattr(restore, "_read_sums", nothing)


@fault("tests/store/maintenance/test_prune.py::test_store_without_sync_keeps_everything")
def prune_segments_needed_by_recovery(patch: Patch) -> None:
    nothing_needed = changes.RedoRange(lines.Cursor(1 << 50, 1 << 50), is_full_log=False)
    patch.setattr(prune, "redo_range", lambda _: nothing_needed)


@fault("tests/store/maintenance/test_prune.py::test_removals_are_synced_in_order")
def skip_fsync_between_removals(patch: Patch) -> None:
    patch.setattr(disk.Disk, "sync_dir", nothing)


@fault("tests/store/maintenance/test_prune.py::test_pruning_makes_checkpoint")
def skip_checkpoint_before_pruning(patch: Patch) -> None:
    patch.setattr(writer.Writer, "checkpoint", nothing)


@fault("tests/store/maintenance/test_interference.py::test_verb_tolerates_others[check]")
def remember_pruned_changes(patch: Patch) -> None:
    patch.setattr(latest.LatestChanges, "_forget_pruned", nothing)


@fault("tests/store/maintenance/test_interference.py::test_verb_tolerates_others[list_anew]")
def miss_changes_pruned_during_scan(patch: Patch) -> None:
    patch.setattr(segments, "has_all_after", lambda *_: True)


@fault("tests/store/maintenance/test_interference.py::test_verb_tolerates_others[info]")
def report_what_lock_holder_is_changing(patch: Patch) -> None:
    patch.setattr(info, "is_left_behind", lambda _, is_there: is_there())


@fault("tests/store/maintenance/test_prune.py::test_time_in_future_decides_nothing[False]")
def believe_times_in_future(patch: Patch) -> None:
    real = prune._made_by
    end_of_time = datetime.max.replace(tzinfo=UTC)
    patch.setattr(prune, "_made_by", lambda layout, first, _: real(layout, first, end_of_time))


@fault("tests/store/maintenance/test_restore.py::test_path_of_any_form_is_restored[not UTF-8]")
def quote_path_in_reason_as_it_is(patch: Patch) -> None:
    patch.setattr(restore, "as_reason", lambda text: text)


_COPY = "tests/store/maintenance/test_copy.py"


@fault(f"{_COPY}::test_copy_has_the_same_documents_and_history")
def date_copied_changes_anew(patch: Patch) -> None:
    real = changes.changes

    def dated(*given: Any, **options: Any) -> Any:
        return ({**one, "at": "2000-01-01T00:00:00.000000Z"} for one in real(*given, **options))

    patch.setattr(copy, "changes", dated)


@fault(f"{_COPY}::test_store_with_other_changes_is_no_target")
def copy_onto_any_store(patch: Patch) -> None:
    patch.setattr(copy, "_first", lambda *_: None)


@fault(f"{_COPY}::test_manual_edit_that_is_not_recorded_is_told")
def compare_no_copied_documents(patch: Patch) -> None:
    patch.setattr(copy, "_digest", lambda _: (0, 0))


@fault(f"{_COPY}::test_pruned_history_is_refused")
def copy_a_history_without_its_beginning(patch: Patch) -> None:
    patch.setattr(segments, "oldest_kept", lambda _: 0)


@fault(f"{_COPY}::test_invalid_document_of_a_change_is_refused[value]")
def copy_documents_unchecked(patch: Patch) -> None:
    def version(change: dict[str, Any], _: str) -> tuple[Any, bytes]:
        document = change["document"]
        return SimpleNamespace(**document), canonical_json.canonical(document)

    patch.setattr(codec, "version_of", version)


@fault(f"{_COPY}::test_invalid_document_of_a_change_is_refused[id]")
def copy_documents_of_other_ids(patch: Patch) -> None:
    def version(change: dict[str, Any], path: str) -> tuple[Any, bytes]:
        data = canonical_json.canonical(change["document"])
        return codec.decode(data, path), data

    patch.setattr(codec, "version_of", version)


@fault("tests/store/maintenance/test_prune.py::test_changes_since_time_stay")
def prune_changes_that_undelete_needs(patch: Patch) -> None:
    real = prune.prune
    patch.setattr(prune, "prune", lambda *a, **o: real(*a, **{**o, "keep_since": None}))
