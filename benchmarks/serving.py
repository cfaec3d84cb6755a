# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m benchmarks.serving``: the server with 1,000 environments."""

import argparse
import asyncio
import json
import multiprocessing
import re
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final, Self

from mcp import Client

from benchmarks import machine
from benchmarks.servers import get, resident_mb, server
from waggle_fsstore import (
    Capabilities,
    Environment,
    EnvironmentService,
    FileStore,
    LocalProvider,
    Provider,
    Runtime,
    Status,
)

_ENVIRONMENTS: Final = 1_000
_CALLS: Final = 100
_CREATES: Final = 100
_STARTS: Final = 5

# How long clients create and destroy environments while /healthz is measured.
_LOAD_DURATION_S: Final = 5.0
_CLIENTS: Final = 20

_RATE_DURATION_S: Final = 5.0
_SESSIONS: Final = 10_000

_Row = tuple[str, str, str, str]


class _NoProvider(Provider):
    """Does nothing, so that only the cost of the service itself is measured."""

    name = "none"

    def create(self, environment: Environment) -> Capabilities:
        return Capabilities(detected_at=environment.created_at)

    def probe(self, environment: Environment) -> Capabilities:
        return Capabilities(detected_at=environment.created_at)

    def locate(self, environment: Environment) -> str:
        return environment.id

    def remove(self, environment: Environment, *, keep: bool = False) -> None:
        pass

    def find_orphans(self, known: Iterable[str]) -> list[str]:  # noqa: ARG002
        return []

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def main() -> None:
    """Measure the server on the file system of a directory, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(), help="where to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.dir) as temporary:
        directory = Path(temporary).resolve()
        print(f"# The server with {_ENVIRONMENTS:,} environments\n")
        for name, value in machine.describe(directory).items():
            print(f"- {name}: {value}")
        print("\n| what | measured | beside it | target |\n| --- | --- | --- | --- |")
        for row in _rows(directory):
            print(f"| {' | '.join(row)} |", flush=True)


def _rows(directory: Path) -> Iterator[_Row]:
    for size in (10, _ENVIRONMENTS):
        yield _creates(directory / f"service-{size}", size)
    full, empty = directory / "full", directory / "empty"
    _fill(full)
    yield _starts(full, empty)
    with server(full) as url:
        yield from asyncio.run(_reads(f"{url}/mcp"))
        yield _health(url)
        yield _metrics(url)
    with server(empty) as url:
        yield _rate(url)
        yield _sessions(url)


def _creates(path: Path, size: int) -> _Row:
    """Measure a create of the service, in turns with two durable saves of the same documents."""
    with FileStore(path) as store:
        service = EnvironmentService(store, _NoProvider(), capacity=10 * size)
        for _ in range(size):
            service.create("shell")
        ours, saves = [], []
        for _ in range(_CREATES):
            began = time.perf_counter()
            environment = service.create("shell")
            ours.append(time.perf_counter() - began)
            service.destroy(environment.id)
            environment.revision = 0
            began = time.perf_counter()
            environment.status = Status.CREATING
            store.create(environment)
            environment.status = Status.RUNNING
            store.save(environment)
            saves.append(time.perf_counter() - began)
            store.delete(environment.id)
    ratio = statistics.median(ours) / statistics.median(saves)
    return (
        f"a create, of the service alone, among {size:,}",
        _times(ours),
        f"two durable saves: {_times(saves)}; ratio {ratio:.2f}",
        "two durable saves",
    )


def _fill(path: Path) -> None:
    provider = LocalProvider(f"{path}-workspaces")
    environments = [
        Environment(
            name=f"shell-{number}",
            runtime=Runtime.SHELL,
            status=Status.RUNNING,
            provider=provider.name,
            ssh_port=20_000 + number,
            last_used=datetime.now(UTC),
        )
        for number in range(_ENVIRONMENTS)
    ]
    for environment in environments:
        environment.capabilities = provider.create(environment)
    with FileStore(path) as store:
        for environment in environments:
            store.create(environment)


def _starts(full: Path, empty: Path) -> _Row:
    times: dict[Path, list[float]] = {full: [], empty: []}
    for _ in range(_STARTS):
        for path, samples in times.items():
            began = time.perf_counter()
            with server(path) as url:
                get(f"{url}/readyz")
                samples.append(time.perf_counter() - began)
    ratio = statistics.median(times[full]) / statistics.median(times[empty])
    return (
        f"start until ready with {_ENVIRONMENTS:,}",
        _times(times[full]),
        f"with none: {_times(times[empty])}; ratio {ratio:.2f}",
        "2 s",
    )


async def _reads(url: str) -> list[_Row]:
    rows = []
    async with Client(url) as client:
        listed = await _call(client, "list_environments", {})
        some = listed["environments"][7]["environment_id"]
        ping = await _timed(lambda: client.list_tools())
        calls: dict[str, dict[str, Any]] = {
            "get_environment": {"environment_id": some},
            "environment_history": {"environment_id": some},
            "list_environments": {},
        }
        for tool, arguments in calls.items():
            samples = await _timed(partial(_call, client, tool, arguments))
            ratio = statistics.median(samples) / statistics.median(ping)
            beside = f"tools/list: {_times(ping)}; ratio {ratio:.2f}"
            rows.append((f"{tool} over HTTP", _times(samples), beside, "10 ms"))
    return rows


async def _timed(call: Callable[[], Awaitable[object]]) -> list[float]:
    samples = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        await call()
        samples.append(time.perf_counter() - began)
    return samples


def _health(url: str) -> _Row:
    """Measure ``/healthz`` on an idle server, and while clients create and destroy."""
    idle = [get(f"{url}/healthz") for _ in range(_CALLS)]
    busy, done = _during_load(url, lambda: get(f"{url}/healthz"), pause_s=0.01)
    late = sorted(busy)[int(0.99 * len(busy))]
    load_of = f"{done:,} creates and destroys of {_CLIENTS} clients in {_LOAD_DURATION_S:g} s"
    return (
        f"/healthz during {load_of}",
        f"{_times(busy)}, 99 % within {late * 1e3:.1f} ms",
        f"idle: {_times(idle)}; ratio {statistics.median(busy) / statistics.median(idle):.2f}",
        "99 % within 100 ms",
    )


def _metrics(url: str) -> _Row:
    """Measure ``/metrics`` while clients create and destroy, and the memory that it tells."""
    before = resident_mb(url)
    busy, done = _during_load(url, lambda: get(f"{url}/metrics"), pause_s=0.1)
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:  # noqa: S310  # our own
        text = answer.read().decode()
    told = float(re.findall(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)[0]) / 2**20
    return (
        f"/metrics during {done:,} creates and destroys of {_CLIENTS} clients",
        _times(busy),
        f"memory of the server: {before:.0f} MB before, {told:.0f} MB after, as /metrics tells",
        "100 ms median",
    )


def _during_load(
    url: str, measure: Callable[[], float], *, pause_s: float
) -> tuple[list[float], int]:
    """Measure again and again during the load, and return how often clients created, too."""
    # In a process apart: its threads would otherwise delay the measuring itself.
    spawn = multiprocessing.get_context("spawn")
    ready, counts = spawn.Event(), spawn.Queue()
    generator = spawn.Process(target=_generate, args=(url, ready, counts))
    generator.start()
    ready.wait()
    found = []
    deadline = time.monotonic() + _LOAD_DURATION_S
    while time.monotonic() < deadline:
        found.append(measure())
        time.sleep(pause_s)
    done: int = counts.get()
    generator.join()
    return found, done


def _generate(url: str, ready: Any, counts: Any) -> None:
    """Create and destroy environments with many clients; report how often."""
    done: list[int] = []
    clients = [
        threading.Thread(target=lambda: done.append(asyncio.run(_load(f"{url}/mcp"))))
        for _ in range(_CLIENTS)
    ]
    for client in clients:
        client.start()
    ready.set()
    for client in clients:
        client.join()
    counts.put(sum(done))


async def _load(url: str) -> int:
    count = 0
    async with Client(url) as client:
        deadline = time.monotonic() + _LOAD_DURATION_S
        while time.monotonic() < deadline:
            created = await _call(client, "create_environment", {"runtime": "shell"})
            handle = {"environment_id": created["environment_id"]}
            await _call(client, "destroy_environment", handle)
            count += 1
    return count


class _PlainClient:
    """A client with a handshake that costs little, so that the server's time is measured."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }

    def begin(self) -> Self:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}}
        me = {"name": "bench", "version": "1"}
        response, _ = self._post("initialize", {**params, "clientInfo": me})
        self._headers["Mcp-Session-Id"] = response.headers["Mcp-Session-Id"]
        return self

    def call(self, tool: str, **arguments: str) -> dict[str, Any]:
        _, answer = self._post("tools/call", {"name": tool, "arguments": arguments})
        content: dict[str, Any] = answer["result"]["structuredContent"]
        return content

    def _post(self, method: str, params: object) -> tuple[HTTPResponse, dict[str, Any]]:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._connection.request("POST", "/mcp", json.dumps(message), self._headers)
        response = self._connection.getresponse()
        return response, json.loads(response.read())

    def health(self) -> None:
        self._connection.request("GET", "/healthz")
        self._connection.getresponse().read()


def _rate(url: str) -> _Row:
    """Measure how many calls a second one server answers, and beside it those of /healthz."""
    client = _PlainClient(url).begin()
    handle = client.call("create_environment", runtime="shell")["environment_id"]
    ours = _per_second(lambda: client.call("get_environment", environment_id=handle))
    peer = _per_second(client.health)
    client.call("destroy_environment", environment_id=handle)
    return (
        "get_environment calls a second, of one client over HTTP",
        f"{ours:,.0f}",
        f"/healthz: {peer:,.0f}; ratio {ours / peer:.2f}",
        "250",
    )


def _per_second(call: Callable[[], object]) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() < began + _RATE_DURATION_S:
        call()
        done += 1
    return done / (time.perf_counter() - began)


def _sessions(url: str) -> _Row:
    """Measure what sessions cost that their clients do not end."""
    client = _PlainClient(url).begin()
    before = resident_mb(url)
    for _ in range(_SESSIONS):
        client.begin()
    grown = resident_mb(url) - before
    ready = get(f"{url}/readyz")
    return (
        f"memory of {_SESSIONS:,} abandoned sessions",
        f"{grown:.1f} MB",
        f"before: {before:.0f} MB; /readyz then: {ready * 1e3:.1f} ms",
        "100 MB",
    )


async def _call(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise RuntimeError(f"{tool}: {result.content}")
    answer: dict[str, Any] = result.structured_content
    return answer


def _times(samples: list[float]) -> str:
    ordered = sorted(samples)
    median, most = statistics.median(ordered), ordered[-1]
    return f"{median * 1e3:.2f} ms median, {most * 1e3:.1f} ms longest"


if __name__ == "__main__":
    main()
