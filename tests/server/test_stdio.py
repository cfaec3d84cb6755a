# SPDX-License-Identifier: Apache-2.0
"""Standard input and output: a clean protocol stream, and several servers of one store."""

import json
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import IO

import pytest

from tests.server.client import call
from tests.server.processes import HttpServer, Server, StdioServer
from tests.service.fakes import owner
from waggle_fsstore import FileStore, Status
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.testing import make_environment

# Output of a tool, in any way, must not get between the messages.
STRAY = """
import os, subprocess, sys, warnings
warnings.simplefilter("always")
from waggle_fsstore.service.environments import EnvironmentService
def find_all(*arguments, real=EnvironmentService.find_all, **options):
    print("stray print", flush=True)
    sys.stdout.write("stray write\\n")
    sys.stdout.flush()
    os.write(1, b"stray descriptor\\n")
    subprocess.run(["echo", "stray child"], check=True)
    warnings.warn("stray warning")
    return real(*arguments, **options)
EnvironmentService.find_all = find_all
"""


def test_stdout_carries_only_messages(tmp_path: Path) -> None:
    """Each line of stdout is a protocol message, and each line of stderr a log entry."""
    with StdioServer(tmp_path / "store") as server:
        server.begin()
        created = server.call("create_environment", runtime="shell", name='Größe "quoted"')
        assert server.call("list_environments")["environments"] == [created]
        (tmp_path / "store" / "environments" / "bad.json").write_text("{")
        server.post("get_environment", environment_id="bad")
        assert server.answer()["result"]["isError"]
        server.close_input()
        assert server.wait() == 0
        for line in server.output:
            assert json.loads(line)["jsonrpc"] == "2.0"
        for entry in server.log():
            assert list(entry)[:4] == ["time", "level", "logger", "message"]
            assert entry["time"].endswith("Z")
        assert "bad.json" in server.stderr()


def test_prints_go_to_log(tmp_path: Path) -> None:
    """Output of a tool, or of a program that it starts, goes to stderr."""
    with StdioServer(tmp_path / "store", code=STRAY) as server:
        server.begin()
        assert server.call("list_environments")["count"] == 0
        server.wait_for("stray child")
        for text in ("stray print", "stray write", "stray descriptor"):
            server.wait_for(text)
        assert not any("stray" in line for line in server.output)
        assert json.loads(server.wait_for("stray warning"))["level"] == "warning"


def test_nonsense_is_answered_by_errors(tmp_path: Path) -> None:
    """A line that is no message gets the error that JSON-RPC has for it, and ends nothing."""
    lines = {b"nonsense": -32700, b"\xff\xfe": -32700, b"[" * 10_000: -32700}
    lines |= {b"{}": -32600, b"5": -32600, b'{"jsonrpc": "2.0", "id": 1}': -32600}
    with StdioServer(tmp_path / "store") as server:
        assert server.process.stdin is not None
        server.process.stdin.write(b"\n \nbefore the handshake\n")
        server.process.stdin.flush()
        assert server.answer() == {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": -32700, "message": "Parse error: the line is not JSON"},
        }
        server.begin()
        for line, code in lines.items():
            server.process.stdin.write(line + b"\n")
            server.process.stdin.flush()
            answer = server.answer()
            assert (answer["id"], answer["error"]["code"]) == (None, code)
        server.process.stdin.write(b"\n")
        assert server.call("list_environments")["count"] == 0


def test_server_ends_with_its_input(tmp_path: Path) -> None:
    """The server ends when its input does, even before any message; environments stay."""
    store = tmp_path / "store"
    with StdioServer(store) as server:
        server.begin()
        created = server.call("create_environment", runtime="shell")
        server.close_input()
        assert server.wait() == 0
    with StdioServer(store) as server:
        server.close_input()
        assert server.wait() == 0
    with FileStore(store) as opened:
        assert opened.find_by_id(created["environment_id"]).is_running


class ServerWithoutReader(StdioServer):
    """A server whose client reads one answer, and then closes the pipe."""

    def _read_output(self, pipe: IO[bytes]) -> None:
        self._answers.put(json.loads(pipe.readline()))
        pipe.close()
        self._answers.put({"id": "left"})


def test_dead_client_ends_server_in_order(tmp_path: Path) -> None:
    """The server ends in order although its answer is not read, and its work stays done."""
    store = tmp_path / "store"
    with ServerWithoutReader(store) as server:
        server.begin()
        assert server.answer() == {"id": "left"}
        server.post("create_environment", runtime="shell")
        # A server that waits for a line of input notices its client's end only afterwards.
        with suppress(BrokenPipeError):
            while server.process.poll() is None:
                server.post("list_environments")
                with suppress(TimeoutExpired):
                    server.process.wait(0.05)
        assert server.wait() == 0
        assert [entry["message"] for entry in server.log()][-2:] == [
            "the client is gone",
            "stopped; no environment was destroyed",
        ]
    with FileStore(store) as opened:
        assert [one.status for one in opened.find_all()] == [Status.RUNNING]


@pytest.mark.parametrize("kind", [StdioServer, HttpServer])
def test_servers_share_a_store(tmp_path: Path, kind: type[Server]) -> None:
    """Each server sees the changes of the other, and one leads, also after a kill."""
    store = tmp_path / "store"
    lock = ServerLock(store, "server.lock")
    # The first server reconciles at its start, and does not sweep during the test.
    with kind(store, WAGGLE_REAPER_INTERVAL="1h") as first:
        if isinstance(first, StdioServer):
            first.begin()
            created = first.call("create_environment", runtime="shell")
        else:
            assert isinstance(first, HttpServer)
            created = call(first.url, "create_environment", runtime="shell")
        with StdioServer(store, WAGGLE_REAPER_INTERVAL="20ms") as second:
            second.begin()
            assert second.call("list_environments")["environments"] == [created]
            environment_id = created["environment_id"]
            answer = second.call("destroy_environment", environment_id=environment_id)
            assert answer["status"] == "destroyed"
            if isinstance(first, StdioServer):
                assert first.call("list_environments")["count"] == 0
            holder = lock.holder()
            assert holder is not None
            assert holder.pid == first.pid

            # Left by a third server, and not reconciled before a server becomes the leader.
            left = [
                make_environment(
                    id="made", status=Status.CREATING, owner=owner(), capabilities=None
                ),
                make_environment(id="removed", status=Status.DESTROYING, owner=owner()),
            ]
            with FileStore(store) as opened:
                opened.save_all(left)
            first.kill()
            second.wait_for("reconciled: ")
            holder = lock.holder()
            assert holder is not None
            assert holder.pid == second.pid
            [found] = second.call("list_environments")["environments"]
            assert (found["environment_id"], found["status"]) == ("made", "error")
            history = second.call("environment_history", environment_id="removed")
            assert {event["actor"] for event in history["events"][1:]} == {"reconcile"}
            assert history["events"][-1]["kind"] == "deleted"


def test_capacity_holds_across_servers(tmp_path: Path) -> None:
    """Of twenty concurrent creations by two servers, ten succeed where ten are allowed."""
    store = tmp_path / "store"
    variables = {"WAGGLE_MAX_ENVIRONMENTS": "10"}
    with StdioServer(store, **variables) as first, StdioServer(store, **variables) as second:
        both = [first.begin(), second.begin()]
        for _ in range(10):
            for server in both:
                server.post("create_environment", runtime="shell")
        results = [server.answer()["result"] for server in both for _ in range(10)]
        made = [one["structuredContent"] for one in results if not one["isError"]]
        refused = [one["content"][0]["text"] for one in results if one["isError"]]
        assert len(made) == 10
        assert len({one["ssh_port"] for one in made}) == 10
        assert len(refused) == 10
        for text in refused:
            assert "the limit of 10 live environments is reached: destroy one" in text
        ids = sorted(one["environment_id"] for one in made)
        listed = first.call("list_environments")
        assert [one["environment_id"] for one in listed["environments"]] == ids
        assert sorted(path.name for path in (tmp_path / "store-workspaces").glob("[!.]*")) == ids
