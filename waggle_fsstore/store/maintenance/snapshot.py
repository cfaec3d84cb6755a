# SPDX-License-Identifier: Apache-2.0
"""Snapshot: a consistent copy of all documents, made while other processes write."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from waggle_fsstore.domain.progress import report, tracked
from waggle_fsstore.domain.repository import OnCorrupt
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.fs.disk import SYNCFS_THRESHOLD_FILES, Disk
from waggle_fsstore.store.fs.safe_read import BadFile, read_or_error
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write import initialize

SUMS: Final = "SHA256SUMS"

# A directory without environments/ cannot be mistaken for a snapshot: the documents are
# collected under this name, and renamed when all of them are durable.
_PART: Final = "environments.part"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A finished snapshot at ``path``: ``count`` documents, as of change ``seq`` of the store."""

    seq: int
    count: int
    path: Path


def snapshot(layout: Layout, disk: Disk, view: View, dest: str, on_corrupt: OnCorrupt) -> Snapshot:
    """See :meth:`FileStore.snapshot`."""
    if f"{dest}{os.sep}".startswith(f"{layout.root}{os.sep}"):
        raise ValueError(f"{dest}: a snapshot cannot be inside its store")

    def fill(copy: _Copy) -> int:
        scan = view.scan(copy.copy_all)
        for error in copy.apply_changes(scan.overlay):
            on_corrupt(error)
        return scan.seq

    return _written(layout, disk, dest, fill)


def _written(layout: Layout, disk: Disk, dest: str, fill: Callable[["_Copy"], int]) -> Snapshot:
    """Return the snapshot that ``fill`` copies, and of whose change it returns the number."""
    _check_dest(dest)
    is_new = not os.path.lexists(dest)
    copy = _Copy(layout, disk, dest)
    try:
        disk.make_dir(dest)
        disk.make_dir(copy.documents_dir)
        seq = fill(copy)
        copy.finish()
    except BaseException:
        with suppress(OSError):  # The error that is being raised says more than this one.
            copy.discard()
            if is_new:
                disk.remove_dir(dest)
        raise
    return Snapshot(seq, len(copy.sums), Path(dest))


def write_snapshot(
    disk: Disk, dest: str, documents: dict[str, tuple[bytes, int]], seq: int
) -> Snapshot:
    """Write a snapshot of documents, given as bytes and revision by file name, of any store."""
    layout = Layout(dest)
    return _written(layout, disk, dest, lambda copy: copy.put_all(documents, seq))


class _Copy:
    """A snapshot in the making: the documents copied so far, and their checksums by file name."""

    def __init__(self, layout: Layout, disk: Disk, dest: str) -> None:
        self.documents_dir = os.path.join(dest, _PART)
        self.sums: dict[str, str] = {}
        self._revisions: dict[str, int] = {}
        self._bad: dict[str, BadFile] = {}
        self._documents = Documents(layout)
        self._layout = layout
        self._disk = disk
        self._dest = dest

    def copy_all(self) -> None:
        """Copy the present documents, in place of those copied before."""
        for name in list(self.sums):
            self._drop(name)
        self._bad.clear()
        for name in tracked(sorted(self._documents.names()), "documents"):
            stored = read_or_error(partial(self._documents.at, name))
            if isinstance(stored, BadFile):
                self._bad[name] = stored
            elif stored is not None:
                self._put(name, stored.data, stored.revision)

    def put_all(self, documents: dict[str, tuple[bytes, int]], seq: int) -> int:
        """Copy documents, given as bytes and revision by file name, as of change ``seq``."""
        for name, (data, revision) in tracked(documents.items(), "documents"):
            self._put(name, data, revision)
        return seq

    def apply_changes(self, changes: dict[str, dict[str, object]]) -> list[BadFile]:
        """Bring the copy up to the last change of each id.

        Returns what is wrong with the documents that are not in the copy, sorted by file name.
        """
        for environment_id, change in changes.items():
            name = document_name(environment_id)
            seq = int(str(change["seq"]))
            if self._revisions.get(name, 0) >= seq:
                continue
            self._bad.pop(name, None)
            self._drop(name)
            if change["kind"] != "deleted":
                self._put(name, canonical(change["document"]), seq)
        return [self._bad[name] for name in sorted(self._bad)]

    def finish(self) -> None:
        """Make the copy durable, and then a snapshot: the checksums come last."""
        disk, dest = self._disk, self._dest
        environments = os.path.join(dest, os.path.basename(self._layout.environments))
        marker = os.path.join(dest, os.path.basename(self._layout.marker))
        report(0, None, "and syncing")
        disk.write_temp(marker, initialize.MARKER)
        self._sync()
        disk.sync_dir(self.documents_dir)
        disk.replace(self.documents_dir, environments)
        self.documents_dir = environments
        disk.sync_dir(dest)
        # A known name, not a random one: `discard` finds it after an interrupt too.
        part = os.path.join(dest, f"{SUMS}.part")
        disk.write_temp(part, self._sums_file())
        disk.replace(part, os.path.join(dest, SUMS))
        disk.sync_dir(dest)

    def discard(self) -> None:
        """Remove all files of the copy."""
        for name in list(self.sums):
            self._drop(name)
        for name in (SUMS, f"{SUMS}.part", os.path.basename(self._layout.marker)):
            self._disk.discard(os.path.join(self._dest, name))
        if os.path.lexists(self.documents_dir):
            self._disk.remove_dir(self.documents_dir)

    def _put(self, name: str, data: bytes, revision: int) -> None:
        # Recorded first: an interrupt leaves no file that `discard` does not know.
        self.sums[name] = sha256(data).hexdigest()
        self._disk.write_temp(os.path.join(self.documents_dir, name), data, sync=False)
        self._revisions[name] = revision

    def _drop(self, name: str) -> None:
        if self.sums.pop(name, None):
            self._revisions.pop(name, None)
            self._disk.discard(os.path.join(self.documents_dir, name))

    def _sync(self) -> None:
        if len(self.sums) > SYNCFS_THRESHOLD_FILES:
            descriptor = os.open(self.documents_dir, os.O_RDONLY)
            try:
                if self._disk.sync_filesystem(descriptor, self.documents_dir):
                    return
            finally:
                os.close(descriptor)
        for name in self.sums:
            self._disk.sync_file(os.path.join(self.documents_dir, name))

    def _sums_file(self) -> bytes:
        environments = os.path.basename(self._layout.environments)
        sums = {f"{environments}/{name}": digest for name, digest in self.sums.items()}
        sums[os.path.basename(self._layout.marker)] = sha256(initialize.MARKER).hexdigest()
        return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)).encode()


def _check_dest(dest: str) -> None:
    try:
        is_free = not os.listdir(dest)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        is_free = False
    if not is_free:
        raise FileExistsError(errno.EEXIST, "is not an empty directory: choose another one", dest)
