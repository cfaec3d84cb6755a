# SPDX-License-Identifier: Apache-2.0
"""One session over each transport: in memory, standard input and output, HTTP."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.fork_server import PYTHON
from tests.server.client import Place, ask, refusal, talk, workspace_of
from tests.server.processes import HttpServer
from waggle_fsstore import FileStore
from waggle_fsstore.config import Settings
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.wiring import open_service


@pytest.fixture(params=["memory", "stdio", "http"])
def place(request: pytest.FixtureRequest, root: Path) -> Iterator[Place]:
    """Yield how to reach a server of the store, which inherits only the search path."""
    match request.param:
        case "memory":
            with FileStore(root) as store:
                service = open_service(store, Settings.from_env({}))
                yield make_server(service)
                service.close()
        case "stdio":
            yield StdioServerParameters(
                command=PYTHON[0],
                args=[
                    *PYTHON[1:],
                    "-m",
                    "waggle_fsstore",
                    "--store",
                    str(root),
                    "serve",
                    "--stdio",
                ],
                env={"PATH": os.environ["PATH"]},
            )
        case _:
            with HttpServer(root) as server:
                yield server.url
                assert server.log()


def test_session_works_over_each_transport(place: Place, root: Path) -> None:
    """Two environments are created, used, listed and destroyed, and their history stays."""

    async def dialogue(client: Client) -> None:
        assert client.server_info is not None
        assert client.server_info.name == "waggle"
        assert "environment_id" in (client.instructions or "")
        python = await ask(client, "create_environment", runtime="python", name="Größe 🐝")
        shell = await ask(client, "create_environment", runtime="shell", timeout_minutes=60)
        assert (python["name"], python["timeout"]) == ("Größe 🐝", "30m0s")
        assert (shell["status"], shell["timeout"]) == ("running", "1h0m0s")
        assert python["ssh_port"] != shell["ssh_port"]
        both = sorted([python, shell], key=lambda one: str(one["environment_id"]))

        listed = await ask(client, "list_environments")
        assert listed == {"environments": both, "count": 2, "next": None, "unreadable": []}
        page = await ask(client, "list_environments", limit=1)
        assert page["environments"] == both[:1]
        page = await ask(client, "list_environments", limit=1, after=page["next"])
        assert (page["environments"], page["next"]) == (both[1:], None)

        # The workspace exists, and has an interpreter.
        home = workspace_of(root, python["environment_id"])
        assert (home / ".venv" / "bin" / "python").is_symlink()

        used = await ask(client, "get_environment", environment_id=python["environment_id"])
        assert used.pop("last_used") > python.pop("last_used")
        assert used == python

        for one in both:
            environment_id = one["environment_id"]
            answer = await ask(client, "destroy_environment", environment_id=environment_id)
            assert answer["status"] == "destroyed"
            refused = await refusal(client, "get_environment", environment_id=environment_id)
            assert refused == f"environment not found: '{environment_id}'"
            history = await ask(client, "environment_history", environment_id=environment_id)
            events = [event for event in history["events"] if event["actor"] != "touch"]
            assert {event["actor"] for event in events} == {"mcp:tester"}
            statuses = [event["status"] for event in events]
            assert statuses == ["creating", "running", "destroying", None]
        assert (await ask(client, "list_environments"))["count"] == 0

    talk(place, dialogue)
    assert list((root.parent / "store-workspaces").glob("[!.]*")) == []
