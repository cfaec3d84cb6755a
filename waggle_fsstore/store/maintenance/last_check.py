# SPDX-License-Identifier: Apache-2.0
"""The result of the last fsck, which its program leaves for those that show the health."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.store.format import canonical_json
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.fs.disk import Disk

#: How many findings are kept, and how much of each.
MAX_FINDINGS: Final = 50
_MAX_CHARACTERS: Final = 500
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LastCheck:
    """When a check ended, and what it found.

    - ``errors``, ``warnings``: the number of those that are left; ``repaired``: that of those that
      are not.
    - ``findings``: the first of them, in a line each.
    """

    at: datetime
    errors: int
    warnings: int
    repaired: int
    findings: tuple[str, ...] = ()


def write(layout: Layout, result: LastCheck) -> None:
    """Keep a result, in place of the one before. Raises ``OSError``; it is not synced."""
    # A path need not be UTF-8.
    lines = [one.encode(errors="backslashreplace").decode() for one in result.findings]
    findings = [line[:_MAX_CHARACTERS] for line in lines[:MAX_FINDINGS]]
    values: dict[str, Any] = {
        "at": canonical_json.timestamp(result.at),
        "errors": result.errors,
        "warnings": result.warnings,
        "repaired": result.repaired,
        "findings": findings,
    }
    data = canonical_json.canonical(values)
    Disk(durable=False).write_atomic(layout.last_check, data, layout.temporary, sync=False)


def read(layout: Layout) -> LastCheck | None:
    """Return the result that was kept; ``None`` without one, and where it cannot be read."""
    try:
        values = canonical_json.parse(safe_read.read_regular(layout.last_check, _MAX_BYTES))
        return LastCheck(
            at=datetime.fromisoformat(values["at"]).astimezone(UTC),
            errors=int(values["errors"]),
            warnings=int(values["warnings"]),
            repaired=int(values["repaired"]),
            findings=tuple(map(str, values["findings"])),
        )
    except (OSError, ValueError, TypeError, KeyError, CorruptDocumentError):
        return None
