# SPDX-License-Identifier: Apache-2.0
"""Planted faults of maintenance: each breaks one thing that it promises."""

from tests.planted import Patch, fault, nothing
from waggle_fsstore.store.format import layout
from waggle_fsstore.store.fs import disk, lost_and_found
from waggle_fsstore.store.journal import (
    changes,
    damage,
    latest,
    lines,
    segments,
)
from waggle_fsstore.store.maintenance import fsck, prune, restore, snapshot
from waggle_fsstore.store.write import (
    writer,
)


@fault("tests/store/maintenance/test_fsck.py::test_changes_during_a_check_are_no_findings")
def check_without_a_second_look(patch: Patch) -> None:
    patch.setattr(
        fsck._Examiner, "examine", lambda self, name: self._compare(name, self._latest.get(name))
    )


@fault("tests/store/maintenance/test_fsck.py::test_a_deleted_document_is_not_missed")
def deleted_ones_brought_back(patch: Patch) -> None:
    real = fsck._Examiner._missing
    patch.setattr(
        fsck._Examiner,
        "_missing",
        lambda self, path, word: real(self, path, word and word._replace(is_deleted=False)),
    )
    patch.setattr(latest.LatestChanges, "present", lambda self: sorted(self._latest))


@fault("tests/store/maintenance/test_fsck.py::test_nothing_is_ever_deleted")
def repair_without_evidence(patch: Patch) -> None:
    patch.setattr(lost_and_found, "save_copy", lambda *_: "nowhere")


@fault("tests/store/maintenance/test_fsck.py::test_the_same_evidence_is_kept_once")
def evidence_that_piles_up(patch: Patch) -> None:
    patch.setattr(lost_and_found, "_candidates", lambda *_: [])


@fault("tests/store/maintenance/test_fsck.py::test_a_damaged_line_during_a_watch")
def damage_cut_out(patch: Patch) -> None:
    def cut(_: layout.Layout, segment: segments.Segment, __: list[int]) -> bytes:
        return b"".join(segment.text(line) for line in segment.good).ljust(1 << 16)

    patch.setattr(damage, "_blanked", cut)


@fault("tests/store/maintenance/test_snapshot.py::test_changes_during_the_copy")
def snapshot_of_several_moments(patch: Patch) -> None:
    patch.setattr(snapshot._Copy, "apply_changes", lambda *_: [])


@fault("tests/store/maintenance/test_snapshot.py::test_order_of_the_calls[3]")
def snapshot_named_before_it_is_durable(patch: Patch) -> None:
    patch.setattr(snapshot._Copy, "_sync", nothing)


@fault("tests/store/maintenance/test_snapshot.py::test_a_corrupt_document")
def snapshot_without_the_corrupt(patch: Patch) -> None:
    real = snapshot._Copy.apply_changes
    patch.setattr(snapshot._Copy, "apply_changes", lambda self, over: real(self, over)[:0])


@fault("tests/store/maintenance/test_snapshot.py::test_a_snapshot_that_was_damaged[change_a_byte]")
def sums_not_looked_at(patch: Patch) -> None:
    patch.setattr(restore, "_read_sums", nothing)


@fault("tests/store/maintenance/test_prune.py::test_without_flushes")
def pruning_what_recovery_needs(patch: Patch) -> None:
    nothing_needed = changes.RedoRange(lines.Cursor(1 << 50, 1 << 50), is_full_log=False)
    patch.setattr(prune, "redo_range", lambda _: nothing_needed)


@fault("tests/store/maintenance/test_prune.py::test_the_order_of_the_calls")
def removals_that_leave_holes(patch: Patch) -> None:
    patch.setattr(disk.Disk, "sync_dir", nothing)


@fault("tests/store/maintenance/test_prune.py::test_a_checkpoint_comes_first")
def pruning_without_a_checkpoint(patch: Patch) -> None:
    patch.setattr(writer.Writer, "checkpoint", nothing)
