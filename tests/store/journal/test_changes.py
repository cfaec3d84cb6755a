# SPDX-License-Identifier: Apache-2.0
"""The changes between two cursors, and those that recovery looks at."""

from pathlib import Path

import pytest

from tests.store.journal.journals import change_line, make_layout, write_segment
from waggle_fsstore import HistoryPrunedError, JournalDamagedError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines
from waggle_fsstore.store.journal.changes import (
    FULL_LOG,
    RedoRange,
    changes,
    last_checkpoint,
    redo_range,
)
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.selection import of_id
from waggle_fsstore.store.journal.state import checkpoint_identity, last_modified

#: The end of each change in the journal below.
CURSORS: list[Cursor] = []


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a journal of the changes 1 to 8 in the segments 1, 4 and 7."""
    layout = make_layout(tmp_path)
    CURSORS[:] = [Cursor()]
    previous, size = 0, 0
    for first in (1, 4, 7):
        seqs = [seq for seq in range(first, first + 3) if seq <= 8]
        ends = write_segment(layout, first, lines.follows(previous, size), *map(change_line, seqs))
        CURSORS.extend(Cursor(seq, first, end) for seq, end in zip(seqs, ends, strict=True))
        previous, size = first, ends[-1]
    return layout


def seqs(layout: Layout, *cursors: Cursor, only: str | None = None, strict: bool = True) -> object:
    selection = None if only is None else of_id(only)
    return [change["seq"] for change in changes(layout, *cursors, only=selection, strict=strict)]


@pytest.mark.parametrize("strict", [True, False])
def test_cursors_select_the_changes_between_them(layout: Layout, strict: bool) -> None:
    """All cursors select the same changes with offsets as without them."""
    for start in CURSORS:
        assert seqs(layout, start, strict=strict) == [*range(start.seq + 1, 9)]
        for end in CURSORS:
            wanted = [*range(start.seq + 1, end.seq + 1)]
            assert seqs(layout, start, end, strict=strict) == wanted
            assert seqs(layout, Cursor(start.seq), Cursor(end.seq), strict=strict) == wanted
            even = [seq for seq in wanted if seq % 2 == 0]
            assert seqs(layout, start, end, only="even", strict=strict) == even


def test_bytes_outside_of_the_offsets_are_not_read(layout: Layout) -> None:
    """Damage before the offset of the first cursor and after that of the second is not seen."""
    start, end = CURSORS[1:3]
    path = Path(layout.segment(1))
    data = path.read_bytes()
    path.write_bytes(b"x" * start.offset + data[start.offset : end.offset] + b"x" * 99)
    assert seqs(layout, start, end) == [2]


def test_damage_is_skipped_unless_strict(layout: Layout) -> None:
    """A damaged line hides its changes, or raises once the changes before it were given."""
    path = Path(layout.segment(4))
    path.write_bytes(path.read_bytes().replace(b'"seq":5', b'"seq":0'))
    assert seqs(layout, strict=False) == [1, 2, 3, 4, 6, 7, 8]
    assert seqs(layout, Cursor(), Cursor(4)) == [1, 2, 3, 4]
    reading = changes(layout, strict=True)
    assert [next(reading)["seq"] for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(JournalDamagedError, match="line 3"):
        next(reading)


def test_second_copy_of_a_change_is_left_out(tmp_path: Path) -> None:
    """Lines that were carried over into the next segment count once."""
    layout = make_layout(tmp_path)
    [_, end] = write_segment(layout, 1, lines.follows(0, 0), change_line(1), change_line(2, 3))
    write_segment(layout, 3, lines.follows(1, end), change_line(2, 3), change_line(4))
    assert seqs(layout) == [1, 2, 3, 4]


def test_segment_removed_while_reading_is_an_error_if_strict(layout: Layout) -> None:
    """Another process may prune the journal: a gap is skipped, or raises with what is left."""
    plain, strict = changes(layout), changes(layout, strict=True)
    assert next(plain)["seq"] == next(strict)["seq"] == 1
    Path(layout.segment(4)).unlink()
    assert [change["seq"] for change in plain] == [2, 3, 7, 8]
    Path(layout.segment(1)).unlink()
    with pytest.raises(HistoryPrunedError) as caught:
        list(strict)
    assert caught.value.oldest == 7


def test_redo_range_begins_at_the_last_checkpoint(layout: Layout) -> None:
    """It counts only for the store that made it, and a copy differs from a touched marker."""
    assert last_checkpoint(layout) is None
    assert redo_range(layout) == FULL_LOG
    Path(layout.marker).touch()
    here = checkpoint_identity(layout, last_modified(layout))
    inode, *rest = here["place"].split("-")
    old = {"place": here["place"]}
    copy = FULL_LOG._replace(is_copy=True)
    for identity, expected in (
        (here, RedoRange(CURSORS[5], is_full_log=False)),
        (here | {"place": "elsewhere"}, RedoRange(CURSORS[5], is_full_log=False)),
        (here | {"place": "elsewhere", "store": "another"}, copy),
        (old, RedoRange(CURSORS[5], is_full_log=False)),
        ({"place": f"{here['place']}0"}, FULL_LOG),
        ({"place": "-".join([f"0{inode}", *rest])}, copy),
    ):
        checkpoints = (lines.checkpoint(CURSORS[2], here), lines.checkpoint(CURSORS[5], identity))
        write_segment(layout, 7, lines.follows(4, CURSORS[6].offset), *checkpoints)
        found = last_checkpoint(layout)
        assert found is not None
        assert (found["through"], found["place"]) == (5, identity["place"])
        assert redo_range(layout) == expected
