# SPDX-License-Identifier: Apache-2.0
"""Info: how large a store is, how far it has come, and what keeps it safe here."""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from waggle_fsstore.store.format.layout import Layout, is_document_name
from waggle_fsstore.store.fs.linux import filesystem_type
from waggle_fsstore.store.fs.lock import is_held
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import last_checkpoint
from waggle_fsstore.store.journal.state import store_id
from waggle_fsstore.store.read.view import View


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store in figures. Sizes are in bytes.

    - ``documents``, ``document_bytes``: the files that belong to some id.
    - ``last_seq``: the last change; ``oldest_seq``: where the kept history begins, 0 where
      there is none.
    - ``segments``, ``segment_bytes``: the files of the journal.
    - ``checkpoint``: the last change whose document is durable in itself, as of the last
      checkpoint; ``None`` without one. It counts only if it ``is_of_this_place``: a copy of
      a store has those of the original.
    - ``file_system``: its type, such as ``ext4``; empty where the system does not tell.
    - ``is_durable``: whether this store object flushes; ``durability``: how, in a sentence.
    - ``is_recovery_due``: whether documents may be older than the journal, and could not be
      brought up to it. Reads are right all the same.
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
    is_recovery_due: bool


def describe(layout: Layout, view: View, *, durable: bool) -> StoreInfo:
    """See :meth:`FileStore.info`."""
    sizes = _document_sizes(layout)
    names = segments.list_segments(layout)
    checkpoint = last_checkpoint(layout)
    # While somebody writes, a change is half done, and that is no matter.
    is_due = view.needs_recovery(durable=durable) and not is_held(layout.lock)
    return StoreInfo(
        path=Path(layout.root),
        documents=len(sizes),
        document_bytes=sum(sizes),
        last_seq=view.state().committed,
        oldest_seq=min(names, default=0),
        segments=len(names),
        segment_bytes=sum(segments.size_of(layout, first) for first in names),
        checkpoint=checkpoint["through"] if checkpoint else None,
        is_of_this_place=checkpoint is not None and checkpoint["place"] == store_id(layout),
        file_system=filesystem_type(layout.root),
        is_durable=durable,
        durability=durability(durable=durable),
        is_recovery_due=is_due,
    )


def durability(*, durable: bool, platform: str = sys.platform) -> str:
    """What keeps a change when the power fails, in a sentence."""
    if not durable:
        return "Nothing is flushed: a power cut may take any change back."
    if platform == "win32":
        return (
            "The journal is flushed at each change, by FlushFileBuffers; a folder cannot be, "
            "so a power cut may take back what came after the journal began a new file."
        )
    if platform == "darwin":
        return "The journal is flushed at each change, by F_FULLFSYNC, and folders by fsync."
    documents = "syncfs" if platform.startswith("linux") else "fdatasync"
    return (
        "The journal is flushed at each change, by fdatasync; documents at each checkpoint, "
        f"by {documents}; folders by fsync."
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
                        continue  # Deleted meanwhile.
                    sizes.append(status.st_size if stat.S_ISREG(status.st_mode) else 0)
    except FileNotFoundError:
        pass
    return sizes
