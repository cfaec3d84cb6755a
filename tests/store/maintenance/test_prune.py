# SPDX-License-Identifier: Apache-2.0
"""Pruning removes the oldest history, never what recovery needs, and leaves no hole."""

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from tests.store.journals import fill_segments, segment_paths
from tests.store.recorder import Call, fail_call, record
from waggle_fsstore import (
    FileStore,
    HistoryPrunedError,
    JournalDamagedError,
    LockTimeoutError,
    StoreClosedError,
)
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.testing import make_environment

COUNT = 60


@pytest.fixture
def store(durable_store: FileStore) -> FileStore:
    """A durable store with 60 changes of 5 environments, in several segments."""
    fill_segments(durable_store, COUNT)
    return durable_store


def names(store: FileStore) -> list[int]:
    return segments.list_segments(Layout(str(store.path)))


def files(store: FileStore) -> list[str]:
    return [path.name for path in segment_paths(store)]


def size(store: FileStore) -> int:
    return sum(path.stat().st_size for path in segment_paths(store))


def seqs(store: FileStore, **bounds: int) -> list[int]:
    return [event.seq for event in store.history(**bounds)]  # type: ignore[arg-type]


def age(store: FileStore, until: int, by: timedelta, *, after: int = 0) -> None:
    """Make the changes from ``after`` up to a number, the end of a segment, older."""
    layout = Layout(str(store.path))
    for first, successor in segments.with_successors(names(store)):
        if successor is None or successor > until + 1:
            return
        segment = segments.read_segment(layout, first, successor)
        data = bytearray(segment.data)
        for line in segment.good:
            if not line.changes or line.changes[0]["seq"] <= after:
                continue
            for change in line.changes:
                at = datetime.fromisoformat(change["at"]) - by
                change["at"] = f"{at.isoformat(timespec='microseconds')[:-6]}Z"
            new = lines.encode(lines.CHANGES, line.changes)
            assert len(new) == line.end - line.start
            data[line.start : line.end] = new
        Path(layout.segment(first)).write_bytes(data)


def after_a_power_cut(store: FileStore, root: Path) -> FileStore:
    """Close a store, and open it again in its place without its state record."""
    store.close()
    (root / ".waggle" / "state").unlink()
    return FileStore(root)


def test_limit_of_zero_keeps_live_segment(store: FileStore) -> None:
    """With a limit of 0 bytes, only the live segment stays, and no environment is lost."""
    before = store.find_all()
    first = names(store)
    held = size(store)
    pruned = store.prune_history(keep_bytes=0)
    assert len(first) > 3
    assert pruned.segments_removed == len(first) - 1
    assert pruned.segments_compressed == 0
    assert pruned.oldest == first[-1]
    assert names(store) == first[-1:]
    assert size(store) == held - pruned.bytes_freed
    assert store.find_all() == before
    assert seqs(store) == list(range(first[-1], COUNT + 1))
    assert list(store.check()) == []


def test_pruned_history_is_refused(store: FileStore) -> None:
    """A request for pruned history raises with the oldest change; a request from 0 begins there."""
    oldest = store.prune_history(keep_bytes=0).oldest
    assert seqs(store)[0] == oldest
    assert seqs(store, after=oldest - 1)[0] == oldest
    for ask in (store.history, store.watch):
        with pytest.raises(HistoryPrunedError) as caught:
            ask(after=oldest - 2)
        assert caught.value.oldest == oldest


def test_generous_limit_removes_nothing(store: FileStore) -> None:
    """A generous limit removes nothing."""
    before = names(store)
    for pruned in (
        store.prune_history(keep_bytes=1 << 40),
        store.prune_history(keep_days=1),
        store.prune_history(keep_days=10_000_000),
        store.prune_history(keep_days=1e300),
    ):
        assert (pruned.segments_removed, pruned.bytes_freed, pruned.oldest) == (0, 0, 1)
    assert names(store) == before


def test_keep_bytes_removes_oldest(store: FileStore) -> None:
    """The oldest segments go until the rest is small enough, and no more than that."""
    before = names(store)
    limit = size(store) - 1
    pruned = store.prune_history(keep_bytes=limit)
    assert pruned.segments_removed == 1
    assert names(store) == before[1:]
    assert size(store) <= limit
    assert store.prune_history(keep_bytes=limit).segments_removed == 0


def test_keep_days_removes_oldest(store: FileStore) -> None:
    """Segments whose newest change is too old go, up to the first that is not."""
    before = names(store)
    age(store, before[2] - 1, timedelta(days=30))
    assert store.prune_history(keep_days=31).segments_removed == 0
    pruned = store.prune_history(keep_days=29)
    assert pruned.segments_removed == 2
    assert names(store) == before[2:]


@pytest.mark.parametrize("limit", [{"keep_days": 0}, {"keep_bytes": 0}])
def test_changes_since_time_stay(store: FileStore, limit: dict[str, Any]) -> None:
    """A segment with a change since a time stays, under any limits."""
    before = names(store)
    age(store, before[2] - 1, timedelta(days=30))
    since = datetime.now(UTC) - timedelta(days=29)
    assert store.prune_history(keep_since=since, **limit).segments_removed == 2
    assert names(store) == before[2:]
    assert size(store) == store.history_size()


def test_old_segment_after_younger_one_stays(store: FileStore) -> None:
    """An old segment after a younger one stays, so the journal has no hole."""
    before = names(store)
    age(store, before[2] - 1, timedelta(days=30))
    age(store, before[1] - 1, timedelta(days=-30))
    assert store.prune_history(keep_days=29).segments_removed == 0
    assert names(store) == before


@pytest.mark.parametrize("whole_segment", [False, True])
def test_time_in_future_decides_nothing(store: FileStore, whole_segment: bool) -> None:
    """A change from the future keeps and removes nothing: those that follow show its age."""
    before = names(store)
    age(store, before[2] - 1, timedelta(days=30))
    if whole_segment:
        age(store, before[2] - 1, timedelta(days=-3_650), after=before[1] - 1)
    else:
        age(store, before[1] - 1, timedelta(days=-3_650), after=before[1] - 2)
    assert store.prune_history(keep_days=31).segments_removed == 0
    # Nothing but the next segment, a recent one, shows when the whole segment was made.
    assert store.prune_history(keep_days=29).segments_removed == (1 if whole_segment else 2)


def test_either_limit_removes_segment(store: FileStore) -> None:
    """With both limits, a segment beyond either of them goes."""
    before = names(store)
    age(store, before[1] - 1, timedelta(days=30))
    assert store.prune_history(keep_days=29, keep_bytes=1 << 40).segments_removed == 1
    assert store.prune_history(keep_days=29, keep_bytes=0).segments_removed == len(before) - 2


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep_days": -1},
        {"keep_days": float("nan")},
        {"keep_days": float("inf")},
        {"keep_bytes": -1},
    ],
)
def test_bad_limits_are_refused(store: FileStore, arguments: dict[str, Any]) -> None:
    """An invalid limit is refused, and nothing is removed."""
    before = files(store)
    with pytest.raises(ValueError, match="keep_"):
        store.prune_history(**arguments)
    assert files(store) == before


def test_missing_store_is_not_initialized(tmp_path: Path) -> None:
    """Nothing is pruned where there is no store, and none is initialized."""
    with FileStore(tmp_path / "none") as store:
        pruned = store.prune_history(keep_bytes=0)
    assert (pruned.segments_removed, pruned.oldest) == (0, 0)
    assert not (tmp_path / "none").exists()


def test_closed_store_and_update_are_refused(store: FileStore) -> None:
    """A closed store cannot be pruned, nor can a store by a callback that it waits for."""
    with pytest.raises(RuntimeError, match="update"):
        store.update("pad-0", lambda _: store.prune_history(keep_bytes=0))
    store.close()
    with pytest.raises(StoreClosedError):
        store.prune_history(keep_bytes=0)


def test_busy_lock_removes_nothing(store: FileStore) -> None:
    """A process that does not get the lock in time prunes nothing."""
    before = files(store)
    program = (
        "import sys; from tests.store.locks import lock_held\n"
        "from waggle_fsstore import FileStore\n"
        "with FileStore(sys.argv[1]) as store, lock_held(store):\n"
        "    print(flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            FileStore(store.path, lock_timeout=0) as reader,
            pytest.raises(LockTimeoutError),
        ):
            reader.prune_history(keep_bytes=0)
        other.communicate(b"\n")
    assert files(store) == before


def test_store_without_sync_keeps_everything(tmp_path: Path) -> None:
    """A store that syncs nothing makes no checkpoints, so recovery may need all segments."""
    with FileStore(tmp_path / "store", durable=False) as store:
        fill_segments(store, COUNT)
        before = files(store)
        assert store.prune_history(keep_bytes=0, compress=True).segments_removed == 0
        assert files(store) == before


def test_power_cut_after_pruning_loses_nothing(store: FileStore, tmp_path: Path) -> None:
    """After pruning, a power cut that takes the state record and documents loses nothing."""
    store.prune_history(keep_bytes=0)
    fill_segments(store, 4)
    expected = store.find_all()
    kept = {event.environment_id for event in store.history(after=COUNT)}
    store._writer._disk.durable = False  # No checkpoint when it is closed.
    for name in kept:
        store.document_path(name).write_bytes(b"")
    with after_a_power_cut(store, tmp_path / "store") as again:
        assert again.find_all() == expected


def test_pruning_makes_checkpoint(store: FileStore, tmp_path: Path) -> None:
    """Pruning makes a checkpoint first, and keeps it."""
    layout = Layout(str(store.path))
    store.prune_history(keep_bytes=0)
    [live] = names(store)
    checkpoint = lines.last_checkpoint(segments.load(layout, live))
    assert checkpoint is not None
    assert checkpoint["through"] == COUNT
    with after_a_power_cut(store, tmp_path / "store") as again:
        assert again.count() == 5
        assert not again.info().is_recovery_due


def test_failed_checkpoint_removes_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the checkpoint fails, nothing is removed, and its error is raised."""
    before = files(store)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store._writer._session, "checkpoint", fail)
    with pytest.raises(OSError, match="Input/output"):
        store.prune_history(keep_bytes=0)
    assert files(store) == before


def test_copy_makes_own_checkpoint(tmp_path: Path) -> None:
    """The checkpoints of the original do not count in a copy, so it makes its own first."""
    with FileStore(tmp_path / "store") as store:
        fill_segments(store, COUNT)
        expected = store.find_all()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    with FileStore(tmp_path / "copy") as copy:
        assert copy.prune_history(keep_bytes=0).segments_removed > 0
        assert copy.find_all() == expected
        assert copy.info().is_of_this_place


def test_damaged_journal_is_not_pruned(store: FileStore, tmp_path: Path) -> None:
    """A journal that has to be repaired first is not pruned."""
    store._writer._disk.durable = False  # No checkpoint when it is closed.
    fill_segments(store, 3)
    live = Path(Layout(str(store.path)).segment(names(store)[-1]))
    at = [line for line in lines.scan(live.read_bytes())[0] if line.changes][-2].start
    with open(live, "r+b") as file:
        file.seek(at)
        file.write(b"#")
    before = files(store)
    with (
        after_a_power_cut(store, tmp_path / "store") as again,
        pytest.raises(JournalDamagedError),
    ):
        again.prune_history(keep_bytes=0)
    assert files(store) == before


def test_open_store_works_after_pruning(store: FileStore) -> None:
    """Another open store reads and writes on after segments are pruned."""
    with FileStore(store.path) as other:
        fill_segments(other, 1)
        store.prune_history(keep_bytes=0)
        assert other.save(make_environment(id="new")) == COUNT + 2
        assert seqs(other)[-1] == COUNT + 2
        assert store.find_by_id("new") == other.find_by_id("new")


def test_watch_behind_pruned_history_raises(store: FileStore) -> None:
    """A watch raises if events that it has not seen are pruned."""
    current = store.watch(timeout=0)
    late = store.watch(after=1, timeout=0)
    assert next(late).seq == 2
    oldest = store.prune_history(keep_bytes=0).oldest
    fill_segments(store, 80)
    store.prune_history(keep_bytes=0)
    fill_segments(store, 1)
    assert names(store)[0] > oldest
    with pytest.raises(HistoryPrunedError):
        list(late)
    with pytest.raises(HistoryPrunedError):
        list(current)
    again = store.watch(after=COUNT + 80, timeout=0)
    assert [event.seq for event in again] == [COUNT + 81]


def test_watch_of_kept_history_continues(store: FileStore) -> None:
    """A watch whose next events are kept continues."""
    events = store.watch(timeout=0)
    store.prune_history(keep_bytes=0, compress=True)
    fill_segments(store, 2)
    assert [event.seq for event in events] == [COUNT + 1, COUNT + 2]


def test_compressed_history_reads_the_same(store: FileStore) -> None:
    """All segments but the live one are compressed, and read as before."""
    before = [(event.seq, event.environment) for event in store.history()]
    documents = store.find_all()
    plain = {name: (store.path / "journal" / name).read_bytes() for name in files(store)}
    pruned = store.prune_history(compress=True)
    packed = [name for name in files(store) if name.endswith(".gz")]
    assert pruned.segments_compressed == len(packed) == len(plain) - 1
    assert pruned.segments_removed == 0
    assert pruned.oldest == 1
    for name in packed:
        path = store.path / "journal" / name
        assert gzip.decompress(path.read_bytes()) == plain[name.removesuffix(".gz")]
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes()[4:8] == bytes(4), "the gzip header has a time"
    live = files(store)[-1]
    assert size(store) == sum(map(len, plain.values())) - pruned.bytes_freed
    assert not live.endswith(".gz")
    assert [(event.seq, event.environment) for event in store.history()] == before
    assert seqs(store, after=7, until=9) == [8, 9]
    assert store.find_all() == documents
    assert list(store.check()) == []


def test_compressed_segment_is_left_alone(store: FileStore) -> None:
    """A compressed segment is not compressed again, and is pruned as any other."""
    store.prune_history(compress=True)
    before = files(store)
    again = store.prune_history(compress=True)
    assert (again.segments_compressed, again.bytes_freed) == (0, 0)
    assert files(store) == before
    assert store.prune_history(keep_bytes=0).segments_removed == len(before) - 1
    assert seqs(store)[-1] == COUNT


def test_prune_and_compress_combine(store: FileStore) -> None:
    """With a limit and compression, segments that are not removed are compressed."""
    before = names(store)
    age(store, before[1] - 1, timedelta(days=30))
    pruned = store.prune_history(keep_days=29, compress=True)
    assert (pruned.segments_removed, pruned.segments_compressed) == (1, len(before) - 2)
    assert seqs(store) == list(range(before[1], COUNT + 1))


def test_copy_is_recovered_from_compressed_segments(store: FileStore, tmp_path: Path) -> None:
    """A copy is recovered from compressed segments, too."""
    store.prune_history(compress=True)
    expected = store.find_all()
    store.close()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    for path in (tmp_path / "copy" / "environments").iterdir():
        path.unlink()
    with FileStore(tmp_path / "copy") as copy:
        assert copy.find_all() == expected


def test_damaged_segment_is_not_compressed(store: FileStore) -> None:
    """A segment that has to be repaired stays as it is."""
    path = store.path / "journal" / files(store)[1]
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"#")
    before = len(files(store))
    assert store.prune_history(compress=True).segments_compressed == before - 2
    assert path.exists()


def test_interrupted_compression_is_finished(store: FileStore) -> None:
    """If both forms of a segment exist, the plain one counts; pruning removes both."""
    first = files(store)[0]
    path = store.path / "journal" / first
    packed = store.path / "journal" / f"{first}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    packed.chmod(0o600)
    assert seqs(store) == list(range(1, COUNT + 1))
    assert list(store.check()) == []
    before = len(names(store))
    assert store.prune_history(compress=True).segments_compressed == before - 1
    assert not path.exists()
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    assert store.prune_history(keep_bytes=0).segments_removed == before - 1
    assert not path.exists()
    assert not packed.exists()


@pytest.mark.parametrize("arguments", [{"keep_bytes": 0}, {"compress": True}], ids=str)
def test_failed_call_leaves_end_of_history(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """When any system call fails, the end of the history and all environments are left."""
    with FileStore(tmp_path / "whole") as store:
        fill_segments(store, 14)
        expected = store.find_all()
    shutil.copytree(tmp_path / "whole", tmp_path / "probe")
    with FileStore(tmp_path / "probe") as probe, pytest.MonkeyPatch.context() as patch:
        probe.save(expected[0])  # A copy begins a segment when it is opened.
        recorder = record(patch)
        probe.prune_history(**arguments)
        count = len(recorder.calls)
    assert count > 6
    for number in range(count):
        shutil.copytree(tmp_path / "whole", tmp_path / "store")
        with FileStore(tmp_path / "store") as store:
            store.save(expected[0])
            with pytest.MonkeyPatch.context() as patch:
                record(patch, fail_call(number, errno.EIO))
                with suppress(OSError):
                    store.prune_history(**arguments)
            assert store.find_all() == expected
            found = seqs(store)
            assert found == list(range(found[0], 16))
            assert not list((store.path / ".waggle" / "tmp").iterdir())
            store.prune_history(**arguments)
            assert seqs(store) == list(range(names(store)[0], 16))
        with after_a_power_cut(store, tmp_path / "store") as again:
            assert again.find_all() == expected
            assert list(again.check()) == []
        shutil.rmtree(tmp_path / "store")


def test_removals_are_synced_in_order(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each removal is synced before the next, oldest first, so a crash leaves no hole."""
    plain = files(store)[:-1]
    recorder = record(monkeypatch)
    store.prune_history(keep_bytes=0)
    calls = [
        call for call in recorder.calls if call.name in ("unlink", "fsync") and "TEMP" not in call
    ]
    removed = [n for n, call in enumerate(calls) if call.name == "unlink"]
    done = [calls[n].files[0] for n in removed if calls[n].files[0] in plain]
    assert done == plain
    for n in removed:
        if calls[n].files[0] in plain:
            assert calls[n + 1] == Call("fsync", ("journal",))


def test_age_is_that_of_newest_change(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age of a segment is that of its newest change, rather than of its file."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Self:
            return super().now(tz) + timedelta(days=40)

    for path in segment_paths(store):
        os.utime(path, (0, 0))
    assert store.prune_history(keep_days=30).segments_removed == 0
    monkeypatch.setattr("waggle_fsstore.store.maintenance.prune.datetime", Later)
    assert store.prune_history(keep_days=30).segments_removed > 0


def test_kept_lines_are_json(store: FileStore) -> None:
    """Each line of the kept history is a JSON object, also in compressed segments."""
    store.prune_history(compress=True)
    layout = Layout(str(store.path))
    for first in names(store):
        for line in segments.load(layout, first).splitlines():
            if line.strip():
                assert "crc" in json.loads(line)
