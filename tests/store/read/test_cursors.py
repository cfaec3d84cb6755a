# SPDX-License-Identifier: Apache-2.0
"""A cursor that cannot be honoured raises, at whatever moment, and never skips an event."""

import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.journals import PAD, fill_segments, segment_paths
from waggle_fsstore import Event, FileStore, HistoryLostError, HistoryPrunedError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.state import State
from waggle_fsstore.store.read.view import View
from waggle_fsstore.testing import make_environment


def open_store(path: Path) -> FileStore:
    return FileStore(path, durable=False)


def save(store: FileStore, *numbers: int) -> None:
    """Save a version for each number, under the id that belongs to it."""
    for number in numbers:
        store.save(make_environment(id=f"env-{number % 5}", name=f"{number}"))


def seqs(events: Iterator[Event]) -> list[int]:
    return [event.seq for event in events]


def replace_by(copy: Path, path: Path) -> None:
    """Put a copy in the place of a store, as a restored backup."""
    shutil.rmtree(path)
    shutil.copytree(copy, path)


def overwrite_by(copy: Path, path: Path) -> None:
    """Put the contents of a copy back into the files and directories of a store."""
    for directory, _, names in os.walk(path):
        for name in names:
            source = copy / Path(directory, name).relative_to(path)
            if source.exists():
                Path(directory, name).write_bytes(source.read_bytes())
            else:
                Path(directory, name).unlink()


#: Only where it fails does a test wait for so long.
TIMEOUT_S = 30.0

PUT_BACK = pytest.mark.parametrize("put_back", [replace_by, overwrite_by])
PutBack = Callable[[Path, Path], None]


def prune(store: FileStore) -> int:
    """Remove all segments but the live one, and return the number of the oldest change left."""
    *sealed, live = segment_paths(store)
    for path in sealed:
        path.unlink()
    return int(live.name.partition(".")[0])


def test_prune_before_first_event_is_noticed(store: FileStore) -> None:
    """A range whose first events are pruned before they are read raises, and skips none."""
    fill_segments(store, 12)
    cursor = next(store.history()).cursor
    found: list[Iterator[Event]] = [
        store.history(after=1),
        store.history(after=cursor),
        store.history("pad-3", after=cursor),
        store.watch(after=1, timeout=0),
        store.watch(after=cursor, timeout=0),
    ]
    oldest = prune(store)
    assert oldest > 3
    for events in found:
        with pytest.raises(HistoryPrunedError) as caught:
            next(events)
        assert caught.value.oldest == oldest
    assert seqs(store.history(after=0)) == [*range(oldest, 13)]


def test_prune_between_events_is_noticed(store: FileStore) -> None:
    """An iteration that has begun does not continue behind a gap."""
    fill_segments(store, 12)
    history, watch = store.history(), store.watch(after=0, timeout=0)
    assert next(history).seq == next(watch).seq == 1
    oldest = prune(store)
    for events in (history, watch):
        with pytest.raises(HistoryPrunedError) as caught:
            list(events)
        assert caught.value.oldest == oldest


def test_cursor_before_oldest_event_is_honoured(store: FileStore) -> None:
    """The cursor of the last pruned event misses nothing; the one before it is refused."""
    fill_segments(store, 12)
    events = list(store.history())
    oldest = prune(store)
    for after in (events[oldest - 2].cursor, oldest - 1):
        assert seqs(store.history(after=after)) == [*range(oldest, 13)]
        assert seqs(store.watch(after=after, timeout=0)) == [*range(oldest, 13)]
    with pytest.raises(HistoryPrunedError):
        store.history(after=events[oldest - 3].cursor)


@PUT_BACK
def test_older_state_put_back_is_noticed(root: Path, tmp_path: Path, put_back: PutBack) -> None:
    """After an older state was put back and grew, no cursor of the lost changes is honoured."""
    store = open_store(root)
    save(store, *range(5))
    shutil.copytree(root, tmp_path / "old")
    save(store, *range(5, 10))
    *_, last = store.history()
    running = [store.watch(timeout=0), store.watch(after=9, timeout=0)]
    running += [store.watch(after=last.cursor, timeout=0)]
    iterations = [store.history(after=8), store.history("env-4", after=8)]
    assert next(running[1]).seq == 10
    put_back(tmp_path / "old", root)
    with open_store(root) as other:
        save(other, *range(100, 107))
    for events in (*running, *iterations):
        with pytest.raises(HistoryLostError) as caught:
            next(events)
        assert 8 <= caught.value.after <= 10
    for watch in running:  # They go on raising.
        with pytest.raises(HistoryLostError):
            next(watch)
    with pytest.raises(HistoryLostError):
        store.history(after=last.cursor)
    names = [event.environment.name for event in store.history() if event.environment]
    assert names == [str(number) for number in (*range(5), *range(100, 107))]


@PUT_BACK
def test_older_state_that_did_not_grow_is_noticed(
    root: Path, tmp_path: Path, put_back: PutBack
) -> None:
    """A cursor beyond the end of an older state raises, and so does a range that begins in it."""
    store = open_store(root)
    save(store, *range(5))
    shutil.copytree(root, tmp_path / "old")
    save(store, *range(5, 10))
    *_, last = store.history()
    running = [store.watch(timeout=0), store.history(after=3), store.history()]
    put_back(tmp_path / "old", root)
    for events in running:
        with pytest.raises(HistoryLostError):
            list(events)
    with pytest.raises(HistoryLostError):
        store.history(after=last.cursor)
    with pytest.raises(ValueError, match="beyond"):
        store.history(after=10)


@PUT_BACK
def test_older_state_that_grew_to_the_same_number_is_noticed(
    root: Path, tmp_path: Path, put_back: PutBack
) -> None:
    """A watch that has seen the last change raises, although no change has a higher number."""
    store = open_store(root)
    save(store, *range(5))
    shutil.copytree(root, tmp_path / "old")
    save(store, *range(5, 10))
    watch = store.watch(timeout=0)
    put_back(tmp_path / "old", root)
    with open_store(root) as other:
        while other.info().last_seq < 10:
            save(other, 5)
    with pytest.raises(HistoryLostError):
        next(watch)


@pytest.mark.parametrize("calls_ahead", [1, 3])
def test_position_is_the_last_change_that_was_seen(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, calls_ahead: int
) -> None:
    """A watch that found a state record ahead of the journal leaves out nothing that follows."""
    save(store, *range(3))
    real = View.state
    states: list[State] = []

    def state(self: View) -> State:
        states.append(real(self))
        if len(states) > calls_ahead:
            if len(states) == calls_ahead + 1:
                save(store, *range(3, 12))
            return real(self)
        return states[0]._replace(committed=9, published=9)

    if calls_ahead == 1:  # When it begins, or else at its first look.
        monkeypatch.setattr(View, "state", state)
    watch = store.watch(timeout=TIMEOUT_S)
    monkeypatch.setattr(View, "state", state)
    assert [next(watch).seq for _ in range(9)] == [*range(4, 13)]


def test_older_state_put_back_between_segments_is_noticed(root: Path, tmp_path: Path) -> None:
    """An iteration does not continue with the segments of another history."""
    store = open_store(root)
    fill_segments(store, 2)
    shutil.copytree(root, tmp_path / "old")
    fill_segments(store, 10)
    history, watch = store.history(), store.watch(after=0, timeout=0)
    assert next(history).seq == next(watch).seq == 1
    overwrite_by(tmp_path / "old", root)
    with open_store(root) as other:
        for number in range(12):
            other.save(make_environment(id=f"new-{number % 5}", extra=PAD))
    for events in (history, watch):
        with pytest.raises((HistoryLostError, HistoryPrunedError)):
            list(events)


def test_copy_begins_an_era(root: Path, tmp_path: Path) -> None:
    """A copy that was taken into use refuses the cursors of the original, which keeps its own."""
    store = open_store(root)
    save(store, *range(5))
    events = list(store.history())
    shutil.copytree(root, tmp_path / "copy")
    with open_store(tmp_path / "copy") as copy:
        found = list(copy.history())
        assert found == events
        for event in events:
            with pytest.raises(HistoryLostError):
                copy.history(after=event.cursor)
        save(copy, 5)
        *_, last = copy.history(after=found[1].cursor)
        assert last.seq > 5
    with open_store(tmp_path / "copy") as again:
        assert seqs(again.history(after=found[4].cursor)) == [last.seq]
    with pytest.raises(HistoryLostError):
        store.history(after=found[4].cursor)
    save(store, 5)
    assert seqs(store.history(after=events[4].cursor)) == [6]


def test_new_journal_begins_an_era(store: FileStore) -> None:
    """Where the journal was lost, the new one refuses the cursors of the old one."""
    save(store, *range(5))
    *_, last = store.history()
    watch = store.watch(timeout=0)
    for name in ("journal", ".waggle"):
        shutil.rmtree(store.path / name)
    with open_store(store.path) as other:
        save(other, 5, 6)
    with pytest.raises(HistoryLostError):
        store.history(after=last.cursor)
    with pytest.raises(HistoryLostError):
        next(watch)


@pytest.mark.parametrize("is_before", [True, False])
def test_watch_that_has_seen_nothing_sees_the_first_store(root: Path, is_before: bool) -> None:
    """A watch of a path without a store misses nothing, whatever begins there."""
    reader = open_store(root)
    watches = [reader.watch(timeout=0)]
    if not is_before:
        watches = [reader.watch(after=0, timeout=0)]
    with open_store(root) as store:
        save(store, 1, 2)
    assert seqs(watches[0]) == [1, 2]


def test_watch_of_empty_store_does_not_begin_behind_a_gap(root: Path) -> None:
    """A watch from before the first change does not begin with a later one."""
    reader = open_store(root)
    watch, from_oldest = reader.watch(timeout=0), reader.watch(after=0, timeout=0)
    with open_store(root) as store:
        fill_segments(store, 12)
        oldest = prune(store)
    with pytest.raises(HistoryPrunedError) as caught:
        next(watch)
    assert caught.value.oldest == oldest
    assert seqs(from_oldest) == [*range(oldest, 13)]


def test_watch_of_documents_without_journal_sees_the_first_change(store: FileStore) -> None:
    """A journal that begins with a high number was not pruned."""
    save(store, *range(5))
    for name in ("journal", ".waggle"):
        shutil.rmtree(store.path / name)
    with open_store(store.path) as clone:
        watch = clone.watch(timeout=0)
        save(clone, 5)
        assert seqs(watch) == [6]


def test_cursors_outlive_rotation_compression_and_repair(store: FileStore) -> None:
    """Cursors stay valid while their lines are moved, compressed, or blanked out beside them."""
    fill_segments(store, 6)
    events = list(store.history())
    watch = store.watch(after=events[0].cursor, timeout=0)
    assert next(watch).seq == 2
    fill_segments(store, 6)
    *sealed, live = segment_paths(store)
    for path in sealed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert seqs(watch) == [*range(3, 13)]
    for event in events:
        assert seqs(store.history(after=event.cursor)) == [*range(event.seq + 1, 13)]
    data = bytearray(live.read_bytes())  # A damaged first line, which records the era.
    data[0:8] = b"x" * 8
    live.write_bytes(data)
    with open_store(store.path) as other:
        list(other.repair())
    for event in events:
        assert seqs(store.history(after=event.cursor)) == [*range(event.seq + 1, 13)]


def test_store_without_eras_keeps_its_cursors(store: FileStore) -> None:
    """A journal by an older program records no era: its cursors are valid, also after it grows."""
    fill_segments(store, 3)
    layout = Layout(str(store.path))
    for first in segments.list_segments(layout):
        path = Path(layout.segment(first))
        head, _, rest = path.read_bytes().partition(b"\n")
        previous, size = segments.header(layout, first)
        bare = lines.encode(lines.FOLLOWS, {"segment": previous, "bytes": size})
        path.write_bytes(bare + b" " * (len(head) - len(bare)) + b"\n" + rest)
    store.close()
    with open_store(store.path) as again:
        events = list(again.history())
        fill_segments(again, 9)
        for event in events:
            assert seqs(again.history(after=event.cursor)) == [*range(event.seq + 1, 13)]


STEPS = st.lists(
    st.sampled_from(
        ["save", "save", "save", "copy", "put back", "replace", "prune", "read", "reopen"]
    ),
    min_size=3,
    max_size=25,
)


@settings(max_examples=25)
@given(steps=STEPS)
def test_followers_never_skip(steps: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever happens to the store, what a follower has seen is its history, or it raises."""
    tmp_path = tmp_path_factory.mktemp("follow")
    root, old = tmp_path / "store", tmp_path / "old"
    with open_store(root) as store:
        save(store, 0)
    shutil.copytree(root, old)
    reader = open_store(root)
    running = reader.watch(timeout=0)
    cursor, has_failed = next(reader.history()).cursor, False
    seen: list[Event] = []
    watched: list[Event] = []
    for number, step in enumerate([*steps, "read"], 1):
        if step == "copy":
            shutil.rmtree(old)
            shutil.copytree(root, old)
        elif step == "put back":
            overwrite_by(old, root)
        elif step == "replace":
            replace_by(old, root)
        elif step == "read" and not has_failed:
            try:
                new = list(reader.history(after=cursor))
                assert list(reader.watch(after=cursor, timeout=0)) == new
                seen += new
                watched += [next(running) for _ in new]
            except (HistoryLostError, HistoryPrunedError):
                has_failed = True
                continue
            cursor = seen[-1].cursor if seen else cursor
            kept = list(reader.history())
            oldest = kept[0].seq if kept else 0
            assert watched == seen
            assert [one for one in seen if one.seq >= oldest] == [
                one for one in kept if one.seq > 1
            ]
        else:
            with open_store(root) as store:
                if step == "save":
                    store.save(make_environment(id=f"env-{number % 3}", extra=PAD))
                elif step == "prune":
                    prune(store)
    reader.close()
