# SPDX-License-Identifier: Apache-2.0
"""Mounts: which directories of this machine are mount points, and what lies on the same mount.

A bind mount has the device number of its source, so device numbers do not tell.
"""

import os
import re
from typing import Final

_MOUNTS: Final = "/proc/self/mountinfo"

# The fifth field of a line is the mount point (proc(5)).
_MOUNT_POINT_FIELD: Final = 4

_escape: Final = re.compile(rb"\\([0-7]{3})")


def mount_points(path: str) -> list[str]:
    """Return the mount points at ``path`` or below it, as this process sees them.

    None where the system has no ``/proc``; there a mount is discovered by what it refuses.
    """
    parent, name = os.path.split(path)
    path = os.path.join(os.path.realpath(parent), name)
    return [point for point in _all() if f"{point}/".startswith(f"{path}/")]


def mount_of(path: str) -> object:
    """Return a value that is equal for paths on the same mount; they need not exist."""
    real = os.path.realpath(path)
    above = [point for point in _all() if f"{real}/".startswith(f"{point.rstrip('/')}/")]
    if above:
        return max(above, key=len)
    while not os.path.exists(real):
        real = os.path.dirname(real)
    return os.stat(real).st_dev


def _all() -> list[str]:
    try:
        with open(_MOUNTS, "rb") as lines:
            fields = [line.split()[_MOUNT_POINT_FIELD] for line in lines]
    except (FileNotFoundError, PermissionError):
        return []
    return [
        os.fsdecode(_escape.sub(lambda octal: bytes([int(octal[1], 8)]), field)) for field in fields
    ]
