# SPDX-License-Identifier: Apache-2.0
"""Selections of changes by the bytes of their lines: none that is wanted is passed over."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from waggle_fsstore.domain.event import EventFilter, EventKind
from waggle_fsstore.store.format.canonical_json import compact, timestamp
from waggle_fsstore.store.journal import lines
from waggle_fsstore.store.journal.selection import NOTHING, Selection, of_filter, of_id

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_IDS = ["one", "two", 'with "quotes"', "back\\slash", "},{", "\N{SNOWMAN}"]
_ACTORS = ["maja", "MAJA mcp:x", 'o"tto\\', "Stra\N{LATIN SMALL LETTER SHARP S}e", "tab\t", "}]},{"]

_TIMES = st.integers(0, 3).map(lambda hours: _BEGIN + timedelta(hours=hours))
_TEXTS = st.sampled_from([*_ACTORS, '"actor":"maja"', '"kind":"deleted","id":"one"'])


@st.composite
def _changes(draw: st.DrawFn) -> dict[str, Any]:
    document = {"id": draw(st.sampled_from(_IDS)), "labels": {"actor": draw(_TEXTS)}}
    return {
        "seq": draw(st.integers(1, 10**6)),
        "at": timestamp(draw(_TIMES)),
        "actor": draw(st.sampled_from(_ACTORS)),
        "reason": draw(_TEXTS),
        "kind": draw(st.sampled_from(list(EventKind))).value,
        "id": document["id"],
        "was": None,
        "document": document | {"extra": draw(st.sampled_from([[], [{}, {}]]))},
    }


_FILTERS = st.builds(
    EventFilter,
    st.frozensets(st.sampled_from([*_IDS, "", "\ud800"]), max_size=3),
    st.sampled_from(["", "maja", "O", '"', "\\", "SS", "\t", "mcp:"]),
    st.frozensets(st.sampled_from(list(EventKind)), max_size=2),
    st.none() | _TIMES,
    st.none() | _TIMES,
)


def _selected(line: bytes, only: Selection | None) -> list[dict[str, Any]]:
    [found], bad = lines.scan(line)
    assert not bad
    some, bad = lines.scan(line, only=only)
    assert not bad
    assert some in ([], [found])
    return [one for it in some for one in it.changes if only is None or only.matches(one)]


def _wanted(changes: list[dict[str, Any]], wanted: EventFilter) -> list[dict[str, Any]]:
    return [
        one
        for one in changes
        if wanted.accepts(one["id"], one["actor"], one["kind"], datetime.fromisoformat(one["at"]))
    ]


def _change(**values: str) -> dict[str, Any]:
    plain = {"seq": 1, "at": timestamp(_BEGIN), "actor": "maja", "reason": "", "kind": "created"}
    return {**plain, "id": "one", "was": None, "document": None, **values}


@given(st.lists(_changes(), min_size=1, max_size=3), _FILTERS)
@example([_change(actor='o"tto')], EventFilter(actor='"TT'))
@example([_change(), _change(actor="otto")], EventFilter(actor="otto"))
def test_selection_is_that_of_parsed_changes(
    changes: list[dict[str, Any]], wanted: EventFilter
) -> None:
    """A selection has the changes that a filter of all parsed ones has."""
    line = lines.encode(lines.CHANGES, changes)
    assert _selected(line, of_filter(wanted)) == _wanted(changes, wanted)
    for one in _IDS:
        assert _selected(line, of_id(one)) == [it for it in changes if it["id"] == one]


@given(_changes(), st.sampled_from(["", "maja", "O", '"', "\\", "SS"]), st.booleans())
def test_line_in_another_form_is_looked_at(
    change: dict[str, Any], actor: str, sort_keys: bool
) -> None:
    """A line that another program wrote, in another order or with other escapes, is parsed."""
    text = json.dumps({lines.CHANGES: [change]}, sort_keys=sort_keys).encode()[1:]
    line = b'{"crc":"%08x",%b\n' % (crc32(text), text)
    wanted = EventFilter(actor=actor, since=_BEGIN + timedelta(hours=1))
    assert _selected(line, of_filter(wanted)) == _wanted([change], wanted)


@given(st.lists(_changes(), min_size=1, max_size=3))
def test_line_of_other_environments_is_not_parsed(changes: list[dict[str, Any]]) -> None:
    """Neither are single changes by other actors, of other kinds, or of another time."""
    line = lines.encode(lines.CHANGES, changes)
    for only in (of_id("three"), of_filter(EventFilter(frozenset({"three"})))):
        assert only is not None
        assert not only.may_be_in(line)
    line = lines.encode(lines.CHANGES, [_change()])
    for wanted in (
        EventFilter(actor="otto"),
        EventFilter(kinds=frozenset({EventKind.DELETED})),
        EventFilter(since=_BEGIN + timedelta(days=1)),
        EventFilter(until=_BEGIN - timedelta(days=1)),
        EventFilter(frozenset({"three", "four"})),
    ):
        only = of_filter(wanted)
        assert only is not None
        assert not only.may_be_in(line)


def test_checkpoint_is_no_change() -> None:
    """Lines of other kinds have no change that could match."""
    line = lines.checkpoint(lines.Cursor(1, 1, 1), {"store": "x"})
    assert _selected(line, of_filter(EventFilter(actor="a"))) == []


@pytest.mark.parametrize("name", ["", "\ud800", "\0"])
def test_invalid_id_selects_nothing(name: str) -> None:
    """No change can have it."""
    assert of_id(name) is NOTHING
    assert of_filter(EventFilter(frozenset({name}))) is NOTHING
    assert not NOTHING.may_be_in(compact({"id": ""}))
    assert not NOTHING.matches({"id": ""})


def test_empty_filter_is_no_selection() -> None:
    """All changes pass, also those in lines that nothing has parsed yet."""
    assert of_filter(EventFilter()) is None
