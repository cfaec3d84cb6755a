# SPDX-License-Identifier: Apache-2.0
"""The sentence that describes the project is the same in every place."""

import tomllib
from pathlib import Path

import pytest

import waggle_fsstore

ROOT = Path(__file__).parent.parent
IDENTITY = (
    "A durable store for agent environments, one readable JSON file each, with an MCP server, "
    "a CLI and pytest fixtures included"
)


def test_package_begins_with_identity() -> None:
    """The docstring of the package begins with the sentence."""
    assert waggle_fsstore.__doc__
    assert waggle_fsstore.__doc__.splitlines()[0] == f"{IDENTITY}."


def test_distribution_is_described_by_identity() -> None:
    """The package index shows the sentence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["description"] == IDENTITY


def test_help_shows_identity() -> None:
    """The help of the command line begins with the sentence."""
    from tests.cli.cli_runner import run

    _, _, text = " ".join(run("--help").stdout.split()).partition("[ARGS]... ")
    assert text.startswith(f"{IDENTITY}. ")


def test_server_describes_itself_by_identity() -> None:
    """An MCP client gets the sentence as the description of the server."""
    pytest.importorskip("mcp")
    from mcp import Client

    from tests.server.client import talk
    from waggle_fsstore.server.tools import make_server

    async def describe(client: Client) -> str | None:
        return client.server_info.description if client.server_info else None

    with waggle_fsstore.open_service(waggle_fsstore.MemoryStore()) as service:
        assert talk(make_server(service), describe) == f"{IDENTITY}."
