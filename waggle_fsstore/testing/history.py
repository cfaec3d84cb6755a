# SPDX-License-Identifier: Apache-2.0
"""The contract of the history: one event for each change."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import HistoryLostError, StoreClosedError, WaggleError
from waggle_fsstore.domain.event import Event, EventKind, cursor_of
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.audit import AuthorContract
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.repository import spoil
from waggle_fsstore.testing.update import never
from waggle_fsstore.testing.watch import WatchContract

Write = Callable[[TransactionalRepository, Environment], object]

_WRITES: dict[str, Write] = {
    "save": lambda store, new: store.save(new),
    "create": lambda store, new: store.create(new),
    "save_all": lambda store, new: store.save_all([new]),
    # Expects the only version, or none.
    "conditional save": lambda store, new: store.save(new, if_revision=store.count()),
    "update": lambda store, new: store.update(new.id, _replace_by(new)),
}


class HistoryContract(WatchContract, AuthorContract):
    """Subclass it and define one fixture: ``repository``, an empty store."""

    @pytest.mark.parametrize("write", ["save", "create", "save_all", "conditional save"])
    def test_creation_is_an_event(self, repository: TransactionalRepository, write: str) -> None:
        """Storing a new id is one event, with the right value in every field."""
        environment = make_environment(id="a", status=Status.CREATING)
        before = datetime.now(UTC)
        with audit(actor="maja", reason="asked for"):
            _WRITES[write](repository, environment)
        after = datetime.now(UTC)
        (event,) = repository.history()
        assert event == Event(
            seq=1,
            at=event.at,
            kind=EventKind.CREATED,
            environment_id="a",
            revision=1,
            status=Status.CREATING,
            previous_status=None,
            actor="maja",
            reason="asked for",
            environment=environment,
        )
        assert before <= event.at <= after
        assert event.at.utcoffset() == timedelta(0)
        assert _revision_of(event) == 1

    @pytest.mark.parametrize("write", ["save", "update", "save_all", "conditional save"])
    def test_new_version_is_event(self, repository: TransactionalRepository, write: str) -> None:
        """Storing an id again is one event, with the new version and the previous status."""
        repository.save(make_environment(id="a", status=Status.CREATING))
        environment = make_environment(id="a", status=Status.RUNNING)
        with audit(actor="willi", reason="is ready"):
            _WRITES[write](repository, environment)
        _, event = repository.history()
        assert event == Event(
            seq=2,
            at=event.at,
            kind=EventKind.UPDATED,
            environment_id="a",
            revision=2,
            status=Status.RUNNING,
            previous_status=Status.CREATING,
            actor="willi",
            reason="is ready",
            environment=environment,
        )
        assert _revision_of(event) == 2

    def test_deletion_is_event(self, repository: TransactionalRepository) -> None:
        """A deletion is one event with a new number, and contains the deleted version."""
        repository.save(make_environment(id="b"))
        environment = make_environment(id="a", status=Status.ERROR)
        revision = repository.save(environment)
        before = datetime.now(UTC)
        with audit(actor="reaper", reason="idle 31 min > 30 min"):
            repository.delete("a")
        after = datetime.now(UTC)
        *_, event = repository.history()
        assert event == Event(
            seq=event.seq,
            at=event.at,
            kind=EventKind.DELETED,
            environment_id="a",
            revision=revision,
            status=None,
            previous_status=Status.ERROR,
            actor="reaper",
            reason="idle 31 min > 30 min",
            environment=environment,
        )
        assert before <= event.at <= after
        assert event.seq > revision == _revision_of(event)

    def test_recreated_environment_starts_over(self, repository: TransactionalRepository) -> None:
        """Creating a deleted id again is a creation, with a revision above that of the deletion."""
        repository.save(make_environment(id="a"))
        repository.delete("a")
        revision = repository.create(make_environment(id="a"))
        events = list(repository.history("a"))
        assert [event.kind for event in events] == ["created", "deleted", "created"]
        assert events[2].previous_status is None
        assert events[1].seq < events[2].seq == events[2].revision == revision

    def test_each_change_of_batch_is_event(self, repository: TransactionalRepository) -> None:
        """Each change of a batch is one event, in the order of the batch."""
        repository.save(make_environment(id="b", status=Status.RUNNING))
        batch = [make_environment(id=name, status=Status.ERROR) for name in "cba"]
        with audit(actor="loader", reason="all at once"):
            revisions = repository.save_all(batch)
        events = list(repository.history(after=1))
        assert [event.environment for event in events] == batch
        assert [event.kind for event in events] == ["created", "updated", "created"]
        assert [event.previous_status for event in events] == [None, Status.RUNNING, None]
        assert [event.seq for event in events] == [event.revision for event in events] == revisions
        assert {(event.actor, event.reason) for event in events} == {("loader", "all at once")}

    def test_history_returns_range(self, repository: TransactionalRepository) -> None:
        """``after`` is excluded, ``until`` included, and both may be any number up to the last."""
        _fill(repository)
        events = list(repository.history())
        numbers = [event.seq for event in events]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 6
        for after in range(numbers[-1] + 1):
            assert list(repository.history(after=after)) == [e for e in events if e.seq > after]
            for until in range(numbers[-1] + 3):
                assert list(repository.history(after=after, until=until)) == [
                    event for event in events if after < event.seq <= until
                ]

    def test_cursor_continues_after_its_event(self, repository: TransactionalRepository) -> None:
        """The cursor of an event stands for the event, in history and watch, and differs."""
        _fill(repository)
        events = list(repository.history())
        assert len({event.cursor for event in events}) == len(events)
        for position, event in enumerate(events, 1):
            rest = events[position:]
            for found in (
                repository.history(after=event.cursor),
                repository.history(after=event.seq),
                repository.history(after=str(event.seq)),
                repository.watch(after=event.cursor, timeout=0),
            ):
                again = list(found)
                assert again == rest
                assert [one.cursor for one in again] == [one.cursor for one in rest]
            own = [one for one in rest if one.environment_id == "a"]
            assert list(repository.history("a", after=event.cursor)) == own

    def test_cursor_of_other_store_is_refused(self, repository: TransactionalRepository) -> None:
        """A cursor of another store is refused, whether or not its number exists here."""
        repository.save(make_environment())
        for cursor in (cursor_of(1, "f" * 16), cursor_of(99, "f" * 16)):
            for call in (repository.history, repository.watch):
                with pytest.raises(HistoryLostError) as caught:
                    call(after=cursor)
                assert isinstance(caught.value, ValueError)
        for text in ("", "first", "-1"):
            with pytest.raises(ValueError, match="after"):
                repository.history(after=text)
            with pytest.raises(ValueError, match="after"):
                repository.watch(after=text)

    def test_history_selects_one_environment(self, repository: TransactionalRepository) -> None:
        """An id selects its own events within the range; an unknown id has none."""
        _fill(repository)
        for name in "abc":
            own = [event for event in repository.history() if event.environment_id == name]
            assert own == list(repository.history(name))
            assert own[1:] == list(repository.history(name, after=own[0].seq))
            assert own[:1] == list(repository.history(name, until=own[0].seq))
        for unknown in ("d", "", "A", "\ud800"):
            assert list(repository.history(unknown)) == []

    def test_history_of_empty_store_is_empty(self, repository: TransactionalRepository) -> None:
        """A store without changes has no events."""
        assert list(repository.history()) == []
        assert list(repository.history("a", after=0, until=5)) == []

    def test_history_refuses_invalid_range(self, repository: TransactionalRepository) -> None:
        """A number that is negative or beyond the last change is refused by the call itself."""
        repository.save(make_environment())
        ranges: list[tuple[str, int, int | None]] = [
            ("after", -1, None),
            ("after", 2, None),
            ("until", 0, -1),
            ("until", 1, -1),
        ]
        for name, after, until in ranges:
            with pytest.raises(ValueError, match=name):
                repository.history(after=after, until=until)
        assert list(repository.history(after=1)) == []

    def test_events_share_nothing(self, repository: TransactionalRepository) -> None:
        """Events share nothing with saved arguments, other events or the store."""
        environment = make_environment(id="a")
        repository.save(environment)
        spoil(environment)
        repository.update("a", lambda copy: copy.labels.update(seen="yes"))
        repository.delete("a")
        repository.save(make_environment(id="a"))
        expected = list(repository.history())
        stored = repository.find_by_id("a")
        for events in (repository.history(), repository.watch(after=0, timeout=0)):
            for event in events:
                assert event.environment is not None
                spoil(event.environment)
        assert list(repository.history()) == expected
        assert expected[0].environment is not None
        assert expected[0].environment.labels == {"team": "red", "tier": "gold"}
        assert repository.find_by_id("a") == stored

    def test_refused_change_leaves_no_event(self, repository: TransactionalRepository) -> None:
        """A refused change adds no event to the history."""
        repository.save(make_environment(id="a"))
        invalid = make_environment(id="b")
        invalid.ssh_port = -1
        expected = list(repository.history())

        def half() -> Iterator[Environment]:
            yield make_environment(id="b")
            raise ZeroDivisionError

        calls: list[Callable[[], object]] = [
            lambda: repository.save(make_environment(id="a"), if_revision=7),
            lambda: repository.save(make_environment(id="b"), if_revision=7),
            lambda: repository.create(make_environment(id="a")),
            lambda: repository.create(make_environment(id="b"), capacity=1),
            lambda: repository.save(invalid),
            lambda: repository.save_all([make_environment(id="c"), invalid]),
            lambda: repository.save_all([make_environment(id="b"), make_environment(id="b")]),
            lambda: repository.save_all(half()),
            lambda: repository.delete("b"),
            lambda: repository.update("b", never),
            lambda: repository.update("a", lambda copy: setattr(copy, "ssh_port", -1)),
            lambda: repository.update("a", lambda copy: setattr(copy, "id", "b")),
            lambda: repository.update("a", lambda _: repository.delete("a")),
        ]
        for call in calls:
            with pytest.raises((WaggleError, ValueError, RuntimeError, ZeroDivisionError)):
                call()
        repository.save_all([])
        assert list(repository.history()) == expected

    def test_history_is_fixed_at_its_call(self, repository: TransactionalRepository) -> None:
        """A reader gets the events of its call, and blocks no writer, even half-way."""
        _fill(repository)
        expected = list(repository.history())
        one, two, dropped = (repository.history() for _ in range(3))
        next(dropped)
        seen = []
        for event in one:
            seen.append(event)
            assert next(two) == event
            writer = threading.Thread(target=repository.save, args=[make_environment()])
            writer.start()
            writer.join()
        assert seen == expected
        assert next(two, None) is None
        assert len(list(repository.history(after=expected[-1].seq))) == len(expected)

    def test_history_works_inside_update(self, repository: TransactionalRepository) -> None:
        """A function passed to ``update`` may read the history."""
        repository.save(make_environment(id="a"))
        seen: list[Event] = []
        repository.update("a", lambda _: seen.extend(repository.history()))
        assert seen == list(repository.history(until=1))

    def test_history_of_closed_store_raises(self, repository: TransactionalRepository) -> None:
        """After ``close``, the call itself raises."""
        repository.save(make_environment())
        repository.close()
        with pytest.raises(StoreClosedError):
            repository.history()


def _revision_of(event: Event) -> int:
    """Return the revision of the version in an event."""
    assert event.environment is not None
    return event.environment.revision


def _replace_by(new: Environment) -> Callable[[Environment], None]:
    def change(copy: Environment) -> None:
        for field in dataclasses.fields(new):
            setattr(copy, field.name, getattr(new, field.name))

    return change


def _fill(repository: TransactionalRepository) -> None:
    """Make six changes of three environments; ``a`` and ``c`` stay stored, ``b`` is deleted."""
    repository.save(make_environment(id="a"))
    repository.save_all([make_environment(id="b"), make_environment(id="c")])
    repository.delete("b")
    repository.update("c", Environment.touch)
    repository.save(make_environment(id="a"))
