# SPDX-License-Identifier: Apache-2.0
"""One of several processes that change documents in all ways, and check all that they read.

Each process changes documents of its own, and reads those of all. It notes each change before
and after it, in memory that all share. So a read has to show the last change that ended before
the read began, or one that was made during the read: anything else is reported.
"""

import mmap
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from waggle_fsstore import (
    CorruptDocumentError,
    Environment,
    EnvironmentNotFoundError,
    FileStore,
    Runtime,
)
from waggle_fsstore.store.read import change_detector, stat_signature

PROCESSES = 4
_OWN = 6
DOCUMENTS = PROCESSES * _OWN


def main() -> None:
    """Run: arguments are the root, the file of the notes, this process, steps, and "watch"."""
    root, notes, number, steps, watches = sys.argv[1:]
    stat_signature._SETTLING_TIME_NS = 0  # type: ignore[misc]
    change_detector._MIN_WATCHED_DOCUMENTS = 0 if watches else sys.maxsize  # type: ignore[misc]
    with open(notes, "r+b") as file:
        shared = memoryview(mmap.mmap(file.fileno(), 0)).cast("I")
    process = Process(FileStore(root, durable=False, lock_timeout=60), shared, int(number))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for _ in range(int(steps)):
        process.step()
    sys.stdout.write("\n".join([f"done {process.reads} {process.exact}", *process.wrong]))


def id_of(document: int) -> str:
    return f"document-{document:02}"


class _Change(NamedTuple):
    make: Callable[[FileStore, Path, int], object]
    #: Whether the document is missing afterwards, or only during the change.
    deletes: bool = False
    hides: bool = False


def _save(store: FileStore, path: Path, version: int) -> None:
    store.save(Environment(id=path.stem, name=f"{version:08}", runtime=Runtime.SHELL))


def _edited(path: Path, version: int) -> bytes:
    before, name, after = path.read_bytes().partition(b'"name": "')
    return before + name + b"%08d" % version + after[8:]


def _in_place(_: FileStore, path: Path, version: int) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(_edited(path, version))
    # A write sets the time before the bytes. This sets it after them, because the processes
    # trust a time that is only one tick old.
    path.chmod(0o600)


def _by_editor(_: FileStore, path: Path, version: int) -> None:
    data = _edited(path, version)
    path.write_bytes(data)
    path.chmod(0o600)


def _renamed_over(_: FileStore, path: Path, version: int) -> None:
    new, status = path.with_name(f"{path.stem}.new"), path.stat()
    new.write_bytes(_edited(path, version))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)


def _through_a_link(store: FileStore, path: Path, version: int) -> None:
    link = path.with_name(f"{path.stem}.link")
    os.link(path, link)
    _in_place(store, link, version)
    link.unlink()


def _away_and_back(store: FileStore, path: Path, version: int) -> None:
    away = path.with_name(f"{path.stem}.away")
    path.rename(away)
    _in_place(store, away, version)
    away.rename(path)


_CHANGES = (
    _Change(_save),
    _Change(_in_place),
    _Change(_by_editor),
    _Change(_save),
    _Change(_renamed_over),
    _Change(_through_a_link),
    _Change(_away_and_back, hides=True),
    _Change(lambda store, path, _: store.delete(path.stem), deletes=True),
    _Change(_save),
    _Change(lambda _, path, __: path.unlink(), deletes=True),
)


def _change(version: int) -> _Change:
    return _CHANGES[(version - 1) % len(_CHANGES)]


class Process:
    """The store object of one process, with the notes that all share."""

    def __init__(self, store: FileStore, notes: memoryview, number: int) -> None:
        self._store = store
        # The last version of each document that was begun, and the last that was completed.
        self._begun, self._ended = notes[:DOCUMENTS], notes[DOCUMENTS:]
        self._own = range(number * _OWN, (number + 1) * _OWN)
        self._random = random.Random(number)  # noqa: S311  # no secret
        self.reads = 0
        #: The reads during which nothing was changed, which only one answer satisfies.
        self.exact = 0
        self.wrong: list[str] = []

    def step(self) -> None:
        """Change an own document, or read."""
        kind = self._random.random()
        if kind < 0.3:
            self._change(self._random.choice(self._own))
        elif kind < 0.9:
            self._find(self._random.randrange(DOCUMENTS))
        elif kind < 0.95:
            self._find_all()
        else:
            self._count()

    def _change(self, document: int) -> None:
        version = self._begun[document] + 1
        self._begun[document] = version
        _change(version).make(self._store, self._store.document_path(id_of(document)), version)
        self._ended[document] = version

    def _find(self, document: int) -> None:
        first = self._ended[document]
        try:
            found = self._store.find_by_id(id_of(document)).name
        except EnvironmentNotFoundError:
            found = "missing"
        except CorruptDocumentError:
            found = "corrupt"
        self._judge("find_by_id", document, found, first)

    def _find_all(self) -> None:
        firsts = list(self._ended)
        errors: list[Exception] = []
        found = {one.id: one.name for one in self._store.find_all(on_corrupt=errors.append)}
        for error in errors:
            found[Path(getattr(error, "path", "")).stem] = "corrupt"
        for document, first in enumerate(firsts):
            self._judge("find_all", document, found.get(id_of(document), "missing"), first)

    def _count(self) -> None:
        firsts = list(self._ended)
        found = self._store.count()
        allowed = [self._allowed(document, first) for document, first in enumerate(firsts)]
        least = sum("missing" not in names for names in allowed)
        most = sum(names != {"missing"} for names in allowed)
        self.reads += 1
        self.exact += least == most
        if not least <= found <= most:
            self.wrong.append(f"count: {found}, not {least} to {most}")

    def _judge(self, call: str, document: int, found: str, first: int) -> None:
        allowed = self._allowed(document, first)
        self.reads += 1
        self.exact += len(allowed) == 1
        if found not in allowed:
            self.wrong.append(f"{call} {id_of(document)}: {found}, not {sorted(allowed)}")

    def _allowed(self, document: int, first: int) -> set[str]:
        """Return what a read may show that began after the end of version ``first``."""
        during = range(first + 1, self._begun[document] + 1)
        allowed = {
            "missing" if version == 0 or _change(version).deletes else f"{version:08}"
            for version in (first, *during)
        }
        if during:
            allowed.add("corrupt")
        if any(_change(version).hides for version in during):
            allowed.add("missing")
        return allowed
