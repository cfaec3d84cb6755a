# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the journal: each breaks one thing that it promises."""

from tests.planted import Patch, fault
from waggle_fsstore.store.fs import disk
from waggle_fsstore.store.journal import (
    lines,
    live_segment,
    state,
)
from waggle_fsstore.store.read import (
    view,
)
from waggle_fsstore.store.write import (
    session,
)


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

    patch.setattr(lines, "_scan_matching", mentioning)


@fault("tests/store/journal/test_state.py::test_another_boot")
def record_of_another_boot_trusted(patch: Patch) -> None:
    for module in (session, view):
        patch.setattr(module, "mounted_id", lambda layout: f"boot:{state.store_id(layout)}")


@fault("tests/store/journal/test_state.py::test_another_mount")
def record_of_another_mount_trusted(patch: Patch) -> None:
    for module in (session, view):
        patch.setattr(module, "mounted_id", lambda layout: f"boot:{state.store_id(layout)}")


@fault("tests/store/journal/test_state.py::test_every_flipped_byte_is_noticed")
def record_without_a_checksum(patch: Patch) -> None:
    patch.setattr(state, "int", lambda *_: 0, raising=False)
    patch.setattr(state, "crc32", lambda _: 0)


@fault("tests/store/test_durability.py::test_save_flushes_once_between_staging_and_publishing")
def published_before_the_flush(patch: Patch) -> None:
    def append(self: live_segment.LiveSegment, line: bytes) -> None:
        disk.write(self._file(), line, self.tail)
        self.tail += len(line)

    real = session.WriterSession.write_state

    def note(self: session.WriterSession, **given: int) -> None:
        if "published" in given:
            self.journal.sync()
        real(self, **given)

    patch.setattr(live_segment.LiveSegment, "append", append)
    patch.setattr(session.WriterSession, "write_state", note)


@fault("tests/store/test_failures.py::test_a_segment_whose_flush_failed_is_left")
def segment_reused_after_a_failed_flush(patch: Patch) -> None:
    def stay(self: live_segment.LiveSegment, _: int, cut: int, **__: object) -> None:
        disk.write(self._file(), b" " * 4096, cut)
        self.tail = cut

    patch.setattr(live_segment.LiveSegment, "rotate", stay)
