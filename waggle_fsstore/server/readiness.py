# SPDX-License-Identifier: Apache-2.0
"""Readiness: whether the server can create and remove environments, as ``/readyz`` reports it."""

import os
from collections.abc import Iterable
from typing import Any, Final

from waggle_fsstore.domain.errors import WaggleError
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.models import Unreadable
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.store.file_store import FileStore

# How long to wait for the store lock: a busy store is still ready, and a probe wants a
# quick answer.
_LOCK_TIMEOUT_S: Final = 1.0

_OK: Final = "ok"


def readiness(host: ServiceHost) -> tuple[bool, dict[str, Any]]:
    """Return whether environments can be created and removed now, and a report for the operator.

    The report names files, without their directories. Damaged documents, orphaned workspaces
    and other findings are reported, but the server stays ready: it works without them.
    """
    store, provider = _store_status(host), _provider_status(host)
    is_ready = store == provider == _OK
    unreadable: list[Exception] = []
    findings: list[str] = []
    try:
        host.service.find_all(on_corrupt=unreadable.append)
    except (WaggleError, OSError) as error:
        findings.append(reason_of(error))
    if isinstance(host.repository, FileStore):
        findings += [f"{one.path.name}: {one.problem}" for one in host.repository.recovery_findings]
    reconciliation = host.reaper.reconciliation
    return is_ready, {
        "status": "ready" if is_ready else "not ready",
        "store": store,
        "provider": provider,
        "leads": reconciliation is not None,
        "findings": findings,
        "unreadable": [Unreadable.of(error).model_dump() for error in unreadable],
        "strays": list(_as_text(reconciliation.orphans)) if reconciliation else [],
        "problems": reconciliation.problems if reconciliation else [],
    }


def _store_status(host: ServiceHost) -> str:
    if isinstance(host.repository, FileStore):
        try:
            host.repository.check_writable(timeout=_LOCK_TIMEOUT_S)
        except (WaggleError, OSError) as error:
            return reason_of(error)
    return _OK


def _provider_status(host: ServiceHost) -> str:
    try:
        host.service.provider.check()
    except WaggleError as error:
        return reason_of(error)
    return _OK


def _as_text(names: Iterable[str]) -> Iterable[str]:
    """Return file names as JSON text: bytes that are not UTF-8 become a replacement character."""
    return (os.fsencode(name).decode(errors="replace") for name in names)
