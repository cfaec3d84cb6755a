# SPDX-License-Identifier: Apache-2.0
"""The limits of one program, and what is watched while it runs."""

import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.execution import Stop
from waggle_fsstore.provider.emptying import disk_usage

MIB: Final = 1024 * 1024

# Of the memory and the disk of the machine, this much stays free: below it, programs are stopped.
_MIN_AVAILABLE_SHARE: Final = 0.05

_KIB: Final = 1024
_INODE_BYTES: Final = 4096
_BLOCK_BYTES: Final = 512  # The unit of st_blocks.

# How often, and after which pauses, too much has to be seen.
_LOOKS: Final = 3
_PAUSE_S: Final = 0.003

# The number of the system call by machine (asm/unistd.h), and its type (linux/kcmp.h).
_KCMP: Final = {"x86_64": 312, "aarch64": 272}
_KCMP_VM: Final = 1

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
        self._shared = _sum_of("/proc/meminfo", b"Shmem:")

    def check(self) -> Stop:
        """Return :attr:`Stop.MEMORY` if they use too much, or the machine has too little left."""
        used = self._used()
        # Processes change between two looks at them, and not every kernel tells which of them
        # have the same memory.
        for _ in range(_LOOKS):
            if used <= self._limit:
                break
            time.sleep(_PAUSE_S)
            used = self._used()
        else:
            return Stop.MEMORY
        total = _sum_of("/proc/meminfo", b"MemTotal:")
        available = _sum_of("/proc/meminfo", b"MemAvailable:")
        is_short = used > self._limit // 8 and available < total * _MIN_AVAILABLE_SHARE
        return Stop.MEMORY if is_short else Stop.NONE

    def _used(self) -> int:
        """Return the memory of all processes, in bytes."""
        processes = list(descendants(self._init))
        counted = {pid: _memory_of(pid) for pid in processes}
        used = sum(resident + tables for resident, tables in counted.values())
        if used > self._limit:
            # Pages that several processes share were counted for each of them, and so was all
            # memory of a process that waits between vfork and exec of another.
            used = 0
            distinct: list[int] = []
            for pid, (resident, tables) in counted.items():
                if any(_have_same_memory(pid, other) for other in distinct):
                    continue
                distinct.append(pid)
                # A process that ends has no memory any more, and says nothing.
                proportional = _pss(pid) if resident else 0
                used += (resident if proportional is None else proportional) + tables
        # Shared pages that a program has unmapped are resident in no process.
        shared = _sum_of("/proc/meminfo", b"Shmem:")
        if shared - self._shared > self._limit:
            used = max(used, _shared_size(processes))
        # What other programs free must not hide it.
        self._shared = min(self._shared, shared)
        return used


class DiskWatch:
    """The room that a workspace takes. It is measured again only after the disk has filled up.

    One that takes too much already may be cleaned up: a program is stopped only if it adds to it.
    """

    def __init__(self, directories: tuple[str, ...], limit: int) -> None:
        self._directories = directories
        self._limit = limit
        self._usage = self.usage()
        self._disk = _Disk(directories[0])

    def check(self) -> Stop:
        """Return :attr:`Stop.DISK` if it takes too much."""
        is_full = self._usage > self._limit
        if self._disk.has_lost(MIB if is_full else self._limit // _SHARE_BETWEEN_MEASUREMENTS):
            before, self._usage = self._usage, self.usage()
            if self._usage > max(self._limit, before):
                return Stop.DISK
        return Stop.NONE

    def take(self, size: int) -> bool:
        """Return whether there is room for a file of some size, which is written then."""
        has_lost = self._disk.has_lost(self._limit // _SHARE_BETWEEN_MEASUREMENTS)
        if has_lost or self._usage + size > self._limit:
            self._usage = self.usage()
        if self._usage + size > self._limit:
            return False
        self._usage += size
        return True

    def usage(self) -> int:
        """Return how many bytes the workspace takes now."""
        return sum(map(disk_usage, self._directories))


class UnlinkedWatch:
    """The room that files without a name take, which programs below one process hold open.

    They are in no directory, and are measured only after the disk has filled up.
    """

    def __init__(self, init: int, directory: str, limit: int) -> None:
        self._init = init
        self._limit = limit
        self._disk = _Disk(directory)

    def check(self) -> Stop:
        """Return :attr:`Stop.DISK` if they take too much."""
        has_lost = self._disk.has_lost(self._limit // _SHARE_BETWEEN_MEASUREMENTS)
        return Stop.DISK if has_lost and self._size() > self._limit else Stop.NONE

    def _size(self) -> int:
        """Return the size of the files. Those of a process that hides them count on a full disk."""
        found: dict[tuple[int, int], int] = {}
        for pid in descendants(self._init):
            files = _open_files(pid)
            if files is None and self._disk.is_nearly_full:
                return sys.maxsize
            for status in files or ():
                if status.st_nlink == 0:
                    found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
        return sum(found.values())


class _Disk:
    """What is free on the disk of a directory: bytes, and inodes as the room that each counts."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._most = self._free(0)

    def has_lost(self, size: int) -> bool:
        """Return whether this much less is free than at most since it had last lost as much."""
        free = self._free(self._most)
        has_lost = free < self._most - size
        # What others free must not hide what is written from now on.
        self._most = free if has_lost else max(self._most, free)
        return has_lost

    @property
    def is_nearly_full(self) -> bool:
        """Whether hardly anything is free."""
        status = os.statvfs(self._directory)
        return status.f_bavail < status.f_blocks * _MIN_AVAILABLE_SHARE

    def _free(self, otherwise: int) -> int:
        try:
            status = os.statvfs(self._directory)
        except FileNotFoundError:
            return otherwise  # The workspace is being removed.
        return status.f_bavail * status.f_frsize + status.f_favail * _INODE_BYTES


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
            waiting += map(int, read_proc(f"/proc/{current}/task/{thread}/children").split())


def _open_files(pid: int) -> list[os.stat_result] | None:
    """Return the files that a process has open, ``None`` if it hides them."""
    is_hidden = False
    for thread in _threads(pid):
        directory = f"/proc/{pid}/task/{thread}/fd"
        found = []
        try:
            for name in os.listdir(directory):
                with suppress(FileNotFoundError):
                    found.append(os.stat(f"{directory}/{name}"))
        except PermissionError:
            # So says a thread that is ending, too, which has no memory any more.
            is_hidden |= bool(_sum_of(f"/proc/{pid}/task/{thread}/status", b"VmSize:"))
        except OSError:
            continue
        else:
            return found
    return None if is_hidden else []


class _Memory(NamedTuple):
    """The memory of a process, in bytes: what is resident or swapped, and its page tables."""

    pages: int = 0
    tables: int = 0


def _memory_of(pid: int) -> _Memory:
    """Return the memory of a process, as a thread of it reports it that has not ended.

    Where the first thread has ended, the file of the process has no memory.
    """
    for thread in _threads(pid):
        path = f"/proc/{pid}/task/{thread}/status"
        tables = _sum_of(path, b"VmPTE:")
        if tables:
            fields = (b"RssAnon:", b"RssShmem:", b"VmSwap:", b"HugetlbPages:")
            return _Memory(_sum_of(path, *fields), tables)
    return _Memory()


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _pss(pid: int) -> int | None:
    """Return the memory of a process, with its share of shared pages; ``None`` if unknown.

    It is unknown of a process that hides it, and of one whose first thread has ended.
    """
    lines = read_proc(f"/proc/{pid}/smaps_rollup")
    return _sum_in(lines, b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:") if lines else None


def _have_same_memory(one: int, other: int) -> bool:
    """Return whether two processes have one address space (man 2 kcmp, ``KCMP_VM``).

    ``False`` if the kernel does not tell, or not of a process that hides its memory.
    """
    function, number = _system_call(), _KCMP.get(platform.machine())
    if function is None or number is None:
        return False
    return bool(function(number, one, other, _KCMP_VM, 0, 0) == 0)


@cache
def _system_call() -> Any:
    """Return the function of the C library that makes any system call, ``None`` without ctypes."""
    try:
        import ctypes
    except ImportError:
        return None
    return ctypes.CDLL(None).syscall


def _shared_size(processes: Iterable[int]) -> int:
    """Return the size of the anonymous shared mappings of processes, each counted once.

    It is more than any limit if a process hides its mappings.
    """
    found: dict[tuple[bytes, bytes], int] = {}
    for pid in processes:
        for thread in _threads(pid):
            try:
                with open(f"/proc/{pid}/task/{thread}/maps", "rb") as file:
                    lines = file.read().splitlines()
            except PermissionError:
                return sys.maxsize
            except OSError:
                continue  # It has ended.
            for line in lines:
                if line.endswith(b"/dev/zero (deleted)"):
                    addresses, _, offset, _, inode, *_ = line.split()
                    start, _, end = addresses.partition(b"-")
                    found[inode, offset] = int(end, 16) - int(start, 16)
            if lines:
                break
    return sum(found.values())


def _sum_in(text: bytes, *fields: bytes) -> int:
    """Return the sum of some lines, such as ``RssAnon:  12 kB``, in bytes."""
    return sum(int(line.split()[1]) * _KIB for line in text.splitlines() if line.startswith(fields))


def _sum_of(path: str, *fields: bytes) -> int:
    """Return the sum of some lines of a file, in bytes."""
    return _sum_in(read_proc(path), *fields)


def read_proc(path: str) -> bytes:
    """Return the contents of a file in ``/proc``, nothing of a process that has ended."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
