# SPDX-License-Identifier: Apache-2.0
"""Publishing: the renames that make a change visible, and how they are taken back.

Nothing here is flushed but what is taken back: the journal keeps what is published.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import FILE_MODE, Disk, temp_path
from waggle_fsstore.store.fs.safe_read import read_regular
from waggle_fsstore.store.read.documents import StoredDocument


class DocumentWrite:
    """What becomes of one document.

    ``before`` is what stands there, ``None`` for nothing or for what is no document, which
    goes to the path ``aside``; ``after`` is what it is to hold, ``None`` for nothing.
    """

    __slots__ = ("after", "aside", "before", "document", "mode", "source")

    def __init__(
        self, document: str, before: StoredDocument | None, after: bytes | None, aside: str = ""
    ) -> None:
        self.document = document
        self.before = before
        self.after = after
        self.aside = aside
        self.mode = before.mode if before else FILE_MODE
        self.source = ""

    def write_temp(self, disk: Disk, layout: Layout) -> None:
        """Write the new file aside, so that a full disk shows now."""
        if self.after is not None:
            # First noted, then made: an interrupt leaves no file that nobody knows.
            self.source = temp_path(layout.temporary)
            disk.write_temp(self.source, self.after, self.mode, sync=False)

    def publish(self, disk: Disk, layout: Layout) -> None:
        """Make it visible."""
        if self.aside:
            disk.make_dir(layout.lost_and_found)
            disk.replace(self.document, self.aside)
            disk.sync_dir(layout.lost_and_found)  # The journal does not keep it.
        if self.after is not None:
            disk.replace(self.source, self.document)
        elif not self.aside:
            disk.remove(self.document)

    def is_applied(self) -> bool:
        """Whether it is visible; an interrupt can come between a rename and its return."""
        if self.after is None or self.aside:
            if not os.path.lexists(self.document):
                return True
            if self.after is None:
                return False
        with suppress(FileNotFoundError, CorruptDocumentError):
            # Its revision is in it, so that no other version has the same bytes.
            return read_regular(self.document, len(self.after)) == self.after
        return False


def rollback(steps: Iterable[DocumentWrite], disk: Disk, layout: Layout) -> None:
    """Put back, durably, what the documents held before. It can be repeated.

    Where a document holds none of ours, because the lock was removed and somebody else
    wrote, it stays.
    """
    happened = [step for step in steps if step.is_applied()]
    for step in happened:
        if step.aside and os.path.lexists(step.aside):
            disk.replace(step.aside, step.document)
        elif step.before is not None:
            old = temp_path(layout.temporary)
            disk.write_temp(old, step.before.data, step.before.mode)
            disk.replace(old, step.document)
        elif step.after is not None:
            disk.remove(step.document)
    if happened:
        disk.sync_dir(layout.environments)
        if any(step.aside for step in happened):
            disk.sync_dir(layout.lost_and_found)
