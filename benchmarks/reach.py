# SPDX-License-Identifier: Apache-2.0
"""Reach: the targets, the figures measured, and whether each target is met."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from benchmarks import history, importing, operations, processes, reads, writes
from benchmarks.device import JOURNALLED, OVERWRITE
from benchmarks.peers import (
    FILE_STORE,
    FILE_STORE_UNSYNCED,
    LMDB_HISTORY,
    LMDB_SYNC,
    SQLITE_FULL,
    SQLITE_HISTORY,
)
from benchmarks.results import Results
from benchmarks.tables import Row, duration, factor

HEADER: Final = ("what", "target", "measured", "holds")


_PEERS: Final = (SQLITE_FULL, SQLITE_HISTORY, LMDB_SYNC, LMDB_HISTORY)

#: By operation, how many times as fast as each of the peers above the store has to be.
_LEAST_SPEEDS: Final[dict[str, tuple[float | None, ...]]] = {
    "save, one thread": (0.48, 0.65, 0.95, 1.4),
    f"save, {writes.THREADS} threads": (2.2, 3, 1.8, 2.6),
    processes.SAVE: (0.35, None, 1.2, None),
    f"save_all of {writes.BATCH:,}": (0.13, None, None, None),
    reads.FIND_AGAIN: (5, None, 3, None),
    reads.FIND_OTHER: (3.4, None, 1.9, None),
    reads.FIND_FIRST: (1.05, None, 0.65, None),
    reads.LIST_FIRST: (0.5, None, None, None),
    reads.LIST_AGAIN: (8, None, None, None),
    reads.LIST_CHANGED: (7, None, None, None),
    reads.COUNT_AGAIN: (2.5, None, None, None),
    reads.COUNT_CHANGED: (1.5, None, None, None),
}


class _Target(NamedTuple):
    text: str
    holds: Callable[[float], bool]
    shown: Callable[[float], str] = factor


def rows(results: Results) -> Iterator[Row]:
    """Yield the targets: ratios to another figure of the same run, or times."""
    yield from _against_peers(results)
    yield from _run(results)
    of_threads = results.threads
    gain = (
        of_threads[writes.ONE_THREAD][FILE_STORE].median
        / of_threads[writes.ALL_THREADS][FILE_STORE].median
    )
    yield _one(f"{writes.THREADS} threads, throughput : one thread's", _at_least(2.5), gain)
    of_batches = results.batches
    gain = (
        of_batches[writes.ONE_BY_ONE][FILE_STORE].median
        / of_batches[writes.SAVE_ALL][FILE_STORE].median
    )
    yield _one(f"{writes.BATCH:,} documents, speed of save_all : saves", _at_least(10), gain)
    yield from _history(results)
    yield from _reading(results)


def _against_peers(results: Results) -> Iterator[Row]:
    """Yield how many times as fast as each peer the store has to be, and is."""
    one_size = results.sizes.get(reads.SIZE, {})
    measured = {
        "save, one thread": one_size.get(operations.SAVE, {}),
        f"save, {writes.THREADS} threads": results.threads[writes.ALL_THREADS],
        **results.processes,
        f"save_all of {writes.BATCH:,}": results.batches[writes.SAVE_ALL],
        **results.reads,
    }
    for what, least in _LEAST_SPEEDS.items():
        of_peer = measured.get(what, {})
        for peer, limit in zip(_PEERS, least, strict=True):
            if limit is not None and peer in of_peer:
                ratio = of_peer[peer].median / of_peer[FILE_STORE].median
                yield _one(f"{what}, speed : {peer}", _at_least(limit), ratio)
    for probe, target in ((OVERWRITE, None), (JOURNALLED, _at_most(1.15))):
        yield _row(
            f"durable save, time : {probe}",
            target,
            {
                f"{size:,}": found[operations.SAVE][FILE_STORE].median
                / found[operations.DEVICE][probe].median
                for size, found in results.sizes.items()
            },
        )


def _run(results: Results) -> Iterator[Row]:
    speed = writes.mean_of_run(results.run, SQLITE_FULL) / writes.mean_of_run(
        results.run, FILE_STORE
    )
    saves = results.run[writes.SAVE][FILE_STORE]
    run = f"{saves.operations:,} saves"
    yield _one(f"{run}, mean speed : {SQLITE_FULL}", _at_least(0.9), speed)
    yield _one(f"{run}, longest stall", _under("50 ms", 50e-3), saves.longest)


def _history(results: Results) -> Iterator[Row]:
    opening = results.history[history.OPEN]
    yield _one(
        f"{history.OPEN}, {max(results.history_memory):,} saves behind it : new store",
        _at_most(1.1),
        opening[history.LONG].median / opening[history.NEW].median,
    )
    (short, least), (long, most) = sorted(results.history_memory.items())
    yield _one(
        f"memory to read a history of {long:,} saves : of {short:,}", _at_most(1.1), most / least
    )


def _reading(results: Results) -> Iterator[Row]:
    """Yield the targets that do not depend on the journal."""
    spent = results.cpu[FILE_STORE_UNSYNCED].median
    yield _one("processor time of an unsynced save", _under("60 us", 60e-6), spent)
    times = results.imports
    above = times[importing.EVERYTHING].median - times[importing.DEPENDENCIES].median
    yield _one("import, above the dependencies", _under("25 ms", 25e-3), above)
    found = ", ".join(results.forbidden)
    yield f"of {', '.join(importing.FORBIDDEN)} imported", "none", found or "none", _word(not found)


def _at_least(limit: float) -> _Target:
    return _Target(f"at least {limit:g}", lambda measured: measured >= limit)


def _at_most(limit: float) -> _Target:
    return _Target(f"at most {limit:g}", lambda measured: measured <= limit)


def _under(text: str, seconds: float) -> _Target:
    return _Target(f"under {text}", lambda measured: measured < seconds, duration)


def _one(what: str, target: _Target, measured: float) -> Row:
    return what, target.text, target.shown(measured), _word(target.holds(measured))


def _row(what: str, target: _Target | None, measured: Mapping[str, float]) -> Row:
    """Return a row of ratios by number of documents; its end says which ones meet the target."""
    shown = ", ".join(f"{factor(ratio)} ({size})" for size, ratio in measured.items())
    if target is None:
        return what, "none", shown, ""
    held = [size for size, ratio in measured.items() if target.holds(ratio)]
    some = 0 < len(held) < len(measured)
    return what, target.text, shown, f"for {'; '.join(held)}" if some else _word(bool(held))


def _word(holds: bool) -> str:
    return "yes" if holds else "no"
