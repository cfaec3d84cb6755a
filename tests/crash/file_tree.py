# SPDX-License-Identifier: Apache-2.0
"""A tree of files as a value: read from a directory, or made into one."""

import os
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple


class Tree(NamedTuple):
    """Directories and files by path below a root; a directory comes before its content.

    ``names`` says which inode a path leads to: two paths may lead to one. ``contents`` has
    the bytes of each inode that is a file.
    """

    names: dict[str, int]
    contents: dict[int, bytes]

    def digest(self) -> bytes:
        """Return a digest that is equal for indistinguishable trees."""
        first: dict[int, str] = {}
        whole = blake2b(digest_size=16)
        for path, inode in sorted(self.names.items()):
            content = self.contents.get(inode)
            size = None if content is None else len(content)
            whole.update(repr((path, first.setdefault(inode, path), size)).encode())
            whole.update(content or b"")
        return whole.digest()

    def files(self) -> dict[str, bytes | None]:
        """What each path holds; ``None`` for a directory."""
        return {path: self.contents.get(inode) for path, inode in self.names.items()}

    def write(self, directory: Path) -> None:
        """Make it, in an empty directory."""
        made: dict[int, Path] = {}
        for path, inode in self.names.items():
            target = directory / path
            if inode not in self.contents:
                target.mkdir(0o700)
            elif inode in made:
                os.link(made[inode], target)
            else:
                target.write_bytes(self.contents[inode])
                target.chmod(0o600)
                made[inode] = target


def files_in(directory: Path) -> dict[str, bytes | None]:
    """What each path below a directory holds, as :meth:`Tree.files` says it."""
    found: dict[str, bytes | None] = {}
    for path, directories, files in os.walk(str(directory)):
        prefix = "" if path == str(directory) else os.path.relpath(path, directory)
        for name in directories:
            found[os.path.join(prefix, name)] = None
        for name in files:
            with open(os.path.join(path, name), "rb") as file:
                found[os.path.join(prefix, name)] = file.read()
    return found
