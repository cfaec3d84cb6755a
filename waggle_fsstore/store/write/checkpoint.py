# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: documents made durable in themselves, so that the journal may be forgotten."""

import os
from collections.abc import Iterable
from typing import Final

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import changes, redo_range
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.read.documents import Documents

# Flushing one file costs as much as flushing some hundreds together.
_FEW: Final = 64


def sync_redo_range(layout: Layout, disk: Disk, through: int, folder: int) -> None:
    """Make durable what the changes since the last checkpoint left, up to ``through``.

    ``folder`` is the folder of the documents, opened before the first of them was
    published: the errors since then count. Takes no lock.
    """
    start = redo_range(layout).start
    is_long = through - start.seq > _FEW
    if is_long and disk.sync_filesystem(folder, layout.environments):
        return
    names = {change["id"] for change in changes(layout, start, Cursor(through))}
    _sync_files(layout, disk, map(layout.document, names))


def sync_all(layout: Layout, disk: Disk) -> None:
    """Make durable whatever is in the store, whoever wrote it."""
    folder = os.open(layout.environments, os.O_RDONLY)
    try:
        if disk.sync_filesystem(folder, layout.environments):
            return
    finally:
        os.close(folder)
    documents = [f"{layout.environments}{os.sep}{name}" for name in Documents(layout).names()]
    journal = [segments.path_of(layout, first) for first in segments.list_segments(layout)]
    _sync_files(layout, disk, [*documents, *journal])


def _sync_files(layout: Layout, disk: Disk, paths: Iterable[str]) -> None:
    for path in paths:
        disk.sync_file(path)
    for folder in (layout.environments, layout.journal):
        disk.sync_dir(folder)
