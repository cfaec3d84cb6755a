# SPDX-License-Identifier: Apache-2.0
"""The renames that make a change visible, and their rollback.

Publishing skips the sync of documents, because the journal has their contents. A rollback syncs.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk, temp_path
from waggle_fsstore.store.fs.linux import TimelessStatus
from waggle_fsstore.store.fs.safe_read import read_regular
from waggle_fsstore.store.read.documents import StoredDocument


class DocumentWrite:
    """The write or removal of the document of one ``id``, at ``path``.

    ``before`` is its old version, ``None`` if there is none or if the file is corrupt, in which
    case the file is moved to the path ``quarantine``. ``after`` is its new version, ``None`` if
    it is deleted.
    """

    __slots__ = ("after", "before", "id", "path", "quarantine", "temp")

    def __init__(
        self,
        environment_id: str,
        path: str,
        before: StoredDocument | None,
        after: StoredDocument | None,
    ) -> None:
        self.id = environment_id
        self.path = path
        self.before = before
        self.after = after
        self.quarantine = ""
        #: The path of the temp file, once there may be one.
        self.temp = ""

    def write_temp(self, disk: Disk, layout: Layout, directory: TimelessStatus | None) -> None:
        """Write the new contents to a temp file, with the owner of a directory of that status.

        A full disk surfaces here.
        """
        if self.quarantine:
            disk.make_dir(layout.lost_and_found)
        if self.after is not None:
            # Set first, so that the file is discarded even after an interrupt.
            self.temp = temp_path(layout.temporary)
            disk.write_temp(
                self.temp, self.after.data, self.after.mode, directory=directory, sync=False
            )

    def publish(self, disk: Disk, layout: Layout) -> None:
        """Make the change visible."""
        if self.quarantine:
            disk.replace(self.path, self.quarantine)
            disk.sync_dir(layout.lost_and_found)  # The journal does not keep this file.
        if self.after is not None:
            disk.replace(self.temp, self.path)
        elif not self.quarantine:
            disk.remove(self.path)

    def is_applied(self) -> bool:
        """Return whether it is visible: an interrupt can come between a rename and its return."""
        if self.after is None or self.quarantine:
            if not os.path.lexists(self.path):
                return True
            if self.after is None:
                return False
        with suppress(FileNotFoundError, CorruptDocumentError):
            # The revision is part of the contents, so no other version has the same bytes.
            return read_regular(self.path, len(self.after.data)) == self.after.data
        return False


def rollback(writes: Iterable[DocumentWrite], disk: Disk, layout: Layout) -> None:
    """Restore the old versions of the documents, durably. It can be repeated.

    A document with other contents is left alone: the lock file was removed, and another
    process wrote it.
    """
    applied = [write for write in writes if write.is_applied()]
    for write in applied:
        if write.quarantine and os.path.lexists(write.quarantine):
            disk.replace(write.quarantine, write.path)
        elif write.before is not None:
            before = write.before
            disk.write_atomic(write.path, before.data, layout.temporary, mode=before.mode)
        elif write.after is not None:
            disk.remove(write.path)
    if applied:
        disk.sync_dir(layout.environments)
        if any(write.quarantine for write in applied):
            disk.sync_dir(layout.lost_and_found)
