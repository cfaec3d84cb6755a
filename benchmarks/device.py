# SPDX-License-Identifier: Apache-2.0
"""The device: what one flush costs, with bare system calls and nothing around them."""

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import documents
from waggle_fsstore.store.format import codec

OVERWRITE: Final = "write over + fdatasync"
JOURNALLED: Final = "bare journalled save"
APPEND: Final = "append + fdatasync"
REPLACE: Final = "create + write + fsync + rename + fsync(folder)"
UNSYNCED: Final = "create + write + rename, no flush"

_PREALLOCATED_BYTES: Final = 1 << 20

# Shares no factor with the numbers of documents.
_STRIDE: Final = 7_919


class Device:
    """Writes documents with the fewest system calls, in a folder of its own."""

    def __init__(self, folder: Path, contents: list[bytes]) -> None:
        self._files = str(folder / "files")
        self._aside = str(folder / "aside")
        for path in (str(folder), self._files, self._aside):
            os.mkdir(path)
        self._targets = [f"{self._files}/{number}" for number in range(len(contents))]
        for target, data in zip(self._targets, contents, strict=True):
            self._create(target, data)
        self._replaced = 0
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

    def replace_journalled(self, data: bytes) -> None:
        """The durable replacement of a file whose data is in a journal: one flush."""
        descriptor = os.open(self._source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(descriptor, 0, len(data))
        os.pwrite(descriptor, data, 0)
        os.close(descriptor)
        self.overwrite(data)
        self._publish()

    def replace(self, data: bytes) -> None:
        """The classic durable replacement of a file."""
        self._create(self._source, data, flush=True)
        self._publish()
        folder = os.open(self._files, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def replace_unsynced(self, data: bytes) -> None:
        """The same without a flush."""
        self._create(self._source, data)
        self._publish()

    def close(self) -> None:
        """Release the files."""
        os.close(self._appended)
        os.close(self._overwritten)

    def _publish(self) -> None:
        """Replace a file, another each time, by what was written aside."""
        self._replaced += _STRIDE
        os.replace(self._source, self._targets[self._replaced % len(self._targets)])

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
        Probe(JOURNALLED, device.replace_journalled),
        Probe(APPEND, device.append),
        Probe(REPLACE, device.replace),
    ]


@contextmanager
def open_device(folder: Path, number: int) -> Iterator[Device]:
    """The device with so many documents. Its files are removed afterwards."""
    root = folder / "device"
    try:
        device = Device(root, [codec.encode(documents.make(n), 1) for n in range(number)])
        settle(folder)
        try:
            yield device
        finally:
            device.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def settle(folder: Path) -> None:
    """Have everything written that is still in memory, so that no flush pays for another's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _syncfs is None or _syncfs(descriptor) != 0:
            os.sync()
    finally:
        os.close(descriptor)


_syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
