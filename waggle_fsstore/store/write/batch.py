# SPDX-License-Identifier: Apache-2.0
"""A batch: the changes that share one line of the journal, and what they leave behind."""

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.audit import Author
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, StoreError
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.domain.validation import MAX_REVISION
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import SUFFIX, Layout, document_name
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.journal import lines
from waggle_fsstore.store.read.documents import Documents, StoredDocument, revision_in
from waggle_fsstore.store.write.publish import DocumentWrite

# No caller waits for more than about this much of others: larger batches flush no faster.
_ENOUGH_BYTES: Final = 1 << 18


class _Outcome(NamedTuple):
    """How a document stood before the batch, and how it stands after what is in it so far."""

    before: StoredDocument | None
    now: StoredDocument | None
    aside: str = ""


class WriteBatch:
    """What several callers change together; each sees what those before it changed."""

    def __init__(self, layout: Layout, documents: Documents, last: int) -> None:
        self.layout = layout
        self.last = last
        self.is_full = False
        self._size = 0
        self._documents = documents
        self._changes: list[dict[str, Any]] = []
        self._left: dict[str, _Outcome] = {}

    def __bool__(self) -> bool:
        return bool(self._changes)

    @property
    def first(self) -> int:
        """The number of its first change."""
        return int(self._changes[0]["seq"])

    def line(self) -> bytes:
        """The line of the journal that holds all of it."""
        return lines.encode(lines.CHANGES, self._changes)

    def steps(self) -> list[DocumentWrite]:
        """What is to become of each document."""
        return [
            DocumentWrite(
                self.layout.document(name),
                left.before,
                left.now.data if left.now else None,
                left.aside,
            )
            for name, left in self._left.items()
            if left.before or left.now or left.aside
        ]

    def savepoint(self) -> tuple[int, int, dict[str, _Outcome]]:
        """Where it stands, for :meth:`go_back`."""
        return len(self._changes), self.last, self._left.copy()

    def rollback_to(self, mark: tuple[int, int, dict[str, _Outcome]]) -> None:
        """Forget what was added since, because its caller failed. Its numbers are not used up."""
        count, self.last, self._left = mark
        del self._changes[count:]

    def stored(self, environment_id: str) -> StoredDocument | None:
        """The document of an id after what is in the batch so far. Raises ``BadFile``."""
        left = self._left.get(environment_id)
        return left.now if left else self._documents.stored(environment_id)

    def live(self) -> int:
        """How many environments are live after what is in the batch so far."""
        live = self._documents.live()
        replaced = sum(document_name(name) in live for name in self._left)
        now = sum(bool(left.now and left.now.status.is_live) for left in self._left.values())
        return len(live) - replaced + now

    def add(
        self,
        author: Author,
        kind: EventKind,
        environment_id: str,
        seq: int,
        was: dict[str, Any] | None,
        document: dict[str, Any] | None,
    ) -> None:
        """Add a change to the line."""
        self.last = seq
        self._changes.append(
            {
                "seq": seq,
                "at": codec.timestamp(datetime.now(UTC)),
                "actor": author.actor,
                "reason": author.reason,
                "kind": kind,
                "id": environment_id,
                "was": was,
                "document": document,
            }
        )

    def put_result(
        self, environment_id: str, now: StoredDocument | None, before: StoredDocument | None
    ) -> None:
        """Note how a document stands now, and how it stood for this caller."""
        left = self._left.get(environment_id)
        self._left[environment_id] = _Outcome(left.before if left else before, now)
        self._size += len(now.data) if now else 0
        self.is_full = self._size > _ENOUGH_BYTES

    def quarantine(self, environment_id: str, target: str, now: StoredDocument | None) -> None:
        """Note that a corrupt document goes to a path in lost+found, and what comes after it."""
        self._left[environment_id] = _Outcome(None, now, target)
        self.is_full = True  # Nobody may store this id anew before the old file is away.

    def next(self, replaced: int) -> int:
        """The number of the next change; above the revision that it replaces."""
        following = 1 + max(self.last, replaced)
        if following > MAX_REVISION:
            raise StoreError(f"{self.layout.root}: there is no revision above {MAX_REVISION}")
        return following


class Transaction:
    """One caller's part of a batch. What raises adds nothing."""

    __slots__ = ("_author", "_batch", "error_after_commit")

    def __init__(self, batch: WriteBatch, author: Author) -> None:
        self._batch = batch
        self._author = author
        #: Raised once all that was added is stored.
        self.error_after_commit: Exception | None = None

    def get(self, environment_id: str) -> StoredDocument:
        """The document of an id. Raises :class:`EnvironmentNotFoundError` and ``BadFile``."""
        stored = self._batch.stored(environment_id)
        if stored is None:
            raise EnvironmentNotFoundError(environment_id)
        return stored

    def get_or_none(self, environment_id: str) -> StoredDocument | None:
        """The document of an id, ``None`` if there is none. Raises ``BadFile``."""
        return self._batch.stored(environment_id)

    def count_live(self) -> int:
        """How many environments are live."""
        return self._batch.live()

    def put(self, environment: Environment, stored: StoredDocument | None) -> int:
        """Store a version over the one that stands there; its revision."""
        kind = EventKind.UPDATED if stored else EventKind.CREATED
        return self._store(kind, environment, stored and self._noted(stored)).revision

    def record_external(self, stored: StoredDocument) -> StoredDocument:
        """Give a version that a hand made a revision of its own."""
        return self._store(EventKind.EXTERNAL, stored.environment, stored)

    def delete(self, stored: StoredDocument) -> None:
        """Remove a document."""
        batch = self._batch
        stored = self._noted(stored)
        seq = batch.next(stored.revision)
        batch.add(self._author, EventKind.DELETED, stored.id, seq, _was(stored), stored.document)
        batch.put_result(stored.id, None, stored)

    def quarantine(self, environment_id: str, instead: Environment | None = None) -> int:
        """Move a corrupt document, whatever it is, to lost+found, and store ``instead``.

        Returns the number of the change.
        """
        batch = self._batch
        path = batch.layout.document(environment_id)
        seq = batch.next(revision_in(path))
        now = None
        if instead is None:
            batch.add(self._author, EventKind.DELETED, environment_id, seq, None, None)
        else:
            document, data = codec.encode_version(instead, seq)
            now = StoredDocument.of(path, data, document)
            batch.add(self._author, EventKind.UPDATED, environment_id, seq, None, document)
        stem = document_name(environment_id).removesuffix(SUFFIX)
        target = lost_and_found.target_for(batch.layout.lost_and_found, stem, SUFFIX, seq, path)
        batch.quarantine(environment_id, target, now)
        return seq

    def _noted(self, stored: StoredDocument) -> StoredDocument:
        """The version that is to be replaced; one that a hand made becomes history first."""
        return stored if stored.is_intact else self.record_external(stored)

    def _store(
        self, kind: EventKind, environment: Environment, stored: StoredDocument | None
    ) -> StoredDocument:
        batch = self._batch
        seq = batch.next(stored.revision if stored else 0)
        document, data = codec.encode_version(environment, seq)
        now = StoredDocument.of(batch.layout.document(environment.id), data, document)
        batch.add(self._author, kind, environment.id, seq, _was(stored), document)
        batch.put_result(environment.id, now, stored)
        return now


def free_path(folder: str, environment_id: str, number: int) -> str:
    """A path in lost+found that nothing has yet."""
    stem = document_name(environment_id).removesuffix(SUFFIX)
    return lost_and_found.free_path(folder, stem, SUFFIX, number)


def _was(stored: StoredDocument | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    # What a hand wrote has no checksum that fits, and what it says of before is not known.
    known = stored.is_intact
    return {
        "revision": stored.revision,
        "checksum": stored.checksum if known else None,
        "status": stored.status if known else None,
    }
