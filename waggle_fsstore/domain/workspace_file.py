# SPDX-License-Identifier: Apache-2.0
"""Files of a workspace, as a client sees them."""

from datetime import datetime
from typing import Final, NamedTuple

#: Where a program that runs in an environment finds its files; it is the home directory too.
SANDBOX_HOME: Final = "/home/sandbox"

#: The largest file that is written or read as a whole, in bytes. As in Waggle.
MAX_FILE_BYTES: Final = 10 * 1024 * 1024


class FileEntry(NamedTuple):
    """An entry of a directory.

    - ``name``: the name in its directory; bytes that are not UTF-8 are question marks.
    - ``size``: in bytes.
    - ``mode``: type and permissions as ``ls`` writes them, such as ``-rw-r--r--``.
    - ``modified``: in UTC.
    """

    name: str
    size: int
    is_dir: bool
    mode: str
    modified: datetime


class FilePart(NamedTuple):
    """A part of a file: its bytes from an offset on, and the size of the whole file."""

    content: bytes
    size: int
