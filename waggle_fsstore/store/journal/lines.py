# SPDX-License-Identifier: Apache-2.0
"""The lines of the journal: checksummed JSON objects, one for each fsync.

A line is ``{"crc":"xxxxxxxx",``, the rest of an object, and a newline; the checksum is the
CRC-32 of the rest. A line holds one of

- ``changes``: the changes that one fsync made durable, all or none of them;
- ``checkpoint``: the documents of the store ``store`` are durable up to change ``through``,
  and the lines after that change begin at ``offset`` (bytes) of ``segment``;
- ``follows``: the first line of a segment, which names the segment before (``segment``, 0
  for none) and says how many of its ``bytes`` are valid. ``era`` is a random number: a
  journal keeps it from segment to segment, and another journal has another one.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from zlib import crc32

from waggle_fsstore.store.format.canonical_json import compact, parse
from waggle_fsstore.store.journal.selection import Selection

_HEAD: Final = b'{"crc":"%08x",'
_LINE: Final = _HEAD + b"%b\n"
#: The size of a line up to the end of its checksum.
HEAD_BYTES: Final = len(_HEAD % 0)
_CRC_OFFSET: Final = len(b'{"crc":"')
CRC_DIGITS: Final = 8

#: The unused end of a segment is filled with it.
BLANK: Final = b" "

CHANGES: Final = "changes"
CHECKPOINT: Final = "checkpoint"
FOLLOWS: Final = "follows"

#: The era of a segment that an older program wrote, which records none.
NO_ERA: Final = "00000000"

_CHECKPOINT_KEY: Final = b'"%b":' % CHECKPOINT.encode()

# Scanning a range of this size is faster than another step of the binary search.
_SEARCH_CUTOFF_BYTES: Final = 1 << 13


class Cursor(NamedTuple):
    """A point of the journal: after change ``seq`` and before the next one.

    ``segment`` and ``offset`` (bytes) say where a line begins that has no earlier change, as
    far as that is known. 0 is unknown.
    """

    seq: int = 0
    segment: int = 0
    offset: int = 0


class Line(NamedTuple):
    """A good line: its start and end in the segment (bytes), and its content."""

    start: int
    end: int
    content: dict[str, Any]

    @property
    def changes(self) -> list[dict[str, Any]]:
        """The changes in the line; empty for a checkpoint and the first line of a segment."""
        changes: list[dict[str, Any]] = self.content.get(CHANGES, [])
        return changes

    def shifted(self, offset: int) -> "Line":
        """Return the line with its position ``offset`` bytes further on."""
        return Line(self.start + offset, self.end + offset, self.content)


class BadLine(NamedTuple):
    """Bytes outside of all good lines that are not blank (start and end in the segment)."""

    start: int
    end: int


def encode(kind: str, value: Any) -> bytes:
    """Return a line with one member."""
    rest = compact({kind: value})[1:]
    return _LINE % (crc32(rest), rest)


def checkpoint(cursor: Cursor, identity: dict[str, Any]) -> bytes:
    """Return the line by which recovery of a store may begin at ``cursor``.

    ``identity`` says of which store, and how old its documents are at least.
    """
    through, segment, offset = cursor
    return encode(
        CHECKPOINT, {"through": through, **identity, "segment": segment, "offset": offset}
    )


def follows(segment: int, valid_bytes: int, era: str = NO_ERA) -> bytes:
    """Return the first line of the segment after ``segment``, which has ``valid_bytes``."""
    return encode(FOLLOWS, {"segment": segment, "bytes": valid_bytes, "era": era})


def crc_of(line: bytes) -> str:
    """Return the checksum that a line states."""
    return line[_CRC_OFFSET : _CRC_OFFSET + CRC_DIGITS].decode(errors="replace")


def decode(data: bytes) -> dict[str, Any] | None:
    """Return the content of a line given without its newline; ``None`` for a bad line."""
    rest = data[HEAD_BYTES:]
    if data[:HEAD_BYTES] != _HEAD % crc32(rest):
        return None
    try:
        content = parse(b"{" + rest)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def last_checkpoint(data: bytes) -> dict[str, Any] | None:
    """Return the last checkpoint in the bytes of a segment; ``None`` without one."""
    key = len(data)
    while (key := data.rfind(_CHECKPOINT_KEY, 0, key)) >= 0:
        start = data.rfind(b"\n", 0, key) + 1
        if key - start == HEAD_BYTES:  # Elsewhere, it is part of a document.
            content = decode(data[start : data.find(b"\n", key)])
            if content is not None:
                checkpoint: dict[str, Any] = content[CHECKPOINT]
                return checkpoint
        key = start  # Skip the rest of this line: a document may be full of such keys.
    return None


def split(data: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield start and end of each line that is not blank; the last may lack its newline."""
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end + 1
        if not data[start:end].isspace():
            yield start, end
        start = end


def scan(
    data: bytes, start: int = 0, only: Selection | None = None
) -> tuple[list[Line], list[BadLine]]:
    """Return the good lines from offset ``start`` on, and the bad bytes between or after them.

    If no line is bad, good lines that have no selected change are left out.
    """
    matching = _scan_matching(data, start, only) if only else None
    if matching is not None:
        return matching, []
    good: list[Line] = []
    bad: list[BadLine] = []
    for begin, end in split(data, start):
        # Without its newline a line was cut off, even if the rest looks complete.
        is_complete = data[end - 1 : end] == b"\n"
        start = begin
        content = decode(data[begin : end - 1]) if is_complete else None
        # Damage may have hit the newline before a good line, which then ends a bad one.
        while content is None and is_complete and start >= 0:
            start = data.find(_HEAD[:_CRC_OFFSET], start + 1, end)
            content = decode(data[start : end - 1]) if start >= 0 else None
        if start != begin or content is None:
            bad.append(BadLine(begin, start if content is not None else end))
        if content is not None:
            good.append(Line(start, end, content))
    return good, bad


def start_after(data: bytes, seq: int) -> int:
    """Return the start of a line that precedes, or holds, the first change after ``seq``.

    A binary search, because the numbers of good lines rise: it decodes a few lines only, and
    ends at most ``_SEARCH_CUTOFF_BYTES`` early unless damage is in the way.
    """
    low, high = 0, len(data)
    while high - low > _SEARCH_CUTOFF_BYTES:
        middle = (low + high) // 2
        begin = data.rfind(b"\n", low, middle) + 1 or data.find(b"\n", middle, high) + 1
        end = data.find(b"\n", begin)
        content = decode(data[begin:end]) if 0 < begin < end else None
        changes = content.get(CHANGES) if content else None
        if changes and changes[0]["seq"] <= seq:
            low = begin
        else:
            high = middle  # Blanks, checkpoints and damage have no number to compare with.
    return low


def _scan_matching(data: bytes, start: int, only: Selection) -> list[Line] | None:
    """Return the lines that may be selected; ``None`` if any line needs a closer look."""
    matching: list[Line] = []
    *complete, rest = data[start:].split(b"\n")
    if rest and not rest.isspace():
        return None
    for line in complete:
        tail = line[HEAD_BYTES:]
        if line[:HEAD_BYTES] == _HEAD % crc32(tail):
            if only.may_be_in(line):
                content = decode(line)
                if content is None:
                    return None
                matching.append(Line(start, start + len(line) + 1, content))
        elif line and not line.isspace():
            return None
        start += len(line) + 1
    return matching
