# SPDX-License-Identifier: Apache-2.0
"""Work on a whole store in PostgreSQL: check, repair, snapshot, restore, prune, info."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.audit import Author, as_reason, audit, current_author
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    HistoryPrunedError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.domain.progress import tracked
from waggle_fsstore.domain.repository import OnCorrupt
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.maintenance.restore import Restored, read_snapshot
from waggle_fsstore.store.maintenance.snapshot import Snapshot, write_snapshot
from waggle_fsstore.store.postgres.connections import Connections
from waggle_fsstore.store.postgres.schema import ERA_GAP, FORMAT
from waggle_fsstore.store.postgres.transaction import Transaction, decode, location_in_table
from waggle_fsstore.store.postgres.writer import Writer

# Documents that are not what the last change of their id left, and those that are missing.
_DIFFERENT: Final = """
SELECT s.format, l.id FROM waggle.store s LEFT JOIN waggle.lost l ON true ORDER BY l.id
"""
_ALL: Final = """
SELECT s.format, d.id, d.document::text, s.last, d.revision
FROM waggle.store s LEFT JOIN waggle.document d ON true ORDER BY d.id
"""
_ENDS: Final = """
SELECT s.format, s.last, s.oldest, count(c.seq), max(c.seq) FROM waggle.store s
LEFT JOIN waggle.change c ON true GROUP BY s.one
"""
_ONE: Final = """
SELECT s.format, s.oldest, d.document::text, c.seq, c.kind, c.document::text
FROM waggle.store s LEFT JOIN waggle.document d ON d.id = %s LEFT JOIN LATERAL (
    SELECT * FROM waggle.change WHERE id = %s ORDER BY seq DESC LIMIT 1
) c ON true
"""
_VERSION: Final = """
SELECT s.format, s.oldest, c.document::text FROM waggle.store s
LEFT JOIN waggle.change c ON c.seq = %s AND c.id = %s AND c.kind <> 'deleted'
"""
_INFO: Final = """
SELECT format, last, oldest, (SELECT count(*) FROM waggle.document),
    (SELECT at FROM waggle.change ORDER BY seq LIMIT 1),
    pg_total_relation_size('waggle.document'), pg_total_relation_size('waggle.change'),
    current_setting('server_version'), current_setting('synchronous_standby_names'),
    (SELECT count(*) FROM pg_stat_replication),
    (SELECT extract(epoch FROM max(flush_lag))::float8 FROM pg_stat_replication)
FROM waggle.store
"""
_PRUNE: Final = b"""
WITH gone AS (
    DELETE FROM waggle.change WHERE seq < (
        SELECT COALESCE(min(seq), %(last)s + 1) FROM waggle.change
        WHERE at >= clock_timestamp() - make_interval(secs => %(seconds)s)
    ) RETURNING seq
)
SELECT count(*), max(seq) FROM gone
"""
_SET_OLDEST: Final = b"UPDATE waggle.store SET oldest = %s"

_MAX_DAYS: Final = 365_000

_REPAIR: Final = "'waggle-fsstore fsck --repair'"


@dataclass(frozen=True, slots=True)
class PrunedChanges:
    """The result of pruning the history; ``oldest`` is the first change kept."""

    changes_removed: int
    oldest: int


@dataclass(frozen=True, slots=True)
class PostgresInfo:
    """A store in PostgreSQL in figures. Sizes are in bytes, with indexes.

    - ``documents``: the environments; ``last_seq``: the last change.
    - ``oldest_seq``, ``oldest_at``: the first change of the kept history.
    - ``standbys``: the connected ones; ``lag_seconds``: of the one that is furthest behind,
      ``None`` where nothing is behind or the role may not see it.
    - ``durability``: how a change survives, in a sentence.
    """

    location: str
    server_version: str
    documents: int
    document_bytes: int
    history_bytes: int
    last_seq: int
    oldest_seq: int
    oldest_at: datetime | None
    standbys: int
    lag_seconds: float | None
    durability: str


class _Stored(NamedTuple):
    """What is stored under one id: its document, and its last change."""

    oldest: int
    text: str | None
    seq: int | None
    kind: str | None
    version: str | None


class Maintenance:
    """Work on one store."""

    def __init__(self, connections: Connections, writer: Writer) -> None:
        self._connections = connections
        self._writer = writer

    def check(self) -> Iterator[Finding]:
        """See :meth:`PostgresStore.check`."""
        yield from self._ends()
        for _, environment_id in self._rows(_DIFFERENT):
            finding = self._examine(environment_id, self._stored(environment_id))
            if finding is not None:
                yield finding

    def repair(self) -> Iterator[Finding]:
        """See :meth:`PostgresStore.repair`."""
        yield from self._ends()
        for _, environment_id in self._rows(_DIFFERENT):
            finding = self._examine(environment_id, self._stored(environment_id))
            if finding is None or finding.remedy.startswith("upgrade"):
                repaired = finding
            else:
                with _reason(f"fsck: {finding.problem}"):
                    work = partial(self._repair, environment_id)
                    repaired = self._writer.run(work, {environment_id}, alone=True)
            if repaired is not None:
                yield repaired

    def snapshot(self, dest: str, on_corrupt: OnCorrupt, *, durable: bool) -> Snapshot:
        """See :meth:`PostgresStore.snapshot`."""
        rows = self._rows(_ALL, is_outer=True)
        last = rows[0][3] if rows else 0
        documents: dict[str, tuple[bytes, int]] = {}
        for _, environment_id, text, _, revision in rows:
            if environment_id is None:
                continue
            try:
                decode(text, environment_id)
            except (CorruptDocumentError, UnsupportedFormatError) as error:
                on_corrupt(error)
            else:
                documents[document_name(environment_id)] = (text.encode(), revision)
        return write_snapshot(Disk(durable=durable), dest, documents, last)

    def restore(self, source: str) -> Restored:
        """See :meth:`PostgresStore.restore`."""
        wanted = {name: one.environment for name, one in read_snapshot(Layout(source)).items()}

        def work(tx: Transaction, author: Author) -> Restored:
            created = updated = deleted = unchanged = 0
            for environment_id in tracked(sorted(tx.load_all() | wanted.keys()), "documents"):
                new = wanted.get(environment_id)
                is_there, old = _find_or_delete(tx, environment_id, author)
                if new is None:
                    deleted += is_there
                    if old is not None:
                        tx.delete(environment_id, author)
                elif old == new:
                    unchanged += 1
                else:
                    tx.store([new.copy()], author)
                    created += not is_there
                    updated += is_there
            return Restored(created, updated, deleted, unchanged)

        with _reason(f"restored from {source}"):
            return self._writer.run(work, set(wanted), alone=True)

    def restore_revision(self, environment_id: str, revision: int) -> Environment:
        """See :meth:`PostgresStore.restore_revision`."""
        rows = []
        if is_id(environment_id) and 0 < revision < 1 << 62:
            rows = self._rows(_VERSION, revision, environment_id, is_outer=True)
        if not rows or rows[0][2] is None:
            if rows and revision < rows[0][1]:
                raise HistoryPrunedError(rows[0][1])
            raise EnvironmentNotFoundError(environment_id)
        version = decode(rows[0][2], environment_id)

        def work(tx: Transaction, author: Author) -> Environment:
            _find_or_delete(tx, environment_id, author)
            restored = version.copy()
            tx.store([restored], author)
            return restored

        with _reason(f"restored revision {revision}"):
            return self._writer.run(work, {environment_id})

    def prune(self, keep_days: float) -> PrunedChanges:
        """See :meth:`PostgresStore.prune_history`. The clock is that of the database."""
        if not 0 <= keep_days < math.inf:
            raise ValueError(f"keep_days: {keep_days!r} is not a number of days")
        seconds = min(keep_days, _MAX_DAYS) * 86_400

        def work(tx: Transaction, _: Author) -> PrunedChanges:
            found = tx.execute(_PRUNE, {"last": tx.first - 1, "seconds": seconds})
            removed, newest = found[0]
            if removed:
                tx.execute(_SET_OLDEST, [newest + 1])
            oldest = tx.execute(b"SELECT oldest FROM waggle.store")[0][0]
            return PrunedChanges(removed, oldest)

        return self._writer.run(work, set(), alone=True)

    def info(self, *, durable: bool) -> PostgresInfo:
        """See :meth:`PostgresStore.info`."""
        rows = self._rows(_INFO) or [(FORMAT, 0, 1, 0, None, 0, 0, "", "", 0, None)]
        _, last, oldest, count, oldest_at, documents, changes, version, waited, standbys, lag = (
            rows[0]
        )
        return PostgresInfo(
            location=self._connections.location,
            server_version=version,
            documents=count,
            document_bytes=documents,
            history_bytes=changes,
            last_seq=last,
            oldest_seq=oldest if last else 0,
            oldest_at=oldest_at,
            standbys=standbys,
            lag_seconds=lag,
            durability=_durability(waited, durable=durable),
        )

    def _ends(self) -> Iterator[Finding]:
        """Yield what is wrong with the numbers of the history: each is there, but for eras."""
        for _, last, oldest, count, last_kept in self._rows(_ENDS):
            missing = (last - oldest + 1 - count) % ERA_GAP
            if missing or (count and last_kept != last):
                yield Finding(
                    Severity.ERROR,
                    Path("waggle.change"),
                    f"has {count} of the changes {oldest} to {last}, and lacks some",
                    "restore the table from a backup",
                )

    def _stored(self, environment_id: str) -> _Stored:
        rows = self._rows(_ONE, environment_id, environment_id, is_outer=True)
        return _Stored(*rows[0][1:])

    def _examine(self, environment_id: str, stored: _Stored) -> Finding | None:
        """Return what is wrong with one document, if anything is."""
        path = Path(location_in_table(environment_id))
        has_version = stored.seq is not None and stored.kind != "deleted"
        if stored.text is None:
            if not has_version:
                return None
            problem = f"is missing, but the history has revision {stored.seq} of it"
            remedy = f"{_REPAIR} restores revision {stored.seq}"
            return Finding(Severity.ERROR, path, problem, remedy)
        try:
            environment = decode(stored.text, environment_id)
        except CorruptDocumentError as error:
            remedy = f"{_REPAIR} restores revision {stored.seq}" if has_version else _REPAIR
            kept = f"{remedy} and keeps the text in the history"
            return Finding(Severity.ERROR, path, error.reason, kept)
        except UnsupportedFormatError as error:
            return Finding(Severity.ERROR, path, str(error), "upgrade the program")
        problem = _difference(stored, environment)
        remedy = f"{_REPAIR} records it in the history, as external"
        return Finding(Severity.WARNING, path, problem, remedy) if problem else None

    def _repair(self, environment_id: str, tx: Transaction, author: Author) -> Finding | None:
        """Repair one document under the lock, unless it is good by now."""
        rows = tx.execute(_ONE.encode(), [environment_id, environment_id])
        stored = _Stored(*rows[0][1:])
        finding = self._examine(environment_id, stored)
        if finding is None:
            return None
        if finding.severity is Severity.WARNING:
            tx.record_external(environment_id, author)
            done = "recorded in the history, as external"
        else:
            if stored.text is not None:
                tx.delete(environment_id, author)
            done = "deleted; the history keeps its text"
            if stored.version is not None and stored.kind != "deleted":
                tx.store([decode(stored.version, environment_id)], author)
                done = f"restored revision {stored.seq}"
        return replace(finding, remedy=done, is_repaired=True)

    def _rows(
        self, statement: str, *parameters: object, is_outer: bool = False
    ) -> list[tuple[Any, ...]]:
        """Return rows that begin with the format; without ``is_outer``, those with a value."""
        rows = self._connections.read(statement, parameters)
        if rows and rows[0][0] > FORMAT:
            raise UnsupportedFormatError("waggle.store", rows[0][0], FORMAT)
        return rows if is_outer else [row for row in rows if row[1] is not None]


def _difference(stored: _Stored, environment: Environment) -> str:
    """Return in words how a good document differs from the last change of its id."""
    if stored.text is not None and not codec.is_intact(stored.text.encode()):
        return "was edited manually" if stored.seq else "was added manually"
    if stored.seq is None:
        return "" if environment.revision < stored.oldest else "is unknown to the history"
    if stored.kind == "deleted":
        return f"exists, but change {stored.seq} deleted it"
    if environment.revision != stored.seq:
        return f"has revision {environment.revision}, but the last one stored is {stored.seq}"
    return "" if stored.text == stored.version else "is not the version that was stored"


def _find_or_delete(
    tx: Transaction, environment_id: str, author: Author
) -> tuple[bool, Environment | None]:
    """Return whether a document is stored, and its environment; delete a corrupt one."""
    try:
        found = tx.find(environment_id, author)
    except CorruptDocumentError:
        tx.delete(environment_id, author)
        return True, None
    return found is not None, found


def _reason(default: str) -> audit:
    """Return a block whose changes have the reason of the caller, or else this one."""
    return audit(reason=current_author().reason or as_reason(default))


def _durability(waited_for: str, *, durable: bool) -> str:
    """Return, in a sentence, how a change survives."""
    if not durable:
        return "The settings of the server were not checked: a crash may undo any change."
    if waited_for:
        return (
            f"The primary and the standbys of {waited_for!r} flush each change before it returns."
        )
    return (
        "The primary flushes each change before it returns; no standby is waited for, so a "
        "failover may undo the latest ones."
    )
