# SPDX-License-Identifier: Apache-2.0
"""Servers killed in the middle of an operation, and the recovery by the next one."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.server.client import ask, call, refusal, refused, talk, workspace_of
from tests.server.processes import TIMEOUT_S, HttpServer, hold
from waggle_fsstore import FileStore, Status
from waggle_fsstore.testing import make_environment


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def _workspaces(store: Path) -> list[str]:
    found = {path.name for path in store.with_name("store-workspaces").iterdir()}
    return sorted(found - {".waggle-root", ".trash"})


@pytest.mark.parametrize(
    ("point", "runtime"),
    [("layout.make_dir", "shell"), ("layout.write_new", "shell"), ("layout.write_new", "python")],
)
def test_kill_during_create_leaves_destroyable_error(
    tmp_path: Path, pool: ThreadPoolExecutor, point: str, runtime: str
) -> None:
    """The environment is in error with a reason, and can be destroyed without a trace."""
    store = tmp_path / "store"
    with HttpServer(store, code=hold(point)) as server:
        lost = pool.submit(call, server.url, "create_environment", runtime=runtime)
        server.wait_for("held")
        server.kill()
        assert lost.exception(TIMEOUT_S) is not None
    with HttpServer(store) as server:

        async def dialogue(client: Client) -> dict[str, Any]:
            listed = await ask(client, "list_environments")
            assert listed["unreadable"] == []
            [found] = listed["environments"]
            environment_id = found["environment_id"]
            assert found["status"] == "error"
            assert found["status_reason"] == (
                "could not be created: the process that was creating it ended"
            )
            assert await ask(client, "get_environment", environment_id=environment_id) == found
            await ask(client, "create_environment", runtime="shell")
            answer = await ask(client, "destroy_environment", environment_id=environment_id)
            assert answer["status"] == "destroyed"
            return await ask(client, "environment_history", environment_id=environment_id)

        history = talk(server.url, dialogue)
        assert [event["actor"] for event in history["events"]] == [
            "mcp:tester",
            "reconcile",
            "mcp:tester",
            "mcp:tester",
        ]
        [other] = call(server.url, "list_environments")["environments"]
        assert _workspaces(store) == [other["environment_id"]]
        assert json.loads(server.get("/readyz")[1])["counts"]["orphans"] == 0


@pytest.mark.parametrize("point", ["trash.move"])
def test_kill_during_destroy_is_completed_at_next_start(
    tmp_path: Path, pool: ThreadPoolExecutor, point: str
) -> None:
    """The next server removes it before it answers, and the history names who did what."""
    store = tmp_path / "store"
    with HttpServer(store, code=hold(point)) as server:
        created = call(server.url, "create_environment", runtime="shell")
        kept = call(server.url, "create_environment", runtime="shell")
        environment_id = created["environment_id"]
        lost = pool.submit(
            call, server.url, "destroy_environment", environment_id=environment_id, reason="mine"
        )
        server.wait_for("held")
        server.kill()
        assert lost.exception(TIMEOUT_S) is not None
    with HttpServer(store) as server:

        async def dialogue(client: Client) -> dict[str, Any]:
            assert (await ask(client, "list_environments"))["environments"] == [kept]
            for tool in ("get_environment", "destroy_environment"):
                message = await refusal(client, tool, environment_id=environment_id)
                assert message == f"environment not found: '{environment_id}'"
            return await ask(client, "environment_history", environment_id=environment_id)

        events = talk(server.url, dialogue)["events"]
        assert [(event["status"], event["actor"]) for event in events[2:]] == [
            ("destroying", "mcp:tester"),
            ("destroying", "reconcile"),
            (None, "reconcile"),
        ]
        assert events[2]["reason"] == "mine"
        assert _workspaces(store) == [kept["environment_id"]]


def test_environment_without_workspace_becomes_error_at_start(tmp_path: Path) -> None:
    """An environment whose workspace is gone is in error, and can be destroyed."""
    store = tmp_path / "store"
    with HttpServer(store) as server:
        created = call(server.url, "create_environment", runtime="shell")
        server.kill()
    workspace_of(store, created["environment_id"]).parent.rename(tmp_path / "moved")
    with HttpServer(store) as server:
        environment_id = created["environment_id"]
        found = call(server.url, "get_environment", environment_id=environment_id)
        assert (found["status"], found["status_reason"]) == ("error", "its workspace is gone")
        call(server.url, "destroy_environment", environment_id=environment_id)
        assert refused(server.url, "get_environment", environment_id=environment_id)


def test_server_starts_with_damaged_document(tmp_path: Path) -> None:
    """The server works, and reports the damaged document in its log, answers and readiness."""
    store = tmp_path / "store"
    with FileStore(store) as opened:
        opened.save_all(
            [make_environment(id=name, status=Status.RUNNING, provider=None) for name in "abc"]
        )
    (store / "environments" / "b.json").write_bytes(b"\0" * 1000)
    with HttpServer(store) as server:
        status, text = server.get("/readyz")
        report = json.loads(text)
        assert (status, report["status"]) == (200, "ready")
        assert report["counts"]["unreadable"] == 1
        listed = call(server.url, "list_environments")
        assert [one["environment_id"] for one in listed["environments"]] == ["a", "c"]
        assert [one["document"] for one in listed["unreadable"]] == ["b.json"]
        assert refused(server.url, "get_environment", environment_id="b").startswith(
            "the environment's document is damaged: "
        )
        assert call(server.url, "destroy_environment", environment_id="a")["status"] == "destroyed"
        created = call(server.url, "create_environment", runtime="shell")
        assert created["status"] == "running"
        assert "b.json" in server.stderr()
        server.process.terminate()
        assert server.wait() == 0
    assert (store / "environments" / "b.json").read_bytes() == b"\0" * 1000
