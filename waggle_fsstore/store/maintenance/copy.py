# SPDX-License-Identifier: Apache-2.0
"""Copy a whole store with its history into another one, of whatever kind.

The changes go over in order, with their numbers, times and authors. The target is a store as of
some change of the source at any time, so a copy that was interrupted continues.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, Final, Protocol

from waggle_fsstore.domain.errors import HistoryPrunedError, StoreError
from waggle_fsstore.domain.progress import report
from waggle_fsstore.store.format.canonical_json import compact
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import changes
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.writer import Writer

# One transaction of the target: as many changes, or as many bytes of them.
_BATCH_CHANGES: Final = 200
_BATCH_BYTES: Final = 1 << 20

# Changes that other programs make in the meantime are copied too, so often.
_MAX_ROUNDS: Final = 5

#: A change, as ``docs/format.md`` specifies those of the journal.
Change = dict[str, Any]


class CopyableStore(Protocol):
    """A store whose changes can be copied as they are."""

    def last_change(self) -> int:
        """Return the number of the last change, 0 without one."""
        ...

    def export_changes(self, after: int) -> Iterator[Change]:
        """Yield the changes after a number. Raises :class:`HistoryPrunedError`."""
        ...

    def import_changes(self, changes: list[Change]) -> None:
        """Make changes of another store, with their numbers, all or none.

        Raises :class:`StoreError` for a number that is not above the last one.
        """
        ...

    def export_documents(self) -> Iterator[bytes]:
        """Yield each document, byte for byte, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did: the changes that it made, and the documents that both stores have now.

    ``digest`` is the sum of the SHA-256 of the documents, modulo 2**256, in hexadecimal digits.
    """

    changes: int
    documents: int
    digest: str


def copy(source: CopyableStore, target: CopyableStore) -> Copied:
    """Copy what the target lacks, and compare all documents; continues an interrupted copy.

    Raises :class:`StoreError` if the target has other changes than the source, or other documents
    afterwards, and :class:`HistoryPrunedError`.
    """
    copied = 0
    for _ in range(_MAX_ROUNDS):
        last = target.last_change()
        if last and _first(target, last - 1) != _first(source, last - 1):
            raise StoreError(
                f"{target!r} is neither empty nor an earlier copy of {source!r}, whose change "
                f"{last} is another one: name an empty target"
            )
        missing = source.last_change() - last
        report(0, missing, "changes")
        for batch in _batches(source.export_changes(last)):
            target.import_changes(batch)
            copied += len(batch)
            report(batch[-1]["seq"] - last, missing, "changes")
        report(0, None, "and comparing documents")
        found, expected = _digest(target.export_documents()), _digest(source.export_documents())
        if found == expected and target.last_change() == source.last_change():
            return Copied(copied, found[0], f"{found[1]:064x}")
        if source.last_change() == target.last_change():
            break
    raise StoreError(
        f"the documents of {source!r} are not those of its history: record manual edits with "
        "'fsck --repair' there, or stop the programs that keep changing it, and copy again"
    )


def export_changes(layout: Layout, view: View, after: int) -> Iterator[Change]:
    """See :meth:`CopyableStore.export_changes`."""
    oldest = segments.oldest_kept(layout)
    if after + 1 < oldest:
        raise HistoryPrunedError(oldest)
    return changes(layout, Cursor(after), Cursor(view.state().committed), strict=True)


def export_documents(view: View, documents: Documents) -> Iterator[bytes]:
    """See :meth:`CopyableStore.export_documents`. Raises the error of a bad document."""
    for name in view.names():
        if (stored := documents.at(name)) is not None:
            yield stored.data


def import_changes(writer: Writer, new: list[Change]) -> None:
    """See :meth:`CopyableStore.import_changes`."""

    def work(tx: Transaction) -> None:
        for change in new:
            tx.repeat(change)

    writer.run(work, solo=True)


def _batches(found: Iterable[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    size = 0
    for change in found:
        batch.append(change)
        size += len(compact(change))
        if len(batch) == _BATCH_CHANGES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _first(store: CopyableStore, after: int) -> Change | None:
    """Return the first change after a number, without what only one kind of store records."""
    change = next(islice(store.export_changes(after), 1), None)
    if change is None:
        return None
    was = change["was"]
    return {**change, "was": was and {**was, "checksum": None}}


def _digest(documents: Iterable[bytes]) -> tuple[int, int]:
    count = total = 0
    for data in documents:
        count += 1
        total += int.from_bytes(sha256(data).digest(), "big")
    return count, total % (1 << 256)
