# SPDX-License-Identifier: Apache-2.0
"""A pessimistic file system: what a power cut may leave of the operations so far.

Durable is only what a flush returned for: the bytes and the size of a file by a flush of
that file, a name by a flush of its folder, everything by a flush of the whole file system.
Of all the rest any part may survive, in any order, with these exceptions:

- Bytes are lost by sectors. A sector holds what it held at some moment: an earlier write
  to it is part of a later one.
- A file has its durable size or a later one. Bytes that were never written read as NUL.
- A rename within a folder happens as a whole. From one folder to another, either end may
  be lost: the file may have both names, or none.
- What a failed flush was to make durable may or may not be: each sector for itself, and
  no later flush changes that.
"""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from tests.crash.file_tree import Tree
from tests.crash.operations import (
    Create,
    FailedFlush,
    Flush,
    FlushAll,
    MakeFolder,
    Mark,
    Operation,
    RelativePath,
    Rename,
    Resize,
    Unlink,
    Write,
)
from tests.crash.sectors import NAME, Atom, ModelFile


class _Edit(NamedTuple):
    """Names in one folder got another meaning, all at once; ``None`` for a name taken away."""

    atom: Atom
    names: dict[str, int | None]


class _Folder:
    """The durable names in a folder, those of the moment, and what happened in between."""

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

    def flush(self) -> None:
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
    """The files below a folder, which itself is durable, inode 0."""

    def __init__(self) -> None:
        self._files: dict[int, ModelFile] = {}
        self._folders: dict[int, _Folder] = {0: _Folder()}
        self._operations = 0

    @classmethod
    def of(cls, tree: Tree) -> "FileSystem":
        """All of a tree, durable: what a crash left, after the next start of the system."""
        system = cls()
        for path, inode in tree.names.items():
            if inode in tree.contents:
                system._files[inode] = ModelFile(tree.contents[inode])
            else:
                system._folders[inode] = _Folder()
            folder, name = system._locate(path)
            system._folders[folder].now[name] = inode
        for one in system._folders.values():
            one.flush()
        return system

    def copy(self) -> "FileSystem":
        """Another one, with the same files."""
        other = FileSystem()
        other._files = {inode: one.copy() for inode, one in self._files.items()}
        other._folders = {inode: one.copy() for inode, one in self._folders.items()}
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
            case MakeFolder(path, inode):
                self._folders[inode] = _Folder()
                self._link(path, inode)
            case Write(inode, offset, data):
                self._files[inode].write(number, inode, offset, data)
            case Resize(inode, size):
                self._files[inode].resize(number, inode, size)
            case Flush(inode):
                (self._files.get(inode) or self._folders[inode]).flush()
            case FailedFlush(inode):
                if inode in self._files:
                    self._files[inode].fail_to_flush()
            case FlushAll():
                for one in self._all():
                    one.flush()
            case Rename(source, target):
                self._rename(source, target)
            case Unlink(path):
                self._link(path, None)
            case Mark():
                pass

    def highest_inode(self) -> int:
        """The highest number of a file or folder."""
        return max(*self._files, *self._folders, 0)

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
        return [*self._files.values(), *self._folders.values()]

    def _tree(self, survives: Callable[[Atom], bool]) -> Tree:
        names: dict[str, int] = {}
        self._walk(0, "", survives, names)
        found = {inode for inode in names.values() if inode in self._files}
        return Tree(names, {inode: self._files[inode].content(survives) for inode in found})

    def _walk(
        self, inode: int, prefix: str, survives: Callable[[Atom], bool], names: dict[str, int]
    ) -> None:
        for name, found in sorted(self._folders[inode].names(survives).items()):
            names[f"{prefix}{name}"] = found
            if found in self._folders:
                self._walk(found, f"{prefix}{name}/", survives, names)

    def _locate(self, path: RelativePath) -> tuple[int, str]:
        *folders, name = path.split("/")
        inode = 0
        for folder in folders:
            inode = self._folders[inode].now[folder]
        return inode, name

    def _link(self, path: RelativePath, inode: int | None) -> None:
        folder, name = self._locate(path)
        self._folders[folder].edit(self._operations, folder, {name: inode})

    def _rename(self, source: RelativePath, target: RelativePath) -> None:
        old, old_name = self._locate(source)
        new, new_name = self._locate(target)
        inode = self._folders[old].now[old_name]
        if old == new:
            self._folders[old].edit(self._operations, old, {old_name: None, new_name: inode})
        else:
            self._folders[new].edit(self._operations, new, {new_name: inode})
            self._folders[old].edit(self._operations, old, {old_name: None})
