# SPDX-License-Identifier: Apache-2.0
"""The error tree."""

import copy
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import waggle_fsstore
from waggle_fsstore.domain import errors

HOLDER = errors.LockHolder(12, "maja", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

#: One of each, its data, and what its message has to tell.
EXAMPLES: list[tuple[errors.WaggleError, dict[str, Any], tuple[str, ...]]] = [
    (errors.EnvironmentNotFoundError("a"), {"environment_id": "a"}, ("'a'",)),
    (errors.EnvironmentAlreadyExistsError("a"), {"environment_id": "a"}, ("'a'",)),
    (
        errors.EnvironmentNotRunningError("a", "error"),
        {"environment_id": "a", "status": "error"},
        ("'a'", "error"),
    ),
    (
        errors.InvalidEnvironmentError("ssh_port", "is odd"),
        {"field": "ssh_port", "reason": "is odd"},
        ("ssh_port: is odd",),
    ),
    (errors.InvalidEnvironmentIdError("is empty"), {"field": "id"}, ("id: is empty",)),
    (errors.InvalidRuntimeError("is odd"), {"field": "runtime"}, ("runtime: is odd",)),
    (
        errors.InvalidTransitionError("creating", "destroyed"),
        {"source": "creating", "target": "destroyed"},
        ("creating", "destroyed"),
    ),
    (errors.CapacityError(10), {"capacity": 10}, ("10",)),
    (errors.NoFreePortError(10, 20), {"first": 10, "last": 20}, ("10", "20")),
    (
        errors.IdempotencyKeyReusedError("key", "env-1"),
        {"idempotency_key": "key", "environment_id": "env-1"},
        ("'key'", "'env-1'", "use a new key"),
    ),
    (errors.CreationCancelledError(), {}, ("cancelled",)),
    (errors.CountMismatchError(2, 3), {"expected": 2, "actual": 3}, ("is 3, not 2",)),
    (
        errors.ProviderError("local", "no room"),
        {"provider": "local", "reason": "no room"},
        ("local: no room",),
    ),
    (
        errors.RuntimeUnavailableError("local", "node is not installed", "node"),
        {"provider": "local", "reason": "node is not installed", "runtime": "node"},
        ("local: node is not installed",),
    ),
    (errors.WorkspaceGoneError("local", "it is gone"), {"provider": "local"}, ("it is gone",)),
    (
        errors.ExecutionUnavailableError("local", "no bubblewrap"),
        {"provider": "local", "reason": "no bubblewrap"},
        ("no bubblewrap",),
    ),
    (
        errors.TooManyExecutionsError("local", "4 run already"),
        {"provider": "local", "reason": "4 run already"},
        ("4 run already",),
    ),
    (
        errors.OtherHostError("local", "the files are on host maja", "maja", "http://maja:8080"),
        {"provider": "local", "host": "maja", "url": "http://maja:8080"},
        ("local: the files are on host maja",),
    ),
    (
        errors.WorkspacePathError("../a", "leads out of the workspace"),
        {"workspace_path": "../a", "reason": "leads out of the workspace"},
        ("'../a'", "leads out of the workspace"),
    ),
    (
        errors.SettingError("WAGGLE_X", "is odd"),
        {"variable": "WAGGLE_X", "reason": "is odd"},
        ("WAGGLE_X: is odd",),
    ),
    (errors.ServerRunningError(HOLDER), {"holder": HOLDER}, ("process 12 on maja",)),
    (errors.ServerRunningError(None), {"holder": None}, ("an unknown process",)),
    (errors.HostNotFoundError("maja"), {"name": "maja"}, ("'maja'", "host ls")),
    (
        errors.HostRefusedError("maja", "it was removed"),
        {"name": "maja", "reason": "it was removed"},
        ("'maja'", "it was removed"),
    ),
    (
        errors.DestroyPendingError("a", "maja (silent)"),
        {"environment_id": "a", "host": "maja (silent)"},
        ("'a'", "destroying", "maja (silent)"),
    ),
    (
        errors.HostUnreachableError("a", "maja", "no connection"),
        {"environment_id": "a", "host": "maja", "reason": "no connection"},
        ("host maja, which has the files of environment 'a', cannot be reached: no connection",),
    ),
    (errors.StoreError("text"), {}, ("text",)),
    (
        errors.CorruptDocumentError("/s/a.json", "not valid JSON"),
        {"path": Path("/s/a.json"), "reason": "not valid JSON"},
        ("/s/a.json", "not valid JSON", "repair the file"),
    ),
    (
        errors.UnsupportedFormatError("/s/a.json", 2, 1),
        {"path": Path("/s/a.json"), "found": 2, "supported": 1},
        ("/s/a.json", "2", "upgrade"),
    ),
    (
        errors.ConflictError("a", 3, 4),
        {"environment_id": "a", "expected": 3, "actual": 4},
        ("'a'", "revision 3", "revision 4"),
    ),
    (errors.ConflictError("a", 0, 3), {"expected": 0}, ("expected nothing",)),
    (errors.ConflictError("a", 3, 0), {"actual": 0}, ("found nothing",)),
    (
        errors.LockTimeoutError("/s/lock", HOLDER, 1.5),
        {"path": Path("/s/lock"), "holder": HOLDER, "timeout": 1.5, "filename": "/s/lock"},
        ("/s/lock", "1.5 s", "process 12 on maja since 2026-01-02 03:04:05 UTC"),
    ),
    (errors.OutcomeUnknownError("/s/a.json"), {"path": Path("/s/a.json")}, ("/s/a.json",)),
    (
        errors.JournalDamagedError("/x/journal/1.jsonl", 17),
        {"path": Path("/x/journal/1.jsonl"), "line": 17},
        ("/x/journal/1.jsonl", "17", "fsck --repair"),
    ),
    (errors.HistoryPrunedError(7), {"oldest": 7}, ("7",)),
    (errors.HistoryLostError(7), {"after": 7}, ("change 7", "put back")),
    (errors.StoreGoneError("/s"), {"path": Path("/s")}, ("/s", "gone", "put it back")),
    (errors.StoreGoneError("/s", "mount it"), {"remedy": "mount it"}, ("mounted: mount it",)),
    (
        errors.StoreUnavailableError("db:5432/waggle", "too many clients"),
        {"location": "db:5432/waggle", "reason": "too many clients"},
        ("db:5432/waggle", "too many clients"),
    ),
    (errors.StoreClosedError(), {}, ("closed",)),
]


def tree(cls: type[Exception]) -> list[type[Exception]]:
    return [cls, *(below for sub in cls.__subclasses__() for below in tree(sub))]


def test_every_error_has_an_example() -> None:
    """No error is missing from these tests or from the public names."""
    classes = {
        cls for cls in tree(errors.WaggleError) if cls.__module__.startswith("waggle_fsstore.")
    }
    assert {type(error) for error, _, _ in EXAMPLES} | {errors.WaggleError} == classes
    assert {cls.__name__ for cls in classes} <= set(waggle_fsstore.__all__)


@pytest.mark.parametrize(
    ("error", "data", "texts"), EXAMPLES, ids=lambda value: type(value).__name__
)
def test_error_carries_data_and_message(
    error: errors.WaggleError, data: dict[str, Any], texts: tuple[str, ...]
) -> None:
    """An error carries its data as attributes, and shows it in its message."""
    assert {name: getattr(error, name) for name in data} == data
    for text in texts:
        assert text in str(error)


@pytest.mark.parametrize(("error", "data"), [example[:2] for example in EXAMPLES], ids=str)
def test_error_survives_pickle_and_copy(error: errors.WaggleError, data: dict[str, Any]) -> None:
    """An error that crosses a process pool is the same on the other side."""
    error.add_note("a note")
    for other in (
        pickle.loads(pickle.dumps(error)),  # noqa: S301  # our own bytes
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert {name: getattr(other, name) for name in data} == data
        assert other.__notes__ == ["a note"]


def test_docstring_shows_the_error_tree() -> None:
    """The drawing shows every error below its base, with its standard base."""
    drawn: list[tuple[str, str]] = []
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        name, _, rest = line.strip().partition(" ")
        name, _, standard = name.partition("(")
        if not name.endswith("Error") or not line.startswith("    "):
            continue
        depth = len(line) - len(line.lstrip())
        above = [entry for entry in above if entry[0] < depth]
        if above:
            drawn.append((name, above[-1][1]))
            cls = getattr(errors, name)
            assert issubclass(cls, getattr(errors, above[-1][1]))
            if standard:
                assert standard.rstrip(")") in {base.__name__ for base in cls.__mro__}
            instance = next(error for error, _, _ in EXAMPLES if type(error) is cls)
            for attribute in rest.split():
                assert hasattr(instance, attribute.lstrip("."))
        above.append((depth, name))
    actual = {
        (cls.__name__, cls.__bases__[0].__name__)
        for cls in tree(errors.WaggleError)
        if cls is not errors.WaggleError and cls.__module__.startswith("waggle_fsstore.")
    }
    assert set(drawn) == actual


def test_errors_have_standard_bases() -> None:
    """Callers that already catch the standard errors catch these."""
    assert issubclass(errors.EnvironmentNotFoundError, LookupError)
    assert issubclass(errors.InvalidEnvironmentError, ValueError)
    assert issubclass(errors.InvalidTransitionError, ValueError)
    assert issubclass(errors.LockTimeoutError, TimeoutError)


def test_hostile_ids_do_not_flood_messages() -> None:
    """An id in a message is escaped and of bounded length."""
    message = str(errors.EnvironmentNotFoundError("\x1b[31m" + "x" * 10_000))
    assert "\x1b" not in message
    assert len(message) < 300
