# SPDX-License-Identifier: Apache-2.0
"""The owner of a workspace, where programs run as another user than the server."""

import os
import stat
from collections.abc import Iterable


def give(directories: Iterable[str], user: tuple[int, int]) -> None:
    """Give directories, with all that is in them, to a user, unless they belong to it already.

    Follows no link, and leaves files with several links alone: one of those may be elsewhere.
    """
    for directory in directories:
        if os.lstat(directory).st_uid == user[0]:
            continue
        for _, names, files, descriptor in os.fwalk(directory, topdown=False):
            for name in [*names, *files]:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
                    os.chown(name, *user, dir_fd=descriptor, follow_symlinks=False)
        # Last, because it says that all is done.
        os.chown(directory, *user, follow_symlinks=False)
