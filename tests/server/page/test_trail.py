# SPDX-License-Identifier: Apache-2.0
"""The audit trail: filters, pages, versions before, and how little of the history is in memory."""

import shutil
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from waggle_fsstore import FileStore, MemoryStore, audit
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.errors import (
    HistoryLostError,
    JournalDamagedError,
    StoreClosedError,
)
from waggle_fsstore.domain.event import EventFilter, EventKind
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.page import makers, trail
from waggle_fsstore.server.page.makers import Makers
from waggle_fsstore.server.page.trail import search
from waggle_fsstore.testing import make_environment


@pytest.fixture(params=[FileStore, MemoryStore])
def store(request: pytest.FixtureRequest, root: Path) -> Iterator[TransactionalRepository]:
    """Yield a store of each kind with the events 1 to 6 of two environments."""
    store = MemoryStore() if request.param is MemoryStore else FileStore(root, durable=False)
    one, two = make_environment(id="one", labels={}), make_environment(id="two")
    with audit(actor="maja mcp:claude", reason="made"):
        store.create(one)
        store.create(two)
    with audit(actor="otto", reason="changed"):
        store.update("one", lambda it: it.labels.update(team="red"))
        store.update("one", lambda it: it.transition_to(Status.ERROR))
        store.delete("two")
        store.update("one", lambda it: it.labels.clear())
    yield store
    store.close()


def _seqs(page: trail.Page) -> list[int]:
    return [entry.event.seq for entry in page.entries]


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        (EventFilter(), [6, 5, 4, 3, 2, 1]),
        (EventFilter(frozenset({"two"})), [5, 2]),
        (EventFilter(frozenset({"tw"})), []),
        (EventFilter(actor="OTTO"), [6, 5, 4, 3]),
        (EventFilter(actor="mcp:"), [2, 1]),
        (EventFilter(kinds=frozenset({EventKind.DELETED})), [5]),
        (
            EventFilter(frozenset({"one"}), actor="otto", kinds=frozenset({EventKind.UPDATED})),
            [6, 4, 3],
        ),
        (EventFilter(since=datetime(2100, 1, 1, tzinfo=UTC)), []),
        (EventFilter(until=datetime(2100, 1, 1, tzinfo=UTC)), [6, 5, 4, 3, 2, 1]),
    ],
)
def test_filter_finds_matching_events(
    store: TransactionalRepository, wanted: EventFilter, seqs: list[int]
) -> None:
    """All parts of a filter have to match; the newest event comes first."""
    assert _seqs(search(store, wanted)) == seqs


def test_filter_by_time_includes_its_ends(store: TransactionalRepository) -> None:
    """An event at the very time is found."""
    at = {event.seq: event.at for event in store.history()}
    assert {2, 4} <= set(_seqs(search(store, EventFilter(since=at[2], until=at[4]))))
    late = EventFilter(since=at[2] + timedelta(days=1))
    assert _seqs(search(store, late)) == []


def test_pages_have_each_event_once(store: TransactionalRepository) -> None:
    """Each page begins where the one before it ended, and the last one says that it is."""
    found, before = [], None
    while True:
        page = search(store, before=before, size=2)
        found += _seqs(page)
        before = page.before
        if before is None:
            break
    assert found == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("window", [1, 2, 500])
def test_entries_have_the_version_before(
    store: TransactionalRepository, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """The version that an event replaced is found in whichever window it is."""
    monkeypatch.setattr(trail, "_FIRST_WINDOW", window)
    entries = {entry.event.seq: entry for entry in search(store).entries}
    changed = {
        seq: [(one.field, one.before, one.after) for one in entries[seq].differences]
        for seq in (3, 4, 6)
    }
    assert changed == {
        3: [("labels.team", None, "red")],
        4: [("status", "running", "error")],
        6: [("labels.team", "red", None)],
    }
    assert entries[1].before is None
    assert all(one.after is None for one in entries[5].differences)
    assert entries[5].differences


def test_recreated_environment_has_no_version_before(store: TransactionalRepository) -> None:
    """What was deleted in between is no version that the new one replaced."""
    store.create(make_environment(id="two"))
    newest = search(store, size=1).entries[0]
    assert (newest.before, newest.is_compared) == (None, True)


def test_version_that_is_far_away_is_compared_alone(
    store: TransactionalRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page does not look for it through the whole history; the view of the event does."""
    monkeypatch.setattr(trail, "_FIRST_WINDOW", 1)
    monkeypatch.setattr(trail, "_MAX_WINDOW", 1)
    monkeypatch.setattr(trail, "_MAX_LOOKBACK", 0)
    [entry] = search(store, size=1).entries
    assert (entry.is_compared, entry.differences) == (False, [])
    found = trail.find(store, 6)
    assert found is not None
    assert [one.field for one in found.differences] == ["labels.team"]


def test_page_before_a_number_of_the_future_is_the_newest(store: TransactionalRepository) -> None:
    """A link from another history leads to what is there."""
    assert _seqs(search(store, before=10**17)) == [6, 5, 4, 3, 2, 1]


def test_event_is_found_by_its_number(store: TransactionalRepository) -> None:
    """Numbers that no event has are found as none."""
    found = trail.find(store, 5)
    assert found is not None
    assert found.event.environment_id == "two"
    assert [trail.find(store, seq) for seq in (0, 7, 10**17)] == [None] * 3


def test_search_ends_after_a_number_of_changes(store: TransactionalRepository) -> None:
    """Where nothing matches for long, the page says how far the search has come."""
    page = search(store, EventFilter(kinds=frozenset({EventKind.EXTERNAL})), max_searched=1)
    assert page.entries == []
    assert page.before is None  # Six changes are one window.
    page = search(store, EventFilter(kinds=frozenset({EventKind.EXTERNAL})), max_searched=0)
    assert (page.before, page.is_full) == (7, False)


def test_oldest_match_is_found_in_little_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the history, although each of its events is looked at."""
    monkeypatch.setattr(trail, "_MAX_WINDOW", 100)
    peaks = []
    with FileStore(root, durable=False) as store:
        with audit(actor="first"):
            store.create(make_environment(id="one"))
        for _ in range(2):
            for _ in range(60):
                store.save_all([make_environment() for _ in range(20)])
            tracemalloc.start()
            try:
                page = search(store, EventFilter(actor="first"))
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            assert _seqs(page) == [1]
    assert peaks[1] < 1.25 * peaks[0]


def test_pruned_history_ends_at_its_oldest_event(root: Path) -> None:
    """The page has what is kept, and an event whose version before is gone says so."""
    with FileStore(root) as store:
        store.create(make_environment(id="one"))
        for _ in range(20):
            store.save_all([make_environment() for _ in range(20)])
        store.update("one", lambda it: it.labels.clear())
        pruned = store.prune_history(keep_bytes=0)
        assert pruned.oldest > 1
        page = search(store, size=10_000)
        assert _seqs(page)[-1] == pruned.oldest
        assert page.before is None
        [newest] = search(store, size=1).entries
        assert newest.event.environment_id == "one"
        assert not newest.is_compared
        found = trail.find(store, newest.event.seq)
        assert found is not None
        assert not found.is_compared
        assert trail.find(store, pruned.oldest - 1) is None


def test_skipped_number_hides_no_event(
    store: TransactionalRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database refuses to begin at a number that it has skipped: the search begins earlier."""
    real = store.history

    def history(environment_id: str | None = None, *, after: int = 0, until: int | None = None):  # type: ignore[no-untyped-def]
        if after == 4:
            raise HistoryLostError(after)
        return real(environment_id, after=after, until=until)

    monkeypatch.setattr(trail, "_FIRST_WINDOW", 2)
    monkeypatch.setattr(store, "history", history)
    assert _seqs(search(store)) == [6, 5, 4, 3, 2, 1]


# Makers


def test_maker_is_the_actor_of_the_creation(store: TransactionalRepository) -> None:
    """Later changes are by others; what is deleted is forgotten."""
    found = Makers(store)
    assert found.by_id() == {"one": "maja mcp:claude"}
    with audit(actor="willi"):
        store.create(make_environment(id="two"))
    assert found.by_id() == {"one": "maja mcp:claude", "two": "willi"}


def test_makers_of_a_long_history_are_read_by_a_thread(
    store: TransactionalRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view does not wait for it; the next one has them all, and what is new."""
    monkeypatch.setattr(makers, "_AT_ONCE", 10)
    found = Makers(store)
    store.save_all([make_environment(id=f"env-{number}") for number in range(30)])
    assert found.by_id() == {}
    thread = found.read_on()
    assert thread is not None
    thread.join()
    assert len(found.by_id()) == 31
    store.create(make_environment(id="new"))
    assert len(found.by_id()) == 32
    assert found.read_on() is None


def test_makers_begin_again_in_another_history(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an older state was put back, only what that has was made by anyone."""
    with FileStore(root, durable=False) as store:
        store.create(make_environment(id="kept"))
        shutil.copytree(root, tmp_path / "older")
        store.create(make_environment(id="lost"))
        found = Makers(store)
        assert found.by_id().keys() == {"kept", "lost"}
    shutil.rmtree(root)
    shutil.move(tmp_path / "older", root)
    with FileStore(root, durable=False) as store:
        store.create(make_environment(id="other"))
        monkeypatch.setattr(found, "_store", store)
        assert found.by_id().keys() == {"kept", "other"}


def test_unreadable_history_of_makers_is_logged_once(
    store: TransactionalRepository,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The page works without the makers, and the log says why they are missing."""
    monkeypatch.setattr(makers, "_AT_ONCE", 0)

    def fail(*_: object, **__: object) -> Iterator[object]:
        raise JournalDamagedError("/store/journal/1.jsonl", 7)

    store.create(make_environment(id="a"))
    found = Makers(store)
    with monkeypatch.context() as patch:
        patch.setattr(makers, "select", fail)
        for _ in range(2):
            assert found.by_id() == {}
            thread = found.read_on()
            assert thread is not None
            thread.join()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "/store/journal/1.jsonl" in caplog.messages[0]


def test_thread_of_makers_ends_with_the_store(
    store: TransactionalRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves the error to the next view."""
    monkeypatch.setattr(makers, "_AT_ONCE", 1)
    found = Makers(store)
    assert found.by_id() == {}
    store.close()
    thread = found.read_on()
    assert thread is not None
    thread.join()
    with pytest.raises(StoreClosedError):
        found.by_id()
