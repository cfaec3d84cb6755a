# SPDX-License-Identifier: Apache-2.0
"""Events, and which part of a history can be asked for."""

import copy
import dataclasses
import math
import pickle
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from waggle_fsstore import Event, EventKind, HistoryPrunedError, Status
from waggle_fsstore.domain.event import check_range, check_timeout, cursor_of, parse_after
from waggle_fsstore.testing import make_environment


def make_event(**fields: Any) -> Event:
    values: dict[str, Any] = {
        "seq": 7,
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "kind": EventKind.DELETED,
        "environment_id": "a",
        "revision": 5,
        "status": None,
        "previous_status": Status.ERROR,
        "actor": "reaper",
        "reason": "idle",
        "environment": make_environment(id="a"),
    }
    return Event(**{**values, **fields})


def test_kinds_are_strings() -> None:
    """A kind can be written and compared as its text."""
    assert [*EventKind] == ["created", "updated", "deleted", "external"]
    assert f"{EventKind.EXTERNAL}" == "external"


def test_event_is_immutable_and_hashable() -> None:
    """An event cannot be changed, has no other attributes, and can be a member of a set."""
    event = make_event()
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.actor = "nobody"  # type: ignore[misc]
    assert not hasattr(event, "__dict__")
    assert {event, make_event(environment=event.environment)} == {event}
    assert event != make_event(environment=make_environment(id="a"))


def test_event_survives_pickle_and_copy() -> None:
    """An event that crosses a process pool is the same on the other side."""
    event = make_event()
    for other in (
        pickle.loads(pickle.dumps(event)),  # noqa: S301  # our own bytes
        copy.deepcopy(event),
        event.copy(),
    ):
        assert other == event
        assert other.environment is not event.environment


def test_copy_is_independent() -> None:
    """Changing the environment of a copy leaves the event unchanged."""
    event = make_event()
    other = event.copy()
    assert other.environment is not None
    other.environment.labels["team"] = "blue"
    other.environment.extra["colour"][1]["depth"] = 0
    assert event != other
    assert event.environment is not None
    assert event.environment.labels["team"] == "red"
    assert event.environment.extra["colour"][1]["depth"] == 2.5


def test_copy_without_environment_is_equal() -> None:
    """An event whose document could not be read is copied like any other."""
    event = make_event(environment=None)
    assert event.copy() == event


@pytest.mark.parametrize(
    ("after", "until"), [(0, None), (4, None), (9, None), (9, 0), (0, 0), (5, 100), (6, 5)]
)
def test_valid_ranges_are_accepted(after: int, until: int | None) -> None:
    """Of the events 5 to 9, any after 4 to 9 can be requested, and after 0 all that are left."""
    check_range(after, until, oldest=5, last=9)


@pytest.mark.parametrize(
    ("after", "until", "message"),
    [
        (-1, None, "after: -1 is negative"),
        (0, -1, "until: -1 is negative"),
        (10, None, "after: 10 is beyond the last change, 9"),
    ],
)
def test_invalid_ranges_are_refused_by_name(after: int, until: int | None, message: str) -> None:
    """A number that no history can contain is refused with the name of its argument."""
    with pytest.raises(ValueError, match=message):
        check_range(after, until, oldest=5, last=9)


@pytest.mark.parametrize(("after", "oldest"), [(1, 5), (3, 5), (8, 10)])
def test_pruned_range_is_refused_with_oldest_event(after: int, oldest: int) -> None:
    """A cursor before pruned events is refused, with the first number that is available."""
    with pytest.raises(HistoryPrunedError) as caught:
        check_range(after, None, oldest=oldest, last=9)
    assert caught.value.oldest == oldest


def test_cursor_is_parsed_back() -> None:
    """A cursor is a text with the number of a change; a number, also as a text, has no token."""
    digits = "0123456789abcdef"
    assert parse_after(cursor_of(57, digits)) == (57, digits)
    assert parse_after("57") == parse_after(57) == (57, "")
    assert make_event(cursor="57-x", environment=None) == make_event(environment=None)


@pytest.mark.parametrize(
    "text",
    ["", "-", "5-", "5-xyz", " 5", "5\n", "\u0665", "x" * 999, "5-0123456789ABCDEF", "9" * 21],
)
def test_other_text_is_no_cursor(text: str) -> None:
    """Any other text is refused with the name of the argument, in a bounded message."""
    with pytest.raises(ValueError, match=r"after: .* neither") as caught:
        parse_after(text)
    assert len(str(caught.value)) < 200


def test_timeouts_are_finite_seconds_or_none() -> None:
    """A timeout is a number of seconds that a lock can wait, or none."""
    for timeout in (None, 0, 0.5, threading.TIMEOUT_MAX):
        check_timeout(timeout)
    for timeout in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="timeout"):
            check_timeout(timeout)
