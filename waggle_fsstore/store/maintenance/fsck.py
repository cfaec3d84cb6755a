# SPDX-License-Identifier: Apache-2.0
"""Fsck: find what is wrong with a store without changing it, and repair it step by step."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from waggle_fsstore.domain.audit import as_reason, audit, current_author
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    InvalidEnvironmentError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.domain.progress import tracked
from waggle_fsstore.store.format.layout import SUFFIX, Layout, environment_id_of
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.safe_read import read_or_error
from waggle_fsstore.store.journal import damage, latest
from waggle_fsstore.store.journal.latest import LatestChange, LatestChanges
from waggle_fsstore.store.journal.state import trusted_state
from waggle_fsstore.store.maintenance import fsck_files
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.writer import Writer

# How often a document that is changed concurrently is compared.
_MAX_COMPARISONS: Final = 5

_RECORD: Final = "'waggle-fsstore fsck --repair' records it in the history, as external"
_RECORDED: Final = "recorded in the history, as external"


class _Problem(NamedTuple):
    """A problem of one document; ``repair`` repairs it, and returns the remedy."""

    finding: Finding
    reason: str = ""
    repair: Callable[[Transaction], str] | None = None
    #: Whether the document is only older than the journal, so that recovery makes it good.
    is_stale: bool = False


class _UnknownIdError(Exception):
    """Neither the name of a corrupt file nor the journal gives the id of its document."""


def check(layout: Layout, view: View, writer: Writer) -> Iterator[Finding]:
    """See :meth:`FileStore.check`."""
    yield from writer.take_repaired()
    for finding, _ in damage.find_damage(layout):
        yield finding
    record = fsck_files.state_record(layout)
    if record is not None:
        yield record
    yield from _other_files(layout)
    examiner = _Examiner(layout)
    pending = {} if examiner.journal_unreadable else view.pending()
    if pending:
        problem = "the documents are older than the journal, and could not be brought up to it"
        remedy = "open the store where the program can write to it"
        yield Finding(Severity.WARNING, Path(layout.state), problem, remedy)
    for name in tracked(examiner.names(), "documents"):
        problem_found = examiner.examine(name)
        if problem_found is None:
            continue
        if not problem_found.is_stale or examiner.id_of(name) not in pending:
            yield problem_found.finding


def repair(layout: Layout, disk: Disk, writer: Writer) -> Iterator[Finding]:
    """See :meth:`FileStore.repair`."""
    yield from writer.take_repaired()
    kept: dict[int, str] = {}
    for finding, first in damage.find_damage(layout):
        if first is not None and first not in kept:
            kept[first] = writer.exclusive(partial(damage.repair, layout, disk, first))
        if first is not None:
            if not kept[first]:
                continue  # Another process has repaired or pruned the segment.
            done = f"blanked out; the damaged file is kept as {kept[first]}"
            finding = replace(finding, remedy=done, is_repaired=True)
        yield finding
    record = fsck_files.state_record(layout)
    if record is not None:
        writer.exclusive(partial(fsck_files.move_state_record, layout, disk))
    # A transaction without changes: it initializes and recovers the store as any other does.
    writer.run(lambda _: None)
    yield from writer.take_repaired()
    if record is not None:
        yield replace(record, remedy="written again", is_repaired=True)
    yield from _other_files(layout)
    examiner = _Examiner(layout)
    for name in tracked(examiner.names(), "documents"):
        problem = examiner.examine(name)
        if problem is not None and problem.repair is not None:
            yield from _repair_document(examiner, writer, disk, name, problem)
        elif problem is not None:
            yield problem.finding


def _other_files(layout: Layout) -> Iterator[Finding]:
    yield from fsck_files.marker(layout)
    yield from fsck_files.foreign_files(layout)
    yield from fsck_files.modes(layout)


def _repair_document(
    examiner: "_Examiner", writer: Writer, disk: Disk, name: str, problem: _Problem
) -> Iterator[Finding]:
    """Repair one document, unless it is good by now."""

    def work(tx: Transaction) -> Finding | None:
        now = examiner.examine(name)
        if now is None or now.repair is None:
            return now and now.finding
        return replace(now.finding, remedy=now.repair(tx), is_repaired=True)

    try:
        # The history names the actor who repairs, and the reason of that actor if there is one.
        with audit(reason=current_author().reason or as_reason(f"fsck: {problem.reason}")):
            finding = writer.run(work, solo=True)
    except _UnknownIdError:
        done = writer.exclusive(partial(examiner.move_away, disk, name))
        finding = replace(problem.finding, remedy=done, is_repaired=True) if done else None
    except (PermissionError, InvalidEnvironmentError, UnsupportedFormatError) as error:
        finding = replace(problem.finding, remedy=f"cannot be repaired: {error}")
    if finding is not None:
        yield finding


class _Examiner:
    """Compares documents, one by one, with the last change of each in the journal."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._documents = Documents(layout)
        self._latest = LatestChanges(layout)
        error = read_or_error(lambda: self._latest.read_to(trusted_state(layout)))
        #: Whether the journal cannot be read, so that the documents cannot be compared with it.
        self.journal_unreadable = error is not None

    def names(self) -> list[str]:
        """Return the file names of the documents that exist, or should exist."""
        present = sorted(self._documents.names())
        seen = set(present)
        return present + [name for name in self._latest.present() if name not in seen]

    def id_of(self, name: str) -> str | None:
        """Return the id of a file name; ``None`` if the name holds a hash that is unknown."""
        last = self._latest.get(name)
        return last.environment_id if last else environment_id_of(name)

    def examine(self, name: str) -> _Problem | None:
        """Return what is wrong with a document, unless it is being changed at the moment."""
        problem = self._compare(name, self._latest.get(name))
        if problem is None:
            return None
        if self.journal_unreadable:
            return problem if problem.finding.severity is Severity.ERROR else None
        # It may have changed since the journal was read, or be in the middle of a change.
        for _ in range(_MAX_COMPARISONS):
            before = trusted_state(self._layout)
            self._latest.read_to(before)
            last = self._latest.get(name)
            problem = self._compare(name, last)
            self._latest.read_to(trusted_state(self._layout))
            is_published = last is None or before is None or last.seq <= before.published
            if problem is None or (is_published and self._latest.get(name) == last):
                return problem
        return None

    def move_away(self, disk: Disk, name: str) -> str:
        """Move a corrupt file whose id is unknown to lost+found; only under the store lock."""
        path = f"{self._layout.environments}{os.sep}{name}"
        try:
            self._documents.at(name)
        except CorruptDocumentError:
            stem = name.removesuffix(SUFFIX)
            return f"moved to {lost_and_found.move_in(self._layout, disk, path, stem, SUFFIX, 1)}"
        return ""

    def _compare(self, name: str, last: LatestChange | None) -> _Problem | None:
        path = Path(self._layout.environments, name)
        match read_or_error(partial(self._documents.at, name)):
            case None:
                return self._missing(path, last)
            case CorruptDocumentError() as error:
                return self._corrupt(name, last, error)
            case UnsupportedFormatError() as error:
                return _Problem(Finding(Severity.ERROR, path, str(error), "upgrade the program"))
            case OSError() as error:
                problem = f"cannot be read: {error.strerror}"
                return _Problem(Finding(Severity.ERROR, path, problem, "make it readable"))
            case stored:
                return self._different(path, stored, last)

    def _different(
        self, path: Path, stored: StoredDocument, last: LatestChange | None
    ) -> _Problem | None:
        difference = self._difference(stored, last)
        if not difference:
            return None

        def record(tx: Transaction) -> str:
            tx.record_external(stored)
            return _RECORDED

        is_stale = last is not None and stored.is_intact and stored.revision < last.seq
        finding = Finding(Severity.WARNING, path, difference, _RECORD)
        return _Problem(finding, difference, record, is_stale)

    def _difference(self, stored: StoredDocument, last: LatestChange | None) -> str:
        """Return in words how a good document differs from its last version in the journal."""
        if not stored.is_intact:
            return "was edited manually" if last else "was added manually"
        if last is None:
            return "" if stored.revision < self._latest.oldest else "is unknown to the journal"
        if last.is_deleted:
            return f"exists, but change {last.seq} deleted it"
        if stored.revision != last.seq:
            return f"has revision {stored.revision}, but the last one stored is {last.seq}"
        return "" if stored.checksum == last.checksum else "is not the version that was stored"

    def _missing(self, path: Path, last: LatestChange | None) -> _Problem | None:
        if last is None or last.is_deleted:
            return None
        problem = f"is missing, but the journal has revision {last.seq} of it"
        remedy = f"'waggle-fsstore fsck --repair' restores revision {last.seq}"
        finding = Finding(Severity.ERROR, path, problem, remedy)
        reason = f"restored revision {last.seq}: its file was missing"
        restore = partial(self._restore, last, is_missing=True)
        return _Problem(finding, reason, restore, is_stale=True)

    def _corrupt(
        self, name: str, last: LatestChange | None, error: CorruptDocumentError
    ) -> _Problem:
        remedy = "'waggle-fsstore fsck --repair' moves it to lost+found"
        reason = "moved its corrupt file to lost+found"
        if last is not None and not last.is_deleted:
            remedy = f"{remedy} and restores revision {last.seq}"
            reason = f"restored revision {last.seq}: its file was corrupt"
            repair = partial(self._restore, last, is_missing=False)
        else:
            repair = partial(self._quarantine, name)
        finding = Finding(Severity.ERROR, error.path, error.reason, remedy)
        return _Problem(finding, reason, repair)

    def _restore(self, last: LatestChange, tx: Transaction, *, is_missing: bool) -> str:
        environment = latest.version(self._layout, last.environment_id, last.seq)
        if environment is None:
            return "not repaired, because the journal changed in the meantime: run it again"
        if is_missing:
            tx.put(environment, None)
            return f"restored revision {last.seq}"
        tx.quarantine(last.environment_id, environment)
        return f"moved to lost+found, and restored revision {last.seq}"

    def _quarantine(self, name: str, tx: Transaction) -> str:
        environment_id = self.id_of(name)
        if environment_id is None:
            raise _UnknownIdError
        tx.quarantine(environment_id)
        return "moved to lost+found"
