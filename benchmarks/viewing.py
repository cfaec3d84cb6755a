# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m benchmarks.viewing``: the page with 1,000 environments, 100,000 events.

Each figure is beside its peer of the same run: a view beside ``/healthz`` and one ``find_all``.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.servers import get, server
from waggle_fsstore import Environment, FileStore, Runtime, Status, audit

_ENVIRONMENTS: Final = 1_000
_EVENTS: Final = 100_000
_STARTS: Final = 5

_OLDEST: Final = "events?actor=the-first"

_Row = tuple[str, str, str, str]


def main() -> None:
    """Measure the page on the file system of a directory, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewing", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(), help="where to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.dir) as temporary:
        path = Path(temporary).resolve() / "store"
        print(f"# The page with {_ENVIRONMENTS:,} environments and {_EVENTS:,} events\n")
        for name, value in machine.describe(path.parent).items():
            print(f"- {name}: {value}")
        _fill(path)
        print("\n| what | measured | beside it | target |\n| --- | --- | --- | --- |")
        for verb in ("serve", "ui"):
            for row in _views(path, verb):
                print(f"| {' | '.join(row)} |", flush=True)
        with FileStore(path) as store:
            store.prune_history(compress=True)
        for verb in ("serve", "ui"):
            print(f"| {' | '.join(_oldest(path, verb, 'compressed'))} |", flush=True)


def _fill(path: Path) -> None:
    """Make a store in which each environment was changed many times, the first one by another."""
    environments = [
        Environment(
            name=f"shell-{number}",
            runtime=Runtime.SHELL,
            status=Status.ERROR,  # Without a workspace, and without an end.
            timeout=timedelta(0),
        )
        for number in range(_ENVIRONMENTS)
    ]
    with FileStore(path, durable=False) as store:
        for number in range(_EVENTS):
            with audit(actor="maja mcp:agent" if number else "the-first", reason="measured"):
                one = environments[number % _ENVIRONMENTS]
                one.status_reason = f"change {number}"
                one.revision = store.save(one)


def _views(path: Path, verb: str) -> Iterator[_Row]:
    """Measure the first view of a server, later ones, and the filter."""
    first, later, beside = [], [], []
    path_of_health = "/healthz" if verb == "serve" else "/favicon.ico"
    for _ in range(_STARTS):
        with server(path, verb) as url:
            get(url + path_of_health)  # The server is warm, the page is not.
            health = get(url + path_of_health)
            first.append(get(f"{url}/"))
            beside.append(health + _find_all(path))
            time.sleep(1.0)  # The makers are read meanwhile.
            later += [get(f"{url}/") for _ in range(5)]
    peer = statistics.median(beside)
    text = f"{path_of_health} and one find_all: {_ms(beside)}"
    for name, samples in (("first", first), ("later", later)):
        ratio = statistics.median(samples) / peer
        yield f"{name} view of `{verb}`", _ms(samples), f"{text}; ratio {ratio:.2f}", "3 times"
    yield _oldest(path, verb, "plain")


def _oldest(path: Path, verb: str, kind: str) -> _Row:
    with server(path, verb) as url:
        samples = [get(f"{url}/{_OLDEST}") for _ in range(_STARTS)]
    name = f"filter for the oldest event, `{verb}`, {kind} segments"
    return name, _ms(samples), "", f"1 s for {_EVENTS:,}"


def _find_all(path: Path) -> float:
    with FileStore(path) as store:
        began = time.perf_counter()
        found = store.find_all()
        spent = time.perf_counter() - began
    if len(found) != _ENVIRONMENTS:
        raise RuntimeError(f"{len(found)} environments were found")
    return spent


def _ms(samples: list[float]) -> str:
    return f"{statistics.median(samples) * 1e3:.1f} ms median, {max(samples) * 1e3:.1f} ms longest"


if __name__ == "__main__":
    main()
