# SPDX-License-Identifier: Apache-2.0
"""The arguments of tools: any value is taken for what it can only mean, or refused in words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle_fsstore.domain.environment import Runtime
from waggle_fsstore.server.arguments import Arguments, Choice, Flag, Kind, Text, WholeNumber
from waggle_fsstore.server.tools import Tools

CREATE = Arguments.of(Tools.create_environment)

JSON = (
    st.sampled_from([None, True, [], [5], {}, {"a": 1}, 10**400, -(10**5_000)])
    | st.integers()
    | st.floats()
    | st.text()
)


def valid(kind: Kind, value: object) -> bool:
    """Return whether a value fits the schema, as a client without conversions checks it."""
    schema = kind.schema()
    python_type = {"string": str, "integer": int, "boolean": bool}[schema["type"]]
    return (
        type(value) is python_type
        and value in schema.get("enum", [value])
        and (type(value) is not int or schema["minimum"] <= value <= schema.get("maximum", value))
    )


@given(st.dictionaries(st.sampled_from([*CREATE.known, "language", "é"]), JSON, max_size=4))
def test_any_arguments_are_parsed_or_refused(sent: dict[str, Any]) -> None:
    """What is taken fits the schema; what is refused is explained in one short line."""
    try:
        values = CREATE.parse(sent)
    except ValueError as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 2_000
        return
    assert "runtime" in values
    for name, value in values.items():
        assert valid(CREATE.known[name].kind, value if name != "runtime" else str(value))


@pytest.mark.parametrize("value", [10**400, -(10**5_000)], ids=["400 digits", "5000 digits"])
def test_huge_number_is_refused_for_every_argument(value: int) -> None:
    """A number beyond what a float or a text can be made of is refused like any other."""
    for name in [*CREATE.known, "language", "other"]:
        with pytest.raises(ValueError, match=f"no argument '{name}'|{name} must be .* digits"):
            CREATE.parse({name: value})


@given(st.integers(-(10**25), 10**25), st.sampled_from(["{}", " {} ", "{}.0", "{}.", "{}.000"]))
def test_whole_number_is_taken_in_any_form(number: int, form: str) -> None:
    """An integer means the same as a JSON number with or without a fraction, and in quotes."""
    kind = WholeNumber(description="", low=1, high=10**6)
    texts = [form.format(number), number, json.dumps(form.format(number))[1:-1]]
    for value in texts:
        if 1 <= number <= 10**6:
            assert kind.parse(value) == number
            assert kind.parse(float(number)) == number
        else:
            with pytest.raises(ValueError, match="must be a whole number from 1 to 1000000"):
                kind.parse(value)


@pytest.mark.parametrize(
    "value", ["", "5,0", "5e1", "0x5", "5_0", "\u0665", "five", "1.5", [], {}, True, float("nan")]
)
def test_other_values_are_no_whole_number(value: object) -> None:
    """What may mean something else is refused."""
    with pytest.raises(ValueError, match="must be a whole number of at least 0"):
        WholeNumber(description="", low=0).parse(value)


def test_flag_is_taken_in_any_form() -> None:
    """A flag may be a boolean, a word in any case, 1 or 0."""
    flag = Flag(description="")
    value: Any
    for value in (True, "true", "TRUE", " True ", 1, "1", "yes"):
        assert flag.parse(value) is True
    for value in (False, "false", "False", 0, "0", "no"):
        assert flag.parse(value) is False
    for value in ("", "2", 2, 10**5_000, 0.0, "on", [], None):
        with pytest.raises(ValueError, match="must be true or false"):
            flag.parse(value)


def test_text_may_be_a_whole_number() -> None:
    """A number in place of a text, such as a name, is its digits."""
    text = Text(description="", max_length=5)
    assert [text.parse(value) for value in (2026, -1, "5", "a")] == ["2026", "-1", "5", "a"]
    others: list[object] = [5.0, True, None, [], 10**30]
    for value in others:
        with pytest.raises(ValueError, match="must be a text"):
            text.parse(value)
    with pytest.raises(ValueError, match="must be a text of at most 5 characters"):
        text.parse("abcdef")


def test_choice_ignores_case() -> None:
    """The values of a choice may come in any case."""
    choice = Choice(description="", values=Runtime)
    assert choice.parse(" PyThon\n") is Runtime.PYTHON
    with pytest.raises(ValueError, match="must be python, node or shell"):
        choice.parse("pythn")


def test_number_of_problems_is_bounded() -> None:
    """A client that sends nonsense gets a short answer."""
    with pytest.raises(ValueError, match="it takes runtime") as caught:
        CREATE.parse({f"{'x' * 1_000}{number}": None for number in range(1_000)})
    assert len(str(caught.value)) < 2_000
