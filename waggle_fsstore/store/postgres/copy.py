# SPDX-License-Identifier: Apache-2.0
"""A store in PostgreSQL as the source and the target of a copy with its history."""

from collections.abc import Iterator
from typing import Any, Final

from waggle_fsstore.domain.audit import Author
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    HistoryPrunedError,
    UnsupportedFormatError,
)
from waggle_fsstore.store.format.canonical_json import parse
from waggle_fsstore.store.postgres.connections import Connections
from waggle_fsstore.store.postgres.history import PAGE_ROWS
from waggle_fsstore.store.postgres.schema import FORMAT
from waggle_fsstore.store.postgres.transaction import Transaction, decode
from waggle_fsstore.store.postgres.writer import Writer

_LAST: Final = "SELECT format, last, oldest FROM waggle.store"
_CHANGES: Final = f"""
SELECT seq, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), actor, reason,
    kind, id, was_revision, was_status, document::text
FROM waggle.change WHERE seq > %s AND seq <= %s ORDER BY seq LIMIT {PAGE_ROWS}
"""  # noqa: S608  # Made of constants.
_DOCUMENTS: Final = f"""
SELECT id, document::text FROM waggle.document WHERE id > %s ORDER BY id LIMIT {PAGE_ROWS}
"""  # noqa: S608

Change = dict[str, Any]


def last_change(connections: Connections) -> int:
    """Return the number of the last change, 0 without one."""
    return _numbers(connections)[0]


def export_changes(connections: Connections, after: int) -> Iterator[Change]:
    """Yield the changes after a number, in the form of the journal.

    Raises :class:`HistoryPrunedError`.
    """
    last, oldest = _numbers(connections)
    if after + 1 < oldest and last:
        raise HistoryPrunedError(oldest)
    return _pages(connections, after, last)


def import_changes(writer: Writer, new: list[Change]) -> None:
    """Make changes of another store, with their numbers, all or none."""

    def work(tx: Transaction, _: Author) -> None:
        for change in new:
            tx.repeat(change)

    writer.run(work, {change["id"] for change in new}, alone=True)


def export_documents(connections: Connections) -> Iterator[bytes]:
    """Yield each document, byte for byte, in the order of the ids."""
    after = ""
    while rows := connections.read(_DOCUMENTS, (after,)):
        yield from (text.encode() for _, text in rows)
        after = rows[-1][0]


def _numbers(connections: Connections) -> tuple[int, int]:
    """Return the last change, and the oldest that is kept. Raises on a newer format."""
    rows = connections.read(_LAST)
    if not rows:
        return 0, 1
    found, last, oldest = rows[0]
    if found > FORMAT:
        raise UnsupportedFormatError("waggle.store", found, FORMAT)
    return last, oldest


def _pages(connections: Connections, after: int, last: int) -> Iterator[Change]:
    while rows := connections.read(_CHANGES, (after, last)):
        yield from map(_change, rows)
        after = rows[-1][0]


def _change(row: tuple[Any, ...]) -> Change:
    seq, at, actor, reason, kind, environment_id, revision, status, text = row
    # The checksum of the version before is in the change that made it.
    was = {"revision": revision, "checksum": None, "status": status} if revision else None
    return {
        "seq": seq,
        "at": at,
        "actor": actor,
        "reason": reason,
        "kind": kind,
        "id": environment_id,
        "was": was,
        "document": _document(text, environment_id),
    }


def _document(text: str | None, environment_id: str) -> dict[str, Any] | None:
    """Return a document as the journal has it, ``None`` for a corrupt one that was deleted."""
    try:
        decode(text or "null", environment_id)
    except (CorruptDocumentError, UnsupportedFormatError):
        return None
    document: dict[str, Any] = parse((text or "").encode())
    return document
