# SPDX-License-Identifier: Apache-2.0
"""The output of a program, of which the beginning and the end are kept."""

from collections import deque


class Output:
    """What a program wrote to one stream: at most ``limit`` bytes of it are kept."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        """Add what was read."""
        self.size += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_size += len(data)
        while self._tail and self._tail_size - len(self._tail[0]) >= self._half:
            self._tail_size -= len(self._tail.popleft())

    @property
    def is_truncated(self) -> bool:
        """Whether a part is left out."""
        return self.size > 2 * self._half

    def text(self) -> str:
        """Return what is kept, with a line that says how many bytes are left out."""
        tail = b"".join(self._tail)
        if not self.is_truncated:
            return _decoded(bytes(self._head) + tail)
        tail = tail[len(tail) - self._half :]
        gap = f"\n[... {self.size - len(self._head) - len(tail)} bytes left out ...]\n"
        return f"{_decoded(bytes(self._head))}{gap}{_decoded(tail)}"


def _decoded(data: bytes) -> str:
    return data.decode(errors="replace")
