# SPDX-License-Identifier: Apache-2.0
"""What runs programs on this machine, and why nothing can."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from typing import Final

from waggle_fsstore.provider.sandbox import seccomp
from waggle_fsstore.provider.sandbox.bubblewrap import find_bubblewrap
from waggle_fsstore.provider.sandbox.leftovers import end_leftovers, name_for
from waggle_fsstore.provider.sandbox.sandbox import Sandbox
from waggle_fsstore.provider.sandbox.unisolated import Unisolated
from waggle_fsstore.provider.sandbox.user import sandbox_user
from waggle_fsstore.provider.sandbox.view import find_programs, why_unsafe

# The first in which the limit of processes counts those of one sandbox, and not of its user.
_MIN_KERNEL: Final = (5, 14)

_find_release: Final = re.compile(r"(\d+)\.(\d+)").match


def find_sandbox(
    root: str, user: str, private: Iterable[str], *, has_network: bool = False
) -> Sandbox:
    """Return the sandbox of this machine, for workspaces in ``root``.

    Programs may see none of the ``private`` paths. Raises ``LookupError`` with the reason if there
    is no sandbox.
    """
    if sys.platform != "linux":
        raise LookupError("isolated execution needs Linux")
    release = _find_release(platform.release())
    if release is None or (int(release[1]), int(release[2])) < _MIN_KERNEL:
        raise LookupError("isolated execution needs Linux 5.14 or newer")
    if seccomp.filter_for(os.uname().machine) is None:
        raise LookupError(f"isolated execution is not available on {os.uname().machine}")
    bubblewrap, programs = find_bubblewrap(), find_programs()
    if reason := why_unsafe(programs.directories, filter(None, private)):
        raise LookupError(reason)
    name = name_for(root)
    end_leftovers(name)
    return Sandbox(bubblewrap, programs, sandbox_user(root, user), has_network, name)


def find_unisolated() -> Unisolated:
    """Return what runs programs without isolation. Raises ``LookupError`` if nothing can."""
    programs = find_programs()
    if not shutil.which("sh"):
        raise LookupError("there is no sh on the search path")
    return Unisolated(programs)
