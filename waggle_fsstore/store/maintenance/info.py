# SPDX-License-Identifier: Apache-2.0
"""Info: the size of a store, its last change, and how it is made durable here."""

import os
import stat
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from waggle_fsstore.store.format.layout import Layout, is_document_name
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.linux import filesystem_type
from waggle_fsstore.store.fs.lock import is_left_behind
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import last_checkpoint
from waggle_fsstore.store.journal.state import is_valid
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.read.stat_signature import proof
from waggle_fsstore.store.read.view import View


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store in figures. Sizes are in bytes.

    - ``documents``, ``document_bytes``: the document files.
    - ``last_seq``: the last change; ``oldest_seq``: the first change of the kept history, 0
      if there is none.
    - ``segments``, ``segment_bytes``: the files of the journal.
    - ``checkpoint``: the last change whose document is durable without the journal, as of the
      last checkpoint; ``None`` without one. It is valid only if it ``is_of_this_place``: a copy
      of a store has the checkpoints of the original.
    - ``file_system``: its type, such as ``ext4``; empty where the system does not report it.
    - ``is_durable``: whether this store object calls fsync; ``durability``: how, in a sentence.
    - ``memory``: what shows that a document in memory is unchanged, in a sentence.
    - ``is_recovery_due``: whether documents may be older than the journal, and could not be
      brought up to it. Reads still return the right versions.
    """

    path: Path
    documents: int
    document_bytes: int
    last_seq: int
    oldest_seq: int
    segments: int
    segment_bytes: int
    checkpoint: int | None
    is_of_this_place: bool
    file_system: str
    is_durable: bool
    durability: str
    memory: str
    is_recovery_due: bool


def describe(layout: Layout, view: View, documents: Documents, disk: Disk) -> StoreInfo:
    """See :meth:`FileStore.info`."""
    durable = disk.durable
    sizes = _document_sizes(layout)
    names = segments.list_segments(layout)
    checkpoint = last_checkpoint(layout)
    # In the middle of a change, recovery only seems to be due.
    is_due = is_left_behind(layout.lock, partial(view.needs_recovery, durable=durable))
    return StoreInfo(
        path=Path(layout.root),
        documents=len(sizes),
        document_bytes=sum(sizes),
        last_seq=view.state().committed,
        oldest_seq=min(names, default=0),
        segments=len(names),
        segment_bytes=segments.total_size(layout),
        checkpoint=checkpoint["through"] if checkpoint else None,
        is_of_this_place=checkpoint is not None and is_valid(checkpoint, layout),
        file_system=filesystem_type(layout.root),
        is_durable=durable,
        durability=durability(durable=durable),
        memory=proof(layout.environments, is_watching=documents.is_watching),
        is_recovery_due=is_due,
    )


def durability(*, durable: bool, platform: str = sys.platform) -> str:
    """Return, in a sentence, how a change survives a power cut."""
    if not durable:
        return "Nothing is synced: a power cut may undo any change."
    if platform == "win32":
        return (
            "The journal is synced at each change, by FlushFileBuffers; a directory cannot be, "
            "so a power cut may undo the changes since the journal began a new file."
        )
    if platform == "darwin":
        return "The journal is synced at each change, by F_FULLFSYNC, and directories by fsync."
    documents = "syncfs" if platform.startswith("linux") else "fdatasync"
    return (
        "The journal is synced at each change, by fdatasync; documents at each checkpoint, "
        f"by {documents}; directories by fsync."
    )


def _document_sizes(layout: Layout) -> list[int]:
    sizes = []
    try:
        with os.scandir(layout.environments) as entries:
            for entry in entries:
                if is_document_name(entry.name):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # Deleted in the meantime.
                    sizes.append(status.st_size if stat.S_ISREG(status.st_mode) else 0)
    except FileNotFoundError:
        pass
    return sizes
