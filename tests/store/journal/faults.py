# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the journal: each breaks one thing that it promises."""

from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.store.fs import disk
from waggle_fsstore.store.journal import (
    changes,
    lines,
    live_segment,
    segments,
    selection,
    state,
)
from waggle_fsstore.store.journal.selection import Selection
from waggle_fsstore.store.write import session


@fault("tests/store/journal/test_lines.py::test_start_after_skips_nearly_all_earlier_lines")
def begin_reading_too_late(patch: Patch) -> None:
    real = lines.start_after
    patch.setattr(lines, "start_after", lambda data, seq: real(data, seq + 2))


@fault("tests/store/journal/test_lines.py::test_scan_for_an_id_finds_its_lines_and_all_damage")
def ignore_damage_in_scan_for_an_id(patch: Patch) -> None:
    def scan_matching(data: bytes, start: int, only: Selection) -> list[lines.Line]:
        good = [
            lines.Line(*span, lines.decode(data[span[0] : span[1] - 1]) or {})
            for span in lines.split(data, start)
        ]
        return [line for line in good if only.may_be_in(data[line.start : line.end])]

    patch.setattr(lines, "_scan_matching", scan_matching)


@fault("tests/store/journal/test_selection.py::test_selection_is_that_of_parsed_changes")
def look_only_at_first_change_of_a_line(patch: Patch) -> None:
    patch.setattr(selection, "_BETWEEN_CHANGES", b"\0")


@fault("tests/store/journal/test_selection.py::test_selection_is_that_of_parsed_changes")
def compare_escaped_actors_as_they_are(patch: Patch) -> None:
    real = selection._Glance._may_be_actor

    def may_be_actor(self: selection._Glance, text: bytes) -> bool:
        return real(self, text) and b"\\" not in text

    patch.setattr(selection._Glance, "_may_be_actor", may_be_actor)


@fault("tests/store/journal/test_selection.py::test_line_in_another_form_is_looked_at")
def pass_over_lines_in_another_form(patch: Patch) -> None:
    real = selection._Glance.may_be_in

    def may_be_in(self: selection._Glance, line: bytes) -> bool:
        return real(self, line) and self._match(line) is not None

    patch.setattr(selection._Glance, "may_be_in", may_be_in)


@fault("tests/store/journal/test_state.py::test_record_of_another_boot_is_ignored")
def trust_record_of_another_boot(patch: Patch) -> None:
    for module in (session, state):
        patch.setattr(module, "mounted_id", lambda layout: f"boot:{state.store_id(layout)}")


@fault("tests/store/journal/test_state.py::test_record_of_another_mount_is_ignored")
def trust_record_of_another_mount(patch: Patch) -> None:
    for module in (session, state):
        patch.setattr(module, "mounted_id", lambda layout: f"boot:{state.store_id(layout)}")


@fault("tests/store/test_copies.py::test_copy_put_back_is_brought_up_to_its_journal")
def ignore_time_of_documents_directory(patch: Patch) -> None:
    for module in (session, state):
        patch.setattr(module, "is_set_back", lambda *_: False)


@fault("tests/store/journal/test_state.py::test_record_in_use_is_valid_in_other_mounts")
def hide_use_of_state_record(patch: Patch) -> None:
    patch.setattr(state, "show_use", nothing)


@fault("tests/store/journal/test_state.py::test_record_of_another_mount_is_ignored")
def trust_record_after_its_last_writer(patch: Patch) -> None:
    patch.setattr(state, "is_in_use", lambda _: True)


@fault("tests/store/test_copies.py::test_clock_set_back_makes_no_copy")
def take_earlier_clock_for_copy(patch: Patch) -> None:
    patch.setattr(
        state, "is_set_back", lambda layout, modified: state.last_modified(layout) < modified
    )


@fault("tests/store/test_copies.py::test_store_that_stayed_in_place_is_not_replayed")
def tell_stores_by_status_of_marker(patch: Patch) -> None:
    patch.setattr(state, "store_id", state.marker_id)


@fault("tests/store/test_copies.py::test_copy_with_inode_of_original_is_recognized")
def tell_stores_by_inode_alone(patch: Patch) -> None:
    patch.setattr(state, "birth_time", lambda _: 1)


@fault("tests/store/test_copies.py::test_store_of_earlier_version_is_no_copy")
def take_store_of_earlier_version_for_copy(patch: Patch) -> None:
    real = state.is_valid
    patch.setattr(changes, "is_valid", lambda line, layout: "store" in line and real(line, layout))


@fault("tests/store/journal/test_state.py::test_every_flipped_byte_invalidates_the_record")
def skip_checksum_of_the_record(patch: Patch) -> None:
    patch.setattr(state, "int", lambda *_: 0, raising=False)
    patch.setattr(state, "crc32", lambda _: 0)


@fault("tests/store/test_durability.py::test_save_syncs_once_between_staging_and_publishing")
def publish_before_the_fsync(patch: Patch) -> None:
    def append(self: live_segment.LiveSegment, line: bytes) -> None:
        disk.write(self._file(), line, self.end)
        self.end += len(line)

    real = session.WriterSession.write_state

    def write_state(self: session.WriterSession, **given: Any) -> None:
        if "published" in given:
            self.segment.sync()
        real(self, **given)

    patch.setattr(live_segment.LiveSegment, "append", append)
    patch.setattr(session.WriterSession, "write_state", write_state)


@fault("tests/store/test_failures.py::test_segment_with_failed_fsync_is_abandoned")
def reuse_segment_after_a_failed_fsync(patch: Patch) -> None:
    def stay(self: live_segment.LiveSegment, _: int, valid_bytes: int, **__: object) -> None:
        disk.write(self._file(), b" " * 4096, valid_bytes)
        self.end = valid_bytes

    patch.setattr(live_segment.LiveSegment, "rotate", stay)


@fault("tests/store/journal/test_live_segment.py::test_rotation_ends_the_old_segment")
def skip_truncation_of_the_old_segment(patch: Patch) -> None:
    patch.setattr(disk.Disk, "truncate", nothing)


@fault("tests/store/journal/test_segments.py::test_successor_says_how_many_bytes_count")
def count_void_lines_of_sealed_segments(patch: Patch) -> None:
    patch.setattr(segments, "header", lambda *_: (0, 0))


@fault("tests/store/journal/test_segments.py::test_anchor_of_a_change_copies_no_batch")
def copy_batch_for_each_of_its_changes(patch: Patch) -> None:
    def anchor(self: segments.Segment, seq: int, line: lines.Line) -> segments.Anchor:
        return segments.Anchor(seq, self.first, line.start, lines.crc_of(self.text(line)))

    patch.setattr(segments.Segment, "anchor", anchor)
