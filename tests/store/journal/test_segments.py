# SPDX-License-Identifier: Apache-2.0
"""Segments: which bytes of them count, compressed or not."""

import zlib
from pathlib import Path
from typing import Any

from tests.store.journal.journals import change_line, make_layout, write_segment
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines, segments


def compress(layout: Layout, first: int) -> Path:
    plain, packed = Path(layout.segment(first)), Path(segments.packed_path(layout, first))
    packed.write_bytes(zlib.compress(plain.read_bytes(), wbits=31))
    plain.unlink()
    return packed


def test_successor_says_how_many_bytes_count(tmp_path: Path) -> None:
    """Lines behind them are void; without a successor that follows it, all bytes count."""
    layout = make_layout(tmp_path)
    [end, _] = write_segment(layout, 1, lines.follows(0, 0), change_line(1), change_line(2))
    write_segment(layout, 2, lines.follows(1, end), change_line(2))
    write_segment(layout, 3, lines.follows(2, 10))
    assert len(segments.valid_prefix(layout, 1, 2)) == end
    assert [len(segments.read_segment(layout, 1, after).good) for after in (2, 3, None)] == [
        2,
        3,
        3,
    ]


def test_compressed_segment_reads_like_a_plain_one(tmp_path: Path) -> None:
    """Any range of bytes is the same, and so is the header."""
    layout = make_layout(tmp_path)
    write_segment(layout, 5, lines.follows(2, 77), change_line(5))
    ranges = [(0, -1), (3, -1), (3, 10), (3, 0), (1 << 20, 5)]
    plain = [segments.load(layout, 5, size, start=start) for start, size in ranges]
    packed = compress(layout, 5)
    assert segments.path_of(layout, 5) == str(packed)
    assert segments.size_of(layout, 5) == packed.stat().st_size
    assert [segments.load(layout, 5, size, start=start) for start, size in ranges] == plain
    assert segments.header(layout, 5) == (2, 77)


def test_damaged_compressed_segment_gives_what_precedes_the_damage(tmp_path: Path) -> None:
    """At most the lines within some hundred compressed bytes before the damage are lost."""
    layout = make_layout(tmp_path)
    write_segment(layout, 1, lines.follows(0, 0), *(change_line(seq) for seq in range(1, 500)))
    packed = compress(layout, 1)
    data = packed.read_bytes()
    half = len(data) // 2
    packed.write_bytes(data[:half] + bytes(half))
    good = segments.read_segment(layout, 1, None).good
    seqs = {change["seq"] for line in good for change in line.changes}
    assert seqs == set(range(1, max(seqs) + 1))
    assert 100 < max(seqs) < 400


def test_pruned_journal_is_told_from_one_that_began_late(tmp_path: Path) -> None:
    """The first segment names the one before it, or none if the journal began with it."""
    layout = make_layout(tmp_path)
    assert not segments.oldest_kept(layout)
    write_segment(layout, 7, lines.follows(0, 0))
    assert not segments.oldest_kept(layout)
    write_segment(layout, 7, lines.follows(4, 100))
    assert segments.oldest_kept(layout) == 7
    assert segments.size_of(layout, 4) == 0


class _Counted(bytes):
    """Bytes that keep the length of the longest copy of a part of them."""

    longest = 0

    def __getitem__(self, key: Any) -> Any:
        part = bytes(self)[key]
        if isinstance(key, slice):
            _Counted.longest = max(_Counted.longest, len(part))
        return part


def test_anchor_of_a_change_copies_no_batch() -> None:
    """The line of a batch has thousands of changes: reading it takes no time for each with each."""
    data = _Counted(change_line(1) + change_line(2))
    end = len(change_line(1))
    line = lines.Line(end, len(data), {})
    segment = segments.Segment(1, "", 0, data, [line], [], is_sealed=False)
    anchor = segment.anchor(2, line)
    assert (anchor.offset, anchor.crc) == (end, lines.crc_of(change_line(2)))
    assert _Counted.longest == lines.HEAD_BYTES
