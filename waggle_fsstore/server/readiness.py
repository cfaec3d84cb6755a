# SPDX-License-Identifier: Apache-2.0
"""Readiness: whether the server can create and remove environments, as ``/readyz`` reports it."""

import errno
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from waggle_fsstore.domain.errors import (
    JournalDamagedError,
    LockTimeoutError,
    StoreClosedError,
    UnsupportedFormatError,
    WaggleError,
)
from waggle_fsstore.server.history import Growth, history_of
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.memory_store import MemoryStore

# How long to wait for the store lock: a busy store is still ready, and a probe wants a
# quick answer.
_LOCK_TIMEOUT_S: Final = 1.0

_OK: Final = "ok"

# Another server of the store reconciles and sweeps.
_FOLLOWS: Final = "follows"

# That server does not respond. This one acts in its place, but an operator should look.
_STALLED: Final = "stalled"

#: The codes of a server that is ready.
_GOOD: Final = frozenset({_OK, _FOLLOWS, _STALLED})

# Codes of errors of the operating system; the others are "failed".
_ERRNO_CODES: Final = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.EMFILE: "no-descriptors",
    errno.ENFILE: "no-descriptors",
}

_log: Final = logging.getLogger(__name__)


class _Persistent(Protocol):
    def check_writable(self, *, timeout: float) -> None: ...


class Readiness:
    """Answers probes about a host.

    An answer has no names and no paths, because any caller gets it. The details go to the log
    when they change.
    """

    def __init__(self, host: ServiceHost) -> None:
        self._host = host
        history = history_of(host.repository)
        self._growth = None if history is None else Growth(history)
        self._logged: dict[str, list[str]] = {}

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether environments can be created and removed now, and the answer.

        ``components`` decide. ``execution`` says how programs are run, or why they cannot be.
        ``counts`` are for the operator: the server works in spite of damaged documents, orphans
        and other findings. ``history`` is its size and growth, ``None`` where that is not known.
        """
        reconciliation = self._host.reaper.reconciliation
        orphans = len(reconciliation.orphans) if reconciliation else 0
        components = {
            "store": self._code("store", self._check_store),
            "provider": self._code("provider", self._host.service.provider.check),
            "leader": self._leader_code(),
        }
        execution = self._host.service.workspaces.why_no_execution()
        self._count("execution", [execution] if execution else [])
        is_ready = _GOOD.issuperset(components.values())
        ready = "degraded" if _STALLED in components.values() else "ready"
        return is_ready, {
            "status": ready if is_ready else "not ready",
            "components": components,
            "execution": execution or self._host.service.workspaces.kind,
            "counts": {
                "findings": self._count("findings", self._findings()),
                "unreadable": self._count("unreadable", self._unreadable()),
                "orphans": orphans + self._host.service.leftovers.orphans,
                "problems": len(reconciliation.problems) if reconciliation else 0,
            },
            "history": self._history(),
        }

    def _leader_code(self) -> str:
        if self._host.is_substitute:
            return _STALLED
        return _FOLLOWS if self._host.reaper.reconciliation is None else _OK

    def _check_store(self) -> None:
        if not isinstance(self._host.repository, MemoryStore):
            cast("_Persistent", self._host.repository).check_writable(timeout=_LOCK_TIMEOUT_S)

    def _history(self) -> dict[str, int] | None:
        if self._growth is None:
            return None
        try:
            size, growth = self._growth.measure()
        except (WaggleError, OSError):
            return None  # The code of the store says why.
        return {"bytes": size, "growth_bytes": growth}

    def _findings(self) -> list[str]:
        if not isinstance(self._host.repository, FileStore):
            return []
        return [f"{one.path}: {one.problem}" for one in self._host.repository.recovery_findings]

    def _unreadable(self) -> list[str]:
        errors: list[Exception] = []
        try:
            self._host.service.find_all(on_corrupt=errors.append)
        except (WaggleError, OSError) as error:
            errors.append(error)
        return [str(error) for error in errors]

    def _code(self, component: str, check: Callable[[], object]) -> str:
        failure: Exception | None = None
        try:
            check()
        except (WaggleError, OSError) as error:
            failure = error
        self._count(component, [] if failure is None else [str(failure)])
        return _OK if failure is None else _code_of(failure)

    def _count(self, name: str, details: list[str]) -> int:
        """Return the number of details; log them if they are other ones than before."""
        if details != self._logged.get(name, []):
            level = logging.WARNING if details else logging.INFO
            _log.log(level, "%s: %s", name, "; ".join(details) or "no problem any more")
        self._logged[name] = details
        return len(details)


def _code_of(error: Exception) -> str:
    """Return a word about an error, without the names of files."""
    match error:
        case LockTimeoutError():
            return "busy"
        case JournalDamagedError():
            return "damaged"
        case UnsupportedFormatError():
            return "unsupported"
        case StoreClosedError():
            return "closed"
        case OSError(errno=number):
            return _ERRNO_CODES.get(number or 0, "failed")
        case _:
            return "failed"
