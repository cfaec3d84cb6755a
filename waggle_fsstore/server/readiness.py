# SPDX-License-Identifier: Apache-2.0
"""Whether a server can do its work: what ``/readyz`` answers."""

import os
from collections.abc import Iterable
from typing import Any, Final

from waggle_fsstore.domain.errors import WaggleError
from waggle_fsstore.server.lifecycle import Serving
from waggle_fsstore.server.models import Unreadable
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.store.file_store import FileStore

# A busy store is no broken one, and who asks does not wait for long (seconds).
_PATIENCE: Final = 1.0

_OK: Final = "ok"


def readiness(serving: Serving) -> tuple[bool, dict[str, Any]]:
    """Whether environments can be created and removed now, and what an operator should know.

    Names files, but no folders. Bad documents, workspaces without a record and other
    findings are told, and do not make a server unready: it works without them.
    """
    store, provider = _store(serving), _provider(serving)
    is_ready = store == provider == _OK
    unreadable: list[Exception] = []
    findings: list[str] = []
    try:
        serving.service.find_all(on_corrupt=unreadable.append)
    except (WaggleError, OSError) as error:
        findings.append(reason_of(error))
    if isinstance(serving.repository, FileStore):
        findings += [
            f"{one.path.name}: {one.problem}" for one in serving.repository.recovery_findings
        ]
    reconciliation = serving.reaper.reconciliation
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


def _store(serving: Serving) -> str:
    if isinstance(serving.repository, FileStore):
        try:
            serving.repository.check_writable(timeout=_PATIENCE)
        except (WaggleError, OSError) as error:
            return reason_of(error)
    return _OK


def _provider(serving: Serving) -> str:
    try:
        serving.service.provider.check()
    except WaggleError as error:
        return reason_of(error)
    return _OK


def _as_text(names: Iterable[str]) -> Iterable[str]:
    """Names of files; what is no text in one cannot be told in JSON."""
    return (os.fsencode(name).decode(errors="replace") for name in names)
