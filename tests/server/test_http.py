# SPDX-License-Identifier: Apache-2.0
"""HTTP: requests of any kind, and what the probes report."""

import asyncio
import errno
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

from tests.server import asgi, processes
from tests.server.client import ask, call, refused, talk
from tests.server.processes import TIMEOUT_S, HttpServer, hold
from waggle_fsstore import FileStore
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.errors import LockTimeoutError, StoreClosedError, UnsupportedFormatError
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.testing import make_environment

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}


@pytest.fixture(scope="module")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    store = tmp_path_factory.mktemp("http") / "store"
    with HttpServer(store) as server:
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


# Requests


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


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz/", 200), ("/readyz/", 200), ("/mcp/", 405)]
)
def test_final_slash_makes_no_difference(root: Path, path: str, status: int) -> None:
    """There is no redirect, which behind a proxy would lead to a wrong address."""
    with _hosted(root) as (_, app):
        headers = {**asgi.HEADERS, "Host": "localhost:8080"}
        answer = asyncio.run(asgi.request(app, "GET", path, headers=headers))
    assert answer.status == status
    assert "location" not in answer.headers


def test_other_paths_and_methods_are_refused(http_server: HttpServer) -> None:
    """No other path exists, and the probes accept only GET."""
    assert http_server.get("/docs")[0] == 404
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


# Probes


def test_healthy_server_is_ready(http_server: HttpServer) -> None:
    """A healthy server reports the status ready and no problems."""
    assert http_server.get("/healthz") == (200, '{"status":"ok"}')
    status, text = http_server.get("/readyz")
    assert status == 200
    report = json.loads(text)
    assert report.pop("execution")
    assert report.pop("history").keys() == {"bytes", "growth_bytes"}
    assert report == {
        "status": "ready",
        "components": {"store": "ok", "provider": "ok", "leader": "ok"},
        "counts": {"findings": 0, "unreadable": 0, "orphans": 0, "problems": 0},
    }


def test_probe_tells_size_and_growth_of_the_history(root: Path) -> None:
    """Growth is counted from the first answer; a store in memory has no such figure."""
    with _hosted(root) as (host, app):
        before = _get(app, "/readyz")[1]["history"]
        assert before == {"bytes": FileStore(root).history_size(), "growth_bytes": 0}
        host.repository.save_all([make_environment(provider=None) for _ in range(500)])
        after = _get(app, "/readyz")[1]["history"]
        assert after["growth_bytes"] == after["bytes"] - before["bytes"] > 100_000
    with _hosted(Path("memory:")) as (_, app):
        assert _get(app, "/readyz")[1]["history"] is None


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
    """The component is named; the server is still alive."""
    with FileStore(root, durable=False) as store:
        store.save_all([make_environment(provider=None) for _ in range(3)])
    with _hosted(root) as (_, app):
        assert _get(app, "/readyz")[0] == 200
        damage(root)
        status, report = _get(app, "/readyz")
        assert (status, report["status"]) == (503, "not ready")
        assert report["components"] == {"store": "failed", "provider": "ok", "leader": "ok"}
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
        assert status == 503
        assert report["components"] == {"store": "damaged", "provider": "ok", "leader": "ok"}
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
        assert status == 503
        assert report["components"] == {"store": "damaged", "provider": "ok", "leader": "ok"}
        assert call(make_server(host.service), "get_environment", environment_id=made.id)
        assert isinstance(host.repository, FileStore)
        assert any(finding.is_repaired for finding in host.repository.repair())
        assert _get(app, "/readyz")[0] == 200


def test_unusable_provider_is_not_ready(root: Path) -> None:
    """A file in place of the workspaces directory makes the server unready."""
    with _hosted(root) as (_, app):
        (root.parent / "store-workspaces").touch()
        status, report = _get(app, "/readyz")
        assert (status, report["status"]) == (503, "not ready")
        assert report["components"] == {"store": "ok", "provider": "failed", "leader": "ok"}


def test_missing_workspaces_directory_is_not_ready(root: Path) -> None:
    """No environment is given up; when the directory is back, everything works again."""
    with _hosted(root) as (host, _):
        made = host.service.create("shell")
    workspaces, elsewhere = root.parent / "store-workspaces", root.parent / "elsewhere"
    workspaces.rename(elsewhere)
    with _hosted(root) as (host, app):
        status, report = _get(app, "/readyz")
        assert status == 503
        assert report["components"] == {"store": "ok", "provider": "failed", "leader": "ok"}
        message = refused(make_server(host.service), "create_environment", runtime="shell")
        assert "is missing or is a different one: mount its disk or, if it is" in message
        assert host.reaper.reconciliation is not None
        assert host.reaper.reconciliation.problems == [f"workspaces: {message}"]
        assert report["counts"]["problems"] == 1
        host.reaper.run_once()
        assert not workspaces.exists()
        elsewhere.rename(workspaces)
        host.reaper.run_once()
        assert host.service.find_by_id(made.id).is_running
        status, report = _get(app, "/readyz")
        assert (status, report["counts"]["problems"]) == (200, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_unwritable_workspaces_directory_is_not_ready(root: Path) -> None:
    """The server is unready, and leaves the permissions alone."""
    workspaces = root.parent / "store-workspaces"
    with _hosted(root) as (_, app):
        workspaces.mkdir(mode=0o500)
        assert _get(app, "/readyz")[1]["components"]["provider"] == "failed"
        assert workspaces.stat().st_mode & 0o777 == 0o500


def test_stopping_server_is_not_ready(root: Path) -> None:
    """A load balancer can send calls to another server."""
    with _hosted(root) as (host, app):
        host.interrupt()
        status, report = _get(app, "/readyz")
        assert (status, report["components"]["provider"]) == (503, "failed")


def test_damaged_document_and_orphan_stay_ready(root: Path) -> None:
    """A damaged document and an orphaned workspace are counted, and the server stays ready."""
    with FileStore(root, durable=False) as store:
        store.save_all([make_environment(id=name) for name in "abc"])
    (root / "environments" / "b.json").write_text("{")
    workspaces = root.parent / "store-workspaces"
    (workspaces / "left-over").mkdir(parents=True)
    (workspaces / ".waggle-root").touch()
    # Names can hold bytes that are not UTF-8.
    os.mkdir(os.fsencode(workspaces) + b"/\xff")
    with _hosted(root) as (_, app):
        status, report = _get(app, "/readyz")
    assert (status, report["status"]) == (200, "ready")
    assert report["counts"] == {"findings": 0, "unreadable": 1, "orphans": 2, "problems": 0}


def test_recovery_findings_are_counted(root: Path) -> None:
    """A directory in place of a document is a finding of the recovery."""
    with FileStore(root, durable=False) as store:
        store.save_all([make_environment(id=name) for name in "ab"])
    (root / "environments" / "a.json").unlink()
    (root / "environments" / "a.json").mkdir()
    (root / ".waggle" / "state").unlink()
    with _hosted(root) as (_, app):
        _, report = _get(app, "/readyz")
    assert report["counts"]["findings"] >= 1


def test_second_server_reports_that_it_follows(root: Path) -> None:
    """An operator can see which of two servers reconciles and sweeps."""
    with ServiceHost(_settings(), str(root)), _hosted(root) as (_, app):
        status, report = _get(app, "/readyz")
        assert (status, report["components"]["leader"]) == (200, "follows")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret"), "full"),
        (OSError(errno.EROFS, "Read-only file system", "/secret"), "read-only"),
        (OSError(errno.EACCES, "Permission denied", "/secret"), "forbidden"),
        (OSError(errno.EMFILE, "Too many open files", "/secret"), "no-descriptors"),
        (OSError(errno.EIO, "Input/output error", "/secret"), "failed"),
        (LockTimeoutError("/secret", None, 1), "busy"),
        (UnsupportedFormatError("/secret", 2, 1), "unsupported"),
        (StoreClosedError(), "closed"),
    ],
)
def test_answer_names_no_file(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: str,
) -> None:
    """Any caller gets the answer, so it has a code; the log has the details, once."""

    def fail(*_: object, **__: object) -> None:
        raise error

    with _hosted(root) as (_, app), caplog.at_level("INFO"):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(FileStore, "check_writable", fail)
            reports = [_get(app, "/readyz") for _ in range(2)]
        logged = [one.getMessage() for one in caplog.records if one.name.endswith("readiness")]
        assert logged == [f"store: {error}"]
        assert reports[0] == reports[1]
        assert (reports[0][0], reports[0][1]["components"]["store"]) == (503, code)
        assert "secret" not in str(reports)
        caplog.clear()
        assert _get(app, "/readyz")[0] == 200
        assert "store: no problem any more" in caplog.text


def test_busy_writers_block_no_reader(tmp_path: Path) -> None:
    """Forty hanging creations delay neither the probes nor any tool that only reads."""
    many = 45
    variables = {"WAGGLE_MAX_ENVIRONMENTS": "100"}
    store = tmp_path / "store"
    with HttpServer(store, code=hold("layout.write_new"), **variables) as server:

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
from waggle_fsstore.server import log
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
log._REPEAT_INTERVAL_S = 2
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
