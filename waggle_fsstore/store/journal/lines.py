# SPDX-License-Identifier: Apache-2.0
"""The lines of the journal: checksummed JSON objects, one for each flush.

A line is ``{"crc":"xxxxxxxx",`` and the rest of an object, and a newline; the checksum
is the CRC-32 of the rest. It holds one of

- ``changes``: what one flush made durable, all or none of it;
- ``checkpoint``: up to which change (``through``) the documents are durable in
  themselves, in which ``place``, and where the lines after that begin (``segment``,
  ``offset``);
- ``follows``: the first line of a segment, which names the one before (``segment``, 0 for
  none) and says how many bytes of that count.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from zlib import crc32

from waggle_fsstore.store.format.canonical_json import compact, parse

_HEAD: Final = b'{"crc":"%08x",'
_HEAD_BYTES: Final = len(_HEAD % 0)
_CRC_AT: Final = len(b'{"crc":"')

#: What fills the room of a segment that is not used yet.
BLANK: Final = b" "

CHANGES: Final = "changes"
CHECKPOINT: Final = "checkpoint"
FOLLOWS: Final = "follows"

# Reading so many bytes takes less than looking where to begin in them.
_NEAR: Final = 1 << 13

_CHECKPOINT: Final = b'"%b":' % CHECKPOINT.encode()


class Line(NamedTuple):
    """A good line: where it begins and ends in its segment (bytes), and what it holds."""

    start: int
    end: int
    content: dict[str, Any]

    @property
    def changes(self) -> list[dict[str, Any]]:
        """Its changes, none for a control line."""
        changes: list[dict[str, Any]] = self.content.get(CHANGES, [])
        return changes

    def moved(self, by: int) -> "Line":
        """The same line of a segment that the bytes it was found in begin so far into."""
        return Line(self.start + by, self.end + by, self.content)


class BadLine(NamedTuple):
    """Bytes between good lines, or after the last, that are no line and not blank."""

    start: int
    end: int


def encode(kind: str, value: Any) -> bytes:
    """A line that holds one member."""
    rest = compact({kind: value})[1:]
    return b"%b%b\n" % (_HEAD % crc32(rest), rest)


def id_needle(environment_id: str) -> bytes:
    """What stands in each line that has a change of an id."""
    return compact({"id": environment_id})[1:-1]


def decode(data: bytes) -> dict[str, Any] | None:
    """What a line without its newline holds; ``None`` for a bad one."""
    rest = data[_HEAD_BYTES:]
    if data[:_HEAD_BYTES] != _HEAD % crc32(rest):
        return None
    try:
        content = parse(b"{" + rest)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def last_checkpoint(data: bytes) -> dict[str, Any] | None:
    """The last checkpoint in a segment; ``None`` if there is none."""
    found = len(data)
    while (found := data.rfind(_CHECKPOINT, 0, found)) >= 0:
        start = data.rfind(b"\n", 0, found) + 1
        if found - start == _HEAD_BYTES:  # And not in some document.
            content = decode(data[start : data.find(b"\n", found)])
            if content is not None:
                checkpoint: dict[str, Any] = content[CHECKPOINT]
                return checkpoint
        found = start  # Not again in this line, which may be full of them.
    return None


def split(data: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
    """Where the lines that are not blank begin and end; the last may lack its newline."""
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end + 1
        if not data[start:end].isspace():
            yield start, end
        start = end


def scan(data: bytes, start: int = 0, about: bytes = b"") -> tuple[list[Line], list[BadLine]]:
    """The good lines from an offset on, and what is bad between or after them.

    Where nothing is bad, good ones that lack the bytes ``about`` are left out.
    """
    mentioning = _scan_matching(data, start, about) if about else None
    if mentioning is not None:
        return mentioning, []
    good: list[Line] = []
    bad: list[BadLine] = []
    for begin, end in split(data, start):
        # A line that was cut off or written into is no line, whatever it looks like.
        is_whole = data[end - 1 : end] == b"\n"
        start = begin
        content = decode(data[begin : end - 1]) if is_whole else None
        # Where the newline before a good line was hit, that line is the rest of a bad one.
        while content is None and is_whole and start >= 0:
            start = data.find(_HEAD[:_CRC_AT], start + 1, end)
            content = decode(data[start : end - 1]) if start >= 0 else None
        if start != begin or content is None:
            bad.append(BadLine(begin, start if content is not None else end))
        if content is not None:
            good.append(Line(start, end, content))
    return good, bad


def start_after(data: bytes, seq: int) -> int:
    """Where some line begins that no change after ``seq`` comes before, as far on as is seen.

    It halves, and looks at a few lines only: the numbers of good lines rise.
    """
    low, high = 0, len(data)
    while high - low > _NEAR:
        middle = (low + high) // 2
        begin = data.rfind(b"\n", low, middle) + 1 or data.find(b"\n", middle, high) + 1
        end = data.find(b"\n", begin)
        content = decode(data[begin:end]) if 0 < begin < end else None
        changes = content.get(CHANGES) if content else None
        if changes and changes[0]["seq"] <= seq:
            low = begin
        else:
            high = middle  # Also for what tells nothing: room, a control line, damage.
    return low


def _scan_matching(data: bytes, start: int, about: bytes) -> list[Line] | None:
    """The lines that have the bytes ``about``; ``None`` if any line is not good at first sight."""
    found: list[Line] = []
    *whole, rest = data[start:].split(b"\n")
    if rest and not rest.isspace():
        return None
    for line in whole:
        tail = line[_HEAD_BYTES:]
        if line[:_HEAD_BYTES] == _HEAD % crc32(tail):
            if about in tail:
                content = decode(line)
                if content is None:
                    return None
                found.append(Line(start, start + len(line) + 1, content))
        elif line and not line.isspace():
            return None
        start += len(line) + 1
    return found
