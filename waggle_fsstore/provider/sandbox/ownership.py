# SPDX-License-Identifier: Apache-2.0
"""The owner of a workspace, where programs run as another user than the server."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from waggle_fsstore.provider.emptying import directories


def give(tops: Iterable[str], user: tuple[int, int]) -> None:
    """Give directories, with all that is in them, to a user, unless they belong to it already.

    Follows no link. A file with several links is given only if it belongs to the owner of the
    directory, and that is not root: another one of its links may be elsewhere.
    """
    for top in tops:
        owner = os.lstat(top).st_uid
        if owner == user[0]:
            continue
        for directory, below in directories(top):
            for name in os.listdir(directory):
                with suppress(FileNotFoundError):  # A program removed it.
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    is_directory = stat.S_ISDIR(status.st_mode)
                    is_own = status.st_uid == owner != 0
                    if is_directory or status.st_nlink == 1 or is_own:
                        os.chown(name, *user, dir_fd=directory, follow_symlinks=False)
                    if is_directory:
                        below.append(name)
        # Last, because it says that all is done.
        os.chown(top, *user, follow_symlinks=False)
