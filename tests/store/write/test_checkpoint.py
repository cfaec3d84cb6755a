# SPDX-License-Identifier: Apache-2.0
"""When checkpoints are written: by the next change after a rotation, or at the close."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.recorder import record
from waggle_fsstore import Environment, FileStore, StoreClosedError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal.changes import last_checkpoint, redo_range
from waggle_fsstore.store.write import checkpoint, sync
from waggle_fsstore.store.write.session import WriterSession
from waggle_fsstore.testing import make_environment

# More than a segment holds.
BATCH = 150


@pytest.fixture
def store(root: Path) -> Iterator[FileStore]:
    with FileStore(root) as store:
        store.save(make_environment(id="first"))
        yield store


def batch() -> list[Environment]:
    return [make_environment(id=f"{number}", name="x" * 3000) for number in range(BATCH)]


def covered(store: FileStore) -> int:
    """Return the last change that the last checkpoint covers, 0 without one."""
    last = last_checkpoint(Layout(str(store.path)))
    return last["through"] if last else 0


def test_batch_that_fills_a_segment_waits_for_no_checkpoint(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change writes it, before its own line."""
    recorder = record(monkeypatch)
    store.save_all(batch())
    assert recorder.names()[-1] == "pwrite state"
    # The new segment, before it has its name, and then the line.
    assert [call.name for call in recorder.calls].count("fdatasync") == 2
    assert covered(store) == 0
    store.save(make_environment(id="next"))
    assert covered(store) == 1 + BATCH
    assert [event.seq for event in store.history("next")] == [2 + BATCH]


def test_journal_to_recover_stays_bounded(store: FileStore) -> None:
    """However many batches follow each other, recovery reads at most two of them."""
    last = 1
    for _ in range(5):
        store.save_all(batch())
        last += BATCH
        assert redo_range(Layout(str(store.path))).start.seq >= last - 2 * BATCH


def test_close_writes_the_checkpoint(root: Path) -> None:
    """It covers a batch after which no change came."""
    store = FileStore(root)
    store.save_all(batch())
    store.close()
    assert covered(store) == BATCH


def test_close_writes_the_checkpoint_that_was_synced(store: FileStore) -> None:
    """The next change may find that it has nothing to change, after it has synced."""
    store.save_all(batch())
    store._writer._checkpointer.sync_if_due()
    store.close()
    assert covered(store) == 1 + BATCH


def test_success_after_a_failed_sync_proves_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system reports an error once: the documents are rewritten before the checkpoint."""
    store.save_all(batch())
    checkpointer = store._writer._checkpointer

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "failed")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync_redo_range", fail)
        checkpointer.sync_if_due()
    checkpointer.is_due = True  # Another thread has filled a segment too.
    checkpointer.sync_if_due()
    rewritten: list[int] = []
    real = WriterSession.rewrite_all

    def rewrite(self: WriterSession) -> None:
        rewritten.append(covered(store))
        real(self)

    monkeypatch.setattr(WriterSession, "rewrite_all", rewrite)
    store.save(make_environment(id="next"))
    assert rewritten == [0]
    assert covered(store) == 1 + BATCH


def test_sync_before_a_recovery_proves_nothing(store: FileStore) -> None:
    """Recovery writes documents again, perhaps those of another store: they are synced again."""
    store.save_all(batch())
    store._writer._checkpointer.sync_if_due()
    store._writer._session.invalidate()
    store.save(make_environment(id="next"))
    assert covered(store) == 0
    store.save(make_environment(id="next"))
    assert covered(store) == 2 + BATCH


def test_interrupted_sync_is_made_again(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a sync leaves the checkpoint due."""
    store.save_all(batch())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync_redo_range", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.save(make_environment(id="next"))
    store.save(make_environment(id="next"))
    assert covered(store) == 1 + BATCH


def test_signal_handler_may_close_during_a_sync(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that syncs does not wait for itself."""
    store.save_all(batch())
    real = sync.sync_redo_range

    def handle_signal(*given: Any) -> None:
        monkeypatch.setattr(checkpoint, "sync_redo_range", real)
        store._writer._checkpointer.published = 1  # Another thread has published meanwhile.
        store.close()
        real(*given)

    monkeypatch.setattr(checkpoint, "sync_redo_range", handle_signal)
    with pytest.raises(StoreClosedError):
        store.save(make_environment(id="next"))
    assert covered(store) == 1 + BATCH


def test_change_is_stored_although_its_checkpoint_fails(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged, no change is lost, and the change after it tries again."""
    store.save_all(batch())

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "failed")

    with monkeypatch.context() as patch:
        patch.setattr(WriterSession, "checkpoint", fail)
        store.save(make_environment(id="next"))
    assert "checkpoint failed" in caplog.text
    assert (covered(store), store.find_by_id("next").revision) == (0, 2 + BATCH)
    store.save(make_environment(id="next"))
    assert covered(store) == 2 + BATCH
    with FileStore(store.path) as other:
        assert other.count() == BATCH + 2
