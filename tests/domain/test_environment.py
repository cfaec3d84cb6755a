# SPDX-License-Identifier: Apache-2.0
"""Environments: valid values, expiry, and the state machine."""

import copy
import dataclasses
import pickle
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from functools import partial
from itertools import product
from typing import Any

import pytest

from waggle_fsstore import (
    Capabilities,
    Environment,
    Idempotency,
    InvalidEnvironmentError,
    InvalidEnvironmentIdError,
    InvalidRuntimeError,
    InvalidTransitionError,
    Owner,
    Runtime,
    Status,
)
from waggle_fsstore.domain.environment import MAX_TIMEOUT
from waggle_fsstore.testing import make_environment

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)

TRANSITIONS = {
    ("creating", "running"),
    ("creating", "error"),
    ("running", "destroying"),
    ("running", "error"),
    ("destroying", "destroyed"),
    ("error", "running"),
    ("error", "destroying"),
}


def test_environment_has_documented_defaults() -> None:
    """Name and runtime are enough; the other fields have the documented defaults."""
    before = datetime.now(UTC)
    environment = Environment(name="n", runtime=Runtime.PYTHON)
    other = Environment(name="n", runtime=Runtime.PYTHON)
    after = datetime.now(UTC)
    assert before <= environment.created_at <= environment.last_used <= after
    assert len(environment.id) == 36
    assert environment.id != other.id
    assert environment.labels is not other.labels
    assert environment == Environment(
        id=environment.id,
        name="n",
        runtime=Runtime.PYTHON,
        status=Status.CREATING,
        ssh_port=0,
        created_at=environment.created_at,
        last_used=environment.last_used,
        timeout=timedelta(minutes=30),
        capabilities=None,
        labels={},
        provider=None,
        owner=None,
        status_reason="",
        revision=0,
        extra={},
    )


def test_revision_is_not_compared() -> None:
    """Two copies of one version are equal, whether or not they came from a store."""
    environment = make_environment()
    assert dataclasses.replace(environment, revision=5) == environment


def test_factory_leaves_no_two_fields_equal() -> None:
    """A store that swaps two fields cannot hide it."""
    environment = make_environment()
    values = [repr(getattr(environment, field.name)) for field in dataclasses.fields(environment)]
    assert len(set(values)) == len(values)
    defaults = Environment(name="n", runtime=Runtime.PYTHON)
    unset = [
        field.name
        for field in dataclasses.fields(environment)
        if getattr(environment, field.name) == getattr(defaults, field.name)
    ]
    assert unset == ["revision"]


def test_strings_become_enums() -> None:
    """The strings used in documents are accepted, and converted to their enums."""
    environment = Environment(name="n", runtime="node", status="running")  # type: ignore[arg-type]
    assert environment.runtime is Runtime.NODE
    assert environment.status is Status.RUNNING


def test_times_become_utc() -> None:
    """Any aware time is accepted, and kept as the same moment in UTC."""
    there = timezone(timedelta(hours=5, minutes=30))
    environment = make_environment(created_at=NOW.astimezone(there))
    assert environment.created_at == NOW
    assert environment.created_at.tzinfo is UTC


def test_constructor_copies_labels_and_extra() -> None:
    """Labels and extra passed by the caller are copied at any depth."""
    labels, extra = {"a": "b"}, {"deep": [{"x": 1}]}
    environment = make_environment(labels=labels, extra=extra)
    labels["a"] = "changed"
    extra["deep"][0]["x"] = 2
    assert environment.labels == {"a": "b"}
    assert environment.extra == {"deep": [{"x": 1}]}


def test_subclasses_of_str_are_kept_as_text() -> None:
    """Of a string enum only the text is kept: nothing else could come back from a file."""

    class Team(StrEnum):
        RED = "red"

    environment = make_environment(
        name=Team.RED, labels={Team.RED: Team.RED}, extra={"t": Team.RED}
    )
    assert type(environment.name) is str
    assert {type(text) for text in (*environment.labels, *environment.labels.values())} == {str}
    assert type(environment.extra["t"]) is str


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("id", "", InvalidEnvironmentIdError),
        ("id", "x" * 201, InvalidEnvironmentIdError),
        ("id", "é" * 101, InvalidEnvironmentIdError),
        ("id", "nul\0", InvalidEnvironmentIdError),
        ("id", "\ud800", InvalidEnvironmentIdError),
        ("id", b"bytes", InvalidEnvironmentIdError),
        ("id", None, InvalidEnvironmentIdError),
        ("runtime", "cobol", InvalidRuntimeError),
        ("runtime", None, InvalidRuntimeError),
        ("runtime", [], InvalidRuntimeError),
        ("status", "asleep", InvalidEnvironmentError),
        ("status", 3, InvalidEnvironmentError),
        ("name", None, InvalidEnvironmentError),
        ("name", "\udfff", InvalidEnvironmentError),
        ("ssh_port", -1, InvalidEnvironmentError),
        ("ssh_port", 65_536, InvalidEnvironmentError),
        ("ssh_port", "22", InvalidEnvironmentError),
        ("ssh_port", True, InvalidEnvironmentError),
        ("ssh_port", 22.0, InvalidEnvironmentError),
        ("created_at", datetime(2026, 1, 1), InvalidEnvironmentError),
        ("last_used", datetime(2026, 1, 1), InvalidEnvironmentError),
        ("created_at", "2026-01-01T00:00:00Z", InvalidEnvironmentError),
        (
            "created_at",
            datetime.min.replace(tzinfo=timezone(timedelta(hours=9))),
            InvalidEnvironmentError,
        ),
        ("timeout", 30, InvalidEnvironmentError),
        ("timeout", timedelta.max, InvalidEnvironmentError),
        ("capabilities", {}, InvalidEnvironmentError),
        ("labels", None, InvalidEnvironmentError),
        ("labels", {"n": 1}, InvalidEnvironmentError),
        ("labels", {1: "n"}, InvalidEnvironmentError),
        ("labels", {"n": "\ud800"}, InvalidEnvironmentError),
        ("provider", 5, InvalidEnvironmentError),
        ("owner", {"pid": 1}, InvalidEnvironmentError),
        ("status_reason", None, InvalidEnvironmentError),
        ("revision", -1, InvalidEnvironmentError),
        ("revision", 2**53, InvalidEnvironmentError),
        ("extra", [], InvalidEnvironmentError),
        ("extra", {"name": "n"}, InvalidEnvironmentError),
        ("extra", {"timeout_seconds": 5}, InvalidEnvironmentError),
        ("extra", {"checksum": "x"}, InvalidEnvironmentError),
        ("extra", {"schema": 1}, InvalidEnvironmentError),
        ("extra", {"timeout": 1}, InvalidEnvironmentError),
        ("extra", {5: "n"}, InvalidEnvironmentError),
        ("extra", {"x": object()}, InvalidEnvironmentError),
        ("extra", {"x": b"bytes"}, InvalidEnvironmentError),
        ("extra", {"x": (1,)}, InvalidEnvironmentError),
        ("extra", {"x": {1}}, InvalidEnvironmentError),
        ("extra", {"x": float("inf")}, InvalidEnvironmentError),
        ("extra", {"x": 2**64}, InvalidEnvironmentError),
        ("extra", {"x": -(2**63) - 1}, InvalidEnvironmentError),
        ("extra", {"x": "\ud800"}, InvalidEnvironmentError),
        ("extra", {"x": {"\ud800": 1}}, InvalidEnvironmentError),
        ("extra", {"x": deep(101)}, InvalidEnvironmentError),
        ("extra", {"x": deep(100_000)}, InvalidEnvironmentError),
    ],
)
def test_invalid_value_is_refused_by_name(
    field: str, value: object, error: type[InvalidEnvironmentError]
) -> None:
    """An invalid value is refused with an error that names its field."""
    with pytest.raises(error) as caught:
        make_environment(**{field: value})
    assert type(caught.value) is error
    assert caught.value.field == field
    environment = make_environment()
    setattr(environment, field, value)
    with pytest.raises(error):
        environment.copy()


@pytest.mark.parametrize("field", ["path", "python_command", "npm_command"])
def test_invalid_capabilities_are_refused_by_name(field: str) -> None:
    """The fields of capabilities are checked, and named with their parent field."""
    with pytest.raises(InvalidEnvironmentError) as caught:
        Capabilities(detected_at=NOW, **{field: None})  # type: ignore[arg-type]
    assert caught.value.field == f"capabilities.{field}"
    with pytest.raises(InvalidEnvironmentError, match="is_root"):
        Capabilities(detected_at=NOW, is_root=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidEnvironmentError, match="no time zone"):
        Capabilities(detected_at=NOW.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("field", "value"),
    [("host", None), ("boot_id", 5), ("pid", -1), ("pid", "1"), ("process_started", 1.5)],
)
def test_invalid_owner_is_refused_by_name(field: str, value: object) -> None:
    """The fields of an owner are checked, and named with their parent field."""
    values = {"host": "h", "boot_id": "b", "pid": 1, "process_started": 2, field: value}
    with pytest.raises(InvalidEnvironmentError) as caught:
        Owner(**values)  # type: ignore[arg-type]
    assert caught.value.field == f"owner.{field}"


@pytest.mark.parametrize(
    "value", [Capabilities(detected_at=NOW), Owner(host="h", boot_id="b", pid=1, process_started=2)]
)
def test_parts_are_immutable(value: Any) -> None:
    """Capabilities and owners can be shared because they cannot be changed."""
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_copies_are_equal_and_independent() -> None:
    """A copy is equal and shares nothing; so are those of ``copy`` and ``pickle``."""
    environment = make_environment(revision=9)
    for other in (
        environment.copy(),
        copy.deepcopy(environment),
        pickle.loads(pickle.dumps(environment)),  # noqa: S301  # our own bytes
    ):
        assert other == environment
        assert other.revision == 9
        assert other.labels is not environment.labels
        assert other.extra["colour"] is not environment.extra["colour"]


@pytest.mark.parametrize(("source", "target"), list(product(Status, Status)))
def test_transition_follows_allowed_steps(source: Status, target: Status) -> None:
    """Each allowed transition succeeds; any other is refused and changes nothing."""
    environment = make_environment(status=source)
    if (source, target) in TRANSITIONS:
        environment.transition_to(target)
        assert environment.status is target
    else:
        with pytest.raises(InvalidTransitionError) as caught:
            environment.transition_to(target)
        assert (caught.value.source, caught.value.target) == (source, target)
        assert environment.status is source


def test_transition_to_unknown_status_is_refused() -> None:
    """An unknown status is an invalid value."""
    with pytest.raises(InvalidEnvironmentError) as caught:
        make_environment().transition_to("asleep")  # type: ignore[arg-type]
    assert caught.value.field == "status"


@pytest.mark.parametrize("status", Status)
def test_is_running_only_with_status_running(status: Status) -> None:
    """Only an environment with the status *running* is running."""
    assert make_environment(status=status).is_running == (status == "running")
    assert status.is_live == (status in {"creating", "running", "destroying"})


@pytest.mark.parametrize(
    ("idle", "timeout", "expired"),
    [
        (timedelta(minutes=30), timedelta(minutes=30), False),
        (timedelta(minutes=30, microseconds=1), timedelta(minutes=30), True),
        (timedelta(0), timedelta(minutes=30), False),
        (timedelta(days=-1), timedelta(minutes=30), False),
        (timedelta(days=9999), timedelta(0), False),
        (timedelta(days=9999), timedelta(minutes=-5), False),
    ],
)
def test_is_expired_after_idle_timeout(idle: timedelta, timeout: timedelta, expired: bool) -> None:
    """An environment idle for longer than its timeout is expired; zero or less never expires."""
    environment = make_environment(last_used=NOW - idle, timeout=timeout)
    assert environment.is_expired(NOW) is expired


def test_is_expired_defaults_to_present_time() -> None:
    """Without an argument, the present time counts."""
    assert make_environment(last_used=NOW - timedelta(days=300_000)).is_expired()
    assert not Environment(name="n", runtime=Runtime.PYTHON).is_expired()


def test_touch_changes_only_last_used() -> None:
    """A touch updates the time of the last use, and nothing else."""
    environment = make_environment()
    expected = dataclasses.replace(environment, last_used=NOW)
    environment.touch(NOW)
    assert environment == expected
    environment.touch()
    assert environment.last_used > NOW
    with pytest.raises(InvalidEnvironmentError):
        environment.touch(NOW.replace(tzinfo=None))


class _Text(str):
    """A string of a subclass."""


class _Time(datetime):
    """A time of a subclass."""


_ODD_VALUES: dict[str, list[Any]] = {
    "id": [
        "",
        "x" * 200,
        "x" * 201,
        "\u00e9" * 100,
        "\u00e9" * 101,
        "a\0",
        "\ud800",
        _Text("i"),
        1,
    ],
    "name": ["", "\u00e9", "\ud800", _Text("n"), None, b"n"],
    "runtime": [*Runtime, "node", "none", 1],
    "status": [*Status, "running", "none", 1],
    "ssh_port": [0, 65535, 65536, -1, True, 1.0, "22"],
    "created_at": [datetime(2024, 1, 1), _Time(2024, 1, 1, tzinfo=UTC), "2024", None],
    "last_used": [datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), NOW.astimezone(), 1],
    "timeout": [MAX_TIMEOUT, -MAX_TIMEOUT, MAX_TIMEOUT * 2, MAX_TIMEOUT * -2, 60, None],
    "capabilities": [None, Owner(host="h", boot_id="b", pid=1, process_started=1), {}],
    "labels": [
        {},
        {"\u00e9": "x"},
        {"a": "\ud800"},
        {"\ud800": "x"},
        {_Text("a"): "b"},
        {"a": 1},
        {1: "a"},
        {"a": _Text("b")},
        None,
        [],
    ],
    "provider": [None, "", "\u00e9", "\ud800", _Text("p"), 0, False, b""],
    "host_id": [None, "", "\u00e9", "\ud800", _Text("h"), 0, False, b""],
    "owner": [None, Owner(host="h", boot_id="b", pid=1, process_started=1), 0, ()],
    "status_reason": ["", "\u00e9", "\ud800", _Text("r"), None],
    "discard_files": [True, False, 1, None],
    "idempotency": [None, Idempotency(key="k", arguments="a"), {}, False],
    "revision": [0, 2**53 - 1, 2**53, -1, True, 1.0],
    "extra": [{}, {"a": [1]}, {"name": "n"}, {"a": set()}, None, [], OrderedDict()],
}


def test_copy_is_what_the_constructor_makes() -> None:
    """A copy accepts, refuses and normalises the value of each field as the constructor does."""
    assert _ODD_VALUES.keys() == {one.name for one in dataclasses.fields(Environment)}
    for plain in (Environment(name="n", runtime=Runtime.NODE), make_environment()):
        for field, value in ((name, one) for name in _ODD_VALUES for one in _ODD_VALUES[name]):
            changed = copy.copy(plain)
            setattr(changed, field, value)
            values = {one.name: getattr(changed, one.name) for one in dataclasses.fields(changed)}
            expected = _outcome(partial(Environment, **values))
            assert _outcome(changed.copy) == expected, (field, value)


def _outcome(make: Callable[[], Environment]) -> str:
    """Return all values of an environment with their types, or the error."""
    try:
        made = make()
    except (InvalidEnvironmentError, TypeError) as error:
        return repr(error)
    values = [getattr(made, one.name) for one in dataclasses.fields(made)]
    inner = [type(item) for item in (*made.labels, *made.labels.values())]
    return repr([(type(value), value) for value in values] + inner)
