# SPDX-License-Identifier: Apache-2.0
"""One file of the model: which of its bytes are durable, and which a power cut may lose."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

SECTOR = 512

DATA, SIZE, NAME = "data", "size", "name"


class Atom(NamedTuple):
    """The smallest thing that survives a crash or does not: of which operation, of which inode.

    ``part`` is the sector, for data.
    """

    operation: int
    kind: str
    inode: int
    part: int = 0


class _Sized(NamedTuple):
    """A file got another size."""

    atom: Atom
    size: int


class _Piece(NamedTuple):
    """One sector, or a part of it, was written. A doomed one had its fsync fail."""

    atom: Atom
    offset: int
    data: bytes
    is_doomed: bool = False


class ModelFile:
    """The durable bytes of a file, and what happened to it since, in order."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.events: list[_Sized | _Piece] = []
        self.size = len(durable)
        #: How many of the events are durable, but for doomed pieces.
        self.synced = 0

    def copy(self) -> "ModelFile":
        other = ModelFile(self.durable)
        other.events, other.size, other.synced = self.events.copy(), self.size, self.synced
        return other

    def pending(self) -> Iterator[Atom]:
        for index, event in enumerate(self.events):
            if index >= self.synced or (isinstance(event, _Piece) and event.is_doomed):
                yield event.atom

    def write(self, operation: int, inode: int, offset: int, data: bytes) -> None:
        if offset + len(data) > self.size:
            self.resize(operation, inode, offset + len(data))
        begin = offset
        while begin < offset + len(data):
            end = min(offset + len(data), (begin // SECTOR + 1) * SECTOR)
            atom = Atom(operation, DATA, inode, begin // SECTOR)
            self.events.append(_Piece(atom, begin, data[begin - offset : end - offset]))
            begin = end

    def resize(self, operation: int, inode: int, size: int) -> None:
        self.size = size
        self.events.append(_Sized(Atom(operation, SIZE, inode), size))

    def sync(self) -> None:
        if any(isinstance(event, _Piece) and event.is_doomed for event in self.events):
            self.synced = len(self.events)
        else:
            self.durable = self.content(lambda _: True)
            self.events.clear()

    def fail_to_sync(self) -> None:
        self.events[self.synced :] = [
            event._replace(is_doomed=True) if isinstance(event, _Piece) else event
            for event in self.events[self.synced :]
        ]

    def content(self, survives: Callable[[Atom], bool]) -> bytes:
        """What the file holds if these atoms survive."""
        last_size = -1
        last_in_sector: dict[int, int] = {}
        for index, event in enumerate(self.events):
            if index < self.synced or survives(event.atom):
                if isinstance(event, _Sized):
                    last_size = index
                elif not event.is_doomed:
                    last_in_sector[event.atom.part] = index
        size = len(self.durable)
        room = max([size, *(event.size for event in self.events if isinstance(event, _Sized))])
        data = bytearray(self.durable.ljust(room, b"\0"))
        kept = room  # From here on, the bytes were cut off, and the cut was lost.
        for index, event in enumerate(self.events):
            if isinstance(event, _Sized):
                if index <= last_size:
                    size = event.size
                    data[size:] = bytes(room - size)
                else:
                    kept = min(kept, event.size) if event.size < size else kept
            elif (
                survives(event.atom)
                if event.is_doomed
                else index <= last_in_sector.get(event.atom.part, -1)
            ):
                piece = event.data[: max(0, kept - event.offset)]
                data[event.offset : event.offset + len(piece)] = piece
        return bytes(data[:size])
