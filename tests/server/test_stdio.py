# SPDX-License-Identifier: Apache-2.0
"""Standard input and output: nothing but the protocol on it, and several servers of a store."""

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

# Whoever prints in a tool, by whatever way: it must not come between the messages.
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


def test_only_messages_on_standard_output(tmp_path: Path) -> None:
    """Each line is one of the protocol, and each of standard error one of the log."""
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
        assert "bad.json" in server.said()


def test_a_stray_print(tmp_path: Path) -> None:
    """What a tool prints, or a program that it starts, goes to the log."""
    with StdioServer(tmp_path / "store", code=STRAY) as server:
        server.begin()
        assert server.call("list_environments")["count"] == 0
        server.wait_for("stray child")
        for text in ("stray print", "stray write", "stray descriptor"):
            server.wait_for(text)
        assert not any("stray" in line for line in server.output)
        assert json.loads(server.wait_for("stray warning"))["level"] == "warning"


def test_nonsense_does_no_harm(tmp_path: Path) -> None:
    """The messages after it are answered."""
    with StdioServer(tmp_path / "store") as server:
        server.begin()
        assert server.process.stdin is not None
        for line in (b"\n", b"nonsense\n", b"{}\n", b"\xff\xfe\n", b"[" * 10_000 + b"\n", b"5\n"):
            server.process.stdin.write(line)
        server.process.stdin.flush()
        server.post("list_environments")
        while "result" not in (answer := server.answer()):
            assert answer["error"]
        assert answer["result"]["structuredContent"]["count"] == 0


def test_it_ends_with_its_input(tmp_path: Path) -> None:
    """Also before a client said anything; the environments stay."""
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


class Leaving(StdioServer):
    """The client of it hears one answer, and then no more."""

    def _read_output(self, pipe: IO[bytes]) -> None:
        self._answers.put(json.loads(pipe.readline()))
        pipe.close()
        self._answers.put({"id": "left"})


def test_a_client_that_dies(tmp_path: Path) -> None:
    """Nobody hears the answer: the server ends in order, and what it did stays done."""
    store = tmp_path / "store"
    with Leaving(store) as server:
        server.begin()
        assert server.answer() == {"id": "left"}
        server.post("create_environment", runtime="shell")
        # What waits for the next line hears of nothing else before that.
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
def test_two_servers_share_a_store(tmp_path: Path, kind: type[Server]) -> None:
    """What one creates the other lists and destroys; one of them leads, also after a kill."""
    store = tmp_path / "store"
    lock = ServerLock(store, "server.lock")
    # This one does what is due at its start, and then nothing more.
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

            # What a third one left, which nobody finds before somebody looks again.
            left = [
                make_environment(id="made", status=Status.CREATING, owner=owner()),
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


def test_capacity_holds_over_servers(tmp_path: Path) -> None:
    """Of twenty creations at once, by two servers, ten succeed where ten are allowed."""
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
