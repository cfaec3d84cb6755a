# SPDX-License-Identifier: Apache-2.0
"""The audit trail: the events that pass a filter, newest first, with what each of them changed."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import HistoryLostError, HistoryPrunedError
from waggle_fsstore.domain.event import Event, EventFilter, EventKind
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.page.difference import Difference, difference

#: The number of events on a page.
PAGE_SIZE: Final = 50

#: How many changes one search looks at: a second or two. The next page continues from there.
MAX_SEARCHED: Final = 200_000

# The history is read oldest first. So a search reads it in windows, of which each is before the
# last one and longer, up to a length whose versions take a few megabytes.
_FIRST_WINDOW: Final = 100
_MAX_WINDOW: Final = 5_000

# How far before the page a search looks for the versions that its events replaced.
_MAX_LOOKBACK: Final = 5_000

#: The filter that excludes nothing.
ALL: Final = EventFilter()


@dataclass(slots=True)
class Entry:
    """An event, and the version that it replaced.

    ``is_compared`` is false where that version was not found.
    """

    event: Event
    before: Environment | None = None
    is_compared: bool = True

    @property
    def differences(self) -> list[Difference]:
        """What the event changed: of a deletion, the fields that are gone."""
        event = self.event
        if event.kind is EventKind.DELETED:
            return difference(event.environment, None)
        return difference(self.before, event.environment) if self.is_compared else []


@dataclass(slots=True)
class Page:
    """Some entries of the trail, newest first.

    ``before`` is where the next page begins, ``None`` after the last one. ``is_full`` is false
    if the search ended early: there may be more, or none at all.
    """

    entries: list[Entry] = field(default_factory=list)
    before: int | None = None
    is_full: bool = True


def search(
    store: TransactionalRepository,
    wanted: EventFilter = ALL,
    *,
    before: int | None = None,
    size: int = PAGE_SIZE,
    max_searched: int = MAX_SEARCHED,
) -> Page:
    """Return the newest events that pass a filter, of the changes before ``before``.

    Memory does not depend on the length of the history. Raises what reading the history raises.
    """
    page = Page()
    missing: dict[str, list[Entry]] = {}
    end = latest(store) if before is None else min(before - 1, latest(store))
    width, searched, looked_back = _FIRST_WINDOW, 0, 0
    while end > 0:
        if len(page.entries) > size:
            if not missing or looked_back >= _MAX_LOOKBACK:
                break
            looked_back += width
        elif searched >= max_searched:
            page.before, page.is_full = end + 1, False
            break
        begin, room = max(0, end - width), size + 1 - len(page.entries)
        matches: list[Entry] = []
        if room > 0:
            begin, matches = _newest(store, wanted, begin, end, room)
        _compare(store, matches, missing, begin, end)
        page.entries += matches
        searched += end - begin
        end, width = begin, min(4 * width, _MAX_WINDOW)
    if len(page.entries) > size:
        page.before, page.is_full = page.entries[size - 1].event.seq, True
        del page.entries[size:]
    return page


def find(store: TransactionalRepository, seq: int) -> Entry | None:
    """Return the event of a change, compared with the version before; ``None`` if it is not kept.

    Raises what reading the history raises.
    """
    if not 0 < seq <= latest(store):
        return None
    _, events = _window(store, ALL, seq - 1, seq)
    found = next((event for event in events if event.seq == seq), None)
    if found is None:
        return None
    entry = Entry(found, is_compared=found.previous_status is None)
    if not entry.is_compared:
        earlier = deque(store.history(found.environment_id, until=seq - 1), maxlen=1)
        if earlier:
            entry.before, entry.is_compared = earlier[0].environment, True
    return entry


def latest(store: TransactionalRepository) -> int:
    """Return the number of the last change, 0 without one."""
    if hasattr(store, "last_change"):
        number: int = store.last_change()
        return number
    last = deque(store.history(), maxlen=1)  # A store in memory.
    return last[0].seq if last else 0


def newest(store: TransactionalRepository, begin: int, end: int) -> Event | None:
    """Return the last event of a part of the history, ``None`` if it has none.

    Raises what reading the history raises.
    """
    last = deque(_window(store, ALL, begin, end)[1], maxlen=1)
    return last[0] if last else None


def select(
    store: TransactionalRepository, wanted: EventFilter, *, after: int | str, until: int | None
) -> Iterator[Event]:
    """Return the events of a part of the history that pass a filter, oldest first.

    Raises what reading the history raises.
    """
    if hasattr(store, "select_events"):
        found: Iterator[Event] = store.select_events(wanted, after=after, until=until)
        return found
    return filter(wanted.matches, store.history(after=after, until=until))


def _window(
    store: TransactionalRepository, wanted: EventFilter, begin: int, end: int
) -> tuple[int, Iterator[Event]]:
    """Return the events of a window, and where it begins: at 0 if nothing is kept before it."""
    try:
        return begin, select(store, wanted, after=begin, until=end)
    except HistoryPrunedError:
        return 0, select(store, wanted, after=0, until=end)
    except HistoryLostError:  # A database has no position at a number that was skipped.
        return 0, select(store, wanted, after=0, until=end)
    except ValueError:  # An older state was put back, which ends before this window.
        return begin, iter(())


def _newest(
    store: TransactionalRepository, wanted: EventFilter, begin: int, end: int, size: int
) -> tuple[int, list[Entry]]:
    """Return where a window begins, and its last matches, the newest one first."""
    begin, events = _window(store, wanted, begin, end)
    last = deque(events, maxlen=size)
    found = [Entry(event, is_compared=event.previous_status is None) for event in reversed(last)]
    return begin, found


def _compare(
    store: TransactionalRepository,
    matches: list[Entry],
    missing: dict[str, list[Entry]],
    begin: int,
    end: int,
) -> None:
    """Find the versions that events replaced, as far as a window has them.

    ``missing`` has the entries, by environment, whose version before is still to be found.
    """
    replacing = {entry.event.seq: entry for entry in matches if not entry.is_compared}
    ids = missing.keys() | {entry.event.environment_id for entry in replacing.values()}
    if not ids:
        return
    versions: dict[str, Environment | None] = {}
    for event in _window(store, EventFilter(frozenset(ids)), begin, end)[1]:
        entry = replacing.get(event.seq)
        if entry is not None and event.environment_id in versions:
            entry.before, entry.is_compared = versions[event.environment_id], True
        versions[event.environment_id] = event.environment
    for environment_id in missing.keys() & versions.keys():
        for entry in missing.pop(environment_id):
            entry.before, entry.is_compared = versions[environment_id], True
    for entry in replacing.values():
        if not entry.is_compared and entry.event.kind is not EventKind.DELETED:
            missing.setdefault(entry.event.environment_id, []).append(entry)
