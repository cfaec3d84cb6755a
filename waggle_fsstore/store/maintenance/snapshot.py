# SPDX-License-Identifier: Apache-2.0
"""Snapshots: a consistent copy of all documents, made while others write."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from waggle_fsstore.domain.errors import CorruptDocumentError, UnsupportedFormatError
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.safe_read import BadFile
from waggle_fsstore.store.read.document_cache import OUT_OF_RESOURCES
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write import initialize

SUMS: Final = "SHA256SUMS"

# Nobody takes for a snapshot what has no folder of documents yet.
_PART: Final = "environments.part"

# Flushing one file costs as much as flushing some hundreds together.
_FEW: Final = 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was made: of the store as of change ``seq``, with ``count`` documents."""

    seq: int
    count: int
    path: Path


def snapshot(
    layout: Layout, disk: Disk, view: View, dest: str, on_corrupt: Callable[[Exception], object]
) -> Snapshot:
    """See :meth:`FileStore.snapshot`."""
    _refuse_dest(layout, dest)
    is_new = not os.path.lexists(dest)
    copy = _Copy(layout, disk, dest)
    try:
        disk.make_dir(dest)
        disk.make_dir(copy.folder)
        scan = view.scan(copy.take)
        bad = copy.lay_over(scan.overlay)
        for error in bad:
            on_corrupt(error)
        copy.finish()
    except BaseException:
        with suppress(OSError):  # What stands in the way of this stood in the way before.
            copy.discard()
            if is_new:
                disk.remove_dir(dest)
        raise
    return Snapshot(scan.seq, len(copy.sums), Path(dest))


class _Copy:
    """A snapshot in the making: which files it holds, and their sums."""

    def __init__(self, layout: Layout, disk: Disk, dest: str) -> None:
        self.folder = os.path.join(dest, _PART)
        self.sums: dict[str, str] = {}
        self._revisions: dict[str, int] = {}
        self._bad: dict[str, BadFile] = {}
        self._documents = Documents(layout)
        self._layout = layout
        self._disk = disk
        self._dest = dest

    def take(self) -> None:
        """Copy the documents that there are now, and nothing else."""
        for name in list(self.sums):
            self._drop(name)
        self._bad.clear()
        for name in sorted(self._documents.names()):
            try:
                stored = self._documents.at(name)
            except (CorruptDocumentError, UnsupportedFormatError) as error:
                self._bad[name] = error
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    raise
                self._bad[name] = error
            else:
                if stored is not None:
                    self._put(name, stored.data, stored.revision)

    def lay_over(self, over: dict[str, dict[str, object]]) -> list[BadFile]:
        """Bring the copy up to these changes; what is bad then, by name."""
        for environment_id, change in over.items():
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
        """Make it durable, and only then a snapshot: the sums come last."""
        disk, dest = self._disk, self._dest
        environments = os.path.join(dest, os.path.basename(self._layout.environments))
        marker = os.path.join(dest, os.path.basename(self._layout.marker))
        disk.write_temp(marker, initialize.MARKER)
        self._flush()
        disk.sync_dir(self.folder)
        disk.replace(self.folder, environments)
        self.folder = environments
        disk.sync_dir(dest)
        part = os.path.join(dest, f"{SUMS}.part")
        disk.write_temp(part, self._sums_file())
        disk.replace(part, os.path.join(dest, SUMS))
        disk.sync_dir(dest)

    def discard(self) -> None:
        """Remove what was made."""
        for name in list(self.sums):
            self._drop(name)
        for name in (SUMS, f"{SUMS}.part", os.path.basename(self._layout.marker)):
            self._disk.discard(os.path.join(self._dest, name))
        if os.path.lexists(self.folder):
            self._disk.remove_dir(self.folder)

    def _put(self, name: str, data: bytes, revision: int) -> None:
        self.sums[name] = sha256(data).hexdigest()  # First: an interrupt leaves no unknown file.
        self._disk.write_temp(os.path.join(self.folder, name), data, sync=False)
        self._revisions[name] = revision

    def _drop(self, name: str) -> None:
        if self.sums.pop(name, None):
            self._revisions.pop(name, None)
            self._disk.discard(os.path.join(self.folder, name))

    def _flush(self) -> None:
        if len(self.sums) > _FEW:
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                if self._disk.sync_filesystem(descriptor, self.folder):
                    return
            finally:
                os.close(descriptor)
        for name in self.sums:
            self._disk.sync_file(os.path.join(self.folder, name))

    def _sums_file(self) -> bytes:
        folder = os.path.basename(self._layout.environments)
        sums = {f"{folder}/{name}": found for name, found in self.sums.items()}
        sums[os.path.basename(self._layout.marker)] = sha256(initialize.MARKER).hexdigest()
        return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)).encode()


def _refuse_dest(layout: Layout, dest: str) -> None:
    if f"{dest}{os.sep}".startswith(f"{layout.root}{os.sep}"):
        raise ValueError(f"{dest}: a snapshot cannot be inside of its store")
    try:
        is_free = not os.listdir(dest)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        is_free = False
    if not is_free:
        raise FileExistsError(errno.EEXIST, "is not an empty folder: choose another one", dest)
