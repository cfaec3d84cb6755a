# SPDX-License-Identifier: Apache-2.0
"""The log of calls: one entry for each, with its outcome."""

import logging
from typing import Any

import pytest
from mcp import Client
from mcp.server import MCPServer

from tests.server.client import ask, talk


def entries(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the entries of calls, without those that no run repeats."""
    found = [one for one in caplog.records if one.name.endswith(".call_log")]
    fields = [dict(getattr(one, "fields")) for one in found]  # noqa: B009  # Not in the type.
    assert all(one.pop("duration_ms") >= 0 for one in fields)
    return fields


def test_each_call_has_one_entry(server: MCPServer[Any], caplog: pytest.LogCaptureFixture) -> None:
    """It says who called which tool for which environment, and how that ended; no values."""
    caplog.set_level(logging.INFO)

    async def dialogue(client: Client) -> str:
        made = await ask(client, "create_environment", runtime="shell", name="a secret name")
        environment_id: str = made["environment_id"]
        await ask(client, "get_environment", environment_id=environment_id)
        await ask(client, "list_environments")
        await ask(client, "destroy_environment", environment_id=environment_id, reason="a secret")
        await client.call_tool("get_environment", {"environment_id": environment_id})
        await client.call_tool("list_environments", {"limit": "a secret"})
        return environment_id

    environment_id = talk(server, dialogue)
    about = {"client": "mcp:tester", "environment_id": environment_id}
    assert entries(caplog) == [
        {"tool": "create_environment", **about, "outcome": "ok"},
        {"tool": "get_environment", **about, "outcome": "ok"},
        {"tool": "list_environments", "client": "mcp:tester", "outcome": "ok"},
        {"tool": "destroy_environment", **about, "outcome": "ok"},
        {"tool": "get_environment", **about, "outcome": "refused"},
        {"tool": "list_environments", "client": "mcp:tester", "outcome": "refused"},
    ]
    # The log of a server has no information of the SDK, which quotes arguments.
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith("mcp")]
    assert not any("secret" in text for text in ours)


def test_unexpected_error_is_a_failure(
    server: MCPServer[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is told apart from what a client did wrong."""
    caplog.set_level(logging.INFO)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("waggle_fsstore.service.environments.EnvironmentService.find_all", fail)

    async def dialogue(client: Client) -> None:
        await client.call_tool("list_environments", {})

    talk(server, dialogue)
    (entry,) = entries(caplog)
    assert entry["outcome"] == "failed"
