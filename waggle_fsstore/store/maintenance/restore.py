# SPDX-License-Identifier: Apache-2.0
"""Restore: bring documents back from a snapshot or from history, as changes like any other."""

import errno
import os
import re
from dataclasses import dataclass
from hashlib import file_digest, sha256
from typing import Final

from waggle_fsstore.domain.audit import as_reason, audit, current_author
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    HistoryPrunedError,
)
from waggle_fsstore.domain.progress import tracked
from waggle_fsstore.store.format.layout import Layout, environment_id_of
from waggle_fsstore.store.fs.safe_read import is_regular, read_regular
from waggle_fsstore.store.journal import latest, segments
from waggle_fsstore.store.maintenance.snapshot import SUMS
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.writer import Writer

_MAX_SUMS_BYTES: Final = 1 << 30

# The format of sha256sum, which escapes no file name of a snapshot.
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
    wanted = read_snapshot(Layout(source))
    with audit(reason=current_author().reason or as_reason(f"restored from {source}")):
        return writer.run(lambda tx: _restore(tx, layout, wanted))


def restore_revision(
    layout: Layout, writer: Writer, view: View, environment_id: str, revision: int
) -> Environment:
    """See :meth:`FileStore.restore_revision`."""
    version = None
    if 0 < revision <= view.state().published:
        version = latest.version(layout, environment_id, revision)
    if version is None:
        oldest = min(segments.list_segments(layout), default=0)
        if 0 < revision < oldest:
            raise HistoryPrunedError(oldest)
        raise EnvironmentNotFoundError(environment_id)
    restored = version

    def work(tx: Transaction) -> int:
        try:
            return tx.put(restored, tx.get_or_none(environment_id))
        except CorruptDocumentError:
            return tx.quarantine(environment_id, restored)

    with audit(reason=current_author().reason or f"restored revision {revision}"):
        restored.revision = writer.run(work)
    return restored


def _restore(tx: Transaction, layout: Layout, wanted: dict[str, StoredDocument]) -> Restored:
    documents = Documents(layout)
    created = updated = deleted = unchanged = 0
    present = {_id_at(documents, name) for name in documents.names()}
    for environment_id in tracked(sorted(present | wanted.keys()), "documents"):
        new = wanted.get(environment_id)
        try:
            stored = tx.get_or_none(environment_id)
        except CorruptDocumentError:
            tx.quarantine(environment_id, new.environment if new else None)
            updated += new is not None
            deleted += new is None
            continue
        if new is None:
            if stored is not None:
                tx.delete(stored)
                deleted += 1
        elif stored is not None and _are_equal(stored, new):
            unchanged += 1
        else:
            tx.put(new.environment, stored)
            created += stored is None
            updated += stored is not None
    return Restored(created, updated, deleted, unchanged)


def _are_equal(stored: StoredDocument, new: StoredDocument) -> bool:
    """Return whether two documents are equal, apart from their revisions."""
    return stored.data == new.data or stored.environment == new.environment


def _id_at(documents: Documents, name: str) -> str:
    """Return the id of a file name, taken from the document where the name holds only a hash."""
    environment_id = environment_id_of(name)
    if environment_id is None:
        stored = documents.at(name)
        environment_id = stored.id if stored else ""
    return environment_id


def read_snapshot(source: Layout) -> dict[str, StoredDocument]:
    """Return the documents in a snapshot by id.

    Raises ``BadFile`` for a file that is invalid, or differs from its checksum.
    """
    environments = os.path.basename(source.environments)
    if not os.path.isdir(source.environments):
        raise FileNotFoundError(errno.ENOENT, "there are no documents to restore", source.root)
    documents = Documents(source)
    sums = _read_sums(source.root)
    by_id: dict[str, StoredDocument] = {}
    for name in tracked(sorted(documents.names()), "files of the snapshot"):
        stored = documents.at(name)
        if stored is None:
            continue
        if sums is not None:
            expected = sums.pop(f"{environments}/{name}", None)
            if expected is None:
                raise CorruptDocumentError(stored.path, f"is not listed in {SUMS}")
            _compare(stored.path, sha256(stored.data).hexdigest(), expected)
        by_id[stored.environment.id] = stored
    for name, expected in (sums or {}).items():
        _verify(os.path.join(source.root, *name.split("/")), expected)
    return by_id


def _read_sums(source: str) -> dict[str, str] | None:
    """Return the checksums of the files of a snapshot by path, ``None`` if it has none."""
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
            raise CorruptDocumentError(
                path, f"line {number} is not the checksum of a file of the snapshot"
            )
        sums[match[2]] = match[1]
    return sums


def _verify(path: str, expected: str) -> None:
    """Raise :class:`CorruptDocumentError` for a file that is missing or has another checksum."""
    if not is_regular(path):
        raise CorruptDocumentError(path, f"is listed in {SUMS}, but there is no such file")
    with open(path, "rb") as file:
        _compare(path, file_digest(file, "sha256").hexdigest(), expected)


def _compare(path: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise CorruptDocumentError(path, f"does not match its checksum in {SUMS}")
