# SPDX-License-Identifier: Apache-2.0
"""Labels and timeouts over MCP: filters, bulk removal, extension."""

from typing import Any

import pytest
from mcp import Client
from mcp.server import MCPServer

from tests.server.client import ask, call, refusal, refused, talk
from waggle_fsstore import EnvironmentService, FileStore, ProviderError, Status
from waggle_fsstore.config import Settings
from waggle_fsstore.server.arguments import Labels
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.service.removal import Removal
from waggle_fsstore.testing import make_environment
from waggle_fsstore.wiring import open_service

RED = {"team": "red"}
OBJECT = "labels must be an object of texts"


def test_created_environment_has_labels(server: MCPServer[Any], store: FileStore) -> None:
    """Every answer has the labels, and so has the document."""
    labels = {"team": "Größe", "run": "7", "note": ""}

    async def dialogue(client: Client) -> list[dict[str, Any]]:
        created = await ask(client, "create_environment", runtime="shell", labels=labels)
        environment_id = created["environment_id"]
        got = await ask(client, "get_environment", environment_id=environment_id)
        listed = await ask(client, "list_environments")
        return [created, got, *listed["environments"]]

    assert [one["labels"] for one in talk(server, dialogue)] == [labels] * 3
    assert [one.labels for one in store.find_all()] == [labels]


def test_label_of_pip_is_reserved(server: MCPServer[Any], store: FileStore) -> None:
    """Only with_pip sets it; other labels go with it, and it can be a filter."""
    for with_pip in (True, False):
        message = refused(
            server,
            "create_environment",
            runtime="shell",
            labels={"pip": "no"},
            with_pip=with_pip,
        )
        assert message == "labels: the key 'pip' is reserved: use with_pip"
    assert store.count() == 0
    created = call(server, "create_environment", runtime="shell", labels=RED, with_pip=True)
    assert created["labels"] == {"pip": "yes", "team": "red"}
    assert call(server, "list_environments", labels={"pip": "yes"})["count"] == 1


@pytest.mark.parametrize(
    ("sent", "labels"),
    [
        ({"a": "1", "b": ""}, {"a": "1", "b": ""}),
        ({"a": 1}, {"a": "1"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" a = 1 , b=x=y ", {"a": "1", "b": "x=y"}),
        ("", {}),
        ({}, {}),
        ({str(n): "x" for n in range(20)}, {str(n): "x" for n in range(20)}),
        ({"k" * 200: "v" * 200}, {"k" * 200: "v" * 200}),
    ],
)
def test_labels_of_one_meaning_are_taken(sent: object, labels: dict[str, str]) -> None:
    """An object of texts is taken, and a text with its pairs."""
    assert Labels(description="").parse(sent) == labels


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (5, f"{OBJECT}, such as"),
        (["team=red"], OBJECT),
        ("red", OBJECT),
        ("team=red,", OBJECT),
        ("team=red,team=blue", OBJECT),
        ('{"team": "a=b"}', OBJECT),
        ({"team": ["red"]}, OBJECT),
        ({"team": None}, OBJECT),
        ({"team": True}, OBJECT),
        ({"team": 10**20}, OBJECT),
        ({"": "red"}, OBJECT),
        ({"a=b": "red"}, OBJECT),
        ({"team": "a\nb"}, OBJECT),
        ({"team": "\ud800"}, OBJECT),
        ({"\0": "red"}, OBJECT),
        ({"k" * 201: "red"}, OBJECT),
        ({"team": "v" * 201}, OBJECT),
        ({str(n): "x" for n in range(21)}, "labels must have 0 to 20 labels"),
    ],
)
def test_invalid_labels_are_refused(
    server: MCPServer[Any], store: FileStore, sent: object, message: str
) -> None:
    """The error says what labels must be, in every tool that takes them."""
    for tool, more in (
        ("create_environment", {"runtime": "shell"}),
        ("list_environments", {}),
    ):
        text = refused(server, tool, labels=sent, **more)
        assert text.startswith(message)
        assert text.isprintable()
        assert len(text) < 300
    assert store.count() == 0


def test_list_has_only_those_with_labels(server: MCPServer[Any], store: FileStore) -> None:
    """The count and the pages are those of the environments that match."""
    matching = [make_environment(id=f"e-{n}", labels={**RED, "n": str(n)}) for n in range(3)]
    store.save_all([*matching, make_environment(id="a", labels={"team": "blue"})])
    first = call(server, "list_environments", labels="team=red", limit=2)
    rest = call(server, "list_environments", labels=RED, limit=2, after=first["next"])
    found = [one["environment_id"] for one in first["environments"] + rest["environments"]]
    assert found == ["e-0", "e-1", "e-2"]
    assert (first["count"], rest["count"], rest["next"]) == (3, 3, None)
    assert call(server, "list_environments", labels={"n": "1", **RED})["count"] == 1
    assert call(server, "list_environments", labels={})["count"] == 4


def test_dry_run_says_what_would_be_destroyed(server: MCPServer[Any], store: FileStore) -> None:
    """Without dry_run=false nothing changes, whether or not there is a count."""
    store.save_all(
        [
            make_environment(id="a", status=Status.RUNNING, labels=RED),
            make_environment(id="b", status=Status.ERROR, labels={**RED, "run": "7"}),
            make_environment(id="c", labels={}),
        ]
    )
    before = store.find_all()
    for more in ({}, {"count": 2}, {"dry_run": True}):
        answer = call(server, "destroy_environments", labels=RED, **more)
        assert answer == {
            "dry_run": True,
            "environments": [
                {"environment_id": "a", "status": "running", "message": "it would be destroyed"},
                {"environment_id": "b", "status": "error", "message": "it would be destroyed"},
            ],
            "count": 2,
        }
    assert store.find_all() == before


def test_destroy_by_labels_follows_dry_run(server: MCPServer[Any], store: FileStore) -> None:
    """With the count of the dry run, the environments that it named are destroyed."""

    async def dialogue(client: Client) -> tuple[dict[str, Any], dict[str, Any], str]:
        for labels in (RED, RED, {}):
            await ask(client, "create_environment", runtime="shell", labels=labels)
        planned = await ask(client, "destroy_environments", labels=RED)
        done = await ask(
            client, "destroy_environments", labels=RED, dry_run=False, count=planned["count"]
        )
        ended = await ask(
            client,
            "environment_history",
            environment_id=done["environments"][0]["environment_id"],
        )
        return planned, done, ended["events"][-1]["actor"]

    planned, done, actor = talk(server, dialogue)
    assert (done["dry_run"], done["count"], actor) == (False, 2, "mcp:tester")
    assert done["environments"] == [
        {**one, "status": "destroyed", "message": "it is destroyed"}
        for one in planned["environments"]
    ]
    assert [one.labels for one in store.find_all()] == [{}]


@pytest.mark.parametrize("count", [None, 1, 3, 0])
def test_other_count_is_refused_with_present_one(
    server: MCPServer[Any], store: FileStore, count: int | None
) -> None:
    """One that was created since the dry run makes the call fail; the message has the number."""
    store.save_all([make_environment(labels=RED) for _ in range(2)])
    before = store.find_all()
    message = refused(server, "destroy_environments", labels=RED, dry_run=False, count=count)
    number = "the number of environments with these labels is 2"
    if count is None:
        assert message == f"count is required: {number}"
    else:
        assert message == f"{number}, not {count}: look at them again"
    assert store.find_all() == before


@pytest.mark.parametrize("labels", [None, {}, ""])
def test_bulk_removal_needs_label(server: MCPServer[Any], store: FileStore, labels: object) -> None:
    """Without a label every environment would match."""
    store.save(make_environment())
    message = refused(server, "destroy_environments", labels=labels, dry_run=False, count=1)
    assert message in {
        "labels is required",
        "labels must have 1 to 20 labels, not an object",
        "labels must have 1 to 20 labels, not ''",
    }
    assert store.count() == 1


def test_bulk_removal_reports_each_failure(
    server: MCPServer[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are destroyed; the answer says what became of each."""
    names = sorted(
        call(server, "create_environment", runtime="shell", labels=RED)["environment_id"]
        for _ in range(3)
    )
    real = Removal._tear_down

    def tear_down(self: Removal, environment: Any) -> None:
        if environment.id == names[1]:
            raise ProviderError("local", "it is in use")
        real(self, environment)

    monkeypatch.setattr(Removal, "_tear_down", tear_down)
    answer = call(server, "destroy_environments", labels=RED, dry_run=False, count=3)
    found = [tuple(one.values()) for one in answer["environments"]]
    assert found == [
        (names[0], "destroyed", "it is destroyed"),
        (names[1], "destroying", "it is in use"),
        (names[2], "destroyed", "it is destroyed"),
    ]


def test_extend_answers_with_environment(server: MCPServer[Any]) -> None:
    """The answer has the new timeout and the time of the call, and the history has the client."""

    async def dialogue(client: Client) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        created = await ask(client, "create_environment", runtime="shell", timeout_minutes=5)
        handle = {"environment_id": created["environment_id"]}
        extended = await ask(client, "extend_environment", timeout_minutes=60, **handle)
        history = await ask(client, "environment_history", **handle)
        return created, extended, history["events"][-1]

    created, extended, event = talk(server, dialogue)
    assert extended == {**created, "timeout": "1h0m0s", "last_used": extended["last_used"]}
    assert extended["last_used"] > created["last_used"]
    assert (event["actor"], event["reason"]) == ("mcp:tester", "its timeout is 1h0m0s now")


def test_operator_may_allow_longer_timeouts(store: FileStore) -> None:
    """With WAGGLE_MAX_TIMEOUT an environment may live longer, or never expire."""
    settings = Settings.from_env({"WAGGLE_MAX_TIMEOUT": "never"})
    with open_service(store, settings) as service:
        server = make_server(service)
        created = call(server, "create_environment", runtime="shell", never=True)
        assert created["timeout"] == "never"
        assert store.find_by_id(created["environment_id"]).timeout.total_seconds() == 0
        day = call(server, "create_environment", runtime="shell", timeout_minutes=1440)
        assert day["timeout"] == "24h0m0s"


def test_extend_refuses_invalid_timeouts(
    server: MCPServer[Any], service: EnvironmentService
) -> None:
    """The error names the maximum, or the argument, and the timeout stays."""
    environment_id = service.create("shell").id

    async def dialogue(client: Client) -> list[str]:
        return [
            await refusal(client, "extend_environment", environment_id=environment_id, **more)
            for more in ({}, {"never": False}, {"timeout_minutes": 61}, {"never": True})
        ] + [
            await refusal(client, "extend_environment", environment_id="missing", never=True),
            await refusal(client, "extend_environment", environment_id="no", timeout_minutes=5),
        ]

    assert talk(server, dialogue) == [
        *["timeout_minutes is required, or never=true"] * 2,
        "invalid environment: timeout: 1h1m0s is above the maximum, 1h0m0s",
        *["invalid environment: timeout: never is above the maximum, 1h0m0s"] * 2,
        "environment not found: 'no'",
    ]
    assert service.find_by_id(environment_id).timeout.total_seconds() == 30 * 60
