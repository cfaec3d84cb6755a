# SPDX-License-Identifier: Apache-2.0
"""Which documents may have changed since the last listing.

A store with few documents is checked completely each time, by
:mod:`~waggle_fsstore.store.read.stat_signature`. From a hundred documents on, inotify
names the changed files, and a complete check is needed only now and then.
docs/decisions/0013-change-notifications.md says why no change is overlooked.
"""

import os
from typing import Final

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.store.format.layout import is_document_name
from waggle_fsstore.store.read.inotify import DirectoryWatcher
from waggle_fsstore.store.read.stat_signature import has_change_times, has_change_times_at

# Checking this many files takes longer than reading a watcher's events. Fewer are not worth
# one: closing it takes 10 ms, and a user can have only about 128 of them.
_MIN_WATCHED_DOCUMENTS: Final = 100

# A change through a hard link in another directory causes no event.
_COMPLETE_CHECK_INTERVAL_S: Final = 5.0


class ChangeDetector:
    """Watches one directory of documents. The caller serialises the calls of all threads."""

    __slots__ = ("_checked_at", "_directory", "_watcher")

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._watcher: DirectoryWatcher | None = None
        #: The monotonic time of the last complete check.
        self._checked_at = 0.0

    @property
    def is_watching(self) -> bool:
        """Whether the next :meth:`changed` will name files that change from now on."""
        return self._watcher is not None

    def is_worth(self, documents: int) -> bool:
        """Return whether that many documents are watched, or will be."""
        return self._watcher is not None or documents >= _MIN_WATCHED_DOCUMENTS

    def covers(self, status: os.stat_result) -> bool:
        """Return whether a watcher sees each change of a file with this status."""
        return has_change_times(status, self._directory)

    def changed(
        self, documents: int, directory: os.stat_result | None, *, has_other_links: bool
    ) -> set[str] | None:
        """Return the names of the files that may have changed since the last call.

        ``None`` means all of them. ``documents`` is how many there were at the last call,
        ``directory`` the status that the path of the directory has just had, ``None`` if there was
        none; ``has_other_links`` says whether any document can be edited through another name.
        """
        if self._watcher is None:
            if self.is_worth(documents) and has_change_times_at(self._directory):
                self._watcher = DirectoryWatcher.try_open(self._directory)
            names = None
        else:
            names = self._watched(self._watcher, directory, has_other_links=has_other_links)
        if names is None:
            self._checked_at = monotonic()
        return names

    def has_news(self) -> bool:
        """Return whether files have changed since :meth:`changed`, or may have."""
        return self._watcher is None or self._watcher.has_events()

    def stop(self) -> None:
        """Stop watching; the next :meth:`changed` starts again."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def _watched(
        self,
        watcher: DirectoryWatcher,
        directory: os.stat_result | None,
        *,
        has_other_links: bool,
    ) -> set[str] | None:
        names = watcher.changed()
        if not watcher.watches(directory):
            self.stop()
            return None
        is_check_due = monotonic() > self._checked_at + _COMPLETE_CHECK_INTERVAL_S
        if names is None or has_other_links or is_check_due:
            return None
        # A file under another name may be a second link to a document.
        return names if all(map(is_document_name, names)) else None
