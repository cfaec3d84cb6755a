# SPDX-License-Identifier: Apache-2.0
"""Metrics: what /metrics says, that the table of the docs says the same, and whom it serves."""

import asyncio
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp.server import MCPServer
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from tests.server import asgi
from tests.server.asgi import LegacyClient
from tests.server.client import call
from tests.server.page.browser import Browser
from tests.service.test_membership import Hosts
from tests.service.test_membership import hosts as hosts
from waggle_fsstore import EnvironmentService
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.errors import StoreClosedError
from waggle_fsstore.server.figures import MAX_AGE_S, Survey
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.readiness import Readiness
from waggle_fsstore.server.tools import make_server

DOCS = Path(__file__).parents[2] / "docs"
TOKEN = "a-token-for-prometheus"  # noqa: S105

#: By name, and the values of the labels in the order of their names.
Values = dict[tuple[str, ...], float]


@contextmanager
def _serving(root: Path, **variables: str) -> Iterator[tuple[ServiceHost, ASGIApp]]:
    variables.setdefault("WAGGLE_EXECUTION", "unisolated")
    settings = Settings.from_env({"WAGGLE_REAPER_INTERVAL": "1h", **variables})
    with ServiceHost(settings, str(root), is_http=True) as host:
        yield host, application(host, settings)


async def _text(app: ASGIApp, **headers: str) -> str:
    answer = await asgi.request(app, "GET", "/metrics", headers={"Host": "localhost", **headers})
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.body


async def _values(app: ASGIApp) -> Values:
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(await _text(app))
        for sample in family.samples
    }


def _documented() -> dict[str, tuple[str, str]]:
    """Return the type and the meaning of each metric in the table of the docs."""
    text = (DOCS / "operating.md").read_text()
    rows = re.findall(r"^\| `(waggle_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", text, re.MULTILINE)
    return {name: (kind, meaning) for name, kind, _, meaning in rows}


def test_metrics_are_those_of_the_table(root: Path) -> None:
    """Names, types and meanings are those of the docs; those of the process come besides."""
    with _serving(root) as (_, app):
        text = asyncio.run(_text(app))
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    meanings = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE))
    exposed = {name: (kind, meanings[name]) for name, kind in types.items()}
    process = {name for name in exposed if name.startswith("process_")}
    assert {"process_resident_memory_bytes", "process_open_fds"} <= process
    assert {name: exposed[name] for name in exposed.keys() - process} == _documented()


def test_labels_are_those_of_the_table(root: Path) -> None:
    """Each metric has exactly the labels that the docs list."""
    text = (DOCS / "operating.md").read_text()
    rows = re.findall(r"^\| `(waggle_\w+)` \| \w+ \|([^|]*)\|", text, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}

    async def dialogue(app: ASGIApp) -> str:
        await (await LegacyClient(app).begin()).call("list_environments")
        return await _text(app)

    with _serving(root) as (_, app):
        text = asyncio.run(dialogue(app))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if name in documented:
                assert set(sample.labels) - {"le"} == documented[name]


def test_metrics_say_what_was_done(root: Path) -> None:
    """Environments, calls, programs, failures, sessions and the store are counted."""

    async def dialogue(app: ASGIApp, host: ServiceHost) -> Values:
        client = await LegacyClient(app).begin()
        gone, made = [
            (await client.call("create_environment", runtime="shell"))["environment_id"]
            for _ in range(2)
        ]
        await client.ask("tools/call", name="create_environment", arguments={"runtime": "shell"})
        await client.call("execute", environment_id=made, code="exit 3")
        await client.call("destroy_environment", environment_id=gone)
        await client.end()
        host.service.find_by_id(made)
        return await _values(app)

    with _serving(root, WAGGLE_MAX_ENVIRONMENTS="2") as (host, app):
        values = asyncio.run(dialogue(app, host))
    calls = "waggle_tool_call_duration_seconds_count"
    assert (
        values.items()
        >= {
            ("waggle_ready",): 1,
            ("waggle_leads",): 1,
            ("waggle_leader_stalled",): 0,
            ("waggle_execution_available",): 1,
            ("waggle_environments_limit",): 2,
            ("waggle_environments", "running"): 1,
            ("waggle_environments", "creating"): 0,
            ("waggle_store_environments", "", "running"): 1,
            ("waggle_creates_total",): 2,
            ("waggle_destroys_total",): 1,
            ("waggle_expiries_total",): 0,
            ("waggle_failures_total", "capacity"): 1,
            ("waggle_failures_total", "creation"): 0,
            ("waggle_executions_total", "shell", "failed"): 1,
            ("waggle_executions_total", "python", "memory"): 0,
            (calls, "ok", "create_environment"): 2,
            (calls, "refused", "create_environment"): 1,
            (calls, "failed", "create_environment"): 0,
            (calls, "ok", "execute"): 1,
            ("waggle_sessions_begun_total",): 1,
            ("waggle_sessions_ended_total",): 1,
            ("waggle_orphans",): 0,
            ("waggle_store_journal_segments",): 1,
            ("waggle_store_recovery_due",): 0,
        }.items()
    )
    for name in ("save_duration_seconds_count", "sync_duration_seconds_count", "journal_bytes"):
        assert values[f"waggle_store_{name}",] > 0
    assert values["waggle_store_last_change",] >= values["waggle_store_last_checkpoint",]
    assert values["waggle_disk_free_bytes", "store"] <= values["waggle_disk_size_bytes", "store"]


def test_unknown_tool_adds_no_series(root: Path) -> None:
    """A client cannot make up labels: only tools that exist are counted."""

    async def dialogue(app: ASGIApp) -> str:
        client = await LegacyClient(app).begin()
        await client.ask("tools/call", name="made_up_tool", arguments={})
        return await _text(app)

    with _serving(root) as (_, app):
        assert "made_up" not in asyncio.run(dialogue(app))


def test_metrics_name_no_environment_and_no_client(root: Path) -> None:
    """No id, no name of an environment or a client, and no path is in the text."""

    async def dialogue(app: ASGIApp) -> tuple[str, str]:
        client = await LegacyClient(app).begin(name="curious-client")
        made = await client.call("create_environment", runtime="shell", name="named-environment")
        await client.call("write_file", environment_id=made["environment_id"], path="f", content="")
        return made["environment_id"], await _text(app)

    with _serving(root) as (_, app):
        environment_id, text = asyncio.run(dialogue(app))
    for secret in (environment_id, environment_id[:8], "curious", "named", str(root)):
        assert secret not in text


def test_servers_of_one_process_count_separately(tmp_path: Path) -> None:
    """What one server does is not in the metrics of another one."""

    async def dialogue(busy: ASGIApp, idle: ASGIApp) -> list[Values]:
        await (await LegacyClient(busy).begin()).call("create_environment", runtime="shell")
        return [await _values(busy), await _values(idle)]

    with _serving(tmp_path / "a") as (_, busy), _serving(tmp_path / "b") as (_, idle):
        of_busy, of_idle = asyncio.run(dialogue(busy, idle))
    created = ("waggle_creates_total",)
    assert (of_busy[created], of_idle[created]) == (1, 0)
    assert not any("tool_call" in name for name, *_ in of_idle)


def test_figures_are_counted_once_in_fifteen_seconds(root: Path) -> None:
    """What walks the store is remembered for a while, however often it is asked for."""
    clock = SimpleNamespace(now=0.0)
    with _serving(root) as (host, _):
        survey = Survey(host, Readiness(host), lambda: clock.now)
        assert survey.figures().own["running"] == 0
        host.service.create("shell")
        clock.now = MAX_AGE_S - 0.1
        assert survey.figures().own["running"] == 0
        clock.now = MAX_AGE_S
        assert survey.figures().own["running"] == 1


def test_figures_are_counted_in_a_thread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop answers other clients while a large store is counted."""
    threads: list[threading.Thread] = []
    real = Survey._count

    def count(self: Survey) -> object:
        threads.append(threading.current_thread())
        return real(self)

    monkeypatch.setattr(Survey, "_count", count)
    with _serving(root) as (_, app):
        asyncio.run(_text(app))
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_page_and_metrics_count_together(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of the page and a scrape within fifteen seconds list the store once."""
    counted: list[Survey] = []
    real = Survey._count

    def count(self: Survey) -> object:
        counted.append(self)
        return real(self)

    monkeypatch.setattr(Survey, "_count", count)
    with _serving(root) as (_, app):
        asyncio.run(_text(app))
        assert "Capacity" in Browser(app).open().text
    assert len(counted) == 1


def test_environments_of_other_hosts_are_those_of_the_store(hosts: Hosts) -> None:
    """A host counts its environments apart from those of the whole store."""
    here, there = hosts.service("here"), hosts.service("there")
    here.create("shell")
    for _ in range(2):
        there.create("shell")
    here.membership.refresh()
    host = SimpleNamespace(service=here, repository=hosts.world.store)
    own, stored = Survey(cast("Any", host), cast("Any", None))._environments()
    assert own == {"creating": 0, "running": 1, "destroying": 0, "error": 0}
    assert stored["running", "here"] == 1
    assert stored["running", "there"] == 2
    assert stored["error", "there"] == 0


def test_metrics_answer_without_a_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be read, that is what the metrics say; the rest is there."""

    def fail(*_: object, **__: object) -> None:
        raise StoreClosedError

    with _serving(root) as (host, app):
        for method in ("find_all", "info", "check_writable"):
            monkeypatch.setattr(host.repository, method, fail, raising=False)
        values = asyncio.run(_values(app))
    assert values["waggle_ready",] == 0
    assert values["waggle_creates_total",] == 0
    assert not any(name.startswith("waggle_environments") for name, *rest in values if rest)
    assert ("waggle_store_journal_bytes",) not in values


def test_store_in_memory_has_no_figures_of_a_disk() -> None:
    """A metric that a store cannot have is named, and has no value."""
    settings = Settings.from_env({"WAGGLE_REAPER_INTERVAL": "1h"})
    with ServiceHost(settings, "memory:", is_http=True) as host:
        app = application(host, settings)
        text = asyncio.run(_text(app))
        values = asyncio.run(_values(app))
    assert "# TYPE waggle_store_journal_bytes gauge" in text
    assert ("waggle_store_journal_bytes",) not in values
    assert values["waggle_environments", "running"] == 0


def test_metrics_that_fail_break_no_call(
    service: EnvironmentService, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is answered, and the log says what is missing."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    server: MCPServer[Any] = make_server(service, on_end=fail)
    assert call(server, "list_environments")["count"] == 0
    assert "missing in the metrics" in caplog.text


def test_metrics_need_a_token(root: Path) -> None:
    """Without a token the answer says only that one is needed."""
    with _serving(root, WAGGLE_AUTH_TOKEN=TOKEN) as (_, app):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            sent = {"Host": "localhost", **headers}
            answer = asyncio.run(asgi.request(app, "GET", "/metrics", headers=sent))
            assert answer.status == 401
            assert "waggle_" not in answer.body
        assert asyncio.run(_text(app, Authorization=f"Bearer {TOKEN}"))


def test_metrics_answer_to_allowed_hosts_only(root: Path) -> None:
    """A web page that calls the server by another name gets nothing."""
    with _serving(root) as (_, app):
        headers = {"Host": "evil.example"}
        assert asyncio.run(asgi.request(app, "GET", "/metrics", headers=headers)).status == 421
        headers = {"Host": "localhost"}
        assert asyncio.run(asgi.request(app, "GET", "/metrics/", headers=headers)).status == 200
        assert asyncio.run(asgi.request(app, "POST", "/metrics", headers=headers)).status == 405


# Alerts


def _alerts() -> dict[str, str]:
    """Return the expression of each example alert."""
    text = (DOCS / "alerts.yml").read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (.*)\n", text)
    assert len(found) == text.count("alert:") == text.count("expr:")
    return dict(found)


def test_alerts_use_documented_metrics() -> None:
    """Each name in an expression is a metric of the docs, or one of its parts."""
    text = (DOCS / "operating.md").read_text()
    names = {*_documented(), "waggle_fsck_success_timestamp_seconds"}
    assert "waggle_fsck_success_timestamp_seconds" in text
    names |= {f"{name}{part}" for name in names for part in ("_count", "_bucket")}
    for alert, expression in _alerts().items():
        used = set(re.findall(r"\bwaggle_\w+", expression))
        assert used, alert
        assert used <= names, alert


def test_each_alert_is_explained() -> None:
    """The docs say of each alert what it means, and of no other."""
    text = (DOCS / "operating.md").read_text()
    assert re.findall(r"^\| `(Waggle\w+)` \|", text, re.MULTILINE) == list(_alerts())


def test_prometheus_accepts_alerts() -> None:
    """The program of Prometheus that checks rules finds no fault in them."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    subprocess.run([promtool, "check", "rules", DOCS / "alerts.yml"], check=True)
