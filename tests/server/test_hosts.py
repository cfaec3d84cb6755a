# SPDX-License-Identifier: Apache-2.0
"""Host names and origins: by which names, and from which web pages, clients may call."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from tests.server import asgi
from tests.server.client import call
from tests.server.processes import HttpServer
from waggle_fsstore.config import Settings
from waggle_fsstore.server.hosts import AllowedHosts, Guard, Host, url_host
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost

ALLOWED = (
    "waggle.local, My-MacBook.local, example.org:8443, proxied.example:443, "
    "fd00::1, [fd00::2], [fd00::3]:9, [FD00:0::4]"
)
SETTINGS = Settings.from_env(
    {
        "WAGGLE_ALLOWED_HOSTS": ALLOWED,
        "WAGGLE_ALLOWED_ORIGINS": "https://App.example:8443, vscode-webview://1a2b",
    }
)

HEALTH_PATHS = ["/healthz", "/readyz"]


def _status(app: ASGIApp, path: str, method: str = "GET", **headers: str) -> int:
    return _ask(app, path, method, **headers).status


def _ask(app: ASGIApp, path: str, method: str = "GET", **headers: str) -> asgi.Answer:
    return asyncio.run(asgi.request(app, method, path, headers=headers))


@pytest.fixture
def guard() -> ASGIApp:
    return Guard(PlainTextResponse("passed"), SETTINGS)


@pytest.fixture
def app(root: Path) -> Iterator[ASGIApp]:
    """Yield a whole application."""
    with ServiceHost(SETTINGS, str(root)) as host:
        yield application(host, SETTINGS)


# Hosts


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "localhost",
        "localhost:1",
        "localhost:",
        "LOCALHOST",
        "LocalHost:8080",
        "localhost.",
        "localhost.:8080",
        "[::1]",
        "[::1]:8080",
        "[0:0:0:0:0:0:0:1]:8080",
        "waggle.local",
        "waggle.local:80",
        "my-macbook.local:8080",
        "MY-MACBOOK.LOCAL.:8080",
        "example.org:8443",
        "proxied.example",
        "proxied.example:443",
        "[fd00::1]",
        "[fd00::1]:8080",
        "[FD00::2]:8080",
        "[fd00::3]:9",
        "[fd00::4]",
    ],
)
def test_allowed_host_is_answered(guard: ASGIApp, host: str) -> None:
    """Names are compared without case and a final dot, with any port or the configured one."""
    for origin in ({}, {"Origin": f"http://{host}"}, {"Origin": f"https://{host}"}):
        assert _status(guard, "/mcp", Host=host, **origin) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil.localhost",
        "localhost..",
        ".localhost",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "127.1",
        "0.0.0.0",  # noqa: S104
        "example.org",
        "example.org:80",
        "proxied.example:444",
        "fd00::1",
        "[fd00::3]",
        "[fd00::5]",
        "[fd00::1",
        "[fd00::1]8080",
        "[]",
        "*",
        "localhost@evil.example",
        "localhost:8080@evil.example",
        "localhost:evil",
        "localhost evil.example",
        "localhost,evil.example",
        "localh\u043est",
        "",
    ],
)
def test_other_host_is_refused(guard: ASGIApp, host: str) -> None:
    """A web page whose name resolves to this server reaches nothing but its health."""
    answer = _ask(guard, "/mcp", Host=host)
    assert answer.status == 421
    assert answer.body.startswith("Invalid Host header: ")
    assert "WAGGLE_ALLOWED_HOSTS" in answer.body


@pytest.mark.parametrize("path", HEALTH_PATHS)
@pytest.mark.parametrize("headers", [{"Host": "10.1.2.3:8080"}, {"Host": "pod.evil.example"}, {}])
def test_probe_may_use_any_host(app: ASGIApp, path: str, headers: dict[str, str]) -> None:
    """A probe calls a server by its current address, which no setting could name."""
    assert _status(app, path, **headers) == 200


@pytest.mark.parametrize("path", ["/mcp", "/", "/docs", "/healthz/x", "/readyz/../mcp"])
def test_host_check_covers_every_other_path(app: ASGIApp, path: str) -> None:
    """No other path of the application answers requests for another host, or without one."""
    assert _status(app, path, Host="evil.example") == 421
    assert _status(app, path) == 421


@pytest.mark.parametrize("address", ["127.0.0.2:0", "127.1.2.3:99", "[::1]:0", "localhost:0"])
def test_server_answers_to_the_address_it_listens_at(address: str) -> None:
    """An address of the loopback interface needs no setting that repeats it."""
    settings = Settings.from_env({"WAGGLE_LISTEN_ADDR": address})
    logged = url_host(settings, 8080)
    assert logged == f"{address.rpartition(':')[0]}:8080"
    assert AllowedHosts(settings).allows(logged)


@pytest.mark.parametrize(
    ("address", "allowed", "logged"),
    [
        ("0.0.0.0:0", "waggle.local", "waggle.local:8080"),
        ("[::]:0", "fd00::1, other", "[fd00::1]:8080"),
        (":0", "waggle.local:443", "waggle.local:443"),
        ("192.0.2.1:0", "waggle.local", "192.0.2.1:8080"),
        ("[2001:db8::1]:0", "waggle.local", "[2001:db8::1]:8080"),
        ("my-host:0", "waggle.local", "my-host:8080"),
    ],
)
def test_logged_address_is_allowed(address: str, allowed: str, logged: str) -> None:
    """The URL in the log is one that clients can use, also where the server listens everywhere."""
    settings = Settings.from_env({"WAGGLE_LISTEN_ADDR": address, "WAGGLE_ALLOWED_HOSTS": allowed})
    assert url_host(settings, 8080) == logged
    assert AllowedHosts(settings).allows(logged)
    assert not AllowedHosts(settings).allows("0.0.0.0")  # noqa: S104


def test_spellings_of_a_host_are_equal() -> None:
    """Hosts with several spellings are equal, and text that is no host is none."""
    assert Host.parse("[0::1]:8") == Host.parse("[::1]:8")
    assert Host.parse("a.B.:1") == Host("a.b", "1")
    for text in ("", ":80", "a:b", "[::1", "::1", "a:1:2"):
        assert Host.parse(text) is None


def test_ipv6_address_is_logged_in_brackets(tmp_path: Path) -> None:
    """The logged URL of an IPv6 address can be called."""
    with HttpServer(tmp_path / "store", WAGGLE_LISTEN_ADDR="[::1]:0") as server:
        assert server.address.startswith("[::1]:")
        assert call(server.url, "list_environments")["count"] == 0


# Origins


@pytest.mark.parametrize("path", ["/mcp", *HEALTH_PATHS])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example:8080",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "null",
        "file://",
        "ftp://localhost",
        "localhost",
        "http://example.org",
        "https://app.example",
        "http://app.example:8443",
        "",
    ],
)
def test_other_origin_is_refused(guard: ASGIApp, path: str, origin: str) -> None:
    """A web page from another origin is refused, even if it uses an allowed host name."""
    answer = _ask(guard, path, Host="localhost", Origin=origin)
    assert answer.status == 403
    assert answer.body.startswith("Invalid Origin header: ")


def test_origin_check_covers_every_path(app: ASGIApp) -> None:
    """No path of the application answers requests from another origin."""
    for path in ("/mcp", "/", *HEALTH_PATHS):
        assert _status(app, path, Host="localhost", Origin="http://evil.example") == 403


@pytest.mark.parametrize("origin", ["https://app.example:8443", "vscode-webview://1a2b"])
def test_web_page_of_allowed_origin_may_call(app: ASGIApp, origin: str) -> None:
    """A browser asks first, and then lets the page read the id of its session."""
    asked = _ask(
        app,
        "/mcp",
        "OPTIONS",
        Host="localhost",
        Origin=origin,
        **{
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,mcp-session-id,mcp-protocol-version",
        },
    )
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == origin
    assert {"POST", "DELETE"} <= set(asked.headers["access-control-allow-methods"].split(", "))
    assert "mcp-session-id" in asked.headers["access-control-allow-headers"]
    answer = _ask(app, "/mcp", Host="localhost", Origin=origin)
    assert answer.headers["access-control-allow-origin"] == origin
    assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]


def test_web_page_of_other_origin_may_not_ask(app: ASGIApp, root: Path) -> None:
    """Another local page passes the check of origins, but its browser gets no permission."""
    asked = {"Host": "localhost", "Access-Control-Request-Method": "POST"}
    answer = _ask(app, "/mcp", "OPTIONS", Origin="http://localhost:3000", **asked)
    assert answer.status == 400
    with ServiceHost(Settings(), str(root)) as host:
        answer = _ask(application(host, Settings()), "/mcp", "OPTIONS", **asked)
    assert answer.status == 405
    assert not any(name.startswith("access-control") for name in answer.headers)
