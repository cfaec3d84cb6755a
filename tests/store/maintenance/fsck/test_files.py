# SPDX-License-Identifier: Apache-2.0
"""Fsck of the files beside documents and journal."""

import sys

import pytest

from tests.store.locks import lock_held
from tests.store.maintenance.contents import contents
from waggle_fsstore import (
    FileStore,
    Severity,
    StoreGoneError,
)
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and links")


@pytest.mark.parametrize("name", [".DS_Store", "a.json~", ".a.json.swp", "notes.txt", "A.json"])
def test_foreign_file_among_documents_is_left_alone(store: FileStore, name: str) -> None:
    """A foreign file among the documents is a warning, and is left alone."""
    path = store.path / "environments" / name
    path.touch()
    before = contents(store.path)
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, path)
    assert list(store.repair()) == [found]
    assert contents(store.path) == before


@pytest.mark.parametrize("name", ["notes.txt", "1.jsonl", "0000000000000001.jsonl.bak"])
def test_foreign_file_in_journal_is_left_alone(store: FileStore, name: str) -> None:
    """A foreign file in the journal directory is a warning, and is left alone."""
    path = store.path / "journal" / name
    path.touch()
    [found] = store.repair()
    assert (found.severity, found.path, found.is_repaired) == (Severity.WARNING, path, False)
    assert path.exists()


def test_temp_file_of_dead_writer_is_reported(store: FileStore) -> None:
    """A temp file is a warning, unless a process that holds the lock may be writing it."""
    path = store.path / ".waggle" / "tmp" / "0123456789abcdef.tmp"
    path.write_bytes(b"half")
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, path)
    with lock_held(store):
        assert list(store.check()) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "environments",
        "journal",
        ".waggle",
        "environments/b.json",
        "journal/0000000000000001.jsonl",
        "waggle.json",
        ".waggle/state",
    ],
)
def test_open_mode_is_reported(store: FileStore, name: str) -> None:
    """A file or directory that other users have access to is a warning, and stays as it is."""
    path = store.path / name
    mode = path.stat().st_mode | 0o040
    path.chmod(mode)
    for findings in (store.check(), store.repair()):
        [found] = findings
        assert (found.severity, found.path) == (Severity.WARNING, path)
        assert f"{mode & 0o777:04o}" in found.problem
    assert path.stat().st_mode == mode


@pytest.mark.parametrize("content", [None, b"", b"waggle-state 9 nonsense"])
def test_bad_state_record_is_rewritten(store: FileStore, content: bytes | None) -> None:
    """A lost or damaged state record is a warning, and is written again."""
    assert list(store.check()) == []
    state = store.path / ".waggle" / "state"
    state.unlink()
    if content is not None:
        state.write_bytes(content)
        state.chmod(0o600)
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, state)
    assert [finding.is_repaired for finding in store.repair()] == [True]
    assert list(store.check()) == []
    store.save(make_environment(id="d"))
    with FileStore(store.path, durable=False) as other:
        assert [event.seq for event in other.history()] == [1, 2, 3, 4, 5]


def test_bad_marker_is_reported(store: FileStore) -> None:
    """A missing marker is a warning until a new object writes it, a damaged one is an error."""
    assert list(store.check()) == []
    marker = store.path / "waggle.json"
    held = marker.read_bytes()
    marker.write_bytes(b"")
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.ERROR, marker)
    marker.write_bytes(held.replace(b"1", b"2"))
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.ERROR, marker)
    marker.unlink()
    for call in (store.check, store.repair):
        with pytest.raises(StoreGoneError):
            call()
    store.close()
    with FileStore(store.path, durable=False) as again:
        [found] = again.check()
        assert (found.severity, found.path) == (Severity.WARNING, marker)
        again.save(make_environment())
        assert list(again.check()) == []
        assert marker.read_bytes() == held
