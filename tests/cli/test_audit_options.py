# SPDX-License-Identifier: Apache-2.0
"""The options --actor and --reason set who makes a change, and why."""

import pytest

from tests.cli.cli_runner import environment, run
from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.store.file_store import FileStore

WRITES = [
    ("create",),
    ("set", "a", "--name", "new"),
    ("rm", "a", "b"),
    ("restore", "a", "--revision", "1"),
]


@pytest.fixture
def two(store: FileStore) -> FileStore:
    """Return a store with a and b."""
    store.save(environment("a"))
    store.save(environment("b"))
    return store


@pytest.mark.parametrize("verb", WRITES)
def test_actor_and_reason_are_recorded(two: FileStore, verb: tuple[str, ...]) -> None:
    """Each change of a verb has both."""
    assert run(*verb, "--actor", "maja", "--reason", "because\nso").exit_code == 0
    authors = {(event.actor, event.reason) for event in two.history(after=2)}
    assert authors == {("maja", "because\nso")}


@pytest.mark.parametrize("verb", WRITES)
def test_actor_defaults_to_user(two: FileStore, verb: tuple[str, ...]) -> None:
    """The reason is empty by default, except for that of a restore."""
    assert run(*verb).exit_code == 0
    reason = "restored revision 1" if verb[0] == "restore" else ""
    authors = {(event.actor, event.reason) for event in two.history(after=2)}
    assert authors == {(current_author().actor, reason)}


@pytest.mark.parametrize("verb", [*WRITES, ("restore", "directory")])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--actor", ""), "actor: is empty"),
        (("--actor", "x" * 201), "actor: is longer than 200 characters"),
        (("--reason", "x" * 2001), "reason: is longer than 2000 characters"),
        (("--reason", "\udcff"), "reason: holds a lone surrogate"),
    ],
)
def test_invalid_actor_or_reason_is_refused(
    two: FileStore, verb: tuple[str, ...], options: tuple[str, str], message: str
) -> None:
    """It is wrong usage, and nothing is changed."""
    result = run(*verb, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert [event.seq for event in two.history()] == [1, 2]
