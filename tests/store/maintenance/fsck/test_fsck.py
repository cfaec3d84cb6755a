# SPDX-License-Identifier: Apache-2.0
"""Fsck as a whole: check changes nothing, and repair loses nothing."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.store.journals import fill_segments, segment_paths
from tests.store.locks import lock_held
from tests.store.maintenance.contents import contents
from tests.store.maintenance.fsck.damage_store import changes_line, plant, summary, zero
from waggle_fsstore import (
    EventKind,
    FileStore,
    Finding,
    Severity,
    StoreClosedError,
)
from waggle_fsstore.store.fs import disk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and links")


def forget_state(store: FileStore) -> None:
    """Empty the state record, so that it is distrusted as after a power cut."""
    (store.path / ".waggle" / "state").write_bytes(b"")


def test_intact_store_has_no_findings(store: FileStore) -> None:
    """A store that only this program wrote has no findings, and nothing to repair."""
    before = contents(store.path)
    assert list(store.check()) == []
    assert list(store.repair()) == []
    assert contents(store.path) == before


def test_missing_store_has_no_findings(tmp_path: Path) -> None:
    """A directory without a store has no findings, and does not become a store."""
    with FileStore(tmp_path / "none") as store:
        assert list(store.check()) == []
        assert list(store.repair()) == []
    assert not (tmp_path / "none").exists()


def test_closed_store_is_refused(store: FileStore) -> None:
    """A closed store can be neither checked nor repaired."""
    store.close()
    with pytest.raises(StoreClosedError):
        store.check()
    with pytest.raises(StoreClosedError):
        store.repair()


def test_repair_inside_update_is_refused(store: FileStore) -> None:
    """A callback of update cannot repair the store that waits for it."""
    with pytest.raises(RuntimeError, match="update"):
        store.update("a", lambda _: list(store.repair()))


def spoil_everything(store: FileStore) -> None:
    """Damage a store in all ways at once."""
    fill_segments(store, 30)
    zero(store)
    store.document_path("a").unlink()
    shutil.copy(store.document_path("pad-1"), store.document_path("c"))
    path = store.document_path("pad-2")
    path.write_text(path.read_text().replace('"name": "n', '"name": "edited n'))
    store.document_path("pad-3").chmod(0o644)
    (store.path / "environments" / ".DS_Store").write_bytes(b"finder")
    (store.path / "journal" / "notes").write_bytes(b"mine")
    journal = segment_paths(store)[1]
    plant(journal, changes_line(journal.read_bytes(), 1).start + 40, b"\xff\0\xff")


def test_repair_deletes_nothing(store: FileStore) -> None:
    """Each file that repair replaces is in lost+found, byte for byte."""
    spoil_everything(store)
    before = contents(store.path)
    list(store.repair())
    after = contents(store.path)
    kept = {data for name, data in after.items() if name.startswith(".waggle/lost+found/")}
    events = {event.environment_id: event for event in store.history(after=34)}
    for name, data in before.items():
        if after.get(name) == data or data in kept:
            continue
        # A manual edit got a new revision; a segment got new lines.
        if name.startswith("journal/"):
            assert after[name].startswith(data.rstrip(b" "))
        else:
            assert events[Path(name).stem].kind is EventKind.EXTERNAL
            assert b"edited" in after[name]


def test_repair_is_idempotent(store: FileStore) -> None:
    """A second repair reports what the first one left alone, and changes nothing."""
    spoil_everything(store)
    first = list(store.repair())
    left = [found for found in first if not found.is_repaired]
    assert {found.severity for found in left} == {Severity.WARNING}
    assert sorted(found.path.name for found in left) == [".DS_Store", "notes", "pad-3.json"]
    before = contents(store.path)
    assert list(store.repair()) == left
    assert list(store.check()) == left
    assert contents(store.path) == before


def test_check_and_repair_agree(store: FileStore) -> None:
    """Check and repair report the same files and problems, and check changes nothing."""
    spoil_everything(store)
    before = contents(store.path)
    checked = summary(store.check(), store.path)
    assert contents(store.path) == before
    assert summary(store.repair(), store.path) == checked


def test_read_only_store_is_checked(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check needs no write access; a repair raises without it."""
    zero(store)
    store.close()

    def refuse(path: str, _: int = 0) -> int:
        raise OSError(30, "Read-only file system", path)

    with FileStore(store.path, durable=False) as again:
        monkeypatch.setattr(disk, "open_to_write", refuse)
        monkeypatch.setattr("waggle_fsstore.store.fs.in_place_file.open_to_write", refuse)
        [found] = again.check()
        assert found.path == store.document_path("b")
        with pytest.raises(OSError, match="Read-only"):
            list(again.repair())
        monkeypatch.undo()


def test_pending_recovery_is_one_finding(store: FileStore) -> None:
    """A recovery that could not be made is one finding, rather than one per document."""
    with lock_held(store):
        forget_state(store)
        store.document_path("a").unlink()
        with FileStore(store.path, durable=False, lock_timeout=0) as reader:
            assert reader.count() == 3
            problems = [found.problem for found in reader.check()]
            assert any("could not be brought up" in problem for problem in problems)
            assert not any("is missing, but" in problem for problem in problems)
            zero(store)
            assert store.document_path("b") in {found.path for found in reader.check()}


def test_finding_is_one_line() -> None:
    """A finding is one line: severity, path, problem, and the remedy or what was done."""
    found = Finding(Severity.ERROR, Path("x", "a.json"), "is missing", "repair restores it")
    assert str(found) == f"error: {Path('x', 'a.json')}: is missing (repair restores it)"
    done = Finding(Severity.WARNING, Path("a"), "was changed", "recorded", is_repaired=True)
    assert str(done) == "warning: a: was changed (repaired: recorded)"
