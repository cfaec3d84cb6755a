# SPDX-License-Identifier: Apache-2.0
"""Checks of the files beside documents and journal: marker, state record, modes, foreign files."""

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
from waggle_fsstore.store.fs.lock import is_held, is_left_behind
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.state import read_state
from waggle_fsstore.store.write import initialize

_GROUP_AND_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def state_record(layout: Layout) -> Finding | None:
    """Return what is wrong with the state record, if anything is."""

    def is_bad() -> bool:
        return bool(segments.list_segments(layout)) and read_state(layout.state) is None

    if not is_left_behind(layout.lock, is_bad):
        return None
    problem = "is damaged" if os.path.lexists(layout.state) else "is missing"
    remedy = "a change writes it again, after a second at the latest"
    return Finding(Severity.WARNING, Path(layout.state), problem, remedy)


def move_state_record(layout: Layout, disk: Disk) -> None:
    """Move a damaged state record to lost+found. Only under the store lock."""
    if os.path.lexists(layout.state) and read_state(layout.state) is None:
        lost_and_found.move_in(layout, disk, layout.state, os.path.basename(layout.state), "", 1)


def marker(layout: Layout) -> Iterator[Finding]:
    """Yield what is wrong with the marker."""
    if is_left_behind(layout.lock, lambda: not os.path.lexists(layout.marker)):
        remedy = "the next program that opens the store and writes to it writes it again"
        yield Finding(Severity.WARNING, Path(layout.marker), "is missing", remedy)
    try:
        initialize.detect(layout)
    except CorruptDocumentError as error:
        yield Finding(Severity.ERROR, error.path, error.reason, "move it away")
    except UnsupportedFormatError as error:
        yield Finding(Severity.ERROR, error.path, str(error), "upgrade the program")


def foreign_files(layout: Layout) -> Iterator[Finding]:
    """Yield the files that do not belong to the store, and those that a dead writer left."""
    for directory, is_ours in _own_names(layout).items():
        for name in sorted(_names(directory)):
            if not is_ours(name):
                remedy = "the store ignores it: move it away unless it is needed"
                path = Path(directory, name)
                yield Finding(Severity.WARNING, path, "does not belong to the store", remedy)
    left = set(_names(layout.temporary))
    if left and not is_held(layout.lock):
        # A writer may have finished, and removed its files, just before the lock was tried.
        for name in sorted(left.intersection(_names(layout.temporary))):
            path = Path(layout.temporary, name)
            problem = "was left by a writer that died"
            yield Finding(Severity.WARNING, path, problem, "the next writer removes it")


def modes(layout: Layout) -> Iterator[Finding]:
    """Yield the files and directories that users other than the owner have access to."""
    if os.name == "nt":
        return
    directories = [layout.environments, layout.journal, layout.internal, layout.temporary]
    files = [layout.marker, layout.git_ignore, layout.lock, layout.state]
    for path in (layout.root, *directories, layout.lost_and_found, *files):
        yield from _mode(path)
    for directory, is_ours in _own_names(layout).items():
        for name in sorted(_names(directory)):
            if is_ours(name):
                yield from _mode(os.path.join(directory, name))


def _mode(path: str) -> Iterator[Finding]:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if mode & _GROUP_AND_OTHERS and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        problem = f"has mode {stat.S_IMODE(mode):04o}: users other than its owner have access"
        remedy = "run 'chmod go=' on it unless that is intended"
        yield Finding(Severity.WARNING, Path(path), problem, remedy)


def _own_names(layout: Layout) -> dict[str, Callable[[str], bool]]:
    """Return for each directory with files of users how to recognise the names of the store."""
    return {
        layout.environments: is_document_name,
        layout.journal: lambda name: first_of(name) is not None,
    }


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
