# SPDX-License-Identifier: Apache-2.0
"""Reach: the targets, the figures measured, and whether each target is met."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from benchmarks import history, importing, large, operations, writes
from benchmarks.device import JOURNALLED, OVERWRITE
from benchmarks.peers import FILE_STORE, FILE_STORE_UNSYNCED, LMDB_SYNC, SQLITE_FULL
from benchmarks.results import Results
from benchmarks.tables import Row, duration, factor

HEADER: Final = ("what", "target", "measured", "holds")


class _Target(NamedTuple):
    text: str
    holds: Callable[[float], bool]
    shown: Callable[[float], str] = factor


def rows(results: Results) -> Iterator[Row]:
    """Yield the targets: ratios to another figure of the same run, or times."""
    yield from _saves(results)
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


def _saves(results: Results) -> Iterator[Row]:
    """Yield the targets of a durable save, compared with the peers and with bare system calls."""
    sizes = results.sizes
    own = {size: found[operations.SAVE][FILE_STORE].median for size, found in sizes.items()}
    for peer, least in ((SQLITE_FULL, 0.8), (LMDB_SYNC, 1.6)):
        if all(peer in found[operations.SAVE] for found in sizes.values()):
            yield _row(
                f"durable save, speed : {peer}",
                _at_least(least),
                {
                    f"{size:,}": found[operations.SAVE][peer].median / own[size]
                    for size, found in sizes.items()
                },
            )
    for probe, target in ((OVERWRITE, _at_most(1.35)), (JOURNALLED, None)):
        yield _row(
            f"durable save, time : {probe}",
            target,
            {
                f"{size:,}": own[size] / found[operations.DEVICE][probe].median
                for size, found in sizes.items()
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
    yield _row(
        f"find_by_id, time : {SQLITE_FULL}",
        _at_most(1),
        {
            f"{size:,}": found[operations.FIND][FILE_STORE].median
            / found[operations.FIND][SQLITE_FULL].median
            for size, found in results.sizes.items()
        },
    )
    spent = results.cpu[FILE_STORE_UNSYNCED].median
    yield _one("processor time of an unsynced save", _under("60 us", 60e-6), spent)
    times = results.imports
    above = times[importing.EVERYTHING].median - times[importing.DEPENDENCIES].median
    yield _one("import, above the dependencies", _under("25 ms", 25e-3), above)
    found = ", ".join(results.forbidden)
    yield f"of {', '.join(importing.FORBIDDEN)} imported", "none", found or "none", _word(not found)
    if results.large:
        for name, target in (
            (large.OPEN, _under("1 ms", 1e-3)),
            (large.FIRST_COUNT, _under("100 ms", 0.1)),
        ):
            yield _one(f"{large.SIZE:,} documents: {name}", target, results.large[name].median)


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
