# SPDX-License-Identifier: Apache-2.0
"""The tools that work inside an environment, as a client sees them."""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server import MCPServer

from tests.isolation import needs_isolation
from tests.server.client import ask, call, refusal, refused, talk, workspace_of
from tests.server.processes import HttpServer
from tests.server.test_call_log import entries
from tests.service.test_workspaces import FakeExecutor
from waggle_fsstore import EnvironmentService, FileStore
from waggle_fsstore.config import ExecutionSettings, Settings
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.wiring import open_service

pytestmark = needs_isolation

#: Keeps running until something stops it, and says in a file that it runs.
ENDLESS = "touch started; sleep 1000 & echo $! > child; wait"


@pytest.fixture
def shell(server: MCPServer[Any]) -> str:
    """Return the id of a shell environment."""
    made: str = call(server, "create_environment", runtime="shell")["environment_id"]
    return made


@pytest.fixture
def serving(store: FileStore) -> Iterator[Callable[[ExecutionSettings], MCPServer[Any]]]:
    """Return a function that returns a server with given settings of execution."""
    services: list[EnvironmentService] = []

    def serve(execution: ExecutionSettings) -> MCPServer[Any]:
        services.append(open_service(store, Settings(execution=execution)))
        return make_server(services[-1])

    yield serve
    for service in services:
        service.close()


def _tools(server: MCPServer[Any]) -> dict[str, str | None]:
    async def dialogue(client: Client) -> dict[str, str | None]:
        return {tool.name: tool.description for tool in (await client.list_tools()).tools}

    return talk(server, dialogue)


async def _until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


async def _until_started(directory: Path) -> None:
    child = directory / "child"
    await _until(lambda: child.exists() and child.read_text())


def test_story_of_agent_works(server: MCPServer[Any]) -> None:
    """An agent writes a file, runs code on it in each language that there is, and reads on."""

    async def dialogue(client: Client) -> None:
        made = await ask(client, "create_environment", runtime="python")
        name = made["environment_id"]
        assert made["workspace"] == "/home/sandbox"
        written = await ask(
            client, "write_file", environment_id=name, path="data/in.csv", content="a,b\n1,2\n"
        )
        assert written == {"status": "written", "path": "data/in.csv", "bytes_written": 8}
        code = (
            "import csv, sys\n"
            "rows = list(csv.DictReader(open('data/in.csv')))\n"
            "open('out.txt', 'w').write(str(sum(int(row['b']) for row in rows)))\n"
            "print(len(rows), sys.prefix); print('note', file=sys.stderr)\n"
        )
        done = await ask(client, "execute", environment_id=name, code=code)
        assert done.pop("duration_ms") >= 0
        assert done == {
            "stdout": "1 /home/sandbox/.venv\n",
            "stderr": "note\n",
            "exit_code": 0,
            "truncated": False,
            "stopped": "",
        }
        read = await ask(client, "read_file", environment_id=name, path="/home/sandbox/out.txt")
        assert (read["content"], read["encoding"], read["size"]) == ("2", "utf-8", 1)
        done = await ask(
            client, "execute", environment_id=name, language="shell", code="cat out.txt; exit 3"
        )
        assert (done["stdout"], done["exit_code"]) == ("2", 3)
        listed = await ask(client, "list_files", environment_id=name)
        assert [(one["name"], one["is_dir"]) for one in listed["files"]] == [
            (".venv", True),
            ("data", True),
            ("out.txt", False),
        ]

    talk(server, dialogue)


def test_failed_program_is_a_result(server: MCPServer[Any], shell: str) -> None:
    """A program that fails or is stopped is no error of the tool, and changes no status."""
    failed = call(server, "execute", environment_id=shell, code="echo no >&2; exit 7")
    assert (failed["stderr"], failed["exit_code"], failed["stopped"]) == ("no\n", 7, "")
    stopped = call(server, "execute", environment_id=shell, code="sleep 1000", timeout_seconds=1)
    assert (stopped["exit_code"], stopped["stopped"]) == (-1, "timeout")
    assert call(server, "get_environment", environment_id=shell)["status"] == "running"


def test_longer_timeout_is_shortened(store: FileStore) -> None:
    """A timeout above the highest one is no error, as in Waggle."""
    executor = FakeExecutor()
    service = open_service(store, Settings())
    service.workspaces._executor = executor
    server = make_server(service, max_timeout=timedelta(seconds=40))
    name = call(server, "create_environment", runtime="shell")["environment_id"]
    for seconds in ({}, {"timeout_seconds": 40}, {"timeout_seconds": 900}):
        call(server, "execute", environment_id=name, code="1", **seconds)
    timeouts = [timedelta(seconds=seconds) for seconds in (30, 40, 40)]
    assert executor.calls == [("1", (name, "shell", timeout)) for timeout in timeouts]
    service.close()


@pytest.mark.parametrize("content", ["", "é\U0001f41d\n", "\0", "a\r\nb"])
def test_text_survives_writing_and_reading(
    server: MCPServer[Any], shell: str, content: str
) -> None:
    """A text comes back as it was written."""
    call(server, "write_file", environment_id=shell, path="a", content=content)
    read = call(server, "read_file", environment_id=shell, path="a")
    assert (read["content"], read["encoding"], read["next_offset"]) == (content, "utf-8", None)


def test_bytes_survive_writing_and_reading(server: MCPServer[Any], shell: str) -> None:
    """What is not text is given as base64, both ways."""
    data = bytes(range(256))
    encoded = base64.b64encode(data).decode()
    call(server, "write_file", environment_id=shell, path="a", content=encoded, encoding="base64")
    read = call(server, "read_file", environment_id=shell, path="a")
    assert (read["content"], read["encoding"], read["size"]) == (encoded, "base64", 256)


@pytest.mark.parametrize("limit", [4, 5, 7, 1000])
def test_parts_of_text_cut_no_character(server: MCPServer[Any], shell: str, limit: int) -> None:
    """The parts of a text, in order, are the text."""
    text = "aé\u20ac\U0001f41d" * 20
    call(server, "write_file", environment_id=shell, path="a", content=text)

    async def dialogue(client: Client) -> str:
        parts, offset = [], 0
        while offset is not None:
            part = await ask(
                client, "read_file", environment_id=shell, path="a", offset=offset, limit=limit
            )
            assert part["encoding"] == "utf-8"
            parts.append(part["content"])
            offset = part["next_offset"]
        return "".join(parts)

    assert talk(server, dialogue) == text


def test_directory_is_listed_in_pages(server: MCPServer[Any], shell: str) -> None:
    """The pages have each name once, in order."""
    call(server, "execute", environment_id=shell, code="touch a b c d e")

    async def dialogue(client: Client) -> list[str]:
        names: list[str] = []
        after: dict[str, Any] = {}
        while True:
            page = await ask(client, "list_files", environment_id=shell, limit=2, **after)
            assert page["count"] == 5
            names += [one["name"] for one in page["files"]]
            if page["next"] is None:
                return names
            after = {"after": page["next"]}

    assert talk(server, dialogue) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("read_file", {"path": "missing"}, "'missing' does not exist"),
        ("read_file", {"path": "../../etc/passwd"}, "leads out of the workspace"),
        ("write_file", {"path": "a", "content": "?", "encoding": "base64"}, "not base64"),
        ("write_file", {"path": "/etc/a", "content": ""}, "leads out of the workspace"),
        ("list_files", {"path": "/proc"}, "leads out of the workspace"),
        ("execute", {"code": ""}, ""),
        ("execute", {"code": "x" * 512_001}, "at most 512000 characters"),
        ("execute", {"code": "1", "language": "perl"}, "must be python, node or shell"),
        ("execute", {"code": "1", "timeout_seconds": 0}, "whole number of at least 1"),
        ("install_packages", {"packages": []}, "list of 1 to 50 texts"),
        ("install_packages", {"packages": ["six"]}, "no package manager"),
    ],
)
def test_invalid_call_is_refused_in_words(
    server: MCPServer[Any], shell: str, tool: str, arguments: dict[str, Any], message: str
) -> None:
    """The answer says what is wrong, and names no path of the machine."""
    if not message:
        assert call(server, tool, environment_id=shell, **arguments)["exit_code"] == 0
        return
    answer = refused(server, tool, environment_id=shell, **arguments)
    assert message in answer
    assert "store" not in answer


def test_cancelled_execution_is_stopped(
    server: MCPServer[Any], root: Path, shell: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that gives up ends the program, and all that it has started."""
    caplog.set_level(logging.INFO)
    home = workspace_of(root, shell)

    async def dialogue(client: Client) -> str:
        async with anyio.create_task_group() as tasks:
            arguments = {"environment_id": shell, "code": ENDLESS, "timeout_seconds": 200}
            tasks.start_soon(client.call_tool, "execute", arguments)
            await _until_started(home)
            tasks.cancel_scope.cancel()
        await _until(lambda: [one for one in entries(caplog) if one["tool"] == "execute"])
        done = await ask(client, "execute", environment_id=shell, code="ls")
        return str(done["stdout"])

    assert talk(server, dialogue, mode="legacy") == "child\nstarted\n"
    [stopped, _] = [one for one in entries(caplog) if one["tool"] == "execute"]
    assert stopped["stopped"] == "cancelled"


def test_long_call_reports_progress(
    server: MCPServer[Any], shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks for progress hears that its program runs."""
    monkeypatch.setattr("waggle_fsstore.server.tool._PROGRESS_INTERVAL_S", 0.05)
    heard: list[str | None] = []

    async def dialogue(client: Client) -> None:
        async def hear(progress: float, total: float | None, message: str | None) -> None:
            assert progress >= 0
            assert total is None
            heard.append(message)

        arguments = {"environment_id": shell, "code": "sleep 0.5"}
        await client.call_tool("execute", arguments, progress_callback=hear)

    talk(server, dialogue)
    assert heard
    assert all((message or "").startswith("running for ") for message in heard)


def test_log_has_digest_and_no_code(
    server: MCPServer[Any], shell: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The entry of a call says what ran by its size and digest, and how it ended."""
    caplog.set_level(logging.INFO)
    call(server, "execute", environment_id=shell, code="echo secret")
    [entry] = [one for one in entries(caplog) if one["tool"] == "execute"]
    assert entry == {
        "tool": "execute",
        "client": "mcp:tester",
        "environment_id": shell,
        "language": "",
        "code_bytes": 11,
        "code_sha256": hashlib.sha256(b"echo secret").hexdigest(),
        "exit_code": 0,
        "stopped": "",
        "outcome": "ok",
    }
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith("mcp")]
    assert not any("secret" in text for text in ours)


def test_destroyed_environment_stops_program(
    server: MCPServer[Any], root: Path, shell: str
) -> None:
    """A program ends when its environment is destroyed, and its client hears why."""
    home = workspace_of(root, shell)

    async def dialogue(client: Client) -> dict[str, Any]:
        result: dict[str, Any] = {}

        async def execute() -> None:
            result.update(await ask(client, "execute", environment_id=shell, code=ENDLESS))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute)
            await _until_started(home)
            await ask(client, "destroy_environment", environment_id=shell)
        return result

    assert talk(server, dialogue)["stopped"] == "destroyed"


def test_server_without_execution_keeps_file_tools(
    serving: Callable[[ExecutionSettings], MCPServer[Any]],
) -> None:
    """Where programs may not be run, the two tools are missing; files can be reached."""
    server = serving(ExecutionSettings(mode="off"))
    assert not {"execute", "install_packages"} & _tools(server).keys()

    async def dialogue(client: Client) -> None:
        assert "cannot run programs" in (client.instructions or "")
        made = await ask(client, "create_environment", runtime="shell")
        name = made["environment_id"]
        assert made["workspace"].endswith("/home")
        await ask(client, "write_file", environment_id=name, path="a", content="1")
        assert (await ask(client, "list_files", environment_id=name))["count"] == 1
        await refusal(client, "execute", environment_id=name, code="1")

    talk(server, dialogue)


def test_network_decides_about_packages(
    serving: Callable[[ExecutionSettings], MCPServer[Any]],
) -> None:
    """Without a network there are no packages to install."""
    tools = _tools(serving(ExecutionSettings(network="none"))).keys()
    assert "execute" in tools
    assert "install_packages" not in tools


def test_unisolated_execution_is_announced(
    serving: Callable[[ExecutionSettings], MCPServer[Any]],
) -> None:
    """Each tool that runs programs says that they are not isolated, and they work."""
    server = serving(ExecutionSettings(mode="unisolated"))
    tools = _tools(server)
    for name in ("execute", "install_packages"):
        assert (tools[name] or "").startswith("NOT ISOLATED: ")
    made = call(server, "create_environment", runtime="python")
    assert made["workspace"].endswith("/home")
    name = made["environment_id"]
    done = call(server, "execute", environment_id=name, code="import os; print(os.getcwd())")
    assert done["stdout"].strip() == made["workspace"]
    stopped = call(
        server,
        "execute",
        environment_id=name,
        language="shell",
        code="sleep 1000 & sleep 1000",
        timeout_seconds=1,
    )
    assert stopped["stopped"] == "timeout"


def test_killed_server_leaves_no_program(tmp_path: Path) -> None:
    """A program ends with its server, however that ends; record and files are there afterwards."""
    store = tmp_path / "store"
    with HttpServer(store) as server:
        name = call(server.url, "create_environment", runtime="shell")["environment_id"]
        home = workspace_of(store, name)

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(call, server.url, "execute", environment_id=name, code=ENDLESS)
            asyncio.run(_until_started(home))
            assert _processes_of(name)
            server.kill()
            asyncio.run(_until(lambda: not _processes_of(name)))
            assert running.exception() is not None
    with HttpServer(store) as server:
        assert call(server.url, "get_environment", environment_id=name)["status"] == "running"
        assert (home / "started").exists()
        done = call(server.url, "execute", environment_id=name, code="echo again")
        assert done["stdout"] == "again\n"


def _processes_of(environment_id: str) -> list[str]:
    """Return the processes that have the workspace of an environment as their home directory."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if environment_id in mounts.read_text():
                found.append(mounts.parent.name)
        except OSError:
            continue
    return found
