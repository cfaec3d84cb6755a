# SPDX-License-Identifier: Apache-2.0
"""Durations are read and written as Go does it."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle_fsstore.domain.duration import format_duration, parse_duration

# What an int64 of nanoseconds holds: every duration that Go has.
_LONGEST = timedelta(microseconds=(2**63 - 1) // 1000)

# From the tests of Go's package time, src/time/time_test.go, as far as microseconds reach.
_PARSED = [
    ("0", timedelta(0)),
    ("5s", timedelta(seconds=5)),
    ("30s", timedelta(seconds=30)),
    ("1478s", timedelta(seconds=1478)),
    ("-5s", timedelta(seconds=-5)),
    ("+5s", timedelta(seconds=5)),
    ("-0", timedelta(0)),
    ("+0", timedelta(0)),
    ("5.0s", timedelta(seconds=5)),
    ("5.6s", timedelta(seconds=5, milliseconds=600)),
    ("5.s", timedelta(seconds=5)),
    (".5s", timedelta(milliseconds=500)),
    ("1.004s", timedelta(seconds=1, milliseconds=4)),
    ("100.00100s", timedelta(seconds=100, milliseconds=1)),
    ("7000ns", timedelta(microseconds=7)),
    ("11us", timedelta(microseconds=11)),
    ("12\N{MICRO SIGN}s", timedelta(microseconds=12)),
    ("12\N{GREEK SMALL LETTER MU}s", timedelta(microseconds=12)),
    ("13ms", timedelta(milliseconds=13)),
    ("14s", timedelta(seconds=14)),
    ("15m", timedelta(minutes=15)),
    ("16h", timedelta(hours=16)),
    ("3h30m", timedelta(hours=3, minutes=30)),
    ("10.5s4m", timedelta(minutes=4, seconds=10, milliseconds=500)),
    ("-2m3.4s", -timedelta(minutes=2, seconds=3, milliseconds=400)),
    ("39h9m14.425s", timedelta(hours=39, minutes=9, seconds=14, milliseconds=425)),
    ("1.5h", timedelta(minutes=90)),
    ("52763797000000ns", timedelta(seconds=52763, milliseconds=797)),
    ("1499ns", timedelta(microseconds=1)),
    ("1500ns", timedelta(microseconds=2)),
    ("9223372036854775807ns", _LONGEST + timedelta(microseconds=1)),
]

_FORMATTED = [
    (timedelta(0), "0s"),
    (timedelta(microseconds=1), "1\N{MICRO SIGN}s"),
    (timedelta(microseconds=1100), "1.1ms"),
    (timedelta(microseconds=2_200), "2.2ms"),
    (timedelta(milliseconds=10), "10ms"),
    (timedelta(seconds=1, milliseconds=500), "1.5s"),
    (timedelta(seconds=3, milliseconds=300), "3.3s"),
    (timedelta(seconds=10), "10s"),
    (timedelta(minutes=4, seconds=5), "4m5s"),
    (timedelta(minutes=4, seconds=5, milliseconds=1), "4m5.001s"),
    (timedelta(minutes=30), "30m0s"),
    (timedelta(minutes=90), "1h30m0s"),
    (timedelta(hours=5, minutes=6, seconds=7, milliseconds=1), "5h6m7.001s"),
    (timedelta(minutes=8, microseconds=1), "8m0.000001s"),
    (timedelta(hours=100), "100h0m0s"),
    (timedelta(minutes=-1), "-1m0s"),
    (_LONGEST, "2562047h47m16.854775s"),
]

_REFUSED = [
    "",
    "3",
    "-",
    "s",
    ".",
    "-.",
    ".s",
    "+.s",
    "1d",
    "1h30",
    "1h-3m",
    "+-1s",
    " 1s",
    "1s\n",
    "1S",
    "0x1s",
    "1e3s",
    "\N{ARABIC-INDIC DIGIT ONE}s",
    "half an hour",
    "0" * 200 + "s",
]


@pytest.mark.parametrize(("text", "expected"), _PARSED)
def test_parse_duration_reads_go_forms(text: str, expected: timedelta) -> None:
    """Each form that Go accepts has the value that it has in Go."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize(("duration", "expected"), _FORMATTED)
def test_format_duration_matches_go(duration: timedelta, expected: str) -> None:
    """Each duration is written as Go's Duration.String writes it."""
    assert format_duration(duration) == expected


@pytest.mark.parametrize("text", _REFUSED)
def test_parse_duration_refuses_other_text(text: str) -> None:
    """Any other text is refused with a message that quotes it, shortened if necessary."""
    with pytest.raises(ValueError, match="is not a duration: write one like 30s") as caught:
        parse_duration(text)
    assert repr(text)[:90] in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["9223372036854775808ns", "-2562048h", "9" * 90 + "h"])
def test_parse_duration_refuses_values_beyond_go_range(text: str) -> None:
    """A duration beyond 292 years is refused as out of range."""
    with pytest.raises(ValueError, match="is out of range: the longest is 292 years") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@given(st.timedeltas(min_value=-_LONGEST, max_value=_LONGEST))
def test_duration_round_trips(duration: timedelta) -> None:
    """Every duration is read back unchanged, to the microsecond."""
    assert parse_duration(format_duration(duration)) == duration


@given(st.text(alphabet="0123456789.+-nuµmsh ", max_size=12))
def test_parse_duration_raises_only_value_error(text: str) -> None:
    """No text raises another error, and an accepted text has one canonical form."""
    try:
        duration = parse_duration(text)
    except ValueError:
        return
    assert parse_duration(format_duration(duration)) == duration


@given(st.timedeltas())
def test_format_duration_accepts_any_timedelta(duration: timedelta) -> None:
    """A timedelta beyond Go's range is written too, with the sign in front."""
    assert format_duration(duration).startswith("-") == (duration < timedelta(0))
