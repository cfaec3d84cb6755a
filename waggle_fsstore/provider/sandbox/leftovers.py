# SPDX-License-Identifier: Apache-2.0
"""What killed servers have left of their sandboxes.

While bubblewrap sets up a sandbox it does not die with its parent yet. Then the program never
starts, but bubblewrap waits for ever.
"""

import os
import signal
from contextlib import suppress
from hashlib import blake2b

from waggle_fsstore.provider.sandbox.limits import descendants, read_proc


def name_for(root: str) -> str:
    """Return the name of the processes of the sandboxes of a directory of workspaces."""
    digest = blake2b(os.fsencode(os.path.realpath(root)), digest_size=8).hexdigest()
    return f"waggle-sandbox-{digest}"


def end_leftovers(name: str) -> None:
    """End the processes with a name, and all below them, whose server has ended.

    Their parent is the first process of the machine then. Where that is a server itself, as in a
    container, its own sandboxes cannot be told from those, and stay.
    """
    if b"waggle" in read_proc("/proc/1/cmdline"):
        return
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        command = read_proc(f"/proc/{pid}/cmdline")
        if command.startswith(name.encode() + b"\0") and _parent(pid) == 1:
            for one in list(descendants(pid)):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(one, signal.SIGKILL)


def _parent(pid: int) -> int:
    fields = read_proc(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0
