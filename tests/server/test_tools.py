# SPDX-License-Identifier: Apache-2.0
"""The tools as a client sees them: arguments, results and refusals."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.types import TextResourceContents, Tool

from tests.server.client import ask, call, refused, talk
from waggle_fsstore import EnvironmentService, FileStore, Status
from waggle_fsstore.testing import make_environment

FIELDS = {
    "environment_id",
    "name",
    "runtime",
    "status",
    "status_reason",
    "created_at",
    "last_used",
    "timeout",
    "ssh_port",
    "workspace",
}

TOOLS = {
    "create_environment": ({"runtime", "name", "timeout_minutes", "with_pip"}, FIELDS),
    "list_environments": ({"limit", "after"}, {"environments", "count", "next", "unreadable"}),
    "get_environment": ({"environment_id"}, FIELDS),
    "destroy_environment": ({"environment_id", "reason"}, {"status", "message"}),
    "environment_history": (
        {"environment_id", "limit", "after"},
        {"environment_id", "events", "count"},
    ),
}

#: Ids of no environment, valid and invalid.
IDS = [
    "missing",
    "../x",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "a/b",
    "",
    "\0",
    "x" * 201,
    "x" * 100_000,
    "é" * 150,
    "a\nb",
    "\x1b[2J",
    "\ud800",
]


def _tools(server: MCPServer[Any]) -> dict[str, Tool]:
    async def dialogue(client: Client) -> list[Tool]:
        return (await client.list_tools()).tools

    return {tool.name: tool for tool in talk(server, dialogue)}


def test_tools_have_typed_schemas(server: MCPServer[Any]) -> None:
    """There are five tools, each with typed and described input and a typed result."""
    tools = _tools(server)
    assert tools.keys() == TOOLS.keys()
    for name, (arguments, fields) in TOOLS.items():
        tool = tools[name]
        assert tool.title
        assert tool.description
        assert tool.input_schema["properties"].keys() == arguments
        assert tool.output_schema is not None
        assert tool.output_schema["properties"].keys() == fields
        for argument in tool.input_schema["properties"].values():
            assert argument["description"]
        # Some clients do not follow references; only lists have one.
        assert "$defs" not in tool.input_schema
        assert len(tool.output_schema.get("$defs", ())) == {
            "list_environments": 2,
            "environment_history": 1,
        }.get(name, 0)
    schema = tools["create_environment"].input_schema
    assert schema["required"] == ["runtime"]
    assert schema["properties"]["runtime"]["enum"] == ["python", "node", "shell"]
    assert schema["properties"]["timeout_minutes"]["anyOf"][0] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 60,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("create_environment", (False, False, False)),
        ("list_environments", (True, None, None)),
        ("get_environment", (True, None, None)),
        ("destroy_environment", (False, True, True)),
        ("environment_history", (True, None, None)),
    ],
)
def test_annotations_state_effects(
    server: MCPServer[Any], name: str, expected: tuple[bool, bool | None, bool | None]
) -> None:
    """A client can tell what a tool changes before it asks its user for permission."""
    hints = _tools(server)[name].annotations
    assert hints is not None
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == expected
    assert hints.open_world_hint is False


def test_create_returns_usable_environment(
    server: MCPServer[Any], root: Path, store: FileStore
) -> None:
    """The answer has everything a client needs, and the environment can be used."""
    before = datetime.now(UTC)
    created = call(server, "create_environment", runtime="shell", name="Größe", timeout_minutes=5)
    [stored] = store.find_all()
    assert created == {
        "environment_id": stored.id,
        "name": "Größe",
        "runtime": "shell",
        "status": "running",
        "status_reason": "",
        "created_at": created["created_at"],
        "last_used": created["last_used"],
        "timeout": "5m0s",
        "ssh_port": stored.ssh_port,
        "workspace": str(root.parent / "store-workspaces" / stored.id / "home"),
    }
    assert before <= datetime.fromisoformat(created["created_at"])
    assert created["created_at"] <= created["last_used"]
    assert 10_000 <= stored.ssh_port <= 11_000
    assert Path(created["workspace"]).is_dir()


def test_create_has_defaults(server: MCPServer[Any]) -> None:
    """The name is generated, and the timeout is half an hour."""
    created = call(server, "create_environment", runtime="shell")
    assert created["timeout"] == "30m0s"
    assert created["name"] == f"shell-{created['environment_id'][:8]}"


def test_list_pages_are_complete(server: MCPServer[Any], store: FileStore) -> None:
    """Following next returns every environment once, in order, despite concurrent changes."""
    names = sorted(f"e-{n:03d}" for n in range(25))
    store.save_all([make_environment(id=name) for name in names])

    async def dialogue(client: Client) -> list[str]:
        found: list[str] = []
        arguments: dict[str, object] = {"limit": 7}
        while True:
            page = await ask(client, "list_environments", **arguments)
            assert page["unreadable"] == []
            assert page["count"] == len(store.find_all())
            found += [one["environment_id"] for one in page["environments"]]
            if page["next"] is None:
                return found
            assert len(page["environments"]) == 7
            assert page["next"] == found[-1]
            arguments["after"] = page["next"]
            # Concurrently, the last id of the page is deleted, and another one is created.
            store.delete(page["next"])
            store.save(make_environment(id="a-new-one-before"))

    assert talk(server, dialogue) == names


@pytest.mark.parametrize("count", [0, 1, 3])
def test_full_last_page_has_no_next(server: MCPServer[Any], store: FileStore, count: int) -> None:
    """No client is sent to an empty page."""
    store.save_all([make_environment() for _ in range(count)])
    page = call(server, "list_environments", limit=max(count, 1))
    assert (len(page["environments"]), page["count"], page["next"]) == (count, count, None)


def test_list_has_default_limit(server: MCPServer[Any], store: FileStore) -> None:
    """The default limit is that of the schema, and the fields are those of an environment."""
    store.save_all([make_environment() for _ in range(101)])
    page = call(server, "list_environments")
    limit = _tools(server)["list_environments"].input_schema["properties"]["limit"]["default"]
    assert 10 <= limit <= 100
    assert (len(page["environments"]), page["count"]) == (limit, 101)
    assert page["environments"][0].keys() == FIELDS
    assert len(call(server, "list_environments", limit=1000)["environments"]) == 101


def test_list_after_last_id_is_empty(server: MCPServer[Any], store: FileStore) -> None:
    """Any id that sorts behind the last one gives an empty page."""
    store.save(make_environment(id="a"))
    for after in ("a", "zzz", "\ud800", "x" * 10_000):
        page = call(server, "list_environments", after=after)
        assert (page["environments"], page["count"], page["next"]) == ([], 1, None)


def test_list_reports_unreadable_documents(
    server: MCPServer[Any], store: FileStore, root: Path
) -> None:
    """Damaged and newer documents affect no other, and are named without a path."""
    store.save_all([make_environment(id=name) for name in ("a", "b", "c", "d")])
    (root / "environments" / "b.json").write_text("{")
    newer = root / "environments" / "c.json"
    newer.write_text(newer.read_text().replace('"schema": 1', '"schema": 99'))
    page = call(server, "list_environments")
    assert [one["environment_id"] for one in page["environments"]] == ["a", "d"]
    assert page["count"] == 2
    assert [one["document"] for one in page["unreadable"]] == ["b.json", "c.json"]
    assert page["unreadable"][0]["reason"].startswith("the environment's document is damaged: ")
    newer = page["unreadable"][1]["reason"]
    assert newer == "a newer version wrote the document; the operator must upgrade the server"
    assert str(root) not in json.dumps(page["unreadable"])


def test_get_counts_as_use(
    server: MCPServer[Any], store: FileStore, service: EnvironmentService
) -> None:
    """The answer has the new time of last use, which is stored later, together with others."""
    service._touch_buffer._interval = timedelta(days=1)  # Not stored before the service is closed.
    created = call(server, "create_environment", runtime="shell")
    revision = store.find_by_id(created["environment_id"]).revision

    async def dialogue(client: Client) -> list[str]:
        answers = [
            await ask(client, "get_environment", environment_id=created["environment_id"])
            for _ in range(5)
        ]
        listed = await ask(client, "list_environments")
        return [one["last_used"] for one in (*answers, *listed["environments"])]

    times = talk(server, dialogue)
    assert [created["last_used"], *times] == sorted({created["last_used"], *times}) + times[-1:]
    assert store.find_by_id(created["environment_id"]).revision == revision
    service.close()
    stored = store.find_by_id(created["environment_id"])
    assert stored.revision == revision + 1
    assert stored.last_used == datetime.fromisoformat(times[-1])


@pytest.mark.parametrize("status", [Status.CREATING, Status.ERROR, Status.DESTROYING])
def test_get_shows_environment_that_is_not_running(
    server: MCPServer[Any], store: FileStore, status: Status
) -> None:
    """The answer has its status and the reason, and nothing counts as use."""
    made = make_environment(status=status, status_reason="because")
    store.save(made)
    found = call(server, "get_environment", environment_id=made.id)
    assert (found["status"], found["status_reason"]) == (status, "because")
    assert datetime.fromisoformat(found["last_used"]) == made.last_used


def test_get_of_other_provider_has_no_workspace(server: MCPServer[Any], store: FileStore) -> None:
    """An environment of another provider has no workspace here."""
    made = make_environment(provider="elsewhere")
    store.save(made)
    assert call(server, "get_environment", environment_id=made.id)["workspace"] == ""


def test_destroy_removes_record_and_workspace(server: MCPServer[Any], store: FileStore) -> None:
    """Both are gone, and a second call finds no environment."""
    created = call(server, "create_environment", runtime="shell")
    environment_id = created["environment_id"]
    answer = call(server, "destroy_environment", environment_id=environment_id, reason="done")
    assert answer == {
        "status": "destroyed",
        "message": f"environment {environment_id} is destroyed",
    }
    assert store.count() == 0
    assert not Path(created["workspace"]).exists()
    again = refused(server, "destroy_environment", environment_id=environment_id)
    assert again == f"environment not found: '{environment_id}'"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_history_names_the_client(server: MCPServer[Any], mode: str) -> None:
    """Each change has the client and the reason, also after the environment is destroyed."""

    async def dialogue(client: Client) -> dict[str, Any]:
        created = await ask(client, "create_environment", runtime="shell")
        environment_id = created["environment_id"]
        await ask(client, "destroy_environment", environment_id=environment_id, reason="no use")
        return await ask(client, "environment_history", environment_id=environment_id)

    history = talk(server, dialogue, name="claude", mode=mode)
    assert history["count"] == len(history["events"]) == 4
    assert [list(event) for event in history["events"]] == [
        ["seq", "at", "kind", "status", "previous_status", "actor", "reason"]
    ] * 4
    assert [tuple(event.values())[2:] for event in history["events"]] == [
        ("created", "creating", None, "mcp:claude", "create was called"),
        ("updated", "running", "creating", "mcp:claude", "its workspace is ready"),
        ("updated", "destroying", "running", "mcp:claude", "no use"),
        ("deleted", None, "destroying", "mcp:claude", "no use"),
    ]


def test_history_pages_follow_seq(server: MCPServer[Any], store: FileStore) -> None:
    """The seq of the last event leads to the next page."""
    store.save(make_environment(id="other"))
    made = make_environment(id="a")
    for _ in range(5):
        store.save(made)

    async def dialogue(client: Client) -> list[tuple[list[int], int]]:
        pages: list[tuple[list[int], int]] = []
        after = 0
        while True:
            page = await ask(
                client, "environment_history", environment_id="a", limit=2, after=after
            )
            if not page["events"]:
                return pages
            pages.append(([event["seq"] for event in page["events"]], page["count"]))
            after = page["events"][-1]["seq"]

    assert talk(server, dialogue) == [([2, 3], 5), ([4, 5], 3), ([6], 1)]


def test_history_after_last_change_is_refused(server: MCPServer[Any], store: FileStore) -> None:
    """A number beyond the last change is refused, and named."""
    store.save(make_environment(id="a"))
    for after in (2, 2**70):
        message = refused(server, "environment_history", environment_id="a", after=after)
        assert message == f"after: {after} is beyond the last change"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "\0",
        "a\0b",
        "x" * 10_000,
        "\ud800",
        "a\nb",
        "\x1b[2J",
        "🐝" * 10_000,
        "\u202e",
        " ",
        "a:b",
    ],
)
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_hostile_client_name_is_made_printable(
    server: MCPServer[Any], name: str, mode: str
) -> None:
    """With any client name, the calls work, and the history stays readable."""

    async def dialogue(client: Client) -> dict[str, Any]:
        created = await ask(client, "create_environment", runtime="shell")
        environment_id = created["environment_id"]
        await ask(client, "destroy_environment", environment_id=environment_id)
        return await ask(client, "environment_history", environment_id=environment_id)

    for event in talk(server, dialogue, name=name, mode=mode)["events"]:
        assert event["actor"].startswith("mcp")
        assert len(event["actor"]) <= 104
        assert event["actor"].isprintable()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "runtime"),
        ({"runtime": "ruby"}, "'python', 'node' or 'shell'"),
        ({"runtime": "SHELL"}, "'python', 'node' or 'shell'"),
        ({"runtime": 5}, "'python', 'node' or 'shell'"),
        ({"runtime": "shell", "timeout_minutes": "5"}, "valid integer"),
        ({"runtime": "shell", "timeout_minutes": 5.0}, "valid integer"),
        ({"runtime": "shell", "timeout_minutes": True}, "valid integer"),
        ({"runtime": "shell", "timeout_minutes": 0}, "greater than or equal to 1"),
        ({"runtime": "shell", "timeout_minutes": -1}, "greater than or equal to 1"),
        ({"runtime": "shell", "timeout_minutes": 61}, "less than or equal to 60"),
        ({"runtime": "shell", "timeout_minutes": 10**30}, "less than or equal to 60"),
        ({"runtime": "shell", "name": ""}, "name: must be 1-200 printable characters"),
        ({"runtime": "shell", "name": "x" * 201}, "name: must be 1-200 printable characters"),
        ({"runtime": "shell", "name": "a\nb"}, "name: must be 1-200 printable characters"),
        ({"runtime": "shell", "name": "\0"}, "name: must be 1-200 printable characters"),
        ({"runtime": "shell", "name": "\ud800"}, "name: must be 1-200 printable characters"),
        ({"runtime": "shell", "name": 5}, "valid string"),
        ({"runtime": "shell", "with_pip": 1}, "valid boolean"),
        ({"runtime": "shell", "with_pip": "yes"}, "valid boolean"),
    ],
)
def test_create_refuses_invalid_arguments(
    server: MCPServer[Any], store: FileStore, arguments: dict[str, object], message: str
) -> None:
    """The error explains the problem, and nothing is stored."""
    assert message in refused(server, "create_environment", **arguments)
    assert store.count() == 0


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("list_environments", {"limit": 0}, "greater than or equal to 1"),
        ("list_environments", {"limit": 1001}, "less than or equal to 1000"),
        ("list_environments", {"limit": "5"}, "valid integer"),
        ("list_environments", {"limit": True}, "valid integer"),
        ("list_environments", {"after": 5}, "valid string"),
        ("get_environment", {}, "Field required"),
        ("get_environment", {"environment_id": 5}, "valid string"),
        ("get_environment", {"environment_id": None}, "valid string"),
        ("destroy_environment", {"environment_id": ["a"]}, "valid string"),
        ("destroy_environment", {"environment_id": "a", "reason": "x" * 1001}, "1000 characters"),
        ("destroy_environment", {"environment_id": "a", "reason": "\0"}, "reason: holds a NUL"),
        ("destroy_environment", {"environment_id": "a", "reason": "\ud800"}, "valid string"),
        ("environment_history", {"environment_id": "a", "after": -1}, "or equal to 0"),
        ("environment_history", {"environment_id": "a", "after": True}, "valid integer"),
        ("environment_history", {"environment_id": "a", "limit": 0}, "or equal to 1"),
    ],
)
def test_tool_refuses_invalid_arguments(
    server: MCPServer[Any],
    store: FileStore,
    tool: str,
    arguments: dict[str, object],
    message: str,
) -> None:
    """The error explains the problem, and nothing is changed."""
    made = make_environment(id="a", provider=None)
    store.save(made)
    assert message in refused(server, tool, **arguments)
    assert store.find_all() == [made]


@pytest.mark.parametrize("environment_id", IDS, ids=range(len(IDS)))
@pytest.mark.parametrize("tool", ["get_environment", "destroy_environment", "environment_history"])
def test_unknown_id_is_not_found(server: MCPServer[Any], tool: str, environment_id: str) -> None:
    """For any id, the answer is short and printable."""
    message = refused(server, tool, environment_id=environment_id)
    assert message.startswith("environment not found: '")
    assert len(message) < 300
    assert message.isascii()
    assert message.isprintable()


# The resource


def _read(server: MCPServer[Any], uri: str) -> str:
    async def dialogue(client: Client) -> str:
        [content] = (await client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        assert content.mime_type == "application/json"
        return content.text

    return talk(server, dialogue)


def test_resource_template_is_listed(server: MCPServer[Any]) -> None:
    """There is one template, for single environments."""

    async def dialogue(client: Client) -> list[str]:
        templates = (await client.list_resource_templates()).resource_templates
        return [template.uri_template for template in templates]

    assert talk(server, dialogue) == ["waggle://environments/{environment_id}"]


def test_resource_does_not_count_as_use(server: MCPServer[Any], store: FileStore) -> None:
    """The resource has the fields of get_environment, and does not reset the idle timer."""
    made = make_environment(id="a", last_used=datetime(2026, 1, 2, tzinfo=UTC))
    store.save(made)
    content = json.loads(_read(server, "waggle://environments/a"))
    assert content.keys() == FIELDS
    assert (content["environment_id"], content["timeout"]) == ("a", content["timeout"])
    assert datetime.fromisoformat(content["last_used"]) == made.last_used
    used = call(server, "get_environment", environment_id="a")["last_used"]
    assert datetime.fromisoformat(used) > made.last_used + timedelta(seconds=1)


def test_resource_accepts_escaped_id(server: MCPServer[Any], store: FileStore) -> None:
    """Any valid id can be read, percent-encoded."""
    store.save(make_environment(id="größer als"))
    text = _read(server, "waggle://environments/gr%C3%B6%C3%9Fer%20als")
    assert json.loads(text)["environment_id"] == "größer als"


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "",
        "..",
        "%2e%2e",
        "..%2F..%2Fetc%2Fpasswd",
        "../store",
        "a/b",
        "%00",
        "%ff",
        "%ed%a0%80",
        "x" * 100_000,
        "%",
        "{environment_id}",
        "a?b=c#d",
    ],
)
def test_unknown_resource_is_not_found(server: MCPServer[Any], root: Path, name: str) -> None:
    """The resource is not found, and no path is revealed."""

    async def dialogue(client: Client) -> MCPError:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(f"waggle://environments/{name}")
        return caught.value

    error = talk(server, dialogue)
    assert error.error.code == -32602
    assert str(root.parent) not in str(error)
