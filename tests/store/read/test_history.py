# SPDX-License-Identifier: Apache-2.0
"""Failures of history and watch that only a store of files can have."""

import threading
from pathlib import Path

import pytest

from tests.store.journals import segment_paths
from waggle_fsstore import (
    Event,
    EventKind,
    FileStore,
    HistoryPrunedError,
    JournalDamagedError,
    audit,
)
from waggle_fsstore.domain.event import EventFilter
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.write.publish import DocumentWrite
from waggle_fsstore.testing import make_environment

PADDED = {"padding": "x" * 5000}


def test_unpublished_changes_are_invisible(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that may still be rolled back is in no history, and no watch sees it."""
    reader = FileStore(store.path, durable=False)
    store.save(make_environment(id="a"))
    watch = reader.watch(timeout=0)
    seen: list[list[Event]] = []

    class Looked(DocumentWrite):
        def publish(self, disk: Disk, layout: Layout) -> None:
            seen.append([*reader.history(after=1), *watch])
            super().publish(disk, layout)

    monkeypatch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Looked)
    store.save(make_environment(id="a"))
    assert seen == [[]]
    assert [event.seq for event in reader.history()] == [1, 2]


def test_history_spans_all_segments(store: FileStore) -> None:
    """No event is lost or repeated between two segments."""
    for number in range(60):
        store.save(make_environment(id=f"env-{number % 7}", extra=PADDED))
    assert len(list((store.path / "journal").iterdir())) > 2
    assert [event.seq for event in store.history()] == list(range(1, 61))
    for after in range(61):
        assert [event.seq for event in store.history(after=after)] == list(range(after + 1, 61))
    assert [event.seq for event in store.history("env-3", after=10, until=40)] == [
        number for number in range(11, 41) if (number - 1) % 7 == 3
    ]


def test_history_of_one_id_skips_other_lines(store: FileStore) -> None:
    """Lines about other ids are skipped, and damage among them is still an error."""
    for step in range(30):
        store.save(make_environment(id="mine" if step % 10 == 5 else f'"id":"mine{step}', name="x"))
    assert [event.seq for event in store.history("mine")] == [6, 16, 26]
    assert [event.seq for event in store.history("mine", after=6, until=25)] == [16]
    assert [event.seq for event in store.history('"id":"mine3')] == [4]
    [segment] = (store.path / "journal").iterdir()
    lines = segment.read_bytes().split(b"\n")
    lines[20] = lines[20].replace(b"updated", b"updatee").replace(b"created", b"creatad")
    segment.write_bytes(b"\n".join(lines))
    events = store.history("mine")
    assert [next(events).seq, next(events).seq] == [6, 16]
    with pytest.raises(JournalDamagedError, match="line 21"):
        next(events)


def test_repeated_history_reads_new_lines_only(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated calls for new events return each event once, and read little else."""
    loaded: list[int] = []
    real = segments.load

    def load(layout: Layout, first: int, size: int = -1, *, start: int = 0) -> bytes:
        data = real(layout, first, size, start=start)
        loaded.append(len(data))
        return data

    monkeypatch.setattr(segments, "load", load)
    other = FileStore(store.path, durable=False)
    cursor, seen = 0, []
    for number in range(200):
        (store if number % 3 else other).save(make_environment(id=f"env-{number % 7}"))
        if number % 2:
            new = [event.seq for event in store.history(after=cursor)]
            cursor = new[-1]
            seen += new
    assert seen == list(range(1, 201))
    assert sum(loaded) < 4 * sum(len(path.read_bytes()) for path in segment_paths(store))


def test_history_follows_replaced_store(tmp_path: Path) -> None:
    """After another store replaced this one, its events are read at its own offsets."""
    one, other = (FileStore(tmp_path / name, durable=False) for name in ("one", "other"))
    for number in range(40):
        one.save(make_environment(id=f"env-{number}"))
        other.save(make_environment(id=f"other-{number}", extra={"padding": "x" * number}))
    assert len(list(one.history(after=1))) == 39
    other.save(make_environment(id="last"))
    other.close()
    one.path.rename(tmp_path / "away")
    other.path.rename(tmp_path / "one")
    assert [event.environment_id for event in one.history(after=40)] == ["last"]


@pytest.mark.parametrize("until", range(1, 7))
def test_history_ends_in_error_at_damage(store: FileStore, until: int) -> None:
    """The history is complete up to the damage, and ends there with an error."""
    store.save_all(make_environment(id=name) for name in "ab")
    store.save_all(make_environment(id=name) for name in "ab")
    store.save_all(make_environment(id=name) for name in "ab")
    [segment] = (store.path / "journal").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b'"seq":3', b'"seq":0'))
    events = store.history(until=until)
    assert [next(events).seq for _ in range(min(until, 2))] == [1, 2][:until]
    if until > 2:
        with pytest.raises(JournalDamagedError, match="line 4"):
            next(events)
    assert list(events) == []


def test_watches_span_segments(store: FileStore) -> None:
    """A slow and a fast watch each see every event once, across segments and store objects."""
    reader = FileStore(store.path, durable=False)
    fast, slow = reader.watch(after=0, timeout=0), reader.watch(after=0, timeout=0)
    seen: list[int] = []
    for number in range(60):
        writer = store if number % 3 else FileStore(store.path, durable=False)
        writer.save(make_environment(id=f"env-{number % 7}", extra=PADDED))
        seen.append(next(fast).seq)
    assert seen == [event.seq for event in slow] == list(range(1, 61))
    assert list(fast) == []


def test_watch_keeps_up_with_busy_writer(store: FileStore) -> None:
    """A watch beside a writer loses and repeats no event, across many segments."""
    watch = store.watch(after=0, timeout=30)

    def write() -> None:
        for number in range(150):
            store.save(make_environment(id=f"env-{number % 7}", extra=PADDED))

    writer = threading.Thread(target=write)
    writer.start()
    assert [next(watch).seq for _ in range(150)] == list(range(1, 151))
    writer.join()


def test_manual_edit_is_an_event(store: FileStore) -> None:
    """The next write of an edited document adds both the edit and the write to the history."""
    store.save(make_environment(id="a", name="stored"))
    path = store.document_path("a")
    path.write_text(path.read_text().replace("stored", "edited"))
    with audit(actor="me", reason="because"):
        store.save(make_environment(id="a", name="saved"))
    path.write_text(path.read_text().replace("saved", "again"))
    store.delete("a")
    events = list(store.history("a"))
    assert [(event.seq, event.kind) for event in events] == [
        (1, EventKind.CREATED),
        (2, EventKind.EXTERNAL),
        (3, EventKind.UPDATED),
        (4, EventKind.EXTERNAL),
        (5, EventKind.DELETED),
    ]
    found = [event.environment.name for event in events if event.environment]
    assert found == ["stored", "edited", "saved", "again", "again"]
    assert [event.revision for event in events] == [1, 2, 3, 4, 4]


def test_cursor_before_journal_is_refused(store: FileStore) -> None:
    """Where the journal starts later than the revisions, a cursor before it is refused."""
    store.save(make_environment(id="a"))
    path = store.document_path("a")
    path.write_text(path.read_text().replace('"revision": 1', '"revision": 40'))
    for name in ("journal", ".waggle"):
        (store.path / name).rename(store.path.with_name(f"old-{name}"))
    with FileStore(store.path, durable=False) as again:
        assert again.save(make_environment(id="b")) == 41
        assert [event.seq for event in again.history()] == [41]
        assert [event.seq for event in again.history(after=40)] == [41]
        with pytest.raises(HistoryPrunedError) as caught:
            again.history(after=39)
        assert caught.value.oldest == 41


def test_history_memory_is_bounded_by_one_segment(store: FileStore) -> None:
    """Reading the history keeps one segment in memory, however many there are."""
    import tracemalloc

    def peak() -> int:
        tracemalloc.start()
        try:
            for _ in store.history():
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    batch = [make_environment(id=f"env-{number}", extra=PADDED) for number in range(50)]
    for _ in range(8):
        store.save_all(batch)
    few = peak()
    for _ in range(24):
        store.save_all(batch)
    assert peak() < 1.5 * few


def test_watch_raises_again_after_error(store: FileStore) -> None:
    """A watch that met a damaged line raises at it each time: it neither ends nor skips it."""
    for name in "abc":
        store.save(make_environment(id=name))
    [segment] = segment_paths(store)
    data = segment.read_bytes()
    damaged = data.replace(b'"id":"b"', b'"id":"x"', 1)
    assert damaged != data
    segment.write_bytes(damaged)
    watch = store.watch(after=0, timeout=0)
    assert next(watch).environment_id == "a"
    for _ in range(2):
        with pytest.raises(JournalDamagedError):
            next(watch)
    segment.write_bytes(data)
    assert [event.environment_id for event in watch] == ["b", "c"]


def test_empty_range_reads_no_damaged_line(store: FileStore) -> None:
    """A history that ends where it begins reads nothing, so damage in the journal is no error."""
    for name in "ab":
        store.save(make_environment(id=name))
    [segment] = segment_paths(store)
    segment.write_bytes(segment.read_bytes().replace(b'"id":"a"', b'"id":"x"', 1))
    assert list(store.history(after=2)) == []
    assert list(store.history(after=1, until=1)) == []
    with pytest.raises(JournalDamagedError):
        list(store.history())


@pytest.mark.parametrize("is_compressed", [False, True])
def test_selected_events_are_those_that_pass_the_filter(
    store: FileStore, is_compressed: bool
) -> None:
    """A selection has the same events as a filter of the whole history, in the same order."""
    for number in range(40):
        with audit(actor=f"act\\or {number % 3}"):
            store.save(make_environment(id=f"env-{number % 7}", extra=PADDED))
            store.save_all([make_environment(id="a"), make_environment(id="b")])
    store.document_path("a").write_text('{"id": "a", "name": "by hand", "runtime": "shell"}')
    store.update("a", lambda it: it.labels.update(team="red"))
    store.delete("b")
    if is_compressed:
        with FileStore(store.path) as durable:  # The other one makes no checkpoint.
            assert durable.prune_history(compress=True).segments_compressed > 1
    events = list(store.history())
    for wanted in (
        EventFilter(),
        EventFilter(frozenset({"a"})),
        EventFilter(frozenset({"a", "env-3"}), kinds=frozenset({EventKind.UPDATED})),
        EventFilter(actor="ACT\\OR 1", since=events[20].at, until=events[90].at),
        EventFilter(kinds=frozenset({EventKind.EXTERNAL, EventKind.DELETED})),
    ):
        found = list(store.select_events(wanted))
        assert found == list(filter(wanted.matches, events)) != []
        assert [one.cursor for one in store.select_events(wanted, after=30, until=60)] == [
            one.cursor for one in found if 30 < one.seq <= 60
        ]


def test_selection_reports_damage_in_other_lines(store: FileStore) -> None:
    """A damaged line may have had a selected event."""
    for number in range(3):
        store.save(make_environment(id=f"env-{number}"))
    [path] = segment_paths(store)
    path.write_bytes(path.read_bytes().replace(b"env-1", b"env-x"))
    events = store.select_events(EventFilter(frozenset({"env-2"})))
    with pytest.raises(JournalDamagedError):
        list(events)
