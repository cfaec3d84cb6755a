# SPDX-License-Identifier: Apache-2.0
"""Ways to damage a store, and to see what changed in it."""

from collections.abc import Iterator
from pathlib import Path

from waggle_fsstore import FileStore, Finding
from waggle_fsstore.store.journal import lines


def plant(path: Path, offset: int, data: bytes) -> None:
    """Overwrite some bytes of a file in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def changes_line(data: bytes, number: int) -> lines.Line:
    """Return line ``number`` of those lines of a segment that hold changes."""
    return [line for line in lines.scan(data)[0] if line.changes][number]


def zero(store: FileStore) -> None:
    store.document_path("b").write_bytes(bytes(500))


def summary(findings: Iterator[Finding], root: Path) -> list[tuple[str, str, str]]:
    """Return the severity, the path below the root, and the problem of each finding."""
    return [
        (str(found.severity), str(found.path.relative_to(root)), found.problem)
        for found in findings
    ]
