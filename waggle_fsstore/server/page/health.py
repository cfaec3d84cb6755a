# SPDX-License-Identifier: Apache-2.0
"""The health of a store and of its server, as the rows that the page shows."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.server.page.texts import ago, count, size, utc
from waggle_fsstore.store.maintenance.last_check import LastCheck

# As that of the alert WaggleNearCapacity.
_NEARLY_FULL: Final = 0.9


class Row(NamedTuple):
    """What is reported, its value, and whether an operator should look at it.

    ``details`` are lines that explain the value. ``used`` is a share between 0 and 1, where the
    value is one.
    """

    name: str
    value: str
    is_problem: bool = False
    details: tuple[str, ...] = ()
    used: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What only a server knows.

    - ``is_ready``, ``leads``, ``is_substitute``, ``can_execute``: see :class:`Figures`.
    - ``execution``: how programs are run, or why they are not.
    - ``own``: the number of live environments of this host, of which there may be ``capacity``.
    - ``orphans``, ``problems``: those of the last reconciliation.
    """

    is_ready: bool
    leads: bool
    is_substitute: bool
    can_execute: bool
    execution: str
    own: int
    capacity: int
    orphans: int
    problems: int
    trash_bytes: int


def rows(
    stored: Iterable[Environment],
    unreadable: list[str],
    info: Any,
    last_check: LastCheck | None,
    running: Running | None,
    now: datetime,
) -> list[Row]:
    """Return all rows; ``info`` is that of the store, ``None`` if it has none."""
    return [
        *_of_server(running),
        *_of_environments(stored, unreadable, running),
        _fsck(last_check, now),
        *_of_store(info),
        *_of_workspaces(running),
    ]


def _of_server(running: Running | None) -> Iterator[Row]:
    if running is None:
        yield Row("Server", "none: this page reads the store by itself")
        return
    leader = "leads" if running.leads else "follows another server"
    if running.is_substitute:
        leader = "acts in place of a server that does not respond"
    ready = "ready" if running.is_ready else "not ready: /readyz and the log say why"
    yield Row("Server", f"{ready}; {leader}", not running.is_ready or running.is_substitute)


def _of_environments(
    stored: Iterable[Environment], unreadable: list[str], running: Running | None
) -> Iterator[Row]:
    counts = Counter(one.status for one in stored)
    live = sum(number for status, number in counts.items() if status.is_live)
    if running is None:
        yield Row("Capacity", f"{live} live")
    else:
        used = running.own / running.capacity
        value = f"{running.own} of {running.capacity} live"
        yield Row("Capacity", value, used > _NEARLY_FULL, used=min(used, 1.0))
    by_status = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    yield Row("Environments", by_status or "none")
    if unreadable:
        value = f"{len(unreadable)}: 'waggle-fsstore fsck' says more"
        yield Row("Unreadable documents", value, is_problem=True, details=tuple(unreadable))


def _fsck(last: LastCheck | None, now: datetime) -> Row:
    if last is None:
        return Row("Last fsck", "none is recorded")
    when = f"{ago(last.at, now)} ago, {utc(last.at)}"
    found = f"{count(last.errors, 'error')}, {count(last.warnings, 'warning')}"
    found += f", {last.repaired} repaired" if last.repaired else ""
    return Row("Last fsck", f"{found}; {when}", last.errors > 0, last.findings)


def _of_store(info: Any) -> Iterator[Row]:
    """Yield the rows of a store in files or in a database, which have other figures."""
    if info is None:
        yield Row("Journal", "none: the store is in memory, or cannot be read")
        return
    if hasattr(info, "segment_bytes"):
        yield Row("Journal", f"{size(info.segment_bytes)} in {count(info.segments, 'file')}")
        covered = "none yet" if info.checkpoint is None else f"through change {info.checkpoint}"
        yield Row("Last checkpoint", f"{covered}; the last change is {info.last_seq}")
        if info.is_recovery_due:
            yield Row("Recovery", "due: documents may be older than the journal", is_problem=True)
    else:
        yield Row("Journal", size(info.history_bytes))
        yield Row("Last checkpoint", f"the database's; the last change is {info.last_seq}")
    yield Row("Documents", size(info.document_bytes))


def _of_workspaces(running: Running | None) -> Iterator[Row]:
    if running is None:
        return
    yield Row("Orphans", str(running.orphans), running.orphans > 0)
    if running.problems:
        yield Row("Failures of the last reconciliation", str(running.problems), is_problem=True)
    yield Row("Trash", size(running.trash_bytes))
    yield Row("Programs", running.execution, running.execution == "unisolated")
