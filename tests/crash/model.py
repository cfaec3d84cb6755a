# SPDX-License-Identifier: Apache-2.0
"""A pessimistic file system: what a power cut may leave of the operations so far.

Only a successful fsync makes anything durable: the bytes and the size of a file by an fsync
of that file, a name by an fsync of its directory, everything by a syncfs.
Of all the rest any part may survive, in any order, with these exceptions:

- Bytes are lost by sectors. A sector holds what it held at some moment: an earlier write
  to it is part of a later one.
- A file has its durable size or a later one. Bytes that were never written read as NUL.
- A rename within a directory happens as a whole. From one directory to another, either end may
  be lost: the file may have both names, or none.
- What a failed fsync covered may or may not be durable: each sector independently, and no
  later fsync changes that.
"""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from tests.crash.file_tree import Tree
from tests.crash.operations import (
    Create,
    FailedFsync,
    Fsync,
    MakeDirectory,
    Mark,
    Operation,
    RelativePath,
    Rename,
    Resize,
    Syncfs,
    Unlink,
    Write,
)
from tests.crash.sectors import NAME, Atom, ModelFile


class _Edit(NamedTuple):
    """Names in one directory got another meaning, all at once; ``None`` for a name taken away."""

    atom: Atom
    names: dict[str, int | None]


class _Folder:
    """The durable names in a directory, those of the moment, and what happened in between."""

    def __init__(self) -> None:
        self.durable: dict[str, int] = {}
        self.now: dict[str, int] = {}
        self.edits: list[_Edit] = []

    def copy(self) -> "_Folder":
        other = _Folder()
        other.durable, other.now = self.durable.copy(), self.now.copy()
        other.edits = self.edits.copy()
        return other

    def pending(self) -> Iterator[Atom]:
        return (edit.atom for edit in self.edits)

    def edit(self, operation: int, inode: int, names: dict[str, int | None]) -> None:
        edit = _Edit(Atom(operation, NAME, inode), names)
        self.edits.append(edit)
        _apply(self.now, edit)

    def sync(self) -> None:
        self.durable = self.now.copy()
        self.edits.clear()

    def names(self, survives: Callable[[Atom], bool]) -> dict[str, int]:
        names = self.durable.copy()
        for edit in self.edits:
            if survives(edit.atom):
                _apply(names, edit)
        return names


def _apply(names: dict[str, int], edit: _Edit) -> None:
    for name, inode in edit.names.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


class FileSystem:
    """The files below a directory, which itself is durable, inode 0."""

    def __init__(self) -> None:
        self._files: dict[int, ModelFile] = {}
        self._directories: dict[int, _Folder] = {0: _Folder()}
        self._operations = 0

    @classmethod
    def of(cls, tree: Tree) -> "FileSystem":
        """All of a tree, durable: what a crash left, after the next start of the system."""
        system = cls()
        for path, inode in tree.names.items():
            if inode in tree.contents:
                system._files[inode] = ModelFile(tree.contents[inode])
            else:
                system._directories[inode] = _Folder()
            directory, name = system._locate(path)
            system._directories[directory].now[name] = inode
        for one in system._directories.values():
            one.sync()
        return system

    def copy(self) -> "FileSystem":
        """Another one, with the same files."""
        other = FileSystem()
        other._files = {inode: one.copy() for inode, one in self._files.items()}
        other._directories = {inode: one.copy() for inode, one in self._directories.items()}
        other._operations = self._operations
        return other

    def apply(self, operation: Operation) -> None:
        """Do one more operation."""
        self._operations += 1
        number = self._operations
        match operation:
            case Create(path, inode):
                self._files[inode] = ModelFile()
                self._link(path, inode)
            case MakeDirectory(path, inode):
                self._directories[inode] = _Folder()
                self._link(path, inode)
            case Write(inode, offset, data):
                self._files[inode].write(number, inode, offset, data)
            case Resize(inode, size):
                self._files[inode].resize(number, inode, size)
            case Fsync(inode):
                (self._files.get(inode) or self._directories[inode]).sync()
            case FailedFsync(inode):
                if inode in self._files:
                    self._files[inode].fail_to_sync()
            case Syncfs():
                for one in self._all():
                    one.sync()
            case Rename(source, target):
                self._rename(source, target)
            case Unlink(path):
                self._link(path, None)
            case Mark():
                pass

    def highest_inode(self) -> int:
        """The highest number of a file or directory."""
        return max(*self._files, *self._directories, 0)

    def pending(self) -> list[Atom]:
        """What a crash now may or may not leave, in the order in which it was done."""
        return sorted(atom for one in self._all() for atom in one.pending())

    def tree(self, survivors: Collection[Atom]) -> Tree:
        """What is there after a crash that these atoms survive."""
        return self._tree(frozenset(survivors).__contains__)

    def now(self) -> Tree:
        """What a process sees now."""
        return self._tree(lambda _: True)

    def _all(self) -> list[ModelFile | _Folder]:
        return [*self._files.values(), *self._directories.values()]

    def _tree(self, survives: Callable[[Atom], bool]) -> Tree:
        names: dict[str, int] = {}
        self._walk(0, "", survives, names)
        found = {inode for inode in names.values() if inode in self._files}
        return Tree(names, {inode: self._files[inode].content(survives) for inode in found})

    def _walk(
        self, inode: int, prefix: str, survives: Callable[[Atom], bool], names: dict[str, int]
    ) -> None:
        for name, found in sorted(self._directories[inode].names(survives).items()):
            names[f"{prefix}{name}"] = found
            if found in self._directories:
                self._walk(found, f"{prefix}{name}/", survives, names)

    def _locate(self, path: RelativePath) -> tuple[int, str]:
        *directories, name = path.split("/")
        inode = 0
        for directory in directories:
            inode = self._directories[inode].now[directory]
        return inode, name

    def _link(self, path: RelativePath, inode: int | None) -> None:
        directory, name = self._locate(path)
        self._directories[directory].edit(self._operations, directory, {name: inode})

    def _rename(self, source: RelativePath, target: RelativePath) -> None:
        old, old_name = self._locate(source)
        new, new_name = self._locate(target)
        inode = self._directories[old].now[old_name]
        if old == new:
            self._directories[old].edit(self._operations, old, {old_name: None, new_name: inode})
        else:
            self._directories[new].edit(self._operations, new, {new_name: inode})
            self._directories[old].edit(self._operations, old, {old_name: None})
