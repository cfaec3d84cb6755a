# SPDX-License-Identifier: Apache-2.0
"""Restoring: documents brought back from a snapshot or from history, as a change like any."""

import errno
import os
import re
from dataclasses import dataclass
from hashlib import file_digest, sha256
from typing import Final

from waggle_fsstore.domain.audit import audit, current_author
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    HistoryPrunedError,
)
from waggle_fsstore.store.format.layout import Layout, environment_id_of
from waggle_fsstore.store.fs.safe_read import is_regular, read_regular
from waggle_fsstore.store.journal import latest, segments
from waggle_fsstore.store.maintenance.snapshot import SUMS
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.writer import Writer

_MAX_SUMS_BYTES: Final = 1 << 30

# As sha256sum writes and reads them; it escapes no name that a snapshot has.
_sum_line: Final = re.compile(r"([0-9a-f]{64}) [ *]([^\\\r\n]+)").fullmatch


@dataclass(frozen=True, slots=True)
class Restored:
    """How many documents a restore created, updated, deleted and left as they were."""

    created: int
    updated: int
    deleted: int
    unchanged: int


def restore(layout: Layout, writer: Writer, source: str) -> Restored:
    """See :meth:`FileStore.restore`."""
    wanted = _documents_of(Layout(source))
    with audit(reason=current_author().reason or f"restored from {source}"):
        return writer.run(lambda change: _restore(change, layout, wanted))


def restore_revision(
    layout: Layout, writer: Writer, view: View, environment_id: str, revision: int
) -> Environment:
    """See :meth:`FileStore.restore_revision`."""
    oldest = min(segments.list_segments(layout), default=0)
    if 0 < revision < oldest:
        raise HistoryPrunedError(oldest)
    new = None
    if 0 < revision <= view.state().published:
        new = latest.version(layout, environment_id, revision)
    if new is None:
        raise EnvironmentNotFoundError(environment_id)
    found = new

    def work(change: Transaction) -> int:
        try:
            return change.put(found, change.get_or_none(environment_id))
        except CorruptDocumentError:
            return change.quarantine(environment_id, found)

    with audit(reason=current_author().reason or f"restored revision {revision}"):
        found.revision = writer.run(work)
    return found


def _restore(change: Transaction, layout: Layout, wanted: dict[str, StoredDocument]) -> Restored:
    documents = Documents(layout)
    created = updated = deleted = unchanged = 0
    there = {_id_at(documents, name) for name in documents.names()}
    for environment_id in sorted(there | wanted.keys()):
        new = wanted.get(environment_id)
        try:
            stored = change.get_or_none(environment_id)
        except CorruptDocumentError:
            change.quarantine(environment_id, new.environment if new else None)
            updated += new is not None
            deleted += new is None
            continue
        if new is None:
            if stored is not None:
                change.delete(stored)
                deleted += 1
        elif stored is not None and _are_same(stored, new):
            unchanged += 1
        else:
            change.put(new.environment, stored)
            created += stored is None
            updated += stored is not None
    return Restored(created, updated, deleted, unchanged)


def _are_same(stored: StoredDocument, new: StoredDocument) -> bool:
    """Whether two documents say the same, whatever their revisions are."""
    return stored.data == new.data or stored.environment == new.environment


def _id_at(documents: Documents, name: str) -> str:
    """The id that a file name stands for; where the name does not tell, the document must."""
    environment_id = environment_id_of(name)
    if environment_id is None:
        stored = documents.at(name)
        environment_id = stored.id if stored else ""
    return environment_id


def _documents_of(source: Layout) -> dict[str, StoredDocument]:
    """The documents in a snapshot. Raises ``BadFile`` for what is not as it was."""
    folder = os.path.basename(source.environments)
    if not os.path.isdir(source.environments):
        raise FileNotFoundError(errno.ENOENT, "there are no documents to restore", source.root)
    documents = Documents(source)
    sums = _sums_of(source.root)
    found: dict[str, StoredDocument] = {}
    for name in sorted(documents.names()):
        stored = documents.at(name)
        if stored is None:
            continue
        if sums is not None:
            expected = sums.pop(f"{folder}/{name}", None)
            if expected is None:
                raise CorruptDocumentError(stored.path, f"is not listed in {SUMS}")
            if sha256(stored.data).hexdigest() != expected:
                raise CorruptDocumentError(stored.path, f"is not what {SUMS} says it was")
        found[stored.environment.id] = stored
    for name, expected in (sums or {}).items():
        _verify(os.path.join(source.root, *name.split("/")), expected)
    return found


def _sums_of(source: str) -> dict[str, str] | None:
    """The checksums of the files of a snapshot, if it has any."""
    path = os.path.join(source, SUMS)
    try:
        text = read_regular(path, _MAX_SUMS_BYTES).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise CorruptDocumentError(path, "is not UTF-8") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _sum_line(line)
        if match is None or os.path.isabs(match[2]) or ".." in match[2].split("/"):
            raise CorruptDocumentError(path, f"line {number} is no checksum of a file in here")
        sums[match[2]] = match[1]
    return sums


def _verify(path: str, expected: str) -> None:
    """Refuse a file that is not what it was, or gone."""
    if not is_regular(path):
        raise CorruptDocumentError(path, f"is listed in {SUMS}, and is no file that is there")
    with open(path, "rb") as file:
        if file_digest(file, "sha256").hexdigest() != expected:
            raise CorruptDocumentError(path, f"is not what {SUMS} says it was")
