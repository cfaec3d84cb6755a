# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m benchmarks.postgres``: PostgresStore, a bare transaction, FileStore.

The bare one writes the same document, and a row of history, with one transaction through psycopg.
It promises less: its numbers do not rise in the order of the commits, and it resolves no lost
COMMIT. All rounds of one run alternate, so that their ratios mean something.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks import documents, machine
from benchmarks.workers import run_together, wait_for_the_others
from tests.store.postgres.cluster import running_cluster
from waggle_fsstore import FileStore, TransactionalRepository
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.postgres.store import PostgresStore

#: The sides, and the names under which the results have them.
SIDES: Final = ("PostgresStore", "bare", "FileStore")

_CLIENTS: Final = (1, 8, 32)
_DOCUMENTS: Final = 10_000
_ROUNDS: Final = 5
_ROUND_S: Final = 1.5
_READS: Final = 3_000
_WHOLE: Final = 10
_PROCESSES: Final = 8
_THREADS: Final = 4

_TABLES: Final = b"""
CREATE SCHEMA bare;
CREATE TABLE bare.document (id text COLLATE "C" PRIMARY KEY, document json NOT NULL);
CREATE TABLE bare.change (
    seq bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), id text, document json
);
"""
_UPSERT: Final = b"""
INSERT INTO bare.document VALUES (%s, %s)
ON CONFLICT (id) DO UPDATE SET document = excluded.document
"""
_INSERT: Final = b"INSERT INTO bare.change (id, document) VALUES (%s, %s)"
_FIND: Final = b"SELECT document::text FROM bare.document WHERE id = %s"
_HISTORY: Final = b"SELECT seq, at, id, document::text FROM bare.change ORDER BY seq"
_FIND_ALL: Final = b"SELECT document::text FROM bare.document ORDER BY id"
_COUNT: Final = b"SELECT count(*) FROM bare.document"

#: By operation and side: how often a second.
Rates = dict[str, dict[str, float]]

#: A function for each thread, which takes the number of the call.
Writers = list[Callable[[int], object]]


def main() -> None:
    """Measure all sides on one node and on three, and print their rates and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("--version", type=int, default=18, help="16 or 18")
    parser.add_argument("--out", type=Path, help="a file to save the results in, as JSON")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(*options.worker)
        return
    with tempfile.TemporaryDirectory(prefix="waggle-") as directory:
        found = machine.describe(Path(directory))
        print(", ".join(f"{name}: {value}" for name, value in found.items()))
        results: dict[str, Any] = {"machine": found, "version": options.version}
        for nodes in (1, 3):
            with running_cluster(options.version, nodes=nodes, fsync=True) as cluster:
                files = Path(directory, f"files-{nodes}")
                results[f"{nodes}"] = _print_measured(cluster.url, files, nodes)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def _print_measured(url: str, files: Path, nodes: int) -> Rates:
    print(f"\nPostgreSQL, {nodes} on loopback, fsync on; ratios to the bare transaction")
    print(f"{'':24}" + "".join(f"{side:>21}" for side in SIDES))
    rates: Rates = {}
    for name, found in _measured(url, files):
        rates[name] = dict(zip(SIDES, found, strict=True))
        cells = [f"{rate_text(rate):>12}/s {rate / found[1]:6.2f}" for rate in found]
        print(f"{name:24}" + "".join(cells))
    return rates


def rate_text(rate: float) -> str:
    """Return how often a second, with a digit behind the point below ten."""
    return f"{rate:,.0f}" if rate >= _WHOLE else f"{rate:.1f}"


def _measured(url: str, files: Path) -> Iterator[tuple[str, list[float]]]:
    """Yield the name of each operation, and how often each side does it in a second."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLES)
    with FileStore(files) as in_files, PostgresStore(url) as in_database:
        for clients in _CLIENTS:
            with _bare_writers(url, clients) as bare:
                sides = [_writers(in_database, clients), bare, _writers(in_files, clients)]
                yield f"save, {clients} threads", _alternate(*(partial(_rate, s) for s in sides))
    places = [url, url, str(files)]
    sides_of_processes = [
        partial(_rate_of_processes, place, side) for place, side in zip(places, SIDES, strict=True)
    ]
    yield f"save, {_PROCESSES} processes x {_THREADS}", _alternate(*sides_of_processes)
    yield from _measured_reads(url, files)


def _measured_reads(url: str, files: Path) -> Iterator[tuple[str, list[float]]]:
    made = [documents.make(number) for number in range(_DOCUMENTS)]
    with (
        PostgresStore(url) as in_database,
        FileStore(files) as in_files,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        stores: list[PostgresStore | FileStore] = [in_database, in_files]
        for store in stores:
            store.save_all(made)
        with connection.transaction():
            connection.cursor().executemany(_UPSERT, [_row(one, 1) for one in made])
            connection.execute(b"TRUNCATE bare.change")
            connection.cursor().executemany(_INSERT, [_row(one, 1) for one in made])
        ids = [one.id for one in documents.pick(made, 1, _READS)]
        last = {id(store): store.last_change() - _DOCUMENTS for store in stores}
        operations: list[tuple[str, list[str], Callable[[Any, str], object], Any]] = [
            (
                "find_by_id",
                ids,
                lambda store, one: store.find_by_id(one),
                partial(_find, connection),
            ),
            ("count", ids[:100], lambda store, _: store.count(), partial(_count, connection)),
            (
                "find_all of 10,000",
                [""],
                lambda store, _: store.find_all(),
                partial(_find_all, connection),
            ),
            (
                "history of 10,000",
                [""],
                lambda store, _: sum(1 for _ in store.history(after=last[id(store)])),
                partial(_history, connection),
            ),
        ]
        for name, over, of_store, of_bare in operations:
            calls = [partial(of_store, in_database), of_bare, partial(of_store, in_files)]
            yield name, _alternate(*(partial(_reads, call, over) for call in calls))


def _writers(store: TransactionalRepository, clients: int, first: int = 0) -> Writers:
    return [partial(_save, store, first + number) for number in range(clients)]


def _alternate(*sides: Callable[[], float]) -> list[float]:
    """Return the median rate of each side; they take turns."""
    rounds = [[side() for side in sides] for _ in range(_ROUNDS)]
    return [statistics.median(rates) for rates in zip(*rounds, strict=True)]


def _rate(writers: Writers) -> float:
    """Return how many writes a second all threads make together."""
    counts = [0] * len(writers)
    end = time.perf_counter() + _ROUND_S

    def write(number: int) -> None:
        while time.perf_counter() < end:
            writers[number](counts[number])
            counts[number] += 1

    threads = [threading.Thread(target=write, args=[number]) for number in range(len(writers))]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def _rate_of_processes(place: str, side: str) -> float:
    """Return how many saves a second several processes with several threads make together."""
    program = [sys.executable, "-m", "benchmarks.postgres", "--worker", side, place]
    return sum(map(float, run_together([[*program, str(one)] for one in range(_PROCESSES)])))


def _work(side: str, place: str, number: str) -> None:
    """Save in this process, once a line arrives, and print how often in a second."""
    first = int(number) * _THREADS
    with ExitStack() as stack:
        if side == "bare":
            writers = stack.enter_context(_bare_writers(place, _THREADS, first))
        else:
            store = PostgresStore(place) if side == "PostgresStore" else FileStore(place)
            stack.callback(store.close)
            writers = _writers(store, _THREADS, first)
        writers[0](0)
        wait_for_the_others()
        print(_rate(writers))


def _reads(read: Callable[[str], object], ids: list[str]) -> float:
    begun = time.perf_counter()
    for environment_id in ids:
        read(environment_id)
    return len(ids) / (time.perf_counter() - begun)


def _save(store: TransactionalRepository, number: int, times: int) -> None:
    store.save(documents.used(documents.make(number), times))


@contextmanager
def _bare_writers(url: str, clients: int, first: int = 0) -> Iterator[Writers]:
    with ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(url)) for _ in range(clients)]
        yield [partial(_write, one, number) for number, one in enumerate(connections, first)]


def _write(connection: psycopg.Connection[Any], number: int, times: int) -> None:
    row = _row(documents.used(documents.make(number), times), times + 1)
    connection.execute(_UPSERT, row)
    connection.execute(_INSERT, row)
    connection.commit()


def _row(environment: Any, revision: int) -> tuple[str, str]:
    return environment.id, codec.encode(environment, revision).decode()


def _find(connection: psycopg.Connection[Any], environment_id: str) -> object:
    (text,) = connection.execute(_FIND, [environment_id]).fetchone() or ("",)
    return codec.decode(text.encode(), environment_id)


def _count(connection: psycopg.Connection[Any], _: str) -> object:
    return connection.execute(_COUNT).fetchone()


def _history(connection: psycopg.Connection[Any], _: str) -> object:
    rows = connection.execute(_HISTORY).fetchall()
    return [codec.decode(text.encode(), "") for _, _, _, text in rows]


def _find_all(connection: psycopg.Connection[Any], _: str) -> object:
    rows = connection.execute(_FIND_ALL).fetchall()
    return [codec.decode(text.encode(), "") for (text,) in rows]


if __name__ == "__main__":
    main()
