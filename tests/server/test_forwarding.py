# SPDX-License-Identifier: Apache-2.0
"""Calls for an environment of another host: two servers over one store, and what can go wrong."""

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from urllib.parse import quote

import anyio
import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.types import CallToolResult, Implementation

from tests.cli.cli_runner import run
from tests.server.client import ask, refusal, talk
from tests.server.processes import TIMEOUT_S
from tests.server.test_call_log import entries
from tests.service.conftest import open_world
from tests.service.test_membership import Hosts
from tests.service.test_workspaces import FakeExecutor, FakeFiles, execution
from waggle_fsstore import SettingError, WorkspacePathError
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.domain.execution import Stop
from waggle_fsstore.server import forwarding, http
from waggle_fsstore.server.auth import ACTOR_HEADER
from waggle_fsstore.server.forwarding import Forwarder
from waggle_fsstore.server.hosts import AllowedHosts, url_host
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.tools import make_server

T = TypeVar("T")

SECRET = "the-secret-of-the-servers"  # noqa: S105
MAJA = "the-token-of-maja-0"

#: Each tool that needs the files, and its arguments.
CALLS: dict[str, dict[str, object]] = {
    "execute": {"code": "print('\u00e9\U0001f41d')", "language": "shell", "timeout_seconds": 7},
    "install_packages": {"packages": ["six", "requests>=2,<3"]},
    "write_file": {"path": "a b/\u00e9", "content": "AAD/", "encoding": "base64"},
    "read_file": {"path": "a b/\u00e9", "offset": 3, "limit": 5},
    "list_files": {"path": ".", "limit": 1, "after": "A"},
}


class Site:
    """A host: its service, whose programs and files are fakes, and the server in front of it."""

    def __init__(self, hosts: Hosts, name: str, variables: dict[str, str]) -> None:
        self.executor, self.files = FakeExecutor(), FakeFiles()
        self._repository = hosts.world.store
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self.settings = Settings.from_env({"WAGGLE_HOST_URL": f"http://{self.address}"} | variables)
        self.service = hosts.service(
            name, url=self.settings.host_url, executor=self.executor, files=self.files
        )
        self._serve()

    def _serve(self) -> None:
        host = SimpleNamespace(
            service=self.service, repository=self._repository, is_interrupted=False
        )
        app = http.application(cast("ServiceHost", host), self.settings)
        self._server = uvicorn.Server(http.server_config(app))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{self.address}/mcp"

    def over_stdio(self) -> MCPServer[Any]:
        """Return the server as a client over standard input sees it."""
        return make_server(self.service, forwarder=Forwarder(self.settings.cluster_token))

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(TIMEOUT_S)
        self._listener.close()

    def start_again(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._serve()


class Sites:
    """The hosts of one store."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._all: list[Site] = []

    def start(self, name: str, *, cluster_token: str = SECRET, **variables: str) -> Site:
        """Start the server of a host."""
        variables = {f"WAGGLE_{key}": value for key, value in variables.items()}
        variables |= {"WAGGLE_CLUSTER_TOKEN": cluster_token}
        self._all.append(Site(self.hosts, name, variables))
        return self._all[-1]

    def move(self, name: str, url: str) -> None:
        """Have a host say another URL, of which the others have heard."""
        table = self.hosts.table._hosts
        table[f"id of {name}"] = replace(table[f"id of {name}"], url=url)
        for site in self._all:
            site.service.membership.refresh()

    def stop(self) -> None:
        for site in self._all:
            site.stop()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    world = open_world("memory", tmp_path)
    sites = Sites(Hosts(world, tmp_path))
    yield sites
    sites.stop()
    world.close()


@pytest.fixture
def first(sites: Sites) -> Site:
    """Return the host ``a``, which has the files."""
    return sites.start("a")


@pytest.fixture
def second(sites: Sites, first: Site) -> Site:
    """Return the host ``b``, which knows where ``a`` is."""
    assert first.url
    return sites.start("b")


@pytest.fixture
def shell(first: Site) -> str:
    """Return the id of an environment of the host ``a``."""
    return first.service.create("shell").id


def hold(
    url: str,
    dialogue: Callable[[Client], Awaitable[T]],
    *,
    headers: dict[str, str] | None = None,
    mode: str = "auto",
) -> T:
    """Hold a dialogue with a server as a client that sends these headers."""

    async def hold() -> T:
        async with httpx2.AsyncClient(headers=headers, timeout=TIMEOUT_S) as sender:
            transport: Any = streamable_http_client(url, http_client=sender)
            me = Implementation(name="claude", version="1")
            async with Client(transport, client_info=me, mode=mode) as client:
                return await dialogue(client)

    return asyncio.run(hold())


def asking(tool: str, **arguments: object) -> Callable[[Client], Awaitable[dict[str, Any]]]:
    return lambda client: ask(client, tool, **arguments)


def refused_by(site: Site, environment_id: str, **headers: str) -> str:
    """Return why a server does not list the files of an environment."""
    arguments = {"environment_id": environment_id}
    return hold(site.url, lambda one: refusal(one, "list_files", **arguments), headers=headers)


def bearer(token: str, actor: str | None = None) -> dict[str, str]:
    """Return the headers of a request with a token, which names an actor."""
    named = {} if actor is None else {ACTOR_HEADER: actor}
    return {"Authorization": f"Bearer {token}", **named}


def during(executor: FakeExecutor, note: Callable[[], object]) -> None:
    """Have a function called while a program runs."""
    executor.during = lambda _: note()


# What is passed on


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("tool", CALLS)
def test_call_for_other_host_is_made_there(
    first: Site, second: Site, shell: str, tool: str, mode: str
) -> None:
    """The answer is that of the host with the files, which gets all arguments as they were."""
    call = asking(tool, environment_id=shell, **CALLS[tool])
    answers = [hold(site.url, call, mode=mode) for site in (first, second)]
    assert answers[0] == answers[1]
    for calls in (first.executor.calls, cast("list[Any]", first.files.calls)):
        assert calls[: len(calls) // 2] == calls[len(calls) // 2 :]
    assert first.executor.calls or first.files.calls
    assert not second.executor.calls
    assert not second.files.calls


@pytest.mark.parametrize("tool", CALLS)
def test_error_of_other_host_is_passed_on(
    first: Site, second: Site, shell: str, tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the tool refuses there is refused in the same words, and logged as refused."""
    caplog.set_level(logging.INFO)
    error = WorkspacePathError("a\u00e9", "leads out of the workspace")
    first.files.error = error

    def fail() -> None:
        raise error

    during(first.executor, fail)
    texts = [
        hold(
            one.url, lambda client: client.call_tool(tool, {"environment_id": shell, **CALLS[tool]})
        )
        for one in (first, second)
    ]
    assert [text.is_error for text in texts] == [True, True]
    assert texts[0].content == texts[1].content
    outcomes = [(one["outcome"], one.get("host")) for one in entries(caplog)]
    assert outcomes == [("refused", None), ("refused", None), ("refused", "a")]


def test_invalid_arguments_are_not_passed_on(first: Site, second: Site, shell: str) -> None:
    """The server that is called refuses them itself."""
    during(first.executor, lambda: pytest.fail("called"))

    async def dialogue(client: Client) -> str:
        return await refusal(client, "execute", environment_id=shell, code="1", language="perl")

    assert "must be python, node or shell" in hold(second.url, dialogue)


def test_crash_of_other_host_is_passed_on(first: Site, second: Site, shell: str) -> None:
    """A bug there has the same words here, without its details."""
    first.files.error = KeyError("a secret")

    async def dialogue(client: Client) -> CallToolResult:
        return await client.call_tool("list_files", {"environment_id": shell})

    answers = [hold(site.url, dialogue) for site in (first, second)]
    assert answers[0].content == answers[1].content
    assert "secret" not in str(answers[1])


def test_progress_and_large_output_are_passed_on(
    first: Site, second: Site, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client hears from the other host that its program runs, and gets all of its output."""
    monkeypatch.setattr("waggle_fsstore.server.tool._PROGRESS_INTERVAL_S", 0.05)
    has_heard = threading.Event()
    during(first.executor, lambda: has_heard.wait(TIMEOUT_S))
    output = "\u00e9\0" * (1 << 20)
    first.executor.results = [replace(execution(), stdout=output)]
    heard: list[str | None] = []

    async def dialogue(client: Client) -> CallToolResult:
        async def hear(progress: float, total: float | None, message: str | None) -> None:
            assert (progress, total) == (0, None)
            heard.append(message)
            has_heard.set()

        arguments = {"environment_id": shell, "code": "1"}
        return await client.call_tool("execute", arguments, progress_callback=hear)

    made = asyncio.run(_unlimited(second.url, dialogue))
    assert heard[0] == "running for 0 s"
    assert made.structured_content["stdout"] == output


async def _unlimited(url: str, dialogue: Callable[[Client], Awaitable[T]]) -> T:
    """Hold a dialogue as a client that takes events of any size."""
    transport: Any = streamable_http_client(url, max_sse_event_size=None)
    async with Client(transport) as client:
        return await dialogue(client)


@pytest.mark.parametrize("mode", ["auto", "legacy", "stdio"])
def test_cancellation_reaches_other_host(
    first: Site, second: Site, shell: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that gives up ends the program where it runs."""
    caplog.set_level(logging.INFO)
    has_begun, was_stopped = threading.Event(), threading.Event()

    def work(stop: Callable[[], Stop]) -> None:
        has_begun.set()
        for _ in range(int(TIMEOUT_S / 0.01)):
            if stop() is Stop.CANCELLED:
                was_stopped.set()
                return
            was_stopped.wait(0.01)

    first.executor.during = work

    async def dialogue(client: Client) -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "execute", {"environment_id": shell, "code": "1"})
            assert await anyio.to_thread.run_sync(has_begun.wait, TIMEOUT_S)
            tasks.cancel_scope.cancel()
        is_stopped = await anyio.to_thread.run_sync(was_stopped.wait, TIMEOUT_S / 4)
        # A client of the SDK that is closed just when an answer comes fails with it.
        await client.call_tool("list_environments", {})
        return is_stopped

    if mode == "stdio":
        assert talk(second.over_stdio(), dialogue, mode="legacy")
    else:
        assert hold(second.url, dialogue, mode=mode)


def test_other_tools_stay_where_they_are_called(first: Site, second: Site, shell: str) -> None:
    """A record is the same everywhere; what needs the files otherwise is refused in words."""
    found = hold(second.url, asking("get_environment", environment_id=shell))
    assert (found["host"], found["workspace"]) == ("a", "")
    first.service.destroy(shell)

    async def dialogue(client: Client) -> str:
        return await refusal(client, "restore_environment", environment_id=shell)

    answer = hold(second.url, dialogue)
    assert answer == "the files of the environment are on host a: call the server of that host"


# For whom


def test_other_host_names_the_caller(
    sites: Sites, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The author of what happens there, and the client in its log, is the one who called here."""
    caplog.set_level(logging.INFO)
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"maja {MAJA}\n")
    first = sites.start("a", AUTH_TOKEN="another-token-000")  # noqa: S106
    second = sites.start("b", AUTH_TOKENS_FILE=str(tokens))
    made = first.service.create("shell").id
    actors: list[str] = []
    during(first.executor, lambda: actors.append(current_author().actor))
    hold(second.url, asking("execute", environment_id=made, code="1"), headers=bearer(MAJA))
    assert actors == ["maja mcp:claude"]
    assert [one["client"] for one in entries(caplog)] == ["maja mcp:claude"] * 2


@pytest.mark.parametrize(
    ("header", "actor"),
    [
        (None, "mcp:claude"),
        ("", "mcp:claude"),
        (quote("maja mcp:\u00e9\U0001f41d"), "maja mcp:\u00e9\U0001f41d"),
        (quote("a\0\n\u200b\u202e"), "a????"),
        ("%ff%C3", "\ufffd\ufffd"),
        ("x" * 300, "x" * 200),
    ],
)
def test_cluster_token_names_any_actor(
    first: Site, shell: str, header: str | None, actor: str
) -> None:
    """It is shortened and printable for any header."""
    actors: list[str] = []
    during(first.executor, lambda: actors.append(current_author().actor))
    call = asking("execute", environment_id=shell, code="1")
    hold(first.url, call, headers=bearer(SECRET, header))
    assert actors == [actor]


@pytest.mark.parametrize("token", [MAJA, None])
def test_other_callers_name_no_actor(sites: Sites, token: str | None) -> None:
    """Without the cluster token the header is ignored."""
    first = sites.start("a", **({"AUTH_TOKEN": MAJA} if token else {}))
    made = first.service.create("shell").id
    actors: list[str] = []
    during(first.executor, lambda: actors.append(current_author().actor))
    headers = bearer(token or "x", "otto mcp:evil")
    hold(first.url, asking("execute", environment_id=made, code="1"), headers=headers)
    assert actors == ["mcp:claude"]


# What is not passed on


def test_nothing_is_passed_on_without_cluster_token(sites: Sites) -> None:
    """The answer names the host, and the variable that an operator can set."""
    first, second = sites.start("a"), sites.start("b", cluster_token="")
    made = first.service.create("shell").id
    assert refused_by(second, made) == (
        "the files of the environment are on host a: call the server of that host, or have the "
        "operator set WAGGLE_CLUSTER_TOKEN on both servers, which then pass calls on"
    )
    assert not first.files.calls


def test_forwarded_call_is_not_forwarded(
    sites: Sites, first: Site, second: Site, shell: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A host that says the URL of another one gets no call, and starts no endless loop."""
    caplog.set_level(logging.INFO)
    sites.move("a", f"http://{second.address}")
    answer = "the files of the environment are on host a: call the server of that host"
    assert refused_by(second, shell) == answer
    assert len(entries(caplog)) == 2
    assert refused_by(second, shell, **{ACTOR_HEADER: "x"}) == answer
    assert refused_by(second, shell, **bearer(SECRET)) == answer
    assert not first.files.calls


def test_unclaimed_files_are_nowhere(sites: Sites, second: Site) -> None:
    """A record that was copied from another store has files on no host that is known."""
    made = sites.hosts.world.store_environment(status="running", host_id="another id")
    assert refused_by(second, made).startswith("the files of the environment are on no host")


# Hosts that cannot be reached


def unreachable(environment_id: str, reason: str) -> str:
    return (
        f"host a, which has the files of environment '{environment_id}', cannot be reached: "
        f"{reason}"
    )


@contextmanager
def answering(response: bytes, requests: list[bytes]) -> Iterator[str]:
    """Yield the address of a server that answers each request with the same bytes, and closes."""

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                if not (request := _whole_request(connection)):
                    return
                requests.append(request)
                connection.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        socket.create_connection(listener.getsockname()).close()
        thread.join(TIMEOUT_S)


def _whole_request(connection: socket.socket) -> bytes:
    """Read a request to its end: a connection that is closed before that is reset."""
    request = b""
    while part := connection.recv(1 << 16):
        request += part
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if end and length and len(body) >= int(length[1]):
            break
    return request


def _http(status: str, *headers: str, body: str = "") -> bytes:
    lines = (f"HTTP/1.1 {status}", "Connection: close", *headers, "", body)
    return "\r\n".join(lines).encode()


JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream"
LOST = "the connection was lost; the call may have been executed"
STRANGE = "its server gave no answer of the protocol; the call may have been executed"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"", LOST),
        (b"HTTP/1.1 200 OK\r\n", LOST),
        (_http("200 OK", JSON, "Content-Length: 99", body="{"), LOST),
        (_http("200 OK", EVENTS, body=": ping\r\n\r\n"), LOST),
        (b"SSH-2.0-OpenSSH\r\n", LOST),
        (_http("200 OK", JSON, body="{}"), STRANGE),
        (_http("200 OK", "Content-Type: text/html", body="<h1>"), STRANGE),
        (_http("200 OK", JSON, body='{"jsonrpc":"2.0","id":1,"result":{"content":1}}'), STRANGE),
        (_http("200 OK", JSON, body='{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'), STRANGE),
        (
            _http("302 Found", "Location: http://127.0.0.1:1/evil"),
            "its server answered with HTTP status 302; nothing was done",
        ),
        (
            _http("307 Temporary Redirect", "Location: /evil"),
            "its server answered with HTTP status 307; nothing was done",
        ),
        (
            _http("401 Unauthorized"),
            f"{forwarding._REFUSALS[401]}; nothing was done",
        ),
        (
            _http("421 Misdirected Request"),
            f"{forwarding._REFUSALS[421]}; nothing was done",
        ),
        (
            _http("404 Not Found", JSON, body="{}"),
            "its server answered with HTTP status 404; nothing was done",
        ),
        (
            _http("502 Bad Gateway"),
            "its server answered with HTTP status 502; the call may have been executed",
        ),
    ],
)
def test_strange_answer_is_a_typed_error(
    sites: Sites, second: Site, shell: str, response: bytes, reason: str
) -> None:
    """The answer names host and environment, and the call is sent once, and to that host only."""
    requests: list[bytes] = []
    with answering(response, requests) as address:
        sites.move("a", f"http://{address}")
        answer = refused_by(second, shell)
    assert answer == unreachable(shell, reason)
    assert [one.partition(b" ")[0] for one in requests] == [b"POST"]


def test_error_shows_no_address_and_no_token(
    sites: Sites, second: Site, shell: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the answer nor the log has the token, and the answer has no address."""
    caplog.set_level(logging.DEBUG)
    requests: list[bytes] = []
    redirect = _http("307 Temporary Redirect", "Location: http://evil.example:81/mcp")
    for url in ("http://127.0.0.1:1", "http://a.invalid:4242"):
        sites.move("a", url)
        answer = refused_by(second, shell)
        assert answer.startswith(unreachable(shell, ""))
        assert answer.endswith("; nothing was done")
        assert not any(part in answer for part in ("127.0", ":1", "invalid", "4242", "http"))
    with answering(redirect, requests) as address:
        sites.move("a", f"http://{address}")
        assert "evil" not in refused_by(second, shell)
    assert f"authorization: bearer {SECRET}".encode() in requests[0].lower()
    assert SECRET not in caplog.text
    assert [one for one in caplog.records if one.levelname == "ERROR"]


def test_host_without_url_is_unreachable(sites: Sites, second: Site, shell: str) -> None:
    """An operator learns which variable is missing, and where."""
    sites.move("a", "")
    reason = "it has not said where: set WAGGLE_HOST_URL on its server; nothing was done"
    assert refused_by(second, shell) == unreachable(shell, reason)


def test_refused_token_is_named(sites: Sites) -> None:
    """A server with another cluster token refuses that of this one."""
    first = sites.start("a", cluster_token="another-secret-00", AUTH_TOKEN=MAJA)  # noqa: S106
    second = sites.start("b")
    made = first.service.create("shell").id
    assert "does not accept the token" in refused_by(second, made)
    assert not first.files.calls


def test_silent_address_is_given_up(
    sites: Sites, second: Site, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that does not answer at all costs five seconds, here less."""
    monkeypatch.setattr(forwarding, "_CONNECT_TIMEOUT_S", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        sites.move("a", "http://{}:{}".format(*full.getsockname()))
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        answer = refused_by(second, shell)
        for one in waiting:
            one.close()
    assert answer == unreachable(shell, "no connection within 0.2 s; nothing was done")


def test_silent_server_is_given_up(
    sites: Sites, second: Site, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes the call, and then says nothing, does not keep the caller for ever."""
    monkeypatch.setattr(forwarding, "_SILENCE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sites.move("a", "http://{}:{}".format(*listener.getsockname()))
        answer = refused_by(second, shell)
    reason = "its server was silent for 0.2 s; the call may have been executed"
    assert answer == unreachable(shell, reason)


def test_stopped_host_is_unreachable(first: Site, second: Site, shell: str) -> None:
    """A server that has ended takes no call; it works again as soon as it is back."""
    first.stop()
    reason = "its server accepts no connection; nothing was done"
    assert refused_by(second, shell) == unreachable(shell, reason)
    first.start_again()
    assert hold(second.url, asking("list_files", environment_id=shell))["count"] == 1


def test_missing_tool_is_named(first: Site, second: Site, shell: str) -> None:
    """A host that can run no programs has no such tool, which is no fault of the caller."""
    first.stop()
    first.executor.reason = "no bubblewrap"
    first.start_again()

    async def dialogue(client: Client) -> str:
        return await refusal(client, "execute", environment_id=shell, code="1")

    reason = "its server has no such tool, as where no program can be run; nothing was done"
    assert hold(second.url, dialogue) == unreachable(shell, reason)


# The token


def _status(url: str, token: str | None) -> int:
    headers = {} if token is None else bearer(token)
    return httpx2.get(url, headers=headers, timeout=TIMEOUT_S).status_code


def test_cluster_token_is_accepted_beside_others(sites: Sites) -> None:
    """It opens a server that has other tokens, and one without any stays as open as it was."""
    closed = sites.start("a", AUTH_TOKEN=MAJA)
    assert [_status(closed.url, one) for one in (SECRET, MAJA, f"{SECRET}x", None)] == [
        *(405, 405),
        *(401, 401),
    ]
    open_one = sites.start("b")
    assert [_status(open_one.url, one) for one in (SECRET, "x", None)] == [405] * 3


def test_cluster_token_alone_closes_open_address() -> None:
    """Beyond the loopback interface it counts as a token, which every caller then needs."""
    variables = {
        "WAGGLE_LISTEN_ADDR": "0.0.0.0:0",
        "WAGGLE_HOST_URL": "http://maja.example:8080",
        "WAGGLE_CLUSTER_TOKEN": SECRET,
    }
    settings = Settings.from_env(variables)
    with http.listen(settings):
        assert settings.requires_token
    assert not replace(settings, allow_anonymous=True).requires_token
    assert not replace(settings, host="127.0.0.1").requires_token
    assert not replace(settings, cluster_token=None).requires_token
    with pytest.raises(SettingError, match=r"^WAGGLE_AUTH_TOKEN: "):
        http.listen(replace(settings, cluster_token=None))


def test_power_needs_token_of_callers() -> None:
    """On the loopback interface callers need no cluster token, so it does not suffice."""
    variables = {"WAGGLE_EXECUTION": "unisolated", "WAGGLE_CLUSTER_TOKEN": SECRET}
    settings = Settings.from_env({**variables, "WAGGLE_LISTEN_ADDR": "127.0.0.1:0"})
    with pytest.raises(SettingError, match=r"^WAGGLE_AUTH_TOKEN: "):
        http.listen(settings)


@pytest.mark.parametrize("text", ["a" * 15, "a" * 1001, "é" * 16, "$WAGGLE_THE_TOKEN"])
def test_bad_cluster_token_is_refused_unseen(text: str) -> None:
    """The rules are those of other tokens."""
    with pytest.raises(SettingError) as caught:
        Settings.from_env({"WAGGLE_CLUSTER_TOKEN": text})
    assert str(caught.value).startswith("WAGGLE_CLUSTER_TOKEN: is ")
    assert text not in str(caught.value)


def test_cluster_token_of_a_caller_is_refused() -> None:
    """No caller may have it: with it, one can act in the name of any other."""
    variables = {"WAGGLE_AUTH_TOKEN": SECRET, "WAGGLE_CLUSTER_TOKEN": SECRET}
    with pytest.raises(SettingError, match=r"^WAGGLE_CLUSTER_TOKEN: is also the token") as caught:
        Settings.from_env(variables)
    assert SECRET not in str(caught.value)


def test_cluster_token_is_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No representation has it, and no verb prints it."""
    monkeypatch.setenv("WAGGLE_CLUSTER_TOKEN", SECRET)
    settings = Settings.from_env()
    assert settings.cluster_token is not None
    shown = [
        repr(settings),
        repr(settings.cluster_token),
        repr(vars(Forwarder(settings.cluster_token))),
    ]
    shown.append(run("--store", str(tmp_path / "store"), "info", "--json").output)
    assert SECRET not in "\n".join(shown)


# Host names


def test_server_answers_to_name_in_its_url() -> None:
    """Other hosts call it by that name, which needs no second variable."""
    settings = Settings.from_env({"WAGGLE_HOST_URL": "http://Maja.example:8080/path"})
    allowed = AllowedHosts(settings)
    names = ["maja.example:8080", "maja.example", "maja.example:81", "path", "localhost"]
    assert [allowed.allows(name) for name in names] == [True, False, False, False, True]
    assert url_host(replace(settings, host="0.0.0.0"), 1) == "Maja.example:8080"  # noqa: S104
    both = replace(settings, host="", allowed_hosts=("otto.example",))
    assert url_host(both, 1) == "otto.example:1"
    assert AllowedHosts(both).allows("otto.example")
