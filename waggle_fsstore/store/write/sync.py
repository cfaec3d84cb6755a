# SPDX-License-Identifier: Apache-2.0
"""Syncing documents to disk: a few one by one, many with their whole file system."""

import os
from collections.abc import Iterable
from functools import partial

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import SYNCFS_THRESHOLD_FILES, Disk, mode_of
from waggle_fsstore.store.fs.safe_read import read_or_error, read_regular
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import changes, redo_range
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.read.documents import Documents


def sync_redo_range(
    layout: Layout, disk: Disk, through: int, directory: int, published: int
) -> None:
    """Sync the documents that changed since the last checkpoint, up to change ``through``.

    ``directory`` is a descriptor of the documents' directory that was opened before the first
    of them was published: errors since then are reported (man 2 syncfs). ``published`` is how
    many documents were at least, as far as is known without a look. Takes no lock.
    """

    def sync_together(count: int) -> bool:
        is_long = count > SYNCFS_THRESHOLD_FILES
        return is_long and disk.sync_filesystem(directory, layout.environments)

    if sync_together(published):
        return
    start = redo_range(layout).start
    if sync_together(through - start.seq):
        return
    ids = {change["id"] for change in changes(layout, start, Cursor(through))}
    _sync_files(layout, disk, map(layout.document, ids))


def sync_all(layout: Layout, disk: Disk) -> None:
    """Sync every document and segment of the store, those of other programs included."""
    directory = os.open(layout.environments, os.O_RDONLY)
    try:
        if disk.sync_filesystem(directory, layout.environments):
            return
    finally:
        os.close(directory)
    _sync_files(layout, disk, _all_files(layout))


def rewrite_files(layout: Layout, disk: Disk) -> None:
    """Write every document and segment again, and sync each: a second sync may do nothing.

    What cannot be read is left as it is.
    """
    for path in _all_files(layout):
        data = read_or_error(partial(read_regular, path, os.lstat(path).st_size))
        if isinstance(data, bytes):
            disk.write_atomic(path, data, layout.temporary, mode=mode_of(path))
    for directory in (layout.environments, layout.journal):
        disk.sync_dir(directory)


def _all_files(layout: Layout) -> list[str]:
    documents = [f"{layout.environments}{os.sep}{name}" for name in Documents(layout).names()]
    journal = [segments.path_of(layout, first) for first in segments.list_segments(layout)]
    return [*documents, *journal]


def _sync_files(layout: Layout, disk: Disk, paths: Iterable[str]) -> None:
    for path in paths:
        disk.sync_file(path)
    for directory in (layout.environments, layout.journal):
        disk.sync_dir(directory)
