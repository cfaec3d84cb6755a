# SPDX-License-Identifier: Apache-2.0
"""The live segment: appending, and rotating to the next one."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.store.journal.journals import change_line, make_layout
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.live_segment import LiveSegment


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_layout(tmp_path)


@pytest.fixture
def live(layout: Layout) -> LiveSegment:
    """Return the first segment of a journal, with one change."""
    live = LiveSegment(layout, Disk(durable=False))
    live.rotate(1, 0)
    live.append(change_line(1))
    return live


def data_of(layout: Layout, first: int) -> bytes:
    return Path(layout.segment(first)).read_bytes()


def test_line_of_another_writer_is_noticed(layout: Layout, live: LiveSegment) -> None:
    """The tail is intact until another process appends, and a reopened segment continues there."""
    other = LiveSegment(layout, Disk(durable=False))
    assert other.reopen(1, live.end)
    assert not other.reopen(1, live.end - 1)
    assert other.reopen(1, live.end)
    assert live.tail_is_intact()
    other.append(change_line(2))
    assert other.tail_is_intact()
    assert not live.tail_is_intact()
    assert not other.reopen(2, 1)


def test_rotation_ends_the_old_segment(layout: Layout, live: LiveSegment) -> None:
    """The new segment says how much of the old one counts, which other writers see as well."""
    other = LiveSegment(layout, Disk(durable=False))
    assert other.reopen(1, live.end)
    end = live.end
    live.append(change_line(2))
    live.rotate(2, end, reserve=1 << 20)
    assert len(data_of(layout, 1)) == end
    header = lines.follows(1, end, segments.era(layout))
    assert data_of(layout, 2).rstrip() + b"\n" == header
    assert (live.first, live.end) == (2, len(header))
    assert live.has_room(1 << 20)
    assert not other.tail_is_intact()


def test_rotation_carries_lines_over(layout: Layout, live: LiveSegment) -> None:
    """Lines to keep begin the new segment, and no longer count in the old one."""
    end = live.end
    live.append(change_line(2))
    live.rotate(2, end, carry_over=change_line(2))
    assert len(data_of(layout, 1)) == end
    [first, second] = [segments.read_segment(layout, *names).good for names in ((1, 2), (2, None))]
    assert [line.changes for line in (first[-1], second[-1])] == [
        lines.scan(change_line(seq))[0][0].changes for seq in (1, 2)
    ]
    assert live.end == second[-1].end


def test_rotation_to_the_same_name_keeps_the_lines(layout: Layout, live: LiveSegment) -> None:
    """A segment without changes that count is replaced, and its first line stays."""
    header = lines.scan(data_of(layout, 1))[0][0]
    live.rotate(1, header.end)
    assert lines.scan(data_of(layout, 1))[0] == [header]
    assert (live.first, live.end) == (1, header.end)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_rotation_on_a_full_disk_takes_the_least_space(layout: Layout, code: int) -> None:
    """Where a full segment does not fit, one with room for the next line will do."""

    class Full(Disk):
        def write_temp(self, path: str, data: bytes, *rest: Any, **options: Any) -> None:
            if len(data) > 1000:
                raise OSError(code, "full", path)
            super().write_temp(path, data, *rest, **options)

    live = LiveSegment(layout, Full(durable=False))
    live.rotate(1, 0, reserve=len(change_line(1)))
    assert live.has_room(len(change_line(1)))
    live.append(change_line(1))
    assert live.tail_is_intact()
    with pytest.raises(OSError, match="full"):
        live.rotate(2, live.end, reserve=1000)
