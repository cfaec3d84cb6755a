# SPDX-License-Identifier: Apache-2.0
"""All documents of a store, cached from one listing to the next.

A listing reads only the files that may have changed. The cache takes 1-3 kB for each
document of the last listing. docs/decisions/0007-document-cache.md says
why no change is overlooked.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout, document_name, is_document_name
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.fs.safe_read import BadFile, modified_at, read_or_error, read_with_status
from waggle_fsstore.store.read.change_detector import ChangeDetector
from waggle_fsstore.store.read.stat_signature import (
    Signature,
    settled_directory,
    settled_signature,
    signature_of,
    unchanged,
)

#: A larger document is read each time: as objects it takes up to twenty times its size.
MAX_CACHED_BYTES: Final = 1 << 14


class CachedDocument(NamedTuple):
    """A good document, and the signature of its file when it was read."""

    environment: Environment
    #: ``None`` if the file had changed so recently that a signature proves nothing.
    signature: Signature | None
    has_other_links: bool


class _Contents:
    """The documents as of one listing. Never modified after it, only replaced."""

    def __init__(self, entries: dict[str, CachedDocument], live: set[str]) -> None:
        #: The good documents by file name, except those that every listing reads.
        self.entries = entries
        #: The file names of the live environments.
        self.live = live
        #: The other files: good ones that are not cached, and bad ones.
        self.uncached: dict[str, Environment] = {}
        self.bad: dict[str, BadFile] = {}
        #: Whether a cached file can be edited through another name.
        self.has_other_links = False
        self._good: list[Environment] | None = None

    def __len__(self) -> int:
        return len(self.entries) + len(self.uncached) + len(self.bad)

    @property
    def good(self) -> list[Environment]:
        """The environments, sorted by id."""
        if self._good is None:
            good = [entry.environment for entry in self.entries.values()]
            self._good = sorted([*good, *self.uncached.values()], key=attrgetter("id"))
        return self._good

    def add(self, name: str, entry: CachedDocument, *, is_cached: bool) -> None:
        """Add a good document."""
        if is_cached:
            self.entries[name] = entry
        else:
            self.uncached[name] = entry.environment
        if entry.environment.status.is_live:
            self.live.add(name)
        self.has_other_links |= entry.has_other_links


_EMPTY: Final = _Contents({}, set())


class DocumentCache:
    """The documents of one store, listed without its lock. Thread-safe."""

    __slots__ = (
        "__weakref__",
        "_contents",
        "_detector",
        "_is_closed",
        "_layout",
        "_lock",
        "_present",
        "_stale",
    )

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.RLock()
        #: ``None`` while a thread is refreshing it.
        self._contents: _Contents | None = _EMPTY
        self._detector = ChangeDetector(layout.environments)
        #: The names of all documents as of the last notifications; ``None`` without a watcher.
        self._present: set[str] | None = None
        #: The names of the documents to read again; ``None`` for any of them.
        self._stale: set[str] | None = None
        self._is_closed = False
        register_at_fork(self)

    def signature(self) -> Signature | None:
        """Return the signature that the directory has now; ``None`` if there is none."""
        status = self._status()
        return signature_of(status) if status is not None else None

    def listing(self) -> tuple[Signature | None, list[str]]:
        """Return :meth:`names`, after a signature of the directory that alters with them.

        ``None`` instead of a signature that proves nothing.
        """
        now = file_clock()
        if not now:  # pragma: no cover
            return None, self.names()
        try:
            # Both from one descriptor: another directory may be moved to the path in between.
            opened = os.open(self._layout.environments, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None, []
        try:
            signature = settled_directory(os.fstat(opened), self._layout.environments, now)
            return signature, self.names(opened)
        finally:
            os.close(opened)

    def names(self, opened: int | None = None) -> list[str]:
        """Return the file names that belong to some id; files with other names are ignored.

        ``opened`` is a descriptor of the directory, where the caller has one.
        """
        try:
            names = os.listdir(self._layout.environments if opened is None else opened)
        except FileNotFoundError:
            return []
        cached = (self._contents or _EMPTY).entries
        return [name for name in names if name in cached or is_document_name(name)]

    def read_all(self) -> tuple[list[Environment], list[BadFile]]:
        """Return all good documents, sorted by id, and the errors of the others, by file name.

        A file that is removed during the call is in neither.
        """
        contents = self._refresh()
        good = [environment.copy_unchecked() for environment in contents.good]
        return good, list(contents.bad.values())

    def cached(self, name: str) -> CachedDocument | None:
        """Return the document of the last listing whose signature tells if it is unchanged."""
        entry = (self._contents or _EMPTY).entries.get(name)
        if entry is None or entry.signature is None or entry.has_other_links:
            return None
        return entry

    def live(self) -> set[str]:
        """Return the file names of the live environments; the caller may not modify the set."""
        return self._refresh().live

    def with_key_of(self, new: Environment) -> list[Environment]:
        """Return the environments with the same idempotency key; the caller may not modify them."""
        return [one for one in self._refresh().good if one.has_key_of(new)]

    @property
    def is_watching(self) -> bool:
        """Whether notifications say which documents change."""
        return self._detector.is_watching

    def close(self) -> None:
        """Release the watcher for good: another thread may be about to list once more."""
        with self._lock:
            self._is_closed = True
            self._detector.stop()

    def reset_after_fork(self) -> None:
        """Stop watching in a child: the events are the parent's. Signatures stay valid."""
        self._lock = threading.RLock()
        self._contents = self._contents or _EMPTY
        self._present = self._stale = None
        self._detector.stop()

    def can_follow(self, documents: int) -> bool:
        """Return whether :meth:`count` may use notifications where there are that many."""
        return self._detector.is_worth(documents)

    def count(
        self, expected: int, is_idle: Callable[[], bool] | None = None
    ) -> tuple[Signature | None, int | None]:
        """Return how many documents there are, as notifications tell; ``None`` without them.

        Reads no document. ``expected`` says whether there are enough to be worth a watcher. The
        signature is that of :meth:`listing`. With ``is_idle``, there is no count unless that
        returned true and no document had changed by then.
        """
        now = file_clock()
        with self._lock:
            try:
                before, self._contents = self._contents, None
                if before is None:
                    return None, None  # As in a refresh.
                status = self._status()
                self._take_notices(before, expected, status)
                is_certain = is_idle is None or (is_idle() and not self._detector.has_news())
                self._contents = before
            except BaseException:
                self._forget()
                raise
            if status is None or self._present is None or not is_certain:
                return None, None
            signature = settled_directory(status, self._layout.environments, now)
            return signature, len(self._present)

    def _status(self) -> os.stat_result | None:
        """Return the status of the directory; ``None`` if there is none."""
        try:
            return os.stat(self._layout.environments)
        except OSError:
            return None

    def _refresh(self) -> _Contents:
        """Return the documents as they are now."""
        with self._lock:
            try:
                # At once: a signal handler may refresh it too.
                before, self._contents = self._contents, None
                if before is None:
                    # It interrupted a refresh, and must leave it the events.
                    return self._updated(_EMPTY, set(self.names()), is_watched=False)
                self._take_notices(before, len(before), self._status())
                is_watched = self._detector.is_watching
                self._contents = self._updated(before, self._stale, is_watched=is_watched)
                self._stale = set()
            except BaseException:
                self._forget()
                raise
            return self._contents

    def _take_notices(
        self, contents: _Contents, documents: int, directory: os.stat_result | None
    ) -> None:
        """Learn which names exist, and which documents have changed since they were read."""
        changed = None
        if not self._is_closed:
            changed = self._detector.changed(
                documents, directory, has_other_links=contents.has_other_links
            )
        if changed is None:
            self._stale = None
            self._present = set(self.names()) if self._detector.is_watching else None
            return
        if self._stale is not None:
            self._stale |= changed
        if self._present is not None:
            for name in changed:
                try:
                    os.lstat(f"{self._layout.environments}{os.sep}{name}")
                except FileNotFoundError:
                    self._present.discard(name)
                except OSError:
                    self._present = set(self.names())
                    break
                else:
                    self._present.add(name)

    def _forget(self) -> None:
        """Begin again: events are lost, perhaps including the one that ends the watch."""
        self._contents = _EMPTY
        self._present = self._stale = None
        self._detector.stop()

    def _updated(
        self, before: _Contents, changed: set[str] | None, *, is_watched: bool
    ) -> _Contents:
        """Return the documents after a change of these files, ``None`` for any change."""
        now = file_clock()
        if changed is None:
            names = set(self.names()) if self._present is None else self._present.copy()
            contents = _Contents({}, set())
        else:
            names = changed | before.uncached.keys() | before.bad.keys()
            if not names:
                return before
            contents = _Contents(before.entries.copy(), before.live - names)
            for name in names:
                contents.entries.pop(name, None)
        same = self._unchanged(names, before.entries)
        for name in sorted(names):
            if name in same:
                contents.add(name, before.entries[name], is_cached=True)
                continue
            read = read_or_error(partial(self.read, name, now, is_watched=is_watched))
            if isinstance(read, tuple):
                entry, is_cached = read
                contents.add(name, entry, is_cached=is_cached)
            elif not isinstance(read, FileNotFoundError):
                contents.bad[name] = read
        return contents

    def _unchanged(self, names: set[str], entries: dict[str, CachedDocument]) -> set[str]:
        """Return the names of the files whose signatures prove that they are unchanged."""
        signatures = {
            name: entry.signature
            for name in names
            if (entry := entries.get(name)) is not None and entry.signature is not None
        }
        return unchanged(self._layout.environments, signatures)

    def read(self, name: str, now: int, *, is_watched: bool) -> tuple[CachedDocument, bool]:
        """Return the document in a file, and whether any later change of it will show."""
        directory = self._layout.environments
        environment, status = read_document(name, f"{directory}{os.sep}{name}")
        # A change since then, even during the read, shows at the next refresh.
        signature = settled_signature(status, directory, now)
        shows = signature is not None or (is_watched and self._detector.covers(status))
        entry = CachedDocument(environment, signature, status.st_nlink > 1)
        return entry, shows and status.st_size <= MAX_CACHED_BYTES


def read_document(name: str, path: str) -> tuple[Environment, os.stat_result]:
    """Return the environment in a file, and the status from before the read.

    Raises ``BadFile``.
    """
    data, before = read_with_status(path, codec.MAX_DOCUMENT_BYTES)
    environment = codec.decode(data, path, modified_at)
    if document_name(environment.id) != name:
        raise misplaced(path, environment.id)
    return environment, before


def misplaced(path: str, environment_id: str) -> CorruptDocumentError:
    """Return the error for a document under the file name of another id.

    Tools that synchronize directories make such copies, and give them names of their choice.
    """
    name = document_name(environment_id)
    is_copy = os.path.lexists(f"{os.path.dirname(path)}{os.sep}{name}")
    what = "is a copy of" if is_copy else "is under another name than"
    return CorruptDocumentError(path, f"{what} {name}, the document of {environment_id!r}")
