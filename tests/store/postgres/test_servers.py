# SPDX-License-Identifier: Apache-2.0
"""Servers of several hosts on one database: real processes, called by a real client."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
pytest.importorskip("mcp", reason="needs the extra 'server'")
pytest.importorskip("click", reason="needs the extra 'cli'")

import anyio
from mcp import Client

from tests.cli.cli_runner import run
from tests.cli.forked import forked
from tests.isolation import needs_isolation
from tests.server.client import ask, refused, talk
from tests.server.processes import TIMEOUT_S, HttpServer
from tests.store.postgres.servers import Server
from waggle_fsstore import FileStore, Settings
from waggle_fsstore.store.maintenance.copy import copy
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.wiring import open_service

# The database of the tests has no fsync, and would be refused.
_UNCHECKED = "from waggle_fsstore.store.postgres import writer; writer.Writer._check = print\n"

Start = Callable[..., HttpServer]


@pytest.fixture
def start(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the server of a host; the command line uses the same database from elsewhere."""
    monkeypatch.setenv("WAGGLE_STORE_PATH", server.url)
    monkeypatch.setattr("waggle_fsstore.store.postgres.writer.Writer._check", lambda *_: None)
    servers: list[HttpServer] = []

    def start(name: str, workspaces: str = "", **variables: str) -> HttpServer:
        directory = str(tmp_path / (workspaces or name))
        variables = {"WAGGLE_HOST": name, "WAGGLE_WORKSPACES": directory, **variables}
        servers.append(HttpServer(server.url, code=_UNCHECKED, **variables))
        return servers[-1]

    yield start
    for one in servers:
        with one:
            pass


def call(server: HttpServer, tool: str, **arguments: object) -> dict[str, Any]:
    """Call a tool, which has to succeed."""
    return talk(server.url, lambda client: ask(client, tool, **arguments))


def without_place(environment: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in environment.items() if key != "workspace"}


def test_servers_give_the_same_answers(start: Start, tmp_path: Path) -> None:
    """What one creates, the other lists, uses and destroys; the files go on the right host."""
    first, second = start("a"), start("b")
    made = call(first, "create_environment", runtime="shell", name="one")
    environment_id = made["environment_id"]
    assert made["host"] == "a"
    assert (tmp_path / "a" / environment_id).is_dir()
    lists = [call(one, "list_environments")["environments"] for one in (first, second)]
    assert [list(map(without_place, found)) for found in lists] == [[without_place(made)]] * 2
    assert call(second, "get_environment", environment_id=environment_id)["workspace"] == ""
    gone = call(second, "destroy_environment", environment_id=environment_id, reason="done")
    assert gone["status"] == "destroyed"
    assert not (tmp_path / "a" / environment_id).exists()
    histories = [
        call(one, "environment_history", environment_id=environment_id) for one in (first, second)
    ]
    assert histories[0] == histories[1]
    assert [event["actor"] for event in histories[0]["events"]][-1] == "reconcile"
    assert first.get("/readyz")[0] == second.get("/readyz")[0] == 200


def test_operator_removes_environment_and_host(start: Start, tmp_path: Path) -> None:
    """From a machine without a server: list the hosts, remove by one, declare another gone."""
    first, second = start("a", WAGGLE_HOST_URL="http://a.example:8080/"), start("b")
    made = [call(first, "create_environment", runtime="shell")["environment_id"] for _ in "12"]
    found = json.loads(run("host", "ls", "--json").stdout)["hosts"]
    assert [(one["name"], one["state"], one["url"]) for one in found] == [
        ("a", "up", "http://a.example:8080"),
        ("b", "up", ""),
    ]
    assert run("rm", made[0]).exit_code == 0
    assert not (tmp_path / "a" / made[0]).exists()
    result = run("host", "remove", "a", "--reason", "burnt")
    assert result.stdout == "a is removed; 1 of its environments are in error\n"
    assert first.wait() == 4
    assert "an operator removed it" in first.stderr()
    again = start("a")
    assert again.wait() == 4
    assert "move their files away, or delete them" in again.stderr()
    (left,) = call(second, "list_environments")["environments"]
    assert (left["status"], left["status_reason"]) == (
        "error",
        "its host a was removed: burnt",
    )
    gone = call(second, "destroy_environment", environment_id=made[1])
    assert gone["status"] == "destroyed"
    assert (tmp_path / "a" / made[1]).exists()
    assert "burnt" in run("history", made[1]).stdout
    assert run("host", "remove", "c").exit_code == 3


def test_work_inside_environment_needs_its_host(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verbs that work inside an environment do so beside its server, and name it elsewhere."""
    name = call(start("a"), "create_environment", runtime="shell")["environment_id"]
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"1")
    monkeypatch.setenv("WAGGLE_WORKSPACES", str(tmp_path / "a"))
    assert run("cp", str(source), f"{name}:file").exit_code == 0
    monkeypatch.setenv("WAGGLE_WORKSPACES", str(tmp_path / "b"))
    for verb in (("cp", f"{name}:file", str(target)), ("exec", name, "--", "ls")):
        with forked(*verb) as program:
            code, _, err = program.communicate()
        assert (code, b"are on host a" in err) == (1, True)
    assert not target.exists()


def test_host_is_its_directory_of_workspaces(start: Start) -> None:
    """A server with the same directory is the same host, also under a new name; a copy is not."""
    first = start("a")
    made = call(first, "create_environment", runtime="shell")
    first.kill()
    renamed = start("c", workspaces="a")
    (found,) = call(renamed, "list_environments")["environments"]
    assert (found["host"], found["workspace"]) == ("c", made["workspace"])
    other = start("c", workspaces="b")
    assert other.wait() == 4
    assert "another host has this name" in other.stderr()
    assert call(renamed, "list_environments")["count"] == 1


def test_killed_host_settles_its_own(start: Start) -> None:
    """After kill -9 the other server leaves its environments alone, and destroys none of them."""
    first, second = start("a", WAGGLE_REAPER_INTERVAL="50ms"), start("b")
    made = call(first, "create_environment", runtime="shell")
    first.kill()
    second.kill()
    second = start("b", WAGGLE_REAPER_INTERVAL="10ms")
    (found,) = call(second, "list_environments")["environments"]
    assert (found["status"], found["host"]) == ("running", "a")
    first = start("a")
    (found,) = call(first, "list_environments")["environments"]
    assert (found["status"], found["workspace"]) == ("running", made["workspace"])


@needs_isolation
def test_call_for_other_host_is_forwarded(start: Start) -> None:
    """The other server has the program run where the files are, and says when it cannot."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    shared = {"WAGGLE_CLUSTER_TOKEN": "the-secret-of-the-servers"}
    first = start("a", WAGGLE_LISTEN_ADDR=address, WAGGLE_HOST_URL=f"http://{address}", **shared)
    made = [call(first, "create_environment", runtime="shell")["environment_id"] for _ in "12"]
    second = start("b", **shared)
    done = call(second, "execute", environment_id=made[0], code="pwd; touch made")
    assert (done["stdout"], done["exit_code"]) == ("/home/sandbox\n", 0)
    listed = call(second, "list_files", environment_id=made[0])
    assert [one["name"] for one in listed["files"]] == ["made"]
    call(first, "destroy_environment", environment_id=made[0])
    events = call(second, "environment_history", environment_id=made[0])["events"]
    ran = "in use: mcp:tester ran 1 program, the last one ended with exit code 0"
    assert ran in [event["reason"] for event in events]
    talk(second.url, lambda client: _give_up(client, made[1]))
    first.kill()
    answer = refused(second.url, "execute", environment_id=made[1], code="echo")
    assert answer.startswith(f"host a, which has the files of environment '{made[1]}', cannot be ")
    assert not any("the-secret" in one.stderr() for one in (first, second))


async def _give_up(client: Client, environment_id: str) -> None:
    """Begin a program that does not end, cancel the call once it runs, and wait for its end."""
    marker = f"{os.getpid()}.{time.monotonic_ns()}"  # Of seconds, which no other program sleeps.
    arguments = {"environment_id": environment_id, "timeout_seconds": 200}
    async with anyio.create_task_group() as tasks:
        code = f"sleep {marker} & wait"
        tasks.start_soon(client.call_tool, "execute", {**arguments, "code": code})
        with anyio.fail_after(TIMEOUT_S):
            while not _runs(marker):
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(TIMEOUT_S):
        while _runs(marker):
            await anyio.sleep(0.01)


def _runs(argument: str) -> bool:
    """Return whether a program with this argument runs on this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                return True
    return False


def test_second_http_server_of_a_host_is_refused(start: Start) -> None:
    """One server of a host listens for HTTP, as with a store in files."""
    first = start("a")
    assert first.url
    second = start("a")
    assert second.wait() == 4
    assert f"process {first.pid}" in second.stderr()


def test_store_that_was_copied_is_adopted(start: Start, server: Server, tmp_path: Path) -> None:
    """After the copy of a store in files, the server of its workspaces takes its records over."""
    workspaces = tmp_path / "a"
    with FileStore(tmp_path / "files", durable=False) as files:
        with open_service(files, Settings(workspaces=str(workspaces))) as service:
            made = service.create("shell")
        with PostgresStore(server.url, durable=False) as store:
            copied = copy(files, store)
    assert copied.documents == 1
    other = start("b")
    (found,) = call(other, "list_environments")["environments"]
    assert (found["host"], found["status"]) == ("", "running")
    first = start("a")
    (found,) = call(first, "list_environments")["environments"]
    assert (found["host"], found["status"]) == ("a", "running")
    assert found["workspace"]
    events = call(other, "environment_history", environment_id=made.id)["events"]
    assert events[-1]["reason"] == "its workspace is on host a"


def test_server_says_that_database_is_gone(start: Start, server: Server) -> None:
    """While nothing can be stored, the server is not ready, and says so without names."""
    first = start("a")
    assert first.get("/readyz")[0] == 200
    server.execute("ALTER TABLE waggle.store RENAME TO hidden")
    server.execute(
        "CREATE TABLE waggle.store AS SELECT one, 99 AS format, last, era FROM waggle.hidden"
    )
    status, text = first.get("/readyz")
    assert (status, json.loads(text)["components"]["store"]) == (503, "unsupported")
    assert os.sep not in text.replace("</", "")
