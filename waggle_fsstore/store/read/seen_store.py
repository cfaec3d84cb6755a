# SPDX-License-Identifier: Apache-2.0
"""SeenStore: a store that was seen at its path and is gone is an error, not an empty store.

A directory that was removed or moved, or whose disk was unmounted, looks like one in which no
store was ever made. Without memory, the next write would begin a new store there.
"""

import os

from waggle_fsstore.domain.errors import StoreGoneError
from waggle_fsstore.store.format.layout import Layout


class SeenStore:
    """What one object has seen of a store: its marker file, or else its documents' directory."""

    __slots__ = ("_layout", "_seen")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen = ""

    def check(self) -> bool:
        """Return whether the store is there. Raises :class:`StoreGoneError` if it was before."""
        seen = self._seen  # First: another thread may make the store between a look and this.
        for path in (self._layout.marker, self._layout.environments):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                if path == seen:
                    raise StoreGoneError(self._layout.root) from None
            else:
                self._seen = path
                return True
        return False
