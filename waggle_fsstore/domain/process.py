# SPDX-License-Identifier: Apache-2.0
"""Which process is working on an environment, and whether it still runs.

A process id alone proves nothing: after a restart another process has it, and in another PID
namespace too. Together with the boot id, the namespace and the start time of the process, it
identifies one process for ever.
"""

import os
import sys
from typing import Final

from waggle_fsstore.domain.audit import host_name
from waggle_fsstore.domain.environment import Owner

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_PID_NAMESPACE: Final = "/proc/self/ns/pid"

# man 5 proc_pid_stat: the 3rd field is the state, the 22nd the start time in clock ticks
# since boot. The name of the program, in parentheses, precedes them.
_STATE_FIELD: Final = 0
_START_TIME_FIELD: Final = 19


def boot_id() -> str:
    """Return the id of this boot; empty where the system has none, or no /proc."""
    try:
        # As bytes: decoding may open a codec's file, and an error would then name that file.
        with open(_BOOT_ID, "rb") as file:
            return file.read().decode("ascii").strip()
    except OSError:
        return ""


def pid_namespace() -> int:
    """Return the PID namespace of this process, as an inode number; 0 where that is unknown."""
    try:
        return os.stat(_PID_NAMESPACE).st_ino
    except OSError:
        return 0


def this_process() -> Owner:
    """Return the process that runs this code."""
    pid = os.getpid()
    return Owner(
        host=host_name(),
        boot_id=boot_id(),
        pid=pid,
        process_started=_started(pid) or 0,
        pid_namespace=pid_namespace(),
    )


def is_elsewhere(owner: Owner) -> bool:
    """Return whether a process of this boot is in another container, and so invisible here."""
    return owner.host != host_name() or owner.pid_namespace not in (0, pid_namespace())


def is_gone(owner: Owner) -> bool:
    """Return whether a process has certainly ended; ``False`` where that is unknown.

    A store is on a disk of this machine, so an owner of another boot is gone. An owner of this
    boot on another host or in another PID namespace is in another container, whose processes
    are invisible here: its process id belongs to another process here, or to none. An older
    version recorded no namespace; then the host decides.
    """
    now = boot_id()
    # A boot id that is unreadable, for lack of descriptors, proves no other boot.
    if now and owner.boot_id != now:
        return True
    if is_elsewhere(owner):
        return False
    started = _started(owner.pid)
    if started is None:
        return True
    return started != owner.process_started and 0 not in (started, owner.process_started)


def _started(pid: int) -> int | None:
    """Return when a process started, 0 where that is unknown, ``None`` if it does not run."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        # It has ended, or /proc hides it (hidepid), or there is no /proc.
        return _started_without_proc(pid)
    except OSError:
        return 0
    # A zombie no longer does any work.
    return None if fields[_STATE_FIELD] in (b"Z", b"X") else int(fields[_START_TIME_FIELD])


def _started_without_proc(pid: int) -> int | None:
    if sys.platform == "win32":  # os.kill would end the process there.
        return 0
    if pid <= 0:  # Such a number means a process group (man 2 kill).
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return 0
