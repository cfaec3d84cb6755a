# SPDX-License-Identifier: Apache-2.0
"""Which process is working on an environment, and whether it still runs.

A process id alone proves nothing: after a restart it is another's. With the id of the
boot and the time at which the process started, it is the name of one process for ever.
"""

import os
import sys
from typing import Final

from waggle_fsstore.domain.audit import host_name
from waggle_fsstore.domain.environment import Owner

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

# man 5 proc_pid_stat: the 3rd field is the state, the 22nd the start time in clock ticks
# since boot. Before them stands the name of the program, in parentheses.
_STATE: Final = 0
_STARTED: Final = 19


def boot_id() -> str:
    """A name for this boot; empty where the system has none, or shows no /proc."""
    try:
        # As bytes: to decode it may need to open a codec, under another name in an error.
        with open(_BOOT_ID, "rb") as file:
            return file.read().decode("ascii").strip()
    except OSError:
        return ""


def this_process() -> Owner:
    """The process that runs this code."""
    pid = os.getpid()
    return Owner(host=host_name(), boot_id=boot_id(), pid=pid, process_started=_started(pid) or 0)


def is_gone(owner: Owner) -> bool:
    """Whether a process has certainly ended; where that cannot be told, it has not.

    A store is on a disk of this machine, so an owner of another boot is gone. One on
    another host of this boot is in another container, whose processes are not seen here.
    """
    now = boot_id()
    # One that cannot be read, for want of descriptors, is no other one.
    if now and owner.boot_id != now:
        return True
    if owner.host != host_name():
        return False
    started = _started(owner.pid)
    if started is None:
        return True
    return started != owner.process_started and 0 not in (started, owner.process_started)


def _started(pid: int) -> int | None:
    """When a process started, 0 where that cannot be told; ``None`` if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        # None such, or one that a /proc with hidepid does not show, or no /proc.
        return _started_without_proc(pid)
    except OSError:
        return 0
    # A zombie does no work any more.
    return None if fields[_STATE] in (b"Z", b"X") else int(fields[_STARTED])


def _started_without_proc(pid: int) -> int | None:
    if sys.platform == "win32":  # os.kill would end it there.
        return 0
    if pid <= 0:  # A group of processes.
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return 0
