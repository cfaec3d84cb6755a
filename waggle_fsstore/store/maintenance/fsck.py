# SPDX-License-Identifier: Apache-2.0
"""fsck: what is wrong with a store, found without changing it, and repaired step by step."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from waggle_fsstore.domain.audit import audit, current_author
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    InvalidEnvironmentError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.store.format.layout import SUFFIX, Layout, environment_id_of
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.journal import damage, latest, segments
from waggle_fsstore.store.journal.latest import LatestChange, LatestChanges
from waggle_fsstore.store.journal.state import trusted_state
from waggle_fsstore.store.maintenance import fsck_files
from waggle_fsstore.store.read.document_cache import OUT_OF_RESOURCES
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write import initialize
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.writer import Writer

# How often a document is looked at anew that somebody changes at this moment.
_TRIES: Final = 5

_RECORD: Final = "'waggle-fsstore fsck --repair' records it in the history, as external"
_RECORDED: Final = "recorded in the history, as external"

_T = TypeVar("_T")


class _Case(NamedTuple):
    """What is wrong with one document, and what makes it good; that says what it did."""

    finding: Finding
    reason: str = ""
    mend: Callable[[Transaction], str] | None = None
    #: Whether recovery makes it good: the document is only older than the journal.
    is_late: bool = False


class _NobodysFileError(Exception):
    """A file is to be moved away of which nobody knows whose document it is."""


def check(layout: Layout, view: View) -> Iterator[Finding]:
    """See :meth:`FileStore.check`."""
    for found in damage.find_damage(layout):
        yield found.finding
    record = fsck_files.record(layout)
    if record is not None:
        yield record
    yield from _others(layout)
    documents = _Examiner(layout)
    due = {} if documents.is_blind else view.pending()
    if due:
        problem = "the documents are older than the journal, and could not be brought up to it"
        yield Finding(
            Severity.WARNING, Path(layout.state), problem, "open the store where it may write"
        )
    for name in documents.names():
        case = documents.examine(name)
        if case is not None and not (case.is_late and documents.id_of(name) in due):
            yield case.finding


def repair(layout: Layout, disk: Disk, writer: Writer, timeout: float) -> Iterator[Finding]:
    """See :meth:`FileStore.repair`."""
    lock = StoreLock(
        layout.lock, timeout=timeout, make_dir=partial(initialize.ensure_lock_dir, layout, disk)
    )
    try:
        mended: dict[int | None, str] = {None: ""}
        for finding, first in damage.find_damage(layout):
            if first is not None and first not in mended:
                mended[first] = _under(lock, partial(damage.repair, layout, disk, first))
            done = f"blanked out; the damaged file is kept as {mended[first]}"
            yield replace(finding, remedy=done, is_repaired=True) if mended[first] else finding
        record = fsck_files.record(layout)
        if record is not None:
            _under(lock, partial(fsck_files.clear_record, layout, disk))
        writer.run(_nothing)
        if record is not None:
            yield replace(record, remedy="made anew", is_repaired=True)
        yield from _others(layout)
        documents = _Examiner(layout)
        for name in documents.names():
            case = documents.examine(name)
            if case is not None and case.mend is not None:
                yield from _repair(documents, writer, lock, disk, name, case)
            elif case is not None:
                yield case.finding
    finally:
        lock.close()


def _others(layout: Layout) -> Iterator[Finding]:
    yield from fsck_files.marker(layout)
    yield from fsck_files.foreign(layout)
    yield from fsck_files.modes(layout)


def _repair(
    documents: "_Examiner", writer: Writer, lock: StoreLock, disk: Disk, name: str, case: _Case
) -> Iterator[Finding]:
    """Repair one document, unless it is well by now."""

    def work(change: Transaction) -> Finding | None:
        now = documents.examine(name)
        if now is None or now.mend is None:
            return now and now.finding
        return replace(now.finding, remedy=now.mend(change), is_repaired=True)

    try:
        # In the name of whoever repairs, and for their reason if they give one.
        with audit(reason=current_author().reason or f"fsck: {case.reason}"):
            finding = writer.run(work, alone=True)
    except _NobodysFileError:
        done = _under(lock, partial(documents.move_away, disk, name))
        finding = replace(case.finding, remedy=done, is_repaired=True) if done else None
    except (PermissionError, InvalidEnvironmentError, UnsupportedFormatError) as error:
        finding = replace(case.finding, remedy=f"cannot be repaired: {error}")
    if finding is not None:
        yield finding


def _under(lock: StoreLock, work: Callable[[], _T]) -> _T:
    results: list[_T] = []
    lock.run(lambda: results.append(work()))
    return results[0]


def _nothing(change: Transaction) -> None:
    """Have the store founded and recovered, as any change has."""


class _Examiner:
    """Compares documents, one by one, with what the journal says last of each."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._documents = Documents(layout)
        self._words = LatestChanges(layout)
        #: Whether the journal cannot be read, so that there is nothing to compare with.
        self.is_blind = False
        try:
            self._words.read_to(trusted_state(layout))
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                raise
            self.is_blind = True
        self._oldest = 0
        if segments.is_pruned(layout):
            self._oldest = min(segments.list_segments(layout))

    def names(self) -> Iterator[str]:
        """The file names that are there or should be."""
        there = sorted(self._documents.names())
        yield from there
        seen = set(there)
        yield from (name for name in self._words.present() if name not in seen)

    def id_of(self, name: str) -> str | None:
        """The id that a file name stands for, as far as it is known."""
        word = self._words.get(name)
        return word.environment_id if word else environment_id_of(name)

    def examine(self, name: str) -> _Case | None:
        """What is wrong with a document that nobody is changing at this moment."""
        case = self._compare(name, self._words.get(name))
        if case is None:
            return None
        if self.is_blind:
            return case if case.finding.severity is Severity.ERROR else None
        # Perhaps it was changed since the journal was read, or is just being changed.
        for _ in range(_TRIES):
            before = trusted_state(self._layout)
            self._words.read_to(before)
            word = self._words.get(name)
            case = self._compare(name, word)
            self._words.read_to(trusted_state(self._layout))
            is_published = word is None or before is None or word.seq <= before.published
            if case is None or (is_published and self._words.get(name) == word):
                return case
        return None

    def move_away(self, disk: Disk, name: str) -> str:
        """Move a corrupt file to lost+found of which nobody knows whose document it is."""
        path = f"{self._layout.environments}{os.sep}{name}"
        try:
            self._documents.at(name)
        except CorruptDocumentError:
            stem = name.removesuffix(SUFFIX)
            return f"moved to {lost_and_found.move_in(self._layout, disk, path, stem, SUFFIX, 1)}"
        return ""

    def _compare(self, name: str, word: LatestChange | None) -> _Case | None:
        path = Path(self._layout.environments, name)
        try:
            stored = self._documents.at(name)
        except CorruptDocumentError as error:
            return self._corrupt(name, word, error)
        except UnsupportedFormatError as error:
            return _Case(Finding(Severity.ERROR, path, str(error), "upgrade the program"))
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                raise
            problem = f"cannot be read: {error.strerror}"
            return _Case(Finding(Severity.ERROR, path, problem, "mend what stands in the way"))
        if stored is None:
            return self._missing(path, word)
        problem = self._difference(stored, word)
        if not problem:
            return None
        finding = Finding(Severity.WARNING, path, problem, _RECORD)

        def note(change: Transaction) -> str:
            change.record_external(stored)
            return _RECORDED

        is_late = word is not None and stored.is_intact and stored.revision < word.seq
        return _Case(finding, problem, note, is_late)

    def _difference(self, stored: StoredDocument, word: LatestChange | None) -> str:
        """How a good document differs from its last version in the journal, in words."""
        if not stored.is_intact:
            return "was changed by hand" if word else "was made by hand"
        if word is None:
            return "" if stored.revision < self._oldest else "is unknown to the journal"
        if word.is_deleted:
            return f"is there, but change {word.seq} deleted it"
        if stored.revision != word.seq:
            return f"has revision {stored.revision}, but the last one stored is {word.seq}"
        return "" if stored.checksum == word.checksum else "is not the version that was stored"

    def _missing(self, path: Path, word: LatestChange | None) -> _Case | None:
        if word is None or word.is_deleted:
            return None
        problem = f"is missing, but the journal has revision {word.seq} of it"
        remedy = f"'waggle-fsstore fsck --repair' restores revision {word.seq}"
        finding = Finding(Severity.ERROR, path, problem, remedy)
        reason = f"restored revision {word.seq}: its file was missing"
        return _Case(finding, reason, partial(self._restore, word, is_missing=True), is_late=True)

    def _corrupt(self, name: str, word: LatestChange | None, error: CorruptDocumentError) -> _Case:
        remedy = "'waggle-fsstore fsck --repair' moves it to lost+found"
        reason = "moved its corrupt file to lost+found"
        if word is not None and not word.is_deleted:
            remedy = f"{remedy} and restores revision {word.seq}"
            reason = f"restored revision {word.seq}: its file was corrupt"
            mend = partial(self._restore, word, is_missing=False)
        else:
            mend = partial(self._set_aside, name)
        finding = Finding(Severity.ERROR, error.path, error.reason, remedy)
        return _Case(finding, reason, mend)

    def _restore(self, word: LatestChange, change: Transaction, *, is_missing: bool) -> str:
        environment = latest.version(self._layout, word.environment_id, word.seq)
        if environment is None:
            return "nothing could be done: the journal changed meanwhile"
        if is_missing:
            change.put(environment, None)
            return f"restored revision {word.seq}"
        change.quarantine(word.environment_id, environment)
        return f"moved to lost+found, and restored revision {word.seq}"

    def _set_aside(self, name: str, change: Transaction) -> str:
        environment_id = self.id_of(name)
        if environment_id is None:
            raise _NobodysFileError
        change.quarantine(environment_id)
        return "moved to lost+found"
