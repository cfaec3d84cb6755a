# SPDX-License-Identifier: Apache-2.0
"""What a client hears of an error: enough to act on, and nothing about the machine."""

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

#: What a client must not see.
PLACE = "/srv/secret/place"

CALLS: list[tuple[str, dict[str, object]]] = [
    ("create_environment", {"runtime": "shell"}),
    ("list_environments", {}),
    ("get_environment", {"environment_id": "a"}),
    ("destroy_environment", {"environment_id": "a"}),
    ("environment_history", {"environment_id": "a"}),
]

#: What each error becomes.
ERRORS: list[tuple[Exception, str]] = [
    (CorruptDocumentError(f"{PLACE}/a.json", "is empty"), "its document is damaged: is empty"),
    (
        UnsupportedFormatError(f"{PLACE}/a.json", 99, 1),
        "its document was written by a newer program",
    ),
    (LockTimeoutError(f"{PLACE}/lock", None, 10), "the store is busy: try again"),
    (
        JournalDamagedError(f"{PLACE}/1.jsonl", 4),
        "the journal of the store is damaged: 'waggle-fsstore fsck' says where",
    ),
    (OutcomeUnknownError(f"{PLACE}/a.json"), "the store failed (OutcomeUnknownError)"),
    (StoreClosedError(), "the server is shutting down"),
    (HistoryPrunedError(7), "the history starts at 7: what came before was pruned"),
    (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{PLACE}/a.json"),
        "the store failed: No space left on device",
    ),
    (OSError(f"something in {PLACE}"), "it failed (OSError)"),
    (ProviderError("local", "cannot make its workspace: File exists"), "cannot make its workspace"),
]


class BrokenStore(MemoryStore):
    """A store that raises an error from every call, once it has one."""

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
    """A server over a store that raises what a test says."""

    def __init__(self) -> None:
        self.store = BrokenStore()
        self.store.save(make_environment(id="a"))
        self.service = open_service(self.store, Settings.of({}))
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


@pytest.mark.parametrize(("error", "said"), ERRORS, ids=lambda one: type(one).__name__)
def test_what_the_store_raises(
    broken: Broken, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    """Every tool says in a few words what is wrong, and the log has the rest."""
    broken.store.error = error
    for tool, arguments in CALLS:
        caplog.clear()
        heard = refused(broken.server, tool, **arguments)
        assert heard.startswith(said)
        assert PLACE not in heard
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
def test_what_nobody_expects(broken: Broken, error: Exception) -> None:
    """A bug says nothing but that there is one, and the server goes on."""
    broken.store.error = error
    for tool, arguments in CALLS:
        heard = refused(broken.server, tool, **arguments)
        assert PLACE not in heard
        assert "Traceback" not in heard
        assert heard in {f"Error executing tool {tool}", "after: 0 is beyond the last change"}
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


def test_no_error_tells_where_the_store_is() -> None:
    """Whatever the store raises, no tool and no resource has a path or a traceback in it."""
    broken = Broken()

    @given(st.lists(_errors(), min_size=1, max_size=5))
    def check(errors: list[Exception]) -> None:
        async def dialogue(client: Client) -> list[str]:
            heard = []
            for error in errors:
                broken.store.error = error
                for tool, arguments in CALLS:
                    heard.append(await refusal(client, tool, **arguments))
                with pytest.raises(MCPError) as caught:
                    await client.read_resource("waggle://environments/a")
                heard.append(f"{caught.value} {caught.value.error}")
                broken.store.error = None
            return heard

        for text in talk(broken.server, dialogue):
            assert PLACE not in text
            assert "Traceback" not in text

    try:
        check()
    finally:
        broken.close()


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (CorruptDocumentError(f"{PLACE}/a.json", "is empty"), "its document is damaged", -32603),
        (OSError(errno.EIO, "Input/output error", PLACE), "the store failed: Input", -32603),
        (EnvironmentNotFoundError("a"), "environment not found: 'a'", -32602),
        (RuntimeError(PLACE), "waggle://environments/a", -32603),
    ],
    ids=lambda one: type(one).__name__,
)
def test_errors_of_the_resource(broken: Broken, error: Exception, said: str, code: int) -> None:
    """They are those of the tools."""
    broken.store.error = error

    async def dialogue(client: Client) -> MCPError:
        with pytest.raises(MCPError) as caught:
            await client.read_resource("waggle://environments/a")
        return caught.value

    caught = talk(broken.server, dialogue)
    assert said in str(caught)
    assert PLACE not in str(caught)
    assert caught.error.code == code


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b'{"id": "b"}', b'{"schema": 99}', b"\0" * 5000, None],
    ids=["empty", "cut", "array", "no text", "another", "newer", "zeros", "folder"],
)
@pytest.mark.parametrize("tool", ["get_environment", "destroy_environment"])
def test_damaged_documents(
    server: MCPServer[Any], store: FileStore, root: Path, tool: str, damage: bytes | None
) -> None:
    """What is wrong is said, without where."""
    store.save(make_environment(id="a", provider=None))
    path = root / "environments" / "a.json"
    path.unlink()
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    said = refused(server, tool, environment_id="a")
    assert "document" in said
    assert str(root.parent) not in said


def test_a_full_disk(
    server: MCPServer[Any], store: FileStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told in the words of the system, and the next call works."""
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "create", _failing(error))
        said = refused(server, "create_environment", runtime="shell")
        assert said == "the store failed: No space left on device"
    assert store.count() == 0
    talk(server, lambda client: client.call_tool("create_environment", {"runtime": "shell"}))
    assert store.count() == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProviderError("local", "no room"), "no room"),
        (RuntimeError(f"in {PLACE}"), "Error executing tool create_environment"),
        (OSError(errno.EIO, "Input/output error", PLACE), "the store failed: Input/output error"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_the_provider_raises(
    server: MCPServer[Any],
    store: FileStore,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    """It is said, and the environment stays to be looked at, in error, without a path."""
    monkeypatch.setattr(LocalProvider, "create", _failing(error))
    assert refused(server, "create_environment", runtime="shell") == said

    async def dialogue(client: Client) -> str:
        result = await client.call_tool("list_environments", {})
        return json.dumps(result.structured_content)

    [stored] = store.find_all()
    assert stored.status == "error"
    assert stored.status_reason.startswith("could not be created: ")
    assert PLACE not in talk(server, dialogue)


def test_a_runtime_that_is_not_here(
    server: MCPServer[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The agent is told which program is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused(server, "create_environment", runtime="node")
    assert said == "the program node is not on the search path"


def test_capacity(server: MCPServer[Any], store: FileStore) -> None:
    """The agent is told what it can do."""
    store.save_all([make_environment() for _ in range(10)])
    said = refused(server, "create_environment", runtime="shell")
    assert said == (
        "10 live environments is the limit, and it is reached: destroy one or raise the capacity"
    )


def test_unknown_tools(server: MCPServer[Any]) -> None:
    """They are refused, and the connection goes on."""

    async def dialogue(client: Client) -> str:
        try:
            result = await client.call_tool("nope", {})
        except MCPError as error:
            return str(error)
        [content] = result.content
        assert isinstance(content, TextContent)
        return content.text

    assert talk(server, dialogue) == "Unknown tool: nope"
