# SPDX-License-Identifier: Apache-2.0
"""What the lock holder knows of the store, and how it opens the journal."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.store.originals import originals
from waggle_fsstore import FileStore
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.live_segment import LiveSegment
from waggle_fsstore.store.journal.state import (
    DURABLE,
    SUSPECT,
    UNSYNCED_SUSPECT,
    State,
    StateRecord,
    read_state,
)
from waggle_fsstore.store.write import publish, recovery, session
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.recovery import read_tail
from waggle_fsstore.testing import make_environment

SECOND_NS = 1_000_000_000


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A store with the documents a and b, whose process died."""
    store = FileStore(tmp_path / "store")
    for name in "ab":
        store.save(make_environment(id=name, name=f"{name}1"))
    return Layout(str(store.path))


def fail(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def recorded(layout: Layout) -> State:
    state = read_state(layout.state)
    assert state is not None
    return state


def add_and_remove(tx: Transaction) -> None:
    """Make two changes that leave no document."""
    tx.put(make_environment(id="x"), None)
    tx.delete(tx.get("x"))


def record(layout: Layout, state: State) -> None:
    file = StateRecord(layout.state)
    file.write(*state)
    file.close()


@pytest.mark.parametrize("has_clock", [True, False])
def test_state_record_has_time_of_last_change(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, has_clock: bool
) -> None:
    """A copy from before the last change is older, and so is recognized if it is put back."""

    def modified() -> int:
        return os.stat(layout.environments).st_mtime_ns

    if not has_clock:
        monkeypatch.setattr(session, "has_change_times", lambda _: False)
    with FileStore(layout.root) as store:
        for name in "cde":
            before = modified()
            time.sleep(0.02)  # Longer than a tick of the file clock.
            store.save(make_environment(id=name))
            assert before < recorded(layout).modified <= modified()
        before = modified()
        time.sleep(0.02)
        store._writer.run(add_and_remove)
        assert recorded(layout).modified <= modified() == before
        with monkeypatch.context() as patch:
            patch.setattr(publish.DocumentWrite, "publish", fail)
            with pytest.raises(OSError, match="Input/output"):
                store.save(make_environment(id="a"))
        assert recorded(layout).modified <= modified() == before


def test_checkpoint_has_the_time_of_the_directory(layout: Layout) -> None:
    """A copy of the tick of the last change is recognized after it: it looks, as no change does."""
    with FileStore(layout.root) as store:
        store.save(make_environment(id="c"))
    modified = os.stat(layout.environments).st_mtime_ns
    assert recorded(layout).modified == modified
    checkpoint = lines.last_checkpoint(Path(layout.segment(1)).read_bytes())
    assert checkpoint is not None
    assert int(checkpoint["modified"], 16) == modified


def test_state_record_has_whole_seconds_where_the_directory_has(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ext4 with small inodes, the clock would be later than the time that a change sets."""
    real = session.WriterSession._last_modified
    monkeypatch.setattr(
        session.WriterSession, "_last_modified", lambda self: real(self) // SECOND_NS * SECOND_NS
    )
    with FileStore(layout.root) as store:
        store.save(make_environment(id="c"))
        assert recorded(layout).modified % SECOND_NS == 0


def test_copy_of_suspect_store_is_rewritten(layout: Layout, tmp_path: Path) -> None:
    """Where a sync of documents had failed, a copy rewrites all before its first checkpoint."""
    record(layout, recorded(layout)._replace(durable=SUSPECT))
    copy = Layout(str(tmp_path / "copy"))
    shutil.copytree(layout.root, copy.root)
    path = Path(copy.document("a"))
    with originals(path) as same, FileStore(copy.root) as store:
        store.save(make_environment(id="c"))
        store.close()
        assert same() == []
    assert recorded(copy).durable == DURABLE


def test_interrupted_resume_keeps_suspicion(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies while it resumes leaves to the next one that a sync had failed."""
    state = recorded(layout)
    last = segments.read_segment(layout, state.segment, None).good[-1]
    unpublished = state._replace(published=state.committed - 1, offset=last.start)
    record(layout, unpublished._replace(durable=SUSPECT))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "replay", die)
    with pytest.raises(KeyboardInterrupt):
        FileStore(layout.root).save(make_environment(id="c"))
    assert recorded(layout).durable == SUSPECT
    assert recorded(layout).segment > state.segment


def test_unsynced_suspect_store_is_synced(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync and changes without fsync, a durable open syncs and rewrites all."""
    record(layout, recorded(layout)._replace(durable=SUSPECT))
    FileStore(layout.root, durable=False).save(make_environment(id="c"))
    assert recorded(layout).durable == UNSYNCED_SUSPECT
    synced: list[str] = []
    monkeypatch.setattr(session, "sync_all", lambda layout, _: synced.append(layout.root))
    with originals(Path(layout.document("c"))) as same:
        FileStore(layout.root).save(make_environment(id="d"))
        assert same() == []
    assert synced == [layout.root]
    assert recorded(layout).durable == DURABLE


def test_failed_sync_of_suspect_copy_is_repeated(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a suspect store accepts no change before everything in it is synced."""
    record(layout, recorded(layout)._replace(durable=SUSPECT))
    copy = Layout(str(tmp_path / "copy"))
    shutil.copytree(layout.root, copy.root)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(session, "sync_all", fail)
        store = FileStore(copy.root)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                store.save(make_environment(id="c"))
    store.save(make_environment(id="c"))
    assert recorded(copy).durable == DURABLE


@pytest.mark.parametrize("failing", ["a copy", "from git", "journal"])
def test_failed_sync_of_earlier_files_rewrites_them(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Files of earlier writers whose sync failed are written again, in this and other objects."""
    root = tmp_path / "copy"
    shutil.copytree(layout.root, root)
    if failing == "from git":
        shutil.rmtree(root / "journal")
        shutil.rmtree(root / ".waggle")
    files = [path for path in root.rglob("*.json*") if path.parent.name != root.name]

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with originals(*files) as same:
        with monkeypatch.context() as patch:
            patch.setattr(session, "sync_all", fail)
            patch.setattr(recovery, "sync_all", fail)
            if failing == "journal":
                patch.setattr(LiveSegment, "sync", fail)
            store = FileStore(root)
            with pytest.raises(OSError, match="Input/output"):
                store.save(make_environment(id="c"))
        if failing == "a copy":  # Another process finds that in the state record.
            store = FileStore(root)
        store.save(make_environment(id="c"))
        assert same() == []
    assert recorded(Layout(str(root))).durable == DURABLE
    assert [event.seq for event in store.history()][-1] == 3


def test_tail_has_unpublished_changes(layout: Layout) -> None:
    """The tail of the journal is what comes after the state record, with its lines."""
    state = recorded(layout)
    segment = segments.read_segment(layout, state.segment, None)
    first, last = [line for line in segment.good if line.changes]
    old = state._replace(committed=1, published=1, offset=last.start)
    tail = read_tail(layout, old, [state.segment])
    assert tail is not None
    assert (tail.segment, tail.valid_bytes, tail.committed) == (state.segment, last.start, 2)
    assert [change["id"] for change in tail.changes] == ["b"]
    assert tail.text == segment.text(last)
    assert tail.must_rotate
    assert segment.text(first) not in tail.text


def test_tail_of_intact_journal_is_empty(layout: Layout) -> None:
    """Where nothing comes after the state record there is nothing to carry over."""
    state = recorded(layout)
    tail = read_tail(layout, state, [state.segment])
    assert tail is not None
    assert (tail.changes, tail.text, tail.must_rotate) == ([], b"", False)
    assert tail.committed == state.committed


def test_tail_longer_than_one_writer_leaves_is_refused(layout: Layout) -> None:
    """Segments that one writer cannot have left mean that the state record is an old one."""
    state = recorded(layout)
    assert read_tail(layout, state, [state.segment, 3, 4]) is None
    assert read_tail(layout, state, [state.segment + 1]) is None
