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

from tests.server.client import ask, call, refused, talk, workspace_of
from waggle_fsstore import EnvironmentService, FileStore, Status
from waggle_fsstore.server.tools import Tools, make_server
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
    "host",
    "labels",
}

OUTCOME = {"stdout", "stderr", "exit_code", "duration_ms", "truncated", "stopped"}

TOOLS = {
    "create_environment": (
        {
            *("runtime", "language", "name", "timeout_minutes", "never", "labels", "with_pip"),
            "idempotency_key",
        },
        FIELDS,
    ),
    "list_environments": (
        {"limit", "after", "labels"},
        {"environments", "count", "next", "unreadable"},
    ),
    "get_environment": ({"environment_id"}, FIELDS),
    "extend_environment": ({"environment_id", "timeout_minutes", "never"}, FIELDS),
    "destroy_environment": ({"environment_id", "reason"}, {"status", "message"}),
    "destroy_environments": (
        {"labels", "dry_run", "count"},
        {"dry_run", "environments", "count"},
    ),
    "restore_environment": ({"environment_id"}, FIELDS),
    "environment_history": (
        {"environment_id", "limit", "after"},
        {"environment_id", "events", "count", "next"},
    ),
    "write_file": (
        {"environment_id", "path", "content", "encoding"},
        {"status", "path", "bytes_written"},
    ),
    "read_file": (
        {"environment_id", "path", "offset", "limit"},
        {"path", "content", "encoding", "size", "next_offset"},
    ),
    "list_files": (
        {"environment_id", "path", "limit", "after"},
        {"path", "files", "count", "next"},
    ),
    "execute": ({"environment_id", "code", "language", "timeout_seconds"}, OUTCOME),
    "install_packages": ({"environment_id", "packages"}, OUTCOME),
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
    """Each tool has typed and described input and a typed result."""
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
        assert len(tool.output_schema.get("$defs", ())) == {
            "list_environments": 2,
            "destroy_environments": 1,
            "environment_history": 1,
            "list_files": 1,
        }.get(name, 0)
    schema = tools["create_environment"].input_schema
    assert schema["required"] == ["runtime"]
    assert schema["properties"]["runtime"]["enum"] == ["python", "node", "shell"]
    assert schema["properties"]["language"]["enum"] == ["python", "node", "shell"]
    assert schema["properties"]["timeout_minutes"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 52_560_000,
        "description": "Idle timeout in minutes. Default: 30, at most 60, or what the operator "
        "set.",
    }


def test_arguments_have_plain_types(server: MCPServer[Any]) -> None:
    """Some clients refuse alternatives, null and references in the schema of the arguments."""
    words = {"anyOf", "oneOf", "allOf", "$ref", "$defs", "null", "nullable", "const"}
    for tool in _tools(server).values():
        text = json.dumps(tool.input_schema)
        assert not {word for word in words if f'"{word}"' in text}
        assert tool.input_schema["additionalProperties"] is False
        for argument in tool.input_schema["properties"].values():
            assert argument["type"] in {"string", "integer", "boolean", "array", "object"}
            assert "default" not in argument or argument["default"] is not None


def test_texts_do_not_depend_on_docstrings(
    service: EnvironmentService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What clients read is the same where docstrings are dropped, as by python -OO."""
    with_docstrings = {
        name: tool.model_dump() for name, tool in _tools(make_server(service)).items()
    }
    for name in vars(Tools):
        if callable(getattr(Tools, name)) and not name.startswith("__"):
            monkeypatch.setattr(getattr(Tools, name), "__doc__", None)
    without = {name: tool.model_dump() for name, tool in _tools(make_server(service)).items()}
    assert without == with_docstrings
    for tool in without.values():
        assert tool["description"]
        assert "description" not in tool["output_schema"]
        assert all(
            "description" not in one for one in tool["output_schema"].get("$defs", {}).values()
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("create_environment", (False, False, False)),
        ("list_environments", (True, None, None)),
        ("get_environment", (True, None, None)),
        ("extend_environment", (False, False, True)),
        ("destroy_environment", (False, True, True)),
        ("destroy_environments", (False, True, True)),
        ("restore_environment", (False, False, False)),
        ("environment_history", (True, None, None)),
        ("write_file", (False, True, None)),
        ("read_file", (True, None, None)),
        ("list_files", (True, None, None)),
        ("execute", (False, True, None)),
        ("install_packages", (False, False, None)),
    ],
)
def test_annotations_state_effects(
    server: MCPServer[Any], name: str, expected: tuple[bool, bool | None, bool | None]
) -> None:
    """A client can tell what a tool changes before it asks its user for permission."""
    hints = _tools(server)[name].annotations
    assert hints is not None
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == expected
    assert hints.open_world_hint is (name == "install_packages")


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
        "workspace": created["workspace"],
        "host": "",
        "labels": {},
    }
    assert before <= datetime.fromisoformat(created["created_at"])
    assert created["created_at"] <= created["last_used"]
    assert 10_000 <= stored.ssh_port <= 11_000
    home = workspace_of(root, stored.id)
    assert home.is_dir()
    assert created["workspace"] in ("/home/sandbox", str(home))


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


def test_destroy_removes_record_and_workspace(
    server: MCPServer[Any], root: Path, store: FileStore
) -> None:
    """Both are gone, and a second call finds no environment."""
    created = call(server, "create_environment", runtime="shell")
    environment_id = created["environment_id"]
    answer = call(server, "destroy_environment", environment_id=environment_id, reason="done")
    assert answer == {
        "status": "destroyed",
        "message": f"environment {environment_id} is destroyed",
    }
    assert store.count() == 0
    assert not workspace_of(root, environment_id).exists()
    again = refused(server, "destroy_environment", environment_id=environment_id)
    assert again == f"environment not found: '{environment_id}'"


def test_restore_brings_back_what_expired(service: EnvironmentService, root: Path) -> None:
    """An expired environment is there again, with its files; a destroyed one is not."""
    server = make_server(service)
    created = call(server, "create_environment", runtime="shell")
    environment_id = created["environment_id"]
    file = workspace_of(root, environment_id) / "data.csv"
    file.write_text("precious")
    assert service._removal.destroy(environment_id, lambda _: True, discard=False)
    assert not file.exists()
    restored = call(server, "restore_environment", environment_id=environment_id)
    assert restored["status"] == "running"
    assert restored["workspace"] == created["workspace"]
    assert file.read_text() == "precious"
    again = refused(server, "restore_environment", environment_id=environment_id)
    assert again == f"environment already exists: '{environment_id}'"
    call(server, "destroy_environment", environment_id=environment_id)
    gone = refused(server, "restore_environment", environment_id=environment_id)
    assert gone == "its files are gone, and only its record can be brought back"


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
        ["seq", "cursor", "at", "kind", "status", "previous_status", "actor", "reason"]
    ] * 4
    assert [tuple(event.values())[3:] for event in history["events"]] == [
        ("created", "creating", None, "mcp:claude", "create was called"),
        ("updated", "running", "creating", "mcp:claude", "its workspace is ready"),
        ("updated", "destroying", "running", "mcp:claude", "no use"),
        ("deleted", None, "destroying", "mcp:claude", "no use"),
    ]


@pytest.mark.parametrize("key", ["next", "cursor", "seq"])
def test_history_pages_follow_cursor(server: MCPServer[Any], store: FileStore, key: str) -> None:
    """The cursor or seq of the last event leads to the next page, and so does the page's own."""
    store.save(make_environment(id="other"))
    made = make_environment(id="a")
    for _ in range(5):
        store.save(made)

    async def dialogue(client: Client) -> list[tuple[list[int], int]]:
        pages: list[tuple[list[int], int]] = []
        after: Any = 0
        while True:
            page = await ask(
                client, "environment_history", environment_id="a", limit=2, after=after
            )
            if not page["events"]:
                return pages
            pages.append(([event["seq"] for event in page["events"]], page["count"]))
            after = page["next"] if key == "next" else page["events"][-1][key]
            if after is None:
                return pages

    assert talk(server, dialogue) == [([2, 3], 5), ([4, 5], 3), ([6], 1)]


def test_history_after_last_change_is_refused(server: MCPServer[Any], store: FileStore) -> None:
    """A number beyond the last change is refused, and a cursor of another store; 0 is neither."""
    store.save(make_environment(id="a"))
    for after in (2, 10**19, "2", 2.0):
        message = refused(server, "environment_history", environment_id="a", after=after)
        assert message == f"after: {int(after)} is beyond the last change, 1"
    message = refused(server, "environment_history", environment_id="a", after=f"1-{'f' * 16}")
    assert message.startswith("the history cannot be continued after change 1: ")
    assert call(server, "environment_history", environment_id="a", after="0")["count"] == 1
    for after in (0, "0", ""):
        message = refused(server, "environment_history", environment_id="b", after=after)
        assert message == "environment not found: 'b'"


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


_NAME = "name: must be 1-200 printable characters"
_MINUTES = "timeout_minutes must be a whole number from 1 to 52560000, not "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "runtime (or language) is required: python, node, shell"),
        ({"runtime": None}, "runtime (or language) is required: python, node, shell"),
        ({"runtime": "ruby"}, "runtime must be python, node or shell, not 'ruby'"),
        ({"language": "ruby"}, "language must be python, node or shell, not 'ruby'"),
        ({"runtime": 5}, "runtime must be python, node or shell, not 5"),
        ({"runtime": "node", "language": "shell"}, "runtime and language differ: give one"),
        ({"runtime": "shell", "timeout_minutes": "5.5"}, f"{_MINUTES}'5.5'"),
        ({"runtime": "shell", "timeout_minutes": 5.5}, f"{_MINUTES}5.5"),
        ({"runtime": "shell", "timeout_minutes": "1h"}, f"{_MINUTES}'1h'"),
        ({"runtime": "shell", "timeout_minutes": True}, f"{_MINUTES}true"),
        ({"runtime": "shell", "timeout_minutes": 0}, f"{_MINUTES}0"),
        ({"runtime": "shell", "timeout_minutes": -1}, f"{_MINUTES}-1"),
        (
            {"runtime": "shell", "timeout_minutes": 61},
            "timeout: 1h1m0s is above the maximum, 1h0m0s",
        ),
        ({"runtime": "shell", "never": True}, "timeout: never is above the maximum, 1h0m0s"),
        (
            {"runtime": "shell", "timeout_minutes": 5, "never": True},
            "timeout_minutes and never exclude each other: give one of them",
        ),
        ({"runtime": "shell", "timeout_minutes": 10**30}, f"{_MINUTES}a number of more"),
        ({"runtime": "shell", "timeout_minutes": "9" * 5_000}, f"{_MINUTES}'999"),
        ({"runtime": "shell", "timeout_minutes": [5]}, f"{_MINUTES}a list"),
        ({"runtime": "shell", "timeout_minutes": {"m": 5}}, f"{_MINUTES}an object"),
        ({"runtime": "shell", "name": ""}, _NAME),
        ({"runtime": "shell", "name": "x" * 201}, _NAME),
        ({"runtime": "shell", "name": "a\nb"}, _NAME),
        ({"runtime": "shell", "name": "\0"}, _NAME),
        ({"runtime": "shell", "name": "\ud800"}, "name: holds a lone surrogate"),
        ({"runtime": "shell", "name": "   "}, "name: must not be blank"),
        ({"runtime": "shell", "name": 5.5}, "name must be a text, not 5.5"),
        ({"runtime": "shell", "with_pip": 2}, "with_pip must be true or false, not 2"),
        ({"runtime": "shell", "with_pip": 1.0}, "with_pip must be true or false, not 1.0"),
        ({"runtime": "shell", "with_pip": "maybe"}, "with_pip must be true or false, not 'maybe'"),
        ({"runtime": "shell", "idempotency_key": " "}, "idempotency_key: must not be blank"),
        (
            {"runtime": "shell", "timeout_minute": 60},
            "create_environment has no argument 'timeout_minute': did you mean timeout_minutes?",
        ),
        (
            {"runtime": "shell", "x": None},
            "create_environment has no argument 'x': it takes runtime, name, timeout_minutes,",
        ),
        (
            {"runtim": "shell", "with_pip": "maybe"},
            "did you mean runtime?; with_pip must be true or false, not 'maybe'; runtime (or lang",
        ),
    ],
)
def test_create_refuses_invalid_arguments(
    server: MCPServer[Any], store: FileStore, arguments: dict[str, object], message: str
) -> None:
    """The error explains the problem in the server's own words, and nothing is stored."""
    text = refused(server, "create_environment", **arguments)
    assert message in text
    assert not {word for word in ("pydantic", "http", "Arguments", "input") if word in text}
    assert text.isprintable()
    assert len(text) < 400
    assert store.count() == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"runtime": "Shell "}, ("shell", "30m0s", False)),
        ({"language": "SHELL"}, ("shell", "30m0s", False)),
        ({"runtime": "shell", "language": "shell"}, ("shell", "30m0s", False)),
        ({"runtime": None, "language": "shell"}, ("shell", "30m0s", False)),
        ({"runtime": "shell", "timeout_minutes": "5"}, ("shell", "5m0s", False)),
        ({"runtime": "shell", "timeout_minutes": " 5.0 "}, ("shell", "5m0s", False)),
        ({"runtime": "shell", "timeout_minutes": 5.0}, ("shell", "5m0s", False)),
        ({"runtime": "shell", "timeout_minutes": None}, ("shell", "30m0s", False)),
        ({"runtime": "shell", "with_pip": "false"}, ("shell", "30m0s", False)),
        ({"runtime": "shell", "with_pip": None}, ("shell", "30m0s", False)),
        ({"runtime": "shell", "with_pip": "True"}, ("shell", "30m0s", True)),
        ({"runtime": "shell", "with_pip": 1}, ("shell", "30m0s", True)),
        ({"runtime": "shell", "name": None}, ("shell", "30m0s", False)),
    ],
)
def test_values_of_one_meaning_are_taken(
    server: MCPServer[Any],
    store: FileStore,
    arguments: dict[str, object],
    expected: tuple[str, str, bool],
) -> None:
    """A value of another type that can mean only one thing is taken for that."""
    created = call(server, "create_environment", **arguments)
    has_pip = bool(store.find_by_id(created["environment_id"]).labels)
    assert (created["runtime"], created["timeout"], has_pip) == expected


def test_repeated_create_returns_first_environment(server: MCPServer[Any]) -> None:
    """With the same idempotency key and arguments, the answer is the same; else it is refused."""
    first = call(server, "create_environment", runtime="shell", idempotency_key="k-1")
    again = call(server, "create_environment", runtime="SHELL", idempotency_key="k-1", name=None)
    assert again["environment_id"] == first["environment_id"]
    message = refused(server, "create_environment", runtime="node", idempotency_key="k-1")
    assert message == (
        "the idempotency key 'k-1' was used with other arguments, for environment "
        f"'{first['environment_id']}': repeat those arguments, or use a new key"
    )


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("list_environments", {"limit": 0}, "limit must be a whole number from 1 to 1000, not 0"),
        ("list_environments", {"limit": 1001}, "from 1 to 1000, not 1001"),
        ("list_environments", {"limit": True}, "from 1 to 1000, not true"),
        ("list_environments", {"after": 5.5}, "after must be a text, not 5.5"),
        ("list_environments", {"limits": 5}, "'limits': did you mean limit?"),
        ("get_environment", {}, "environment_id is required"),
        ("get_environment", {"environment_id": None}, "environment_id is required"),
        ("get_environment", {"environment": "a"}, "'environment': did you mean environment_id?"),
        ("destroy_environment", {"environment_id": ["a"]}, "must be a text, not a list"),
        ("destroy_environment", {"environment_id": "a", "force": True}, "no argument 'force'"),
        ("destroy_environment", {"environment_id": "a", "reason": "x" * 1001}, "1000 characters"),
        ("destroy_environment", {"environment_id": "a", "reason": "\0"}, "reason: holds a NUL"),
        ("destroy_environment", {"environment_id": "a", "reason": "\ud800"}, "lone surrogate"),
        (
            "environment_history",
            {"environment_id": "a", "after": -1},
            "after: -1 is negative",
        ),
        ("environment_history", {"environment_id": "a", "after": True}, "must be a text"),
        ("environment_history", {"environment_id": "a", "after": "x"}, "neither the cursor"),
        ("environment_history", {"environment_id": "a", "limit": 0}, "from 1 to 1000, not 0"),
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


def test_live_environments_are_listed_as_resources(
    server: MCPServer[Any], store: FileStore
) -> None:
    """Each page leads to the next one; every live environment is on one, and can be read."""
    live = [make_environment(id=f"e {n:03d}", status=Status.RUNNING) for n in range(201)]
    live[7].status = Status.CREATING
    others = [make_environment(status=status) for status in (Status.ERROR, Status.DESTROYED)]
    store.save_all([*live, *others])

    async def dialogue(client: Client) -> list[tuple[str, str, str | None]]:
        found: list[tuple[str, str, str | None]] = []
        page = await client.list_resources()
        while page.next_cursor is not None:
            assert len(page.resources) == 100
            found += [(one.uri, one.name, one.description) for one in page.resources]
            page = await client.list_resources(cursor=page.next_cursor)
        [last] = page.resources
        content = (await client.read_resource(last.uri)).contents[0]
        assert isinstance(content, TextResourceContents)
        assert json.loads(content.text)["environment_id"] == live[-1].id
        return [*found, (last.uri, last.name, last.description)]

    for mode in ("auto", "legacy"):
        found = talk(server, dialogue, mode=mode)
        assert [name for _, name, _ in found] == [one.name for one in live]
        assert found[7] == (
            "waggle://environments/e%20007",
            live[7].name,
            "A node environment, creating.",
        )


def test_unreadable_document_hides_no_resource(
    server: MCPServer[Any], store: FileStore, root: Path
) -> None:
    """A damaged document is left out of the resources, and harms no other."""
    store.save_all([make_environment(id=name) for name in ("a", "b")])
    (root / "environments" / "a.json").write_text("{")

    async def dialogue(client: Client) -> list[str]:
        return [one.uri for one in (await client.list_resources()).resources]

    assert talk(server, dialogue) == ["waggle://environments/b"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_prompts_are_not_declared(server: MCPServer[Any], mode: str) -> None:
    """The server declares and serves what it has: tools and resources, no prompts."""

    async def dialogue(client: Client) -> None:
        assert client.server_capabilities is not None
        declared = client.server_capabilities.model_dump(exclude_none=True).keys()
        assert declared == {"tools", "resources"}
        for ask_for_prompts in (client.list_prompts, lambda: client.get_prompt("any")):
            with pytest.raises(MCPError) as caught:
                await ask_for_prompts()
            assert caught.value.error.code == -32601

    talk(server, dialogue, mode=mode)


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
