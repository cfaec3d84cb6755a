# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m benchmarks.postgres``: PostgresStore beside a bare transaction.

The peer writes the same document, and a row of history, with one transaction through psycopg. It
promises less: its numbers do not rise in the order of the commits, and it resolves no lost COMMIT.
All rounds of one run alternate, so that their ratios mean something.
"""

import argparse
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
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.postgres.store import PostgresStore

_CLIENTS: Final = (1, 8, 32)
_DOCUMENTS: Final = 10_000
_ROUNDS: Final = 5
_ROUND_S: Final = 1.5
_READS: Final = 300
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


def main() -> None:
    """Measure both on one node and on three, and print their rates and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("--version", type=int, default=18, help="16 or 18")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(*options.worker)
        return
    version = options.version
    directory = Path(tempfile.gettempdir())
    print(", ".join(f"{name}: {value}" for name, value in machine.describe(directory).items()))
    for nodes in (1, 3):
        with running_cluster(version, nodes=nodes, fsync=True) as cluster:
            print(f"\nPostgreSQL {version}, {nodes} on loopback, fsync on")
            print(f"{'':28}{'PostgresStore':>16}{'bare':>12}{'ratio':>8}")
            for name, ours, bare in _measured(cluster.url):
                print(f"{name:28}{ours:14.0f}/s{bare:10.0f}/s{ours / bare:8.2f}")


def _measured(url: str) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each operation, and how many of them each side does in a second."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLES)
    for clients in _CLIENTS:
        with PostgresStore(url) as store, _bare_writers(url, clients) as bare:
            writers: list[Callable[[int], object]]
            writers = [partial(_save, store, number) for number in range(clients)]
            ours, theirs = _alternate(partial(_rate, writers), partial(_rate, bare))
        yield f"save, {clients} threads", ours, theirs
    ours, theirs = _alternate(
        *(partial(_rate_of_processes, url, side) for side in ("ours", "bare"))
    )
    yield f"save, {_PROCESSES} processes x {_THREADS}", ours, theirs
    made = [documents.make(number) for number in range(_DOCUMENTS)]
    with PostgresStore(url) as store, psycopg.connect(url, autocommit=True) as connection:
        store.save_all(made)
        with connection.transaction():
            connection.cursor().executemany(_UPSERT, [_row(one, 1) for one in made])
            connection.execute(b"TRUNCATE bare.change")
            connection.cursor().executemany(_INSERT, [_row(one, 1) for one in made])
        reads = [one.id for one in documents.pick(made, 1, _READS)]
        ours, theirs = _alternate(
            partial(_reads, store.find_by_id, reads),
            partial(_reads, partial(_find, connection), reads),
        )
        yield "find_by_id", ours, theirs
        ours, theirs = _alternate(
            partial(_reads, lambda _: store.find_all(), [""]),
            partial(_reads, lambda _: _find_all(connection), [""]),
        )
        yield "find_all of 10,000", ours, theirs
        first = store.last_change() - _DOCUMENTS
        ours, theirs = _alternate(
            partial(_reads, lambda _: sum(1 for _ in store.history(after=first)), [""]),
            partial(_reads, lambda _: _history(connection), [""]),
        )
        yield "history of 10,000", ours, theirs


def _alternate(*sides: Callable[[], float]) -> list[float]:
    """Return the median rate of each side; they take turns."""
    rounds = [[side() for side in sides] for _ in range(_ROUNDS)]
    return [statistics.median(rates) for rates in zip(*rounds, strict=True)]


def _rate(writers: list[Callable[[int], object]]) -> float:
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


def _rate_of_processes(url: str, side: str) -> float:
    """Return how many saves a second several processes with several threads make together."""
    program = [sys.executable, "-m", "benchmarks.postgres", "--worker", side, url]
    return sum(map(float, run_together([[*program, str(one)] for one in range(_PROCESSES)])))


def _work(side: str, url: str, number: str) -> None:
    """Save in this process, once a line arrives, and print how often in a second."""
    first = int(number) * _THREADS
    with PostgresStore(url) as store, _bare_writers(url, _THREADS, first) as bare:
        ours = [partial(_save, store, first + thread) for thread in range(_THREADS)]
        writers: list[Callable[[int], object]] = [*ours] if side == "ours" else bare
        writers[0](0)
        wait_for_the_others()
        print(_rate(writers))


def _reads(read: Callable[[str], object], ids: list[str]) -> float:
    begun = time.perf_counter()
    for environment_id in ids:
        read(environment_id)
    return len(ids) / (time.perf_counter() - begun)


def _save(store: PostgresStore, number: int, times: int) -> None:
    store.save(documents.used(documents.make(number), times))


@contextmanager
def _bare_writers(
    url: str, clients: int, first: int = 0
) -> Iterator[list[Callable[[int], object]]]:
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


def _history(connection: psycopg.Connection[Any]) -> object:
    rows = connection.execute(_HISTORY).fetchall()
    return [codec.decode(text.encode(), "") for _, _, _, text in rows]


def _find_all(connection: psycopg.Connection[Any]) -> object:
    rows = connection.execute(_FIND_ALL).fetchall()
    return [codec.decode(text.encode(), "") for (text,) in rows]


if __name__ == "__main__":
    main()
