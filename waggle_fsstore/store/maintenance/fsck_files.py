# SPDX-License-Identifier: Apache-2.0
"""What is around the documents and the journal: marker, state, modes, files of others."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from waggle_fsstore.domain.errors import CorruptDocumentError, UnsupportedFormatError
from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.store.format.layout import Layout, first_of, is_document_name
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.lock import is_held
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.state import read_state
from waggle_fsstore.store.write import initialize

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def record(layout: Layout) -> Finding | None:
    """What is wrong with the state record, if anything is."""
    if not segments.list_segments(layout) or read_state(layout.state) is not None:
        return None
    problem = "is damaged" if os.path.lexists(layout.state) else "is missing"
    return Finding(Severity.WARNING, Path(layout.state), problem, "the next change makes it anew")


def clear_record(layout: Layout, disk: Disk) -> None:
    """Move a damaged state record to lost+found. Only under the store lock."""
    if os.path.lexists(layout.state) and read_state(layout.state) is None:
        lost_and_found.move_in(layout, disk, layout.state, os.path.basename(layout.state), "", 1)


def marker(layout: Layout) -> Iterator[Finding]:
    """What is wrong with the marker, if anything is."""
    if not os.path.lexists(layout.marker):
        remedy = "who opens the store next to write makes it anew"
        yield Finding(Severity.WARNING, Path(layout.marker), "is missing", remedy)
    try:
        initialize.detect(layout)
    except CorruptDocumentError as error:
        yield Finding(Severity.ERROR, error.path, error.reason, "move it away")
    except UnsupportedFormatError as error:
        yield Finding(Severity.ERROR, error.path, str(error), "upgrade the program")


def foreign(layout: Layout) -> Iterator[Finding]:
    """Files that are not the store's, and those that a dead writer left."""
    for folder, is_ours in _kinds(layout).items():
        for name in sorted(_names(folder)):
            if not is_ours(name):
                remedy = "move it away if nobody needs it: the store ignores it"
                yield Finding(Severity.WARNING, Path(folder, name), "is not the store's", remedy)
    left = set(_names(layout.temporary))
    if left and not is_held(layout.lock):
        # Twice: what a writer had there, who has just let go of the lock, is gone by now.
        for name in sorted(left.intersection(_names(layout.temporary))):
            path = Path(layout.temporary, name)
            problem = "was left by a writer that died"
            yield Finding(Severity.WARNING, path, problem, "whoever writes first removes it")


def modes(layout: Layout) -> Iterator[Finding]:
    """Files and folders that others than the owner may use."""
    if os.name == "nt":
        return
    folders = [layout.environments, layout.journal, layout.internal, layout.temporary]
    files = [layout.marker, layout.git_ignore, layout.lock, layout.state]
    for path in (layout.root, *folders, layout.lost_and_found, *files):
        yield from _mode(path)
    for folder, is_ours in _kinds(layout).items():
        for name in sorted(_names(folder)):
            if is_ours(name):
                yield from _mode(os.path.join(folder, name))


def _mode(path: str) -> Iterator[Finding]:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if mode & _OTHERS and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        problem = f"has mode {stat.S_IMODE(mode):04o}: others than its owner may use it"
        yield Finding(Severity.WARNING, Path(path), problem, "chmod go= if that is not meant")


def _kinds(layout: Layout) -> dict[str, Callable[[str], bool]]:
    """Which file names are the store's, by folder."""
    return {
        layout.environments: is_document_name,
        layout.journal: lambda name: first_of(name) is not None,
    }


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
