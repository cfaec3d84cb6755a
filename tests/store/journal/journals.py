# SPDX-License-Identifier: Apache-2.0
"""Journals made of given lines, without a store."""

from pathlib import Path

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines


def make_layout(root: Path) -> Layout:
    """Return the layout of an empty directory with a journal and a place for temp files."""
    layout = Layout(str(root))
    for directory in (layout.environments, layout.journal, layout.internal, layout.temporary):
        Path(directory).mkdir(parents=True, exist_ok=True)
    return layout


def change_line(*seqs: int) -> bytes:
    """Return a line with changes of these numbers, of the environment odd or even."""
    return lines.encode(
        lines.CHANGES, [{"seq": seq, "id": "odd" if seq % 2 else "even"} for seq in seqs]
    )


def write_segment(layout: Layout, first: int, follows: bytes, *rest: bytes) -> list[int]:
    """Write a segment of some lines and return the offset at which each of them ends."""
    data = follows
    ends = []
    for line in rest:
        data += line
        ends.append(len(data))
    Path(layout.segment(first)).write_bytes(data + 4096 * lines.BLANK)
    return ends
