# SPDX-License-Identifier: Apache-2.0
"""What a store has to show after a crash: every confirmed change, and no half of any."""

from collections.abc import Iterator
from itertools import product
from typing import Any, Final, NamedTuple

from waggle_fsstore import Environment, Event, FileStore
from waggle_fsstore.domain.event import EventKind

#: How many documents are also read one by one; not all, to save time.
_MAX_SINGLE_READS: Final = 8

#: What becomes of one id: this version, or none.
Outcome = tuple[str, Environment | None]


class BrokenPromiseError(Exception):
    """The store broke a promise."""


class Begun(NamedTuple):
    """A change was asked for: all of these outcomes, or none."""

    outcomes: tuple[Outcome, ...]
    is_manual: bool = False


class Done(NamedTuple):
    """The change was confirmed, with these revisions; 0 for a deletion."""

    revisions: tuple[int, ...]


class Failed(NamedTuple):
    """The change failed: it has not happened."""


class Shown(NamedTuple):
    """What a store showed: nothing may take that back.

    What it did not show has not happened, where that ``is_final``. Where a process died
    and the system lives, the next writer may still carry out what that one had begun.
    """

    documents: dict[str, Environment]
    events: tuple[Event, ...]
    is_final: bool = True


class CrashPoints(NamedTuple):
    """What comes before was tried elsewhere: crash from here on."""


Note = Begun | Done | Failed | Shown | CrashPoints


class Known(NamedTuple):
    """What a store holds. ``log`` has all changes but those that were made ``is_manual``."""

    documents: dict[str, Environment]
    log: tuple[Outcome, ...] = ()
    is_manual: tuple[Environment, ...] = ()
    highest: int = 0

    def after(self, change: Begun, revisions: tuple[int, ...]) -> "Known":
        """What it holds after a change."""
        documents = self.documents.copy()
        for (name, version), revision in zip(change.outcomes, revisions, strict=True):
            documents.pop(name, None)
            if version is not None:
                documents[name] = version.copy()
                documents[name].revision = revision
        versions = tuple(version for _, version in change.outcomes if version)
        return Known(
            documents=documents,
            log=self.log if change.is_manual else self.log + change.outcomes,
            is_manual=self.is_manual + versions if change.is_manual else self.is_manual,
            highest=max(self.highest, *revisions),
        )


class Expected(NamedTuple):
    """What is known for certain, and the changes since: not all of them need have happened."""

    known: Known
    since: tuple[tuple[Begun, Done | None], ...] = ()

    def after(self, note: Note) -> "Expected":
        """What is expected once this is known too."""
        match note:
            case Begun():
                return self._replace(since=(*self.since, (note, None)))
            case Failed():
                return self._replace(since=self.since[:-1])
            case Done(revisions):
                *before, (change, _) = self.since
                if before:
                    return self._replace(since=(*before, (change, note)))
                return Expected(self.known.after(change, revisions))
            case Shown():
                return self.settled(note)
            case CrashPoints():
                return self

    def settled(self, shown: Shown) -> "Expected":
        """What is expected of a store that showed this. Raises a :class:`BrokenPromiseError`."""
        wrong: list[str] = []
        for is_whole, possible in self._possible(shown):
            problem = _problem(possible, shown)
            if not problem:
                return Expected(possible) if shown.is_final or is_whole else self
            if problem not in wrong:
                wrong.append(problem)
        raise BrokenPromiseError(" or else ".join(wrong))

    def _possible(self, shown: Shown) -> Iterator[tuple[bool, Known]]:
        """What may be the case, and whether that is all that was begun, and for good."""
        options = [(True,) if done else (True, False) for _, done in self.since]
        for chosen in product(*options):
            known = self.known
            for (change, done), has_happened in zip(self.since, chosen, strict=True):
                if has_happened:
                    known = known.after(change, done.revisions if done else _found(change, shown))
            # Nor does reading a manual edit make it durable.
            yield all(chosen) and not any(change.is_manual for change, _ in self.since), known


def look(store: FileStore, *, is_final: bool = True) -> Shown:
    """What a store shows."""
    documents = {found.id: found for found in store.find_all()}
    _require(store.count() == len(documents), "count and find_all differ")
    for name, found in list(documents.items())[:_MAX_SINGLE_READS]:
        _require(store.find_by_id(name) == found, f"{name}: find_by_id and find_all differ")
    return Shown(documents, tuple(store.history()), is_final)


def require_same(before: Shown, after: Shown) -> None:
    """Raise a :class:`BrokenPromiseError` where a store that is opened again shows other things."""
    problem = _difference(before.documents, after.documents)
    _require(not problem, f"shown otherwise: {problem}")
    _require(before.events == after.events, "shown otherwise: the history")


def _found(change: Begun, shown: Shown) -> tuple[int, ...]:
    """The revisions of a change that may have happened: those that are shown."""
    documents = (shown.documents.get(name) for name, version in change.outcomes if version)
    revisions = iter([found.revision if found else 0 for found in documents])
    return tuple(next(revisions) if version else 0 for _, version in change.outcomes)


def _problem(known: Known, shown: Shown) -> str:
    """What is wrong with what a store shows, if it holds what is known; nothing if all is well."""
    return next(_problems(known, shown), "")


def _problems(known: Known, shown: Shown) -> Iterator[str]:
    if difference := _difference(known.documents, shown.documents):
        yield difference
    revisions = [found.revision for found in shown.documents.values()]
    if len(set(revisions)) < len(revisions):
        yield f"revisions are not unique: {revisions}"
    numbers = [event.seq for event in shown.events]
    if numbers != sorted(set(numbers)):
        yield f"events are out of order: {numbers}"
    own = [event for event in shown.events if event.kind is not EventKind.EXTERNAL]
    log = tuple((event.environment_id, _version(event)) for event in own)
    if log != known.log:
        yield f"the history is {_names(log)} and not {_names(known.log)}"
    for event in shown.events:
        if event.kind is EventKind.EXTERNAL and event.environment not in known.is_manual:
            yield f"no edit explains event {event.seq}"
    last = {event.environment_id: event.revision for event in shown.events}
    for name, found in shown.documents.items():
        if found.revision != last[name] and found not in known.is_manual:
            yield f"{name}: revision {found.revision}, in the history {last[name]}"


def _version(event: Event) -> Environment | None:
    return None if event.kind is EventKind.DELETED else event.environment


def _difference(expected: dict[str, Environment], found: dict[str, Environment]) -> str:
    return "; ".join(
        f"{name}: is {_describe(found.get(name))} and not {_describe(expected.get(name))}"
        for name in sorted(expected.keys() | found.keys())
        if not _is_same(expected.get(name), found.get(name))
    )


def _is_same(old: Environment | None, new: Environment | None) -> bool:
    # Two versions are equal whatever their revisions are.
    return old == new and (old is None or new is None or old.revision == new.revision)


def _names(log: tuple[Outcome, ...]) -> list[str]:
    return [f"{name}: {version.name if version else 'gone'}" for name, version in log]


def _describe(version: Environment | None) -> str:
    return f"{version.name!r} (revision {version.revision})" if version else "gone"


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise BrokenPromiseError(message)
