# SPDX-License-Identifier: Apache-2.0
"""Errors as clients see them: enough to act on, and nothing about the machine."""

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.types import TextContent

from tests.server.client import refusal, refused, talk
from waggle_fsstore import (
    CapacityError,
    ConflictError,
    CorruptDocumentError,
    EnvironmentNotFoundError,
    FileStore,
    HistoryPrunedError,
    JournalDamagedError,
    LockTimeoutError,
    MemoryStore,
    OutcomeUnknownError,
    ProviderError,
    StoreClosedError,
    UnsupportedFormatError,
)
from waggle_fsstore.config import Settings
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.testing import make_environment
from waggle_fsstore.wiring import open_service

#: A path that a client must not see.
PLACE = "/srv/secret/place"

CALLS: list[tuple[str, dict[str, object]]] = [
    ("create_environment", {"runtime": "shell"}),
    ("list_environments", {}),
    ("get_environment", {"environment_id": "a"}),
    ("destroy_environment", {"environment_id": "a"}),
    ("restore_environment", {"environment_id": "a"}),
    ("environment_history", {"environment_id": "a"}),
]

#: The message for each error, or its beginning.
ERRORS: list[tuple[Exception, str]] = [
    (
        CorruptDocumentError(f"{PLACE}/a.json", "is empty"),
        "the environment's document is damaged: is empty",
    ),
    (
        UnsupportedFormatError(f"{PLACE}/a.json", 99, 1),
        "a newer version wrote the document; the operator must upgrade the server",
    ),
    (LockTimeoutError(f"{PLACE}/lock", None, 10), "the store is busy: try again"),
    (
        JournalDamagedError(f"{PLACE}/1.jsonl", 4),
        "the store's journal is damaged; the operator must run 'waggle-fsstore fsck'",
    ),
    (OutcomeUnknownError(f"{PLACE}/a.json"), "the store failed (OutcomeUnknownError)"),
    (StoreClosedError(), "the server is shutting down"),
    (HistoryPrunedError(7), "the history starts at 7: earlier changes were pruned"),
    (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{PLACE}/a.json"),
        "the store failed: No space left on device",
    ),
    (OSError(f"something in {PLACE}"), "unexpected error (OSError); see the server log"),
    (ProviderError("local", "cannot make its workspace: File exists"), "cannot make its workspace"),
]


class BrokenStore(MemoryStore):
    """A store whose every call raises ``error``, once it is set."""

    error: Exception | None = None

    def __getattribute__(self, name: str) -> Any:
        error = super().__getattribute__("error")
        if error is None or name not in {
            "count",
            "create",
            "delete",
            "find_all",
            "find_by_id",
            "history",
            "save",
            "save_all",
            "update",
        }:
            return super().__getattribute__(name)

        def fail(*_: object, **__: object) -> NoReturn:
            raise error

        return fail


class Broken:
    """A server over a store that raises the error a test sets."""

    def __init__(self) -> None:
        self.store = BrokenStore()
        self.store.save(make_environment(id="a"))
        self.service = open_service(self.store, Settings.from_env({}))
        self.server = make_server(self.service)

    def close(self) -> None:
        self.store.error = None
        self.service.close()


@pytest.fixture
def broken() -> Iterator[Broken]:
    broken = Broken()
    yield broken
    broken.close()


def _failing(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(("error", "message"), ERRORS, ids=lambda one: type(one).__name__)
def test_store_error_is_explained_without_paths(
    broken: Broken, caplog: pytest.LogCaptureFixture, error: Exception, message: str
) -> None:
    """Every tool names the problem briefly, and the log has the whole message."""
    broken.store.error = error
    for tool, arguments in CALLS:
        caplog.clear()
        answer = refused(broken.server, tool, **arguments)
        assert answer.startswith(message)
        assert PLACE not in answer
        if PLACE in str(error):
            assert any(
                PLACE in record.getMessage() and record.levelno == logging.ERROR
                for record in caplog.records
                if record.name.startswith("waggle_fsstore.")
            )


@pytest.mark.parametrize(
    "error",
    [RuntimeError(f"in {PLACE}"), ValueError(f"in {PLACE}"), KeyError(f"{PLACE}"), MemoryError()],
    ids=lambda one: type(one).__name__,
)
def test_bug_is_reported_without_details(broken: Broken, error: Exception) -> None:
    """A bug reveals nothing but its existence, and the server continues to work."""
    broken.store.error = error
    for tool, arguments in CALLS:
        answer = refused(broken.server, tool, **arguments)
        assert PLACE not in answer
        assert "Traceback" not in answer
        assert answer in {f"Error executing tool {tool}", "after: 0 is beyond the last change"}
    broken.store.error = None
    assert refused(broken.server, "get_environment", environment_id="b").startswith(
        "environment not found"
    )


def _paths() -> st.SearchStrategy[str]:
    name = st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), max_size=20)
    return st.lists(name, max_size=3).map(lambda names: "/".join([PLACE, *names]))


def _errors() -> st.SearchStrategy[Exception]:
    def of(make: Callable[[str], Exception]) -> st.SearchStrategy[Exception]:
        return _paths().map(make)

    def failed(path: str, number: int, other: bool) -> Exception:
        names = (path, None, f"{path}.tmp") if other else (path,)
        return OSError(number, os.strerror(number), *names)

    unexpected = [RuntimeError, ValueError, TypeError, KeyError, AssertionError, RecursionError]
    return st.one_of(
        of(lambda path: CorruptDocumentError(path, "is no JSON")),
        of(lambda path: UnsupportedFormatError(path, 2, 1)),
        of(lambda path: UnsupportedFormatError(path, f"it belongs to {path}", 1)),
        of(lambda path: LockTimeoutError(path, None, 1.5)),
        of(OutcomeUnknownError),
        of(lambda path: JournalDamagedError(path, 3)),
        of(OSError),
        of(lambda path: UnicodeDecodeError("utf-8", path.encode(), 0, 1, path)),
        st.builds(failed, _paths(), st.sampled_from(sorted(errno.errorcode)), st.booleans()),
        st.sampled_from(unexpected).flatmap(of),
        st.builds(ConflictError, st.just("a"), st.integers(0, 9), st.integers(0, 9)),
        st.builds(CapacityError, st.integers(1, 9)),
        st.builds(EnvironmentNotFoundError, st.text()),
        st.just(StoreClosedError()),
    )


def test_errors_reveal_no_path() -> None:
    """For any error of the store, no answer contains a path or a traceback."""
    broken = Broken()

    @given(st.lists(_errors(), min_size=1, max_size=5))
    def check(errors: list[Exception]) -> None:
        async def dialogue(client: Client) -> list[str]:
            answer = []
            for error in errors:
                broken.store.error = error
                for tool, arguments in CALLS:
                    answer.append(await refusal(client, tool, **arguments))
                with pytest.raises(MCPError) as caught:
                    await client.read_resource("waggle://environments/a")
                answer.append(f"{caught.value} {caught.value.error}")
                broken.store.error = None
            return answer

        for text in talk(broken.server, dialogue):
            assert PLACE not in text
            assert "Traceback" not in text

    try:
        check()
    finally:
        broken.close()


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (
            CorruptDocumentError(f"{PLACE}/a.json", "is empty"),
            "the environment's document is damaged",
            -32603,
        ),
        (OSError(errno.EIO, "Input/output error", PLACE), "the store failed: Input", -32603),
        (EnvironmentNotFoundError("a"), "environment not found: 'a'", -32602),
        (RuntimeError(PLACE), "waggle://environments/a", -32603),
    ],
    ids=lambda one: type(one).__name__,
)
def test_resource_errors_match_tool_errors(
    broken: Broken, error: Exception, message: str, code: int
) -> None:
    """The resource explains errors as the tools do, with the error codes of the protocol."""
    broken.store.error = error

    async def dialogue(client: Client) -> MCPError:
        with pytest.raises(MCPError) as caught:
            await client.read_resource("waggle://environments/a")
        return caught.value

    caught = talk(broken.server, dialogue)
    assert message in str(caught)
    assert PLACE not in str(caught)
    assert caught.error.code == code


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b'{"id": "b"}', b'{"schema": 99}', b"\0" * 5000, None],
    ids=["empty", "cut", "array", "no text", "another", "newer", "zeros", "directory"],
)
@pytest.mark.parametrize("tool", ["get_environment", "destroy_environment"])
def test_damaged_document_is_explained_without_path(
    server: MCPServer[Any], store: FileStore, root: Path, tool: str, damage: bytes | None
) -> None:
    """The answer names the problem but not the place of the file."""
    store.save(make_environment(id="a", provider=None))
    path = root / "environments" / "a.json"
    path.unlink()
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    message = refused(server, tool, environment_id="a")
    assert "document" in message
    assert str(root.parent) not in message


def test_full_disk_is_reported(
    server: MCPServer[Any], store: FileStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error is that of the operating system, and the next call works."""
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "create", _failing(error))
        message = refused(server, "create_environment", runtime="shell")
        assert message == "the store failed: No space left on device"
    assert store.count() == 0
    talk(server, lambda client: client.call_tool("create_environment", {"runtime": "shell"}))
    assert store.count() == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ProviderError("local", "no room"), "no room"),
        (RuntimeError(f"in {PLACE}"), "Error executing tool create_environment"),
        (OSError(errno.EIO, "Input/output error", PLACE), "the store failed: Input/output error"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_provider_error_leaves_environment_in_error(
    server: MCPServer[Any],
    store: FileStore,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    """The client sees the error, and the environment stays in error, without a path."""
    monkeypatch.setattr(LocalProvider, "create", _failing(error))
    assert refused(server, "create_environment", runtime="shell") == message

    async def dialogue(client: Client) -> str:
        result = await client.call_tool("list_environments", {})
        return json.dumps(result.structured_content)

    [stored] = store.find_all()
    assert stored.status == "error"
    assert stored.status_reason.startswith("could not be created: ")
    assert PLACE not in talk(server, dialogue)


def test_missing_runtime_is_named(
    server: MCPServer[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names the missing program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused(server, "create_environment", runtime="node")
    assert message == "the program node is not on the search path"


def test_capacity_error_names_remedy(server: MCPServer[Any], store: FileStore) -> None:
    """The error says what the agent can do."""
    store.save_all([make_environment() for _ in range(10)])
    message = refused(server, "create_environment", runtime="shell")
    assert message == (
        "the limit of 10 live environments is reached: destroy one or raise the capacity"
    )


def test_unknown_tool_is_refused(server: MCPServer[Any]) -> None:
    """The call is refused, and the connection stays usable."""

    async def dialogue(client: Client) -> str:
        try:
            result = await client.call_tool("nope", {})
        except MCPError as error:
            return str(error)
        [content] = result.content
        assert isinstance(content, TextContent)
        return content.text

    assert talk(server, dialogue) == "Unknown tool: nope"
