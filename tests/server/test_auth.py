# SPDX-License-Identifier: Apache-2.0
"""Tokens over HTTP: who may call, what others get, and where no token is shown."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import Implementation
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.cli.cli_runner import run
from tests.server import asgi
from tests.server.asgi import LegacyClient
from tests.server.client import ask
from tests.server.processes import TIMEOUT_S, HttpServer
from waggle_fsstore import SettingError
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.access_token import AccessToken
from waggle_fsstore.server import auth, http
from waggle_fsstore.server.auth import Authentication, Failures
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost

TOKEN = "one-token-of-the-server"  # noqa: S105
MAJA, OTTO = "the-token-of-maja-0", "the-token-of-otto-0"
ORIGIN = "https://app.example"


class TokenClient(LegacyClient):
    """A client that sends a token."""

    def __init__(self, app: ASGIApp, token: str, session_id: str | None = None) -> None:
        super().__init__(app, session_id)
        self._token = token

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Authorization": f"Bearer {self._token}"}


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    """Return a file with the tokens of two persons."""
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"# Who may call.\n\n  maja {MAJA}\notto\t{OTTO}  \n")
    return path


@pytest.fixture
def settings(tokens_file: Path) -> Settings:
    return Settings.from_env(
        {
            "WAGGLE_AUTH_TOKEN": TOKEN,
            "WAGGLE_AUTH_TOKENS_FILE": str(tokens_file),
            "WAGGLE_ALLOWED_ORIGINS": ORIGIN,
            "WAGGLE_REAPER_INTERVAL": "1h",
        }
    )


@pytest.fixture
def app(root: Path, settings: Settings) -> Iterator[ASGIApp]:
    """Yield a whole application."""
    with ServiceHost(settings, str(root), is_http=True) as host:
        yield application(host, settings)


def _ask(app: ASGIApp, path: str = "/mcp", method: str = "GET", **headers: str) -> asgi.Answer:
    headers = {"Host": "localhost", **headers}
    return asyncio.run(asgi.request(app, method, path, headers=headers))


def _at(app: ASGIApp, address: str) -> ASGIApp:
    """Return an application whose requests come from an address."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": (address, 1)}, receive, send)

    return call


def _refused(**variables: str) -> str:
    """Return the message of the error that the variables cause."""
    with pytest.raises(SettingError) as caught:
        Settings.from_env({f"WAGGLE_{name}": value for name, value in variables.items()})
    return str(caught.value)


# Tokens


@pytest.mark.parametrize("token", [TOKEN, MAJA, OTTO])
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_right_token_is_accepted(app: ASGIApp, token: str, scheme: str) -> None:
    """Each token of the variable and of the file opens the server."""
    assert _ask(app, Authorization=f"{scheme}{token}").status == 405  # No stream for GET.


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer x {TOKEN}",
        f"Bearer {TOKEN},{TOKEN}",
        f"Bearer{TOKEN}",
        f"Basic {TOKEN}",
        f"Basic Bearer {TOKEN}",
        f"Bearer maja {MAJA}",
        f"{MAJA}",
        "Bearer maja",
        "Bearer grö\xdfe-grö\xdfe-grö\xdfe",
    ],
)
def test_other_credentials_are_refused(app: ASGIApp, value: str | None) -> None:
    """A missing, wrong or malformed header gets 401, and what to do, and no echo."""
    answer = _ask(app, **({} if value is None else {"Authorization": value}))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.message == {"error": auth._UNAUTHORIZED}
    assert "Authorization: Bearer TOKEN" in answer.body


def test_second_authorization_header_is_refused() -> None:
    """A proxy may read another one of two headers than this server."""
    refused = Authentication(PlainTextResponse("passed"), [AccessToken.parse(TOKEN)])
    right = (b"authorization", f"Bearer {TOKEN}".encode())
    statuses = []
    for headers in ([right], [right, (b"authorization", b"Bearer x")], [right, right]):

        async def call(scope: Scope, receive: Receive, send: Send, headers: Any = headers) -> None:
            await refused({**scope, "headers": headers}, receive, send)

        statuses.append(_ask(call).status)
    assert statuses == [200, 401, 401]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz/", "/readyz/"])
def test_health_needs_no_token(app: ASGIApp, path: str) -> None:
    """A probe has no token, and gets no more than a state."""
    assert _ask(app, path).status == 200


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/x", "/docs", "/healthz/x", "/readyz/../mcp"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_token_check_covers_every_other_path(app: ASGIApp, path: str, method: str) -> None:
    """A caller without a token cannot find out which paths exist."""
    assert _ask(app, path, method).status == 401


def test_guard_comes_before_tokens(app: ASGIApp) -> None:
    """A request to another host or from another origin gets the same answer with any token."""
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
        assert _ask(app, **{"Host": "evil.example", **headers}).status == 421
        assert _ask(app, **{"Origin": "https://evil.example", **headers}).status == 403


def test_server_without_tokens_is_open(root: Path) -> None:
    """On the loopback interface, tokens are optional; a header is then ignored."""
    with ServiceHost(Settings(), str(root)) as host:
        app = application(host, Settings())
        assert _ask(app).status == _ask(app, Authorization="Bearer x").status == 405


# Browsers


def test_preflight_needs_no_token(app: ASGIApp) -> None:
    """A browser asks for permission to send the header, without sending it."""
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = _ask(app, "/mcp", "OPTIONS", Origin=ORIGIN, **asked)
    assert answer.status == 200
    assert answer.headers["access-control-allow-headers"] == "authorization"


def test_web_page_can_read_refusal(app: ASGIApp) -> None:
    """The browser shows the answer to a page of an allowed origin only."""
    answer = _ask(app, Origin=ORIGIN)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, ORIGIN)
    other = _ask(app, Origin="http://localhost:3000")
    assert (other.status, "access-control-allow-origin" in other.headers) == (401, False)


# Bodies


def test_refusal_reads_no_body(app: ASGIApp) -> None:
    """A caller without a token cannot make the server hold anything."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("read")

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "headers": [(b"host", b"localhost"), (b"content-length", b"99999999")],
        }
        await app(scope, receive, send)

    asyncio.run(call())
    assert sent[0]["status"] == 401


def test_endless_body_is_refused(tmp_path: Path) -> None:
    """A body of undeclared size gets 401 at once, or 413 beyond 4 MiB with a token."""
    head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with HttpServer(tmp_path / "store", WAGGLE_AUTH_TOKEN=TOKEN) as server:
        host, port = server.address.split(":")
        for header, chunks, status in (
            ("", 1, 401),
            (f"Authorization: Bearer {TOKEN}\r\n", 65, 413),
        ):
            with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
                connection.sendall(f"{head}{header}\r\n".encode() + chunk * chunks)
                assert connection.recv(12) == f"HTTP/1.1 {status}".encode()
        assert server.get("/healthz")[0] == 200


# Callers


@asynccontextmanager
async def _connected(url: str, token: str, mode: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=TIMEOUT_S) as sender:
        transport: Any = streamable_http_client(url, http_client=sender)
        me = Implementation(name="claude", version="1")
        async with Client(transport, client_info=me, mode=mode) as client:
            yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_history_names_the_token(tmp_path: Path, tokens_file: Path, mode: str) -> None:
    """The actor is the name of the token, and then the name that the client gives itself."""
    variables = {"WAGGLE_AUTH_TOKEN": TOKEN, "WAGGLE_AUTH_TOKENS_FILE": str(tokens_file)}

    async def actor(url: str, token: str) -> str:
        async with _connected(url, token, mode) as client:
            made = await ask(client, "create_environment", runtime="shell")
            id_ = made["environment_id"]
            history = await ask(client, "environment_history", environment_id=id_)
        return str(history["events"][0]["actor"])

    with HttpServer(tmp_path / "store", **variables) as server:
        actors = [asyncio.run(actor(server.url, token)) for token in (MAJA, OTTO, TOKEN)]
        assert actors == ["maja mcp:claude", "otto mcp:claude", "mcp:claude"]
        assert not any(token in server.stderr() for token in (MAJA, OTTO, TOKEN))


def test_session_of_another_token_is_refused(app: ASGIApp) -> None:
    """A caller that learns the id of a session can neither use it nor end it."""

    async def use() -> list[int]:
        client = await TokenClient(app, MAJA).begin()
        others = [TokenClient(app, token, client.session_id) for token in (OTTO, TOKEN)]
        answers = [await other.ask("ping") for other in others]
        answers += [await other.end() for other in others]
        return [one.status for one in (*answers, await client.ask("ping"), await client.end())]

    assert asyncio.run(use()) == [404, 404, 404, 404, 200, 200]


def test_altered_session_id_reaches_no_other_session(app: ASGIApp) -> None:
    """Another name in the id makes another session: ending it leaves the first one alone."""

    async def use() -> list[int]:
        client = await TokenClient(app, MAJA).begin()
        assert client.session_id is not None
        altered = client.session_id.removesuffix("maja") + "otto"
        other = TokenClient(app, OTTO, altered)
        return [(await other.end()).status, (await client.ask("ping")).status]

    assert asyncio.run(use()) == [200, 200]


# Failures


def test_failures_are_limited(settings: Settings) -> None:
    """The eleventh failure in a minute has to wait; a right token and other addresses do not."""
    clock = Clock()
    app = Authentication(PlainTextResponse("passed"), settings.tokens, clock)
    here, there = _at(app, "192.0.2.1"), _at(app, "192.0.2.2")
    for _ in range(10):
        assert _ask(here, Authorization="Bearer wrong").status == 401
        clock.now += 1
    for _ in range(2):
        answer = _ask(here, Authorization="Bearer wrong")
        assert (answer.status, answer.headers["retry-after"]) == (429, "50")
        assert "error" in answer.message
    assert _ask(here, Authorization=f"Bearer {TOKEN}").status == 200
    assert _ask(there).status == 401
    clock.now += 49.5
    assert _ask(here).headers["retry-after"] == "1"
    clock.now += 0.5
    assert [_ask(here).status for _ in range(2)] == [401, 429]


def test_header_does_not_change_the_address(tmp_path: Path) -> None:
    """The limit is that of a connection's address, and not of one that a header names."""
    with HttpServer(tmp_path / "store", WAGGLE_AUTH_TOKEN=TOKEN) as server:
        statuses = [
            server.get("/mcp", **{"X-Forwarded-For": f"192.0.2.{number}"})[0]
            for number in range(11)
        ]
        assert statuses == [401] * 10 + [429]
        assert "10 requests from 127.0.0.1 had no valid token" in server.wait_for("valid token")


def test_remembered_failures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address whose last failure is the longest ago is forgotten first."""
    monkeypatch.setattr(auth, "_MAX_ADDRESSES", 3)
    failures = Failures(Clock())
    for _ in range(10):
        failures.add("first")
    for number in range(100):
        assert failures.add(f"other {number}") == 0
        assert failures.add("first") == 60
    assert len(failures._times) == 3
    for number in range(3):
        failures.add(f"last {number}")
    assert failures.add("first") == 0


# Secrecy


def test_token_is_never_shown(
    app: ASGIApp, settings: Settings, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No token and no digest is in a representation, an answer or the log."""
    with caplog.at_level("DEBUG"):
        answers = [_ask(app, path, Authorization=f"Bearer {MAJA}") for path in ("/readyz", "/mcp")]
        answers += [_ask(app, Authorization=f"Bearer {MAJA}x") for _ in range(12)]
        with ServiceHost(settings, str(root)) as host:
            fields = host.log_fields
    shown = "\n".join(map(repr, (settings, settings.tokens, answers, fields, caplog.text)))
    shown += run("--store", str(root), "info", "--json").stdout
    for token in settings.tokens:
        assert repr(token.digest) not in shown
        assert token.digest.hex() not in shown
    for secret in (TOKEN, MAJA, OTTO):
        assert secret not in shown


@pytest.mark.parametrize(
    "text",
    ["a" * 15, f"{'a' * 15} b", "é" * 16, "a" * 1001, "a" * 15 + "\x7f", "$WAGGLE_THE_TOKEN"],
)
def test_bad_token_is_refused_unseen(text: str) -> None:
    """The error names the variable, and does not show a secret that may be nearly right."""
    message = _refused(AUTH_TOKEN=text)
    assert message.startswith("WAGGLE_AUTH_TOKEN: is ")
    assert text not in message
    assert len(message) < 200


# Files of tokens


def test_tokens_file_names_holders(settings: Settings) -> None:
    """Comments and blank lines do not count; the variable and the file add up."""
    assert settings.tokens == (
        AccessToken.parse(TOKEN),
        AccessToken.parse(MAJA, "maja"),
        AccessToken.parse(OTTO, "otto"),
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_open_tokens_file_is_refused(tokens_file: Path, mode: int) -> None:
    """A file that other users may read or change proves nothing."""
    tokens_file.chmod(mode)
    assert "run 'chmod 600' on it" in _refused(AUTH_TOKENS_FILE=str(tokens_file))
    tokens_file.chmod(0o400)
    assert Settings.from_env({"WAGGLE_AUTH_TOKENS_FILE": str(tokens_file)}).tokens


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no token"),
        ("# maja 0123456789abcdef\n", "there is no token"),
        ("0123456789abcdef\n", "line 1 is not NAME TOKEN"),
        ("\nmaja 0123456789abcdef x\n", "line 2 is not NAME TOKEN"),
        ("mäja 0123456789abcdef\n", "line 1 is not NAME TOKEN"),
        (f"{'m' * 65} 0123456789abcdef\n", "line 1 is not NAME TOKEN"),
        ("maja:x 0123456789abcdef\n", "line 1 is not NAME TOKEN"),
        ("maja 0123456789abcde\n", "the second word of line 1 is not a token of 16"),
        ("maja 0123456789abcdeé\n", "the second word of line 1 is not a token of 16"),
        ("a 0123456789abcdef\na 0123456789abcdeF\n", "line 2 repeats a name or a token"),
        ("a 0123456789abcdef\nb 0123456789abcdef\n", "line 2 repeats a name or a token"),
    ],
)
def test_bad_tokens_file_is_refused(tokens_file: Path, text: str, problem: str) -> None:
    """The error names the file and the line, and shows nothing of the line."""
    tokens_file.write_text(text)
    message = _refused(AUTH_TOKENS_FILE=str(tokens_file))
    assert message.startswith(f"WAGGLE_AUTH_TOKENS_FILE: '{tokens_file}'"[:100])
    assert problem in message
    assert "0123456789" not in message


def test_unreadable_tokens_file_is_refused(tmp_path: Path) -> None:
    """A file that is missing, or is none, does not count as one without tokens."""
    for path, problem in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        assert problem in _refused(AUTH_TOKENS_FILE=str(path))
    assert TOKEN not in _refused(AUTH_TOKENS_FILE=TOKEN)


# Starting


@contextmanager
def _listening(**variables: str) -> Iterator[None]:
    address = {"LISTEN_ADDR": "0.0.0.0:0", "ALLOWED_HOSTS": "waggle.local"}
    with http.listen(
        Settings.from_env({f"WAGGLE_{name}": it for name, it in {**address, **variables}.items()})
    ):
        yield


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "waggle.local:0"])
def test_open_address_requires_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    """An address that other machines reach is refused without tokens, before anything is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAGGLE_LISTEN_ADDR", address)
    monkeypatch.setenv("WAGGLE_ALLOWED_HOSTS", "waggle.local")
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: WAGGLE_AUTH_TOKEN: must be a token")
    assert "WAGGLE_ALLOW_ANONYMOUS=1" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_open_address_is_served_with_token(tokens_file: Path) -> None:
    """A token, a file of tokens, or the operator's explicit word lets the server listen."""
    for variables in (
        {"AUTH_TOKEN": TOKEN},
        {"AUTH_TOKENS_FILE": str(tokens_file)},
        {"ALLOW_ANONYMOUS": "1"},
    ):
        with _listening(**variables):
            pass
    with (
        pytest.raises(SettingError, match=r"^WAGGLE_AUTH_TOKEN: "),
        _listening(ALLOW_ANONYMOUS="0"),
    ):
        pass
