# SPDX-License-Identifier: Apache-2.0
"""The device: the cost of one sync, measured with bare system calls."""

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

# The size of the state record of a store.
_STATE_BYTES: Final = 384

# Has no factor in common with the numbers of documents.
_STRIDE: Final = 7_919


class Device:
    """Writes documents with the fewest possible system calls, in a new directory."""

    def __init__(self, directory: Path, contents: list[bytes]) -> None:
        self._files = str(directory / "files")
        self._temp = str(directory / "aside")
        for path in (str(directory), self._files, self._temp):
            os.mkdir(path)
        self._targets = [f"{self._files}/{number}" for number in range(len(contents))]
        for target, data in zip(self._targets, contents, strict=True):
            self._create(target, data)
        self._replaced = 0
        self._source = f"{self._temp}/0"
        self._appended = os.open(directory / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._overwritten = os.open(directory / "overwritten", os.O_WRONLY | os.O_CREAT)
        # Written, not only allocated: the first write to an allocated block changes the block map.
        os.pwrite(self._overwritten, b" " * _PREALLOCATED_BYTES, 0)
        os.fsync(self._overwritten)
        self._offset = 0
        self._state = os.open(directory / "state", os.O_WRONLY | os.O_CREAT)
        self._state_record = b" " * _STATE_BYTES

    def overwrite(self, data: bytes) -> None:
        """Write with the cheapest sync: the file keeps its size and its blocks."""
        if self._offset + len(data) > _PREALLOCATED_BYTES:
            self._offset = 0
        os.pwrite(self._overwritten, data, self._offset)
        os.fdatasync(self._overwritten)
        self._offset += len(data)

    def append(self, data: bytes) -> None:
        """Write with a sync that must store a new file size too."""
        os.write(self._appended, data)
        os.fdatasync(self._appended)

    def replace_journalled(self, data: bytes) -> None:
        """Replace a file durably with one sync: its data is in a journal."""
        descriptor = os.open(self._source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(descriptor, 0, len(data))
        os.pwrite(descriptor, data, 0)
        os.close(descriptor)
        self.overwrite(data)
        os.pwrite(self._state, self._state_record, 0)
        self._publish()
        os.pwrite(self._state, self._state_record, 0)

    def replace(self, data: bytes) -> None:
        """Replace a file durably in the classic way, with two syncs."""
        self._create(self._source, data, sync=True)
        self._publish()
        directory = os.open(self._files, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def replace_unsynced(self, data: bytes) -> None:
        """Replace a file without a sync."""
        self._create(self._source, data)
        self._publish()

    def close(self) -> None:
        """Close the files."""
        os.close(self._appended)
        os.close(self._overwritten)
        os.close(self._state)

    def _publish(self) -> None:
        """Rename the temp file over a target, a different one each time."""
        self._replaced += _STRIDE
        os.replace(self._source, self._targets[self._replaced % len(self._targets)])

    def _create(self, path: str, data: bytes, *, sync: bool = False) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, data)
        if sync:
            os.fsync(descriptor)
        os.close(descriptor)


class Probe(NamedTuple):
    """A bare write to measure."""

    name: str
    call: Callable[[bytes], None]


def probes(device: Device) -> list[Probe]:
    """Return the bare writes that the durable save is compared with."""
    return [
        Probe(OVERWRITE, device.overwrite),
        Probe(JOURNALLED, device.replace_journalled),
        Probe(APPEND, device.append),
        Probe(REPLACE, device.replace),
    ]


@contextmanager
def open_device(directory: Path, number: int) -> Iterator[Device]:
    """Yield the device with ``number`` documents, and remove its files afterwards."""
    root = directory / "device"
    try:
        device = Device(root, [codec.encode(documents.make(n), 1) for n in range(number)])
        settle(directory)
        try:
            yield device
        finally:
            device.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def settle(directory: Path) -> None:
    """Write all cached data to the device, so that no sync includes the data of another peer."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if _syncfs is None or _syncfs(descriptor) != 0:
            os.sync()
    finally:
        os.close(descriptor)


_syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
