# SPDX-License-Identifier: Apache-2.0
"""HTTP: which requests are allowed, and what the probes report."""

import asyncio
import json
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from starlette.types import ASGIApp, Message

from tests.server import processes
from tests.server.client import ask, call, refused, talk
from tests.server.processes import TIMEOUT_S, HttpServer, hold
from waggle_fsstore import FileStore
from waggle_fsstore.config import Settings
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.testing import make_environment

PATHS = ["/healthz", "/readyz", "/mcp"]

#: The statuses of a request that passed the host check, though it is no protocol message.
LET_THROUGH = {"/healthz": {200}, "/readyz": {200}, "/mcp": {400, 404, 405, 406}}

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}

ALLOWED = "waggle.local, example.org:8443, fd00::1, [fd00::2], [fd00::3]:9"


@pytest.fixture(scope="module")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    store = tmp_path_factory.mktemp("http") / "store"
    with HttpServer(store, WAGGLE_ALLOWED_HOSTS=ALLOWED) as server:
        yield server


def _settings(**variables: str) -> Settings:
    return Settings.from_env({"WAGGLE_REAPER_INTERVAL": "1h", **variables})


@contextmanager
def _hosted(root: Path) -> Iterator[tuple[ServiceHost, ASGIApp]]:
    """Open a host in this process, and yield it with its application."""
    settings = _settings()
    with ServiceHost(settings, str(root), is_http=True) as host:
        yield host, application(host, settings)


def _get(app: ASGIApp, path: str, *, host: str = "localhost", **headers: str) -> tuple[int, Any]:
    """Return the status and the content of a response of an application in this process."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in {"Host": host, **headers}.items()
        ],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(_run(app, scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    status = sent[0]["status"]
    return status, json.loads(body) if status in (200, 503) else body.decode()


async def _run(app: ASGIApp, *arguments: Any) -> None:
    await app(*arguments)


# Allowed hosts and origins


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:{port}",
        "localhost",
        "localhost:{port}",
        "localhost:1",
        "[::1]",
        "[::1]:{port}",
        "waggle.local",
        "waggle.local:80",
        "example.org:8443",
        "[fd00::1]",
        "[fd00::1]:8080",
        "[fd00::2]:8080",
        "[fd00::3]:9",
    ],
)
def test_allowed_host_is_answered(http_server: HttpServer, path: str, host: str) -> None:
    """Loopback and configured names are allowed, with any port or the configured one."""
    port = http_server.address.rpartition(":")[2]
    host = host.format(port=port)
    for origin in ({}, {"Origin": f"http://{host}"}, {"Origin": f"https://{host}"}):
        status, _ = http_server.get(path, Host=host, **origin)
        assert status in LET_THROUGH[path]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "localhost.evil.example",
        "evil.localhost",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "0.0.0.0",  # noqa: S104
        "example.org",
        "example.org:80",
        "fd00::1",
        "[fd00::3]",
        "[fd00::4]",
        "*",
        "localhost@evil.example",
        "",
    ],
)
def test_other_host_is_refused(http_server: HttpServer, path: str, host: str) -> None:
    """A web page whose name resolves to this server reaches no path of it."""
    port = http_server.address.rpartition(":")[2]
    status, text = http_server.get(path, Host=host.format(port=port))
    assert (status, text) == (421, "Invalid Host header")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example:{port}",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "null",
        "file://",
        "ftp://localhost",
        "localhost",
        "http://example.org",
    ],
)
def test_other_origin_is_refused(http_server: HttpServer, path: str, origin: str) -> None:
    """A web page from another origin is refused, even if it uses an allowed host name."""
    port = http_server.address.rpartition(":")[2]
    status, text = http_server.get(path, Origin=origin.format(port=port))
    assert (status, text) == (403, "Invalid Origin header")


@pytest.mark.parametrize("path", PATHS)
def test_host_check_covers_every_path(root: Path, path: str) -> None:
    """No path of the application answers requests for another host or from another origin."""
    with _hosted(root) as (_, app):
        assert _get(app, path, host="evil.example")[0] == 421
        assert _get(app, path, Origin="http://evil.example")[0] == 403


def test_request_without_host_is_refused(http_server: HttpServer) -> None:
    """HTTP/1.0 requires no Host header; this server does."""
    host, port = http_server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"421"


def test_large_body_is_refused(http_server: HttpServer) -> None:
    """More than 4 MiB are refused; less is read."""
    for size, expected in ((4 * 2**20 + 1, 413), (4 * 2**20, 400)):
        status, _ = http_server.request(
            "POST",
            "/mcp",
            headers=HEADERS,
            body=b"x" * size,
        )
        assert status == expected
    assert http_server.get("/healthz")[0] == 200


def test_other_paths_and_methods_are_refused(http_server: HttpServer) -> None:
    """No other path exists, and the probes accept only GET."""
    assert http_server.get("/")[0] == 404
    assert http_server.get("/mcp/../store")[0] == 404
    for path in ("/healthz", "/readyz"):
        assert http_server.request("POST", path, headers={})[0] == 405


def test_broken_requests_leave_server_working(http_server: HttpServer) -> None:
    """A client that sends nonsense, or disconnects, does not affect others."""
    host, port = http_server.address.split(":")
    for data in (b"\0" * 1000, b"POST /mcp HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET"):
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
            connection.sendall(data)
    for body in (b"", b"{", b"[]", b"null", b'{"jsonrpc": "2.0"}', b"\xff", b"[" * 100_000):
        status, text = http_server.request("POST", "/mcp", headers=HEADERS, body=body)
        assert 400 <= status < 500, (body[:20], text)
        assert "Traceback" not in text
    assert call(http_server.url, "list_environments")["environments"] == []


def test_ipv6_address_is_logged_in_brackets(tmp_path: Path) -> None:
    """The logged URL of an IPv6 address can be called."""
    with HttpServer(tmp_path / "store", WAGGLE_LISTEN_ADDR="[::1]:0") as server:
        assert server.address.startswith("[::1]:")
        assert call(server.url, "list_environments")["count"] == 0


# Probes


def test_healthy_server_is_ready(http_server: HttpServer) -> None:
    """A healthy server reports the status ready and no problems."""
    assert http_server.get("/healthz") == (200, '{"status":"ok"}')
    status, text = http_server.get("/readyz")
    assert status == 200
    assert json.loads(text) == {
        "status": "ready",
        "store": "ok",
        "provider": "ok",
        "leads": True,
        "findings": [],
        "unreadable": [],
        "strays": [],
        "problems": [],
    }


def _file_in_place_of_tmp(root: Path) -> None:
    (root / ".waggle" / "tmp").rmdir()
    (root / ".waggle" / "tmp").touch()


def _file_in_place_of_root(root: Path) -> None:
    root.rename(root.with_name("moved"))
    root.touch()


def _file_in_place_of_documents(root: Path) -> None:
    (root / "environments").rename(root / "moved")
    (root / "environments").touch()


def _empty_root(root: Path) -> None:
    root.rename(root.with_name("moved"))
    root.mkdir()


@pytest.mark.parametrize(
    "damage",
    [_file_in_place_of_tmp, _file_in_place_of_root, _file_in_place_of_documents, _empty_root],
)
def test_unwritable_store_is_not_ready(root: Path, damage: Any) -> None:
    """The report says why, without a path; the server is still alive."""
    with FileStore(root, durable=False) as store:
        store.save_all([make_environment(provider=None) for _ in range(3)])
    with _hosted(root) as (_, app):
        assert _get(app, "/readyz")[0] == 200
        damage(root)
        status, report = _get(app, "/readyz")
        assert (status, report["status"]) == (503, "not ready")
        assert report["store"].startswith("the store failed")
        assert report["provider"] == "ok"
        assert str(root.parent) not in json.dumps(report)
        assert _get(app, "/healthz") == (200, {"status": "ok"})
        if damage is _empty_root:
            assert list(root.iterdir()) == []
            root.rmdir()
            root.with_name("moved").rename(root)
            assert _get(app, "/readyz")[0] == 200


DAMAGED = "the store's journal is damaged; the operator must run 'waggle-fsstore fsck'"


def test_damaged_journal_allows_only_reads(root: Path) -> None:
    """The server starts and lists environments, and reports that it cannot change any."""
    with FileStore(root, durable=False) as store:
        for number in range(3):
            store.save(make_environment(id=f"e-{number}", provider=None))
    [segment] = (root / "journal").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"id":"e-1"', b'"id":"e-7"', 1))
    (root / ".waggle" / "state").unlink()
    with _hosted(root) as (host, app):
        status, report = _get(app, "/readyz")
        assert (status, report["provider"]) == (503, "ok")
        assert report["store"] == DAMAGED
        assert str(root.parent) not in json.dumps(report)
        assert call(make_server(host.service), "list_environments")["count"] == 3
        message = refused(make_server(host.service), "create_environment", runtime="shell")
        assert message == DAMAGED


def test_journal_damaged_while_serving_is_not_ready(root: Path) -> None:
    """The damage is reported before a crash does harm, until it is repaired."""
    with _hosted(root) as (host, app):
        for _ in range(3):
            made = host.service.create("shell")
        [segment] = (root / "journal").glob("*.jsonl")
        good = segment.read_bytes()
        place = good.index(b'"id":')
        with segment.open("r+b") as file:
            file.seek(place)
            file.write(b"X")
        status, report = _get(app, "/readyz")
        assert (status, report["store"], report["provider"]) == (503, DAMAGED, "ok")
        assert call(make_server(host.service), "get_environment", environment_id=made.id)
        assert isinstance(host.repository, FileStore)
        assert any(finding.is_repaired for finding in host.repository.repair())
        assert _get(app, "/readyz")[0] == 200


def test_unusable_provider_is_not_ready(root: Path) -> None:
    """A file in place of the workspaces directory makes the server unready."""
    with _hosted(root) as (_, app):
        (root.parent / "store-workspaces").touch()
        status, report = _get(app, "/readyz")
        assert (status, report["status"], report["store"]) == (503, "not ready", "ok")
        assert report["provider"] == "the workspaces path is not a directory"


def test_missing_workspaces_directory_is_not_ready(root: Path) -> None:
    """No environment is given up; when the directory is back, everything works again."""
    with _hosted(root) as (host, _):
        made = host.service.create("shell")
    workspaces, elsewhere = root.parent / "store-workspaces", root.parent / "elsewhere"
    workspaces.rename(elsewhere)
    with _hosted(root) as (host, app):
        status, report = _get(app, "/readyz")
        assert (status, report["store"]) == (503, "ok")
        assert "is missing or is a different one: mount its disk or, if it is" in report["provider"]
        assert report["problems"] == [f"workspaces: {report['provider']}"]
        message = refused(make_server(host.service), "create_environment", runtime="shell")
        assert message == report["provider"]
        host.reaper.run_once()
        assert not workspaces.exists()
        elsewhere.rename(workspaces)
        host.reaper.run_once()
        assert host.service.find_by_id(made.id).is_running
        status, report = _get(app, "/readyz")
        assert (status, report["problems"]) == (200, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_unwritable_workspaces_directory_is_not_ready(root: Path) -> None:
    """The server is unready, and leaves the permissions alone."""
    workspaces = root.parent / "store-workspaces"
    with _hosted(root) as (_, app):
        workspaces.mkdir(mode=0o500)
        assert _get(app, "/readyz")[1]["provider"] == "the workspaces directory is not writable"
        assert workspaces.stat().st_mode & 0o777 == 0o500


def test_stopping_server_is_not_ready(root: Path) -> None:
    """A load balancer can send calls to another server."""
    with _hosted(root) as (host, app):
        host.interrupt()
        status, report = _get(app, "/readyz")
        assert (status, report["provider"]) == (503, "the provider was closed")


def test_damaged_document_and_orphan_stay_ready(root: Path) -> None:
    """A damaged document and an orphaned workspace are named, and the server stays ready."""
    with FileStore(root, durable=False) as store:
        store.save_all([make_environment(id=name) for name in "abc"])
    (root / "environments" / "b.json").write_text("{")
    workspaces = root.parent / "store-workspaces"
    (workspaces / "left-over").mkdir(parents=True)
    (workspaces / ".waggle-workspaces").touch()
    # Names can hold bytes that are not UTF-8.
    os.mkdir(os.fsencode(workspaces) + b"/\xff")
    with _hosted(root) as (_, app):
        status, report = _get(app, "/readyz")
    assert (status, report["status"]) == (200, "ready")
    assert [one["document"] for one in report["unreadable"]] == ["b.json"]
    assert report["unreadable"][0]["reason"].startswith("the environment's document is damaged: ")
    assert report["strays"][0] == "left-over"
    assert len(report["strays"]) == 2
    assert str(root.parent) not in json.dumps(report)


def test_recovery_findings_are_reported(root: Path) -> None:
    """A directory in place of a document is reported by name."""
    with FileStore(root, durable=False) as store:
        store.save_all([make_environment(id=name) for name in "ab"])
    (root / "environments" / "a.json").unlink()
    (root / "environments" / "a.json").mkdir()
    (root / ".waggle" / "state").unlink()
    with _hosted(root) as (_, app):
        _, report = _get(app, "/readyz")
    assert any(finding.startswith("a.json: ") for finding in report["findings"])
    assert str(root.parent) not in json.dumps(report)


def test_second_server_reports_that_it_does_not_lead(root: Path) -> None:
    """An operator can see which of two servers reconciles and sweeps."""
    with ServiceHost(_settings(), str(root)), _hosted(root) as (_, app):
        status, report = _get(app, "/readyz")
        assert (status, report["leads"]) == (200, False)


def test_busy_writers_block_no_reader(tmp_path: Path) -> None:
    """Forty hanging creations delay neither the probes nor any tool that only reads."""
    many = 45
    variables = {"WAGGLE_MAX_ENVIRONMENTS": "100"}
    store = tmp_path / "store"
    with HttpServer(store, code=hold("write_new"), **variables) as server:

        async def dialogue(client: Client) -> list[dict[str, Any]]:
            calls = [ask(client, "create_environment", runtime="shell") for _ in range(many)]
            return await asyncio.gather(*calls)

        async def read(client: Client) -> None:
            async with asyncio.timeout(processes.TIMEOUT_S):
                first, *_ = (await ask(client, "list_environments"))["environments"]
                for tool in ("get_environment", "environment_history"):
                    await ask(client, tool, environment_id=first["environment_id"])
                await client.read_resource(f"waggle://environments/{first['environment_id']}")

        with ThreadPoolExecutor() as pool:
            answers = pool.submit(talk, server.url, dialogue)
            try:
                server.wait_for("held", times=40)
                assert server.get("/healthz")[0] == 200
                assert server.get("/readyz")[0] == 200
                talk(server.url, read)
            finally:
                server.close_input()
            assert {one["status"] for one in answers.result(TIMEOUT_S)} == {"running"}
        with FileStore(store) as opened:
            assert len({one.ssh_port for one in opened.find_all()}) == many


# Just enough descriptors for a server without connections. A repeated error is logged soon.
FEW_DESCRIPTORS = """
import resource
from waggle_fsstore.server import json_log
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
json_log._REPEAT_INTERVAL_S = 2
"""


def test_descriptor_exhaustion_is_survived(tmp_path: Path) -> None:
    """The server logs it now and then, retries once a second, and recovers."""
    with HttpServer(tmp_path / "store", code=FEW_DESCRIPTORS) as server, ExitStack() as connections:
        host, port = server.address.split(":")
        for _ in range(100):
            connection = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
            connections.enter_context(connection)
        line = server.wait_for("repeats left out: ")
        assert int(re.findall("left out: ([0-9]+)", line)[0]) < 100
        connections.close()
        assert server.get("/healthz")[0] == 200
        assert server.get("/readyz")[0] == 200
        assert len(server.errors) < 20
