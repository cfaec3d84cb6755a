# SPDX-License-Identifier: Apache-2.0
"""The changes that share one line of the journal, and the resulting documents."""

from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

from waggle_fsstore.domain.audit import Author
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, StoreError
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.domain.validation import MAX_REVISION
from waggle_fsstore.store.format import canonical_json, codec
from waggle_fsstore.store.format.layout import SUFFIX, Layout, document_name
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import FILE_MODE
from waggle_fsstore.store.journal import lines
from waggle_fsstore.store.read.documents import Documents, StoredDocument, revision_in
from waggle_fsstore.store.write.publish import DocumentWrite

# Larger batches gain nothing, and each caller waits for all of the batch.
_FULL_BYTES: Final = 1 << 18

_ENDING: Final = frozenset({Status.DESTROYING, Status.DESTROYED, Status.ERROR})


class WriteBatch:
    """The changes of several callers. Each caller sees the changes of those before it."""

    def __init__(self, layout: Layout, documents: Documents, last: int) -> None:
        self.layout = layout
        self.last = last
        self.is_full = False
        #: The size of the largest document in it, in bytes.
        self.largest = 0
        self._size = 0
        self._documents = documents
        self._changes: list[dict[str, Any]] = []
        #: By id: the document before the batch, and after the changes that are in it so far.
        self._writes: dict[str, DocumentWrite] = {}

    def __bool__(self) -> bool:
        return bool(self._changes)

    @property
    def frees_room(self) -> bool:
        """Whether it only deletes and ends environments: what a full disk must not prevent."""
        left = (write.after for write in self._writes.values())
        return all(document is None or document.status in _ENDING for document in left)

    @property
    def first(self) -> int:
        """The number of the first change."""
        return int(self._changes[0]["seq"])

    def line(self) -> bytes:
        """Return the line of the journal that holds all changes."""
        return lines.encode(lines.CHANGES, self._changes)

    def writes(self) -> list[DocumentWrite]:
        """Return the write or removal of each document that differs after the batch."""
        return [
            write
            for write in self._writes.values()
            if write.before or write.after or write.quarantine
        ]

    def savepoint(self) -> tuple[int, int, dict[str, DocumentWrite]]:
        """Return what :meth:`rollback_to` needs to undo what is added after this call."""
        return len(self._changes), self.last, self._writes.copy()

    def rollback_to(self, savepoint: tuple[int, int, dict[str, DocumentWrite]]) -> None:
        """Discard what was added since a savepoint; its numbers are free again."""
        count, self.last, self._writes = savepoint
        del self._changes[count:]

    def stored(self, environment_id: str) -> StoredDocument | None:
        """Return the document of an id after the changes so far. Raises ``BadFile``."""
        write = self._writes.get(environment_id)
        return write.after if write else self._documents.stored(environment_id)

    def count_live(self) -> int:
        """Return how many environments are live after the changes so far."""
        live = self._documents.live()
        replaced = sum(document_name(one) in live for one in self._writes)
        now = sum(bool(one.after and one.after.status.is_live) for one in self._writes.values())
        return len(live) - replaced + now

    def find_key_of(self, new: Environment) -> str | None:
        """Return the id of the environment with the same idempotency key after the changes."""
        now = (one.after.environment for one in self._writes.values() if one.after)
        # None of those on disk that have changed since: their present versions come first.
        stored = (one for one in self._documents.with_key_of(new) if one.id not in self._writes)
        found = next((one for one in chain(now, stored) if one.has_key_of(new)), None)
        return found.id if found else None

    def add(
        self,
        author: Author,
        kind: EventKind,
        environment_id: str,
        seq: int,
        was: dict[str, Any] | None,
        document: dict[str, Any] | None,
    ) -> None:
        """Add a change, in the form that ``docs/format.md`` specifies, dated now."""
        self.last = seq
        self._changes.append(
            {
                "seq": seq,
                "at": canonical_json.writable(datetime.now(UTC)),
                "actor": author.actor,
                "reason": author.reason,
                "kind": kind,
                "id": environment_id,
                "was": was,
                "document": document,
            }
        )

    def repeat(self, change: dict[str, Any]) -> None:
        """Add a change of another store as it is."""
        self.last = change["seq"]
        self._changes.append(change)

    def put_result(
        self,
        path: str,
        environment_id: str,
        now: StoredDocument | None,
        before: StoredDocument | None,
    ) -> None:
        """Set the new version of a document; the caller replaces version ``before``."""
        write = self._writes.get(environment_id)
        before = write.before if write else before
        self._writes[environment_id] = DocumentWrite(environment_id, path, before, now)
        if now:
            size = len(now.data)
            if size > self.largest:
                self.largest = size
            self._size += size
            self.is_full = self._size > _FULL_BYTES

    def quarantine(
        self, path: str, environment_id: str, target: str, now: StoredDocument | None
    ) -> None:
        """Plan the move of a corrupt document to lost+found, and set its new version."""
        self.put_result(path, environment_id, now, None)
        self._writes[environment_id].quarantine = target
        self.is_full = True  # The id can be stored again only once the old file is moved.

    def next(self, replaced: int) -> int:
        """Return the number of the next change, which is above the revision it replaces."""
        seq = 1 + max(self.last, replaced)
        if seq > MAX_REVISION:
            raise StoreError(f"{self.layout.root}: the last revision, {MAX_REVISION}, is used up")
        return seq


class Transaction:
    """One caller's part of a batch. A method that raises adds nothing."""

    __slots__ = ("_author", "_batch", "error_after_commit")

    def __init__(self, batch: WriteBatch, author: Author) -> None:
        self._batch = batch
        self._author = author
        #: Raised to the caller after what was added is committed.
        self.error_after_commit: Exception | None = None

    def get(self, environment_id: str) -> StoredDocument:
        """Return the document of an id.

        Raises :class:`EnvironmentNotFoundError` and ``BadFile``.
        """
        stored = self._batch.stored(environment_id)
        if stored is None:
            raise EnvironmentNotFoundError(environment_id)
        return stored

    def get_or_none(self, environment_id: str) -> StoredDocument | None:
        """Return the document of an id, ``None`` if there is none. Raises ``BadFile``."""
        return self._batch.stored(environment_id)

    def count_live(self) -> int:
        """Return how many environments are live after the batch's changes so far."""
        return self._batch.count_live()

    def find_key_of(self, new: Environment) -> str | None:
        """Return the id of the environment with the same idempotency key; ``None`` without one."""
        return self._batch.find_key_of(new) if new.idempotency else None

    def put(self, environment: Environment, stored: StoredDocument | None) -> int:
        """Store a version in place of ``stored``, ``None`` for a new id; return its revision."""
        kind = EventKind.UPDATED if stored else EventKind.CREATED
        return self._put(kind, environment, stored and self._recorded(stored)).revision

    def record_external(self, stored: StoredDocument) -> StoredDocument:
        """Record a manual edit as a version with its own revision."""
        return self._put(EventKind.EXTERNAL, stored.environment, stored)

    def repeat(self, change: dict[str, Any]) -> None:
        """Make a change of another store, with its number, time and author.

        Raises :class:`StoreError` if this store has changes of that number or a higher one.
        """
        batch = self._batch
        if change["seq"] <= batch.last:
            raise StoreError(f"{batch.layout.root}: has a change {batch.last} already")
        environment_id = change["id"]
        path = batch.layout.document(environment_id)
        before = batch.stored(environment_id)
        now = None
        if change["kind"] != EventKind.DELETED:
            environment, data = codec.version_of(change, path)
            now = StoredDocument.of(path, data, change["document"], environment.status, FILE_MODE)
        batch.repeat(change)
        batch.put_result(path, environment_id, now, before)

    def delete(self, stored: StoredDocument) -> None:
        """Delete a document; a manual edit of it becomes part of the history first."""
        batch = self._batch
        stored = self._recorded(stored)
        seq = batch.next(stored.revision)
        batch.add(self._author, EventKind.DELETED, stored.id, seq, _was(stored), stored.fields)
        batch.put_result(stored.path, stored.id, None, stored)

    def quarantine(self, environment_id: str, instead: Environment | None = None) -> int:
        """Move a corrupt document, of any file type, to lost+found, and store ``instead``.

        Return the number of the change.
        """
        batch = self._batch
        path = batch.layout.document(environment_id)
        seq = batch.next(revision_in(path))
        now = None
        if instead is None:
            batch.add(self._author, EventKind.DELETED, environment_id, seq, None, None)
        else:
            document, data = codec.encode_version(instead, seq)
            now = StoredDocument.of(path, data, document, instead.status, FILE_MODE)
            batch.add(self._author, EventKind.UPDATED, environment_id, seq, None, document)
        stem = document_name(environment_id).removesuffix(SUFFIX)
        target = lost_and_found.target_for(batch.layout.lost_and_found, stem, SUFFIX, seq, path)
        batch.quarantine(path, environment_id, target, now)
        return seq

    def _recorded(self, stored: StoredDocument) -> StoredDocument:
        """Return the version to replace; record a manual edit in the history first."""
        return stored if stored.is_intact else self.record_external(stored)

    def _put(
        self, kind: EventKind, environment: Environment, stored: StoredDocument | None
    ) -> StoredDocument:
        batch = self._batch
        seq = batch.next(stored.revision if stored else 0)
        document, data = codec.encode_version(environment, seq)
        path = stored.path if stored else batch.layout.document(environment.id)
        mode = stored.mode if stored else FILE_MODE
        now = StoredDocument.of(path, data, document, environment.status, mode)
        batch.add(self._author, kind, environment.id, seq, _was(stored), document)
        batch.put_result(path, environment.id, now, stored)
        return now


def _was(stored: StoredDocument | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    # A manual edit has no valid checksum, and the status before it is not known.
    is_intact = stored.is_intact
    return {
        "revision": stored.revision,
        "checksum": stored.checksum if is_intact else None,
        "status": stored.status if is_intact else None,
    }
