# SPDX-License-Identifier: Apache-2.0
"""The device: what one flush costs, with bare system calls and nothing around them."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

OVERWRITE: Final = "write over + fdatasync"
APPEND: Final = "append + fdatasync"
REPLACE: Final = "create + write + fsync + rename + fsync(folder)"
UNSYNCED: Final = "create + write + rename, no flush"

_PREALLOCATED_BYTES: Final = 1 << 20


class Device:
    """Writes documents with the fewest system calls, in a folder of its own."""

    def __init__(self, folder: Path, documents: list[bytes]) -> None:
        self._files = str(folder / "files")
        self._aside = str(folder / "aside")
        for path in (str(folder), self._files, self._aside):
            os.mkdir(path)
        for number, document in enumerate(documents):
            self._create(f"{self._files}/{number}", document)
        self._target = f"{self._files}/0"
        self._source = f"{self._aside}/0"
        self._appended = os.open(folder / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._overwritten = os.open(folder / "overwritten", os.O_WRONLY | os.O_CREAT)
        # Written, not only reserved: the first write to a reserved block changes the block map.
        os.pwrite(self._overwritten, b" " * _PREALLOCATED_BYTES, 0)
        os.fsync(self._overwritten)
        self._place = 0

    def overwrite(self, data: bytes) -> None:
        """The cheapest flush: the file keeps its size and its blocks."""
        if self._place + len(data) > _PREALLOCATED_BYTES:
            self._place = 0
        os.pwrite(self._overwritten, data, self._place)
        os.fdatasync(self._overwritten)
        self._place += len(data)

    def append(self, data: bytes) -> None:
        """A flush that must keep a new size too."""
        os.write(self._appended, data)
        os.fdatasync(self._appended)

    def replace(self, data: bytes) -> None:
        """The classic durable replacement of a file."""
        self._create(self._source, data, flush=True)
        os.rename(self._source, self._target)
        folder = os.open(self._files, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def replace_unsynced(self, data: bytes) -> None:
        """The same without a flush."""
        self._create(self._source, data)
        os.rename(self._source, self._target)

    def close(self) -> None:
        """Release the files."""
        os.close(self._appended)
        os.close(self._overwritten)

    def _create(self, path: str, data: bytes, *, flush: bool = False) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, data)
        if flush:
            os.fsync(descriptor)
        os.close(descriptor)


class Probe(NamedTuple):
    """A bare write under measurement."""

    name: str
    call: Callable[[bytes], None]


def probes(device: Device) -> list[Probe]:
    """What the durable save is compared with."""
    return [
        Probe(OVERWRITE, device.overwrite),
        Probe(APPEND, device.append),
        Probe(REPLACE, device.replace),
    ]


def settle(folder: Path) -> None:
    """Have everything written that is still in memory, so that no flush pays for another's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _syncfs is None or _syncfs(descriptor) != 0:
            os.sync()
    finally:
        os.close(descriptor)


_syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
