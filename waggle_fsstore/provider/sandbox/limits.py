# SPDX-License-Identifier: Apache-2.0
"""The limits of one program, and what is watched while it runs."""

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from waggle_fsstore.domain.execution import Stop
from waggle_fsstore.provider.emptying import disk_usage

MIB: Final = 1024 * 1024

# Of the memory of the machine, this much stays free: below it, programs are stopped.
_MIN_AVAILABLE_SHARE: Final = 0.05

_KIB: Final = 1024

# The disk is measured again once so much of the limit was written, by anyone.
_SHARE_BETWEEN_MEASUREMENTS: Final = 8


class Limits(NamedTuple):
    """What a program may use. Sizes are in bytes.

    Kept by the kernel, for each process: ``file_bytes``, ``open_files``, ``cpu_seconds``. Kept by
    the kernel for all processes together: ``processes``. Watched, and the program is stopped:
    ``memory_bytes``, ``disk_bytes``, ``total_output_bytes``.
    """

    memory_bytes: int = 512 * MIB
    processes: int = 128
    open_files: int = 1024
    file_bytes: int = 256 * MIB
    disk_bytes: int = 1024 * MIB
    output_bytes: int = MIB
    total_output_bytes: int = 256 * MIB
    cpu_seconds: int = 600


class MemoryWatch:
    """The memory of all programs below one process: anonymous and shared, as it is resident."""

    def __init__(self, init: int, limit: int) -> None:
        self._init = init
        self._limit = limit

    def check(self) -> Stop:
        """Return :attr:`Stop.MEMORY` if they use too much, or the machine has too little left."""
        processes = list(descendants(self._init))
        used = sum(_sum_of(f"/proc/{pid}/status", b"RssAnon:", b"RssShmem:") for pid in processes)
        if used > self._limit:
            # Pages that several processes share were counted for each of them.
            proportional = [_pss(pid) for pid in processes]
            if None in proportional or sum(filter(None, proportional)) > self._limit:
                return Stop.MEMORY
        total = _sum_of("/proc/meminfo", b"MemTotal:")
        available = _sum_of("/proc/meminfo", b"MemAvailable:")
        is_short = used > self._limit // 8 and available < total * _MIN_AVAILABLE_SHARE
        return Stop.MEMORY if is_short else Stop.NONE


class DiskWatch:
    """The room that a workspace takes. It is measured again only after the disk has filled up."""

    def __init__(self, directories: tuple[str, ...], limit: int) -> None:
        self._directories = directories
        self._limit = limit
        self._free = self._free_now()

    def check(self) -> Stop:
        """Return :attr:`Stop.DISK` if it takes too much."""
        free = self._free_now()
        if free < self._free - self._limit // _SHARE_BETWEEN_MEASUREMENTS:
            self._free = free
            if self.usage() > self._limit:
                return Stop.DISK
        return Stop.NONE

    def usage(self) -> int:
        """Return how many bytes the workspace takes now."""
        return sum(map(disk_usage, self._directories))

    def _free_now(self) -> int:
        try:
            status = os.statvfs(self._directories[0])
        except FileNotFoundError:
            return self._free  # The workspace is being removed.
        return status.f_bavail * status.f_frsize


def descendants(process: int) -> Iterator[int]:
    """Yield a process and all below it. Its namespace ends with it, so none gets away."""
    waiting = [process]
    while waiting:
        current = waiting.pop()
        yield current
        try:
            threads = os.listdir(f"/proc/{current}/task")
        except OSError:
            continue
        for thread in threads:
            waiting += map(int, _read(f"/proc/{current}/task/{thread}/children").split())


def _pss(pid: int) -> int | None:
    """Return the memory of a process, with its share of shared pages; ``None`` if unknown."""
    path = f"/proc/{pid}/smaps_rollup"
    if os.path.exists(f"/proc/{pid}") and not _read(path):
        return None
    return _sum_of(path, b"Pss_Anon:", b"Pss_Shmem:")


def _sum_of(path: str, *fields: bytes) -> int:
    """Return the sum of some lines of a file, such as ``RssAnon:  12 kB``, in bytes."""
    lines = _read(path).splitlines()
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith(fields))


def _read(path: str) -> bytes:
    """Return the contents of a file in ``/proc``, nothing of a process that has ended."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
