# SPDX-License-Identifier: Apache-2.0
"""All documents of a store at once, and what is remembered of them from one time to the next.

Only what may have changed is read again. That takes 1-3 kB for each document that was
there when all were looked at last. docs/decisions/0007-document-cache.md
and 0013-change-notifications.md say why no change is overlooked.
"""

import os
import threading
import time
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout, document_name, is_document_name
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.fs.safe_read import BadFile, modified_at, read_or_error, read_regular
from waggle_fsstore.store.read.inotify import DirectoryWatcher
from waggle_fsstore.store.read.stat_signature import (
    Signature,
    has_change_times_at,
    is_settled,
    is_stamped,
    signature_of,
)

# A larger document is read each time: as objects it takes up to twenty times its size.
_MOST_REMEMBERED: Final = 1 << 14

# Looking at so many files takes longer than asking for notices. To give notices back takes
# 10 ms, and a user may have some 128 of them.
_WORTH_NOTICES: Final = 100

# How long it relies on notices alone (seconds): nothing tells of a change through a name in
# another folder.
_LOOKS_EVERY: Final = 5.0


class _Entry(NamedTuple):
    """A good document, and by what it is known to be as it was."""

    signature: Signature
    environment: Environment
    is_settled: bool
    has_other_names: bool


class _Contents:
    """What was seen when all was looked at. Never changed, only replaced."""

    def __init__(self, looked_at: float, known: dict[str, _Entry], live: set[str]) -> None:
        #: When all files were looked at, by the monotonic clock.
        self.looked_at = looked_at
        self.known = known
        self.live = live
        #: Good ones that are not remembered.
        self.others: list[Environment] = []
        self.bad: list[BadFile] = []
        #: What has to be read each time.
        self.again: set[str] = set()
        self.has_other_names = False
        self._good: list[Environment] | None = None

    @property
    def good(self) -> list[Environment]:
        """The environments, sorted by id."""
        if self._good is None:
            good = [known.environment for known in self.known.values()]
            self._good = sorted(good + self.others, key=attrgetter("id"))
        return self._good


_NOTHING: Final = _Contents(-_LOOKS_EVERY, {}, set())


class DocumentCache:
    """The documents of one store. Does without the store lock. Of any thread."""

    __slots__ = ("__weakref__", "_is_closed", "_layout", "_notices", "_seen", "_threads")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._threads = threading.RLock()
        self._seen: _Contents | None = _NOTHING
        self._notices: DirectoryWatcher | None = None
        self._is_closed = False
        register_at_fork(self)

    def names(self) -> list[str]:
        """The file names that belong to some id; files of other names are ignored."""
        try:
            names = os.listdir(self._layout.environments)
        except FileNotFoundError:
            return []
        known = (self._seen or _NOTHING).known
        return [name for name in names if name in known or is_document_name(name)]

    def read_all(self) -> tuple[list[Environment], list[BadFile]]:
        """What all files hold, and what is wrong with the others, sorted by id and by name.

        A file that is gone meanwhile is in neither.
        """
        seen = self._refresh()
        return [environment.copy_unchecked() for environment in seen.good], seen.bad

    def live(self) -> set[str]:
        """The names of the files that hold a live environment; not to be changed."""
        return self._refresh().live

    def close(self) -> None:
        """Give back what the system lends, for good: a thread may be about to look again."""
        with self._threads:
            self._is_closed = True
            self._drop_notices()

    def reset_after_fork(self) -> None:
        """In a child: the notices are for the parent. What signatures tell holds here too."""
        self._threads = threading.RLock()
        self._seen = self._seen or _NOTHING
        self._drop_notices()

    def _drop_notices(self) -> None:
        notices, self._notices = self._notices, None
        if notices is not None:
            notices.close()

    def _refresh(self) -> _Contents:
        """What there is now."""
        with self._threads:
            before, self._seen = self._seen, None
            if before is None:
                # In a signal handler, in the middle of this: it must not take the notices.
                return self._seen_after(_NOTHING, None, is_noticed=False)
            try:
                changed = self._changed_since(before)
                is_noticed = self._notices is not None
                seen = self._seen = self._seen_after(before, changed, is_noticed=is_noticed)
            except BaseException:
                # What was noticed is lost, and so may be the notice that it is the last.
                self._seen, self._notices = _NOTHING, None
                raise
            return seen

    def _changed_since(self, before: _Contents) -> set[str] | None:
        """The names that there have been notices of, ``None`` where all must be looked at."""
        folder, notices = self._layout.environments, self._notices
        if notices is None:
            is_worth_it = len(before.known) + len(before.again) >= _WORTH_NOTICES
            if is_worth_it and not self._is_closed:
                self._notices = (
                    DirectoryWatcher.try_open(folder) if has_change_times_at(folder) else None
                )
            return None
        changed = notices.changed()
        if not notices.is_in_place():
            self._drop_notices()
            return None
        if before.has_other_names or time.monotonic() > before.looked_at + _LOOKS_EVERY:
            return None
        if changed is None or not all(map(is_document_name, changed)):
            return None  # What has another name may be a document too.
        return changed

    def _seen_after(
        self, before: _Contents, changed: set[str] | None, *, is_noticed: bool
    ) -> _Contents:
        clock = file_clock()
        if changed is None:
            names = set(self.names())
            seen = _Contents(time.monotonic(), {}, set())
        else:
            names = changed | before.again
            seen = _Contents(before.looked_at, before.known.copy(), before.live - names)
            for name in names:
                seen.known.pop(name, None)
        unchanged = self._unchanged(names, before.known)
        for name in sorted(names):
            known = unchanged.get(name)
            is_remembered = True
            if known is None:
                read = read_or_error(partial(self._read, name, clock, is_noticed=is_noticed))
                if isinstance(read, FileNotFoundError):
                    continue
                if isinstance(read, BadFile):
                    seen.bad.append(read)
                    seen.again.add(name)
                    continue
                known, is_remembered = read
            if is_remembered:
                seen.known[name] = known
            else:
                seen.others.append(known.environment)
                seen.again.add(name)
            if known.environment.status.is_live:
                seen.live.add(name)
            seen.has_other_names |= known.has_other_names
        return seen

    def _unchanged(self, names: set[str], before: dict[str, _Entry]) -> dict[str, _Entry]:
        """What is remembered of these files, of those that are as they were by signature."""
        if before.keys().isdisjoint(names):
            return {}
        unchanged = {}
        try:
            # Relative to the folder, a status takes a tenth less time.
            folder = os.open(self._layout.environments, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return {}  # Whoever reads them will hear of it.
        try:
            for name in names:
                known = before.get(name)
                if known is None or not known.is_settled:
                    continue
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except OSError:
                    continue  # As above.
                if known.signature == signature_of(status):
                    unchanged[name] = known
        finally:
            os.close(folder)
        return unchanged

    def _read(self, name: str, clock: int, *, is_noticed: bool) -> tuple[_Entry, bool]:
        """What a file holds, and whether a change of it that comes will show."""
        folder = self._layout.environments
        environment, status = read_document(name, f"{folder}{os.sep}{name}")
        # A change since then, while it was read too, shows at its first use.
        settled = is_settled(status, folder, clock)
        has_other_names = status.st_nlink > 1
        known = _Entry(signature_of(status), environment, settled, has_other_names)
        shows = settled or (is_noticed and is_stamped(status, folder))
        return known, shows and status.st_size <= _MOST_REMEMBERED


def read_document(name: str, path: str) -> tuple[Environment, os.stat_result]:
    """What a file holds, and its status before it was read. Raises ``BadFile``."""
    before: list[os.stat_result] = []
    data = read_regular(
        path, codec.MAX_DOCUMENT_BYTES, lambda opened: before.append(os.fstat(opened))
    )
    environment = codec.decode(data, path, modified_at)
    if document_name(environment.id) != name:
        raise misplaced(path, environment.id)
    return environment, before[0]


def misplaced(path: str, environment_id: str) -> CorruptDocumentError:
    """A document under the name of another id."""
    return CorruptDocumentError(
        path, f"id: is {environment_id!r}, whose file is {document_name(environment_id)}"
    )
