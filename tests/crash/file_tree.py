# SPDX-License-Identifier: Apache-2.0
"""A tree of files as a value: read from a folder, or made into one."""

import os
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple


class Tree(NamedTuple):
    """Folders and files by their path below some folder; a folder stands before what is in it.

    ``names`` says which inode a path leads to: two paths may lead to one. ``contents`` has
    the bytes of each inode that is a file.
    """

    names: dict[str, int]
    contents: dict[int, bytes]

    def digest(self) -> bytes:
        """Equal for trees that nobody can tell apart."""
        first: dict[int, str] = {}
        parts = [
            repr((path, first.setdefault(inode, path), self.contents.get(inode)))
            for path, inode in sorted(self.names.items())
        ]
        return blake2b("\n".join(parts).encode(), digest_size=16).digest()

    def files(self) -> dict[str, bytes | None]:
        """What each path holds; ``None`` for a folder."""
        return {path: self.contents.get(inode) for path, inode in self.names.items()}

    def write(self, folder: Path) -> None:
        """Make it, in an empty folder."""
        made: dict[int, Path] = {}
        for path, inode in self.names.items():
            target = folder / path
            if inode not in self.contents:
                target.mkdir(0o700)
            elif inode in made:
                os.link(made[inode], target)
            else:
                target.write_bytes(self.contents[inode])
                target.chmod(0o600)
                made[inode] = target


def files_in(folder: Path) -> dict[str, bytes | None]:
    """What each path below a folder holds, as :meth:`Tree.files` says it."""
    found: dict[str, bytes | None] = {}
    for path, folders, files in os.walk(str(folder)):
        prefix = "" if path == str(folder) else os.path.relpath(path, folder)
        for name in folders:
            found[os.path.join(prefix, name)] = None
        for name in files:
            with open(os.path.join(path, name), "rb") as file:
                found[os.path.join(prefix, name)] = file.read()
    return found
