# SPDX-License-Identifier: Apache-2.0
"""Journals for tests: make one of several segments, and list the files of one."""

from pathlib import Path

from waggle_fsstore import FileStore
from waggle_fsstore.testing import make_environment

#: Makes a document so large that a few dozen changes fill several segments.
PAD = {"pad": "x" * 20_000}

FIRST_SEGMENT = "0000000000000001.jsonl"


def fill_segments(store: FileStore, count: int) -> None:
    """Save padded versions of pad-0 to pad-4 in turns: three of them fill the first segment."""
    for number in range(count):
        store.save(make_environment(id=f"pad-{number % 5}", name=f"{number}", extra=PAD))


def segment_paths(store: FileStore) -> list[Path]:
    """Return the files of the journal, oldest first."""
    return sorted((store.path / "journal").iterdir())
