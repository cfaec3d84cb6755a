# SPDX-License-Identifier: Apache-2.0
"""The report: the results as Markdown that is readable in a terminal too."""

from collections.abc import Iterable
from typing import Final

from benchmarks import history, importing, reach, reads, writes
from benchmarks.operations import DEVICE, OPERATIONS, SAVE
from benchmarks.peers import FILE_STORE, FILE_STORE_UNSYNCED, LMDB_NOSYNC, SQLITE_NORMAL
from benchmarks.results import Results, Summaries
from benchmarks.tables import duration, factor, table
from benchmarks.timing import Summary

_UNSYNCED_PEERS: Final = frozenset({SQLITE_NORMAL, LMDB_NOSYNC})


def markdown(results: Results) -> str:
    """Return the whole report."""
    kind = ", a quick run: the figures are rough" if results.quick else ""
    saves = results.run[writes.SAVE][FILE_STORE].operations
    parts = [
        f"# Benchmarks: {results.name}{kind}",
        table(("what", "this run"), results.machine.items()),
        *results.remarks,
        "## Reach",
        table(reach.HEADER, reach.rows(results)),
        "## When a save has returned",
        table(("peer", "what it promises"), results.durability.items()),
    ]
    for size, by_operation in results.sizes.items():
        parts += [f"## {size:,} documents", *_size(by_operation)]
    parts += ["## The device", _device(results)]
    parts += [f"## A run of {saves:,} saves", _run(results.run)]
    parts += [f"## {writes.THREADS} threads at once", _threads(results.threads)]
    parts += [f"## A batch of {writes.BATCH:,} documents", _batches(results.batches)]
    parts += [f"## Reads of {reads.SIZE:,} documents", _by_operation(results.reads)]
    parts += ["## Several processes", _by_operation(results.processes)]
    if results.light:
        parts += [f"## Small libraries, {reads.SIZE:,} documents", *_size(results.light)]
    parts += ["## A long history", *_history(results)]
    parts += ["## Processor time of an unsynced save", _summaries(results.cpu, FILE_STORE_UNSYNCED)]
    parts += ["## Import", _summaries(results.imports, importing.EVERYTHING)]
    return "\n\n".join(parts) + "\n"


def _size(by_operation: dict[str, Summaries]) -> Iterable[str]:
    peers = list(by_operation[SAVE])
    counts = [by_operation[name][FILE_STORE].operations for name in OPERATIONS]
    header = [f"{name} (n={number})" for name, number in zip(OPERATIONS, counts, strict=True)]
    yield table(
        ("median", *header),
        (
            (peer, *(duration(by_operation[name][peer].median) for name in OPERATIONS))
            for peer in peers
        ),
    )
    yield table(
        ("99th percentile", *OPERATIONS),
        (
            (peer, *(duration(by_operation[name][peer].p99) for name in OPERATIONS))
            for peer in peers
        ),
    )
    yield table(
        ("ratio of medians", *OPERATIONS),
        (
            (
                f"{own} : {peer}",
                *(_ratio(by_operation[name][own], by_operation[name][peer]) for name in OPERATIONS),
            )
            for own, peer in _pairs(peers)
        ),
    )


def _pairs(peers: list[str]) -> Iterable[tuple[str, str]]:
    """Yield what is compared: FileStore with all peers, the unsynced one with unsynced peers."""
    for peer in peers:
        if peer != FILE_STORE:
            yield FILE_STORE, peer
    for peer in peers:
        if peer in _UNSYNCED_PEERS:
            yield FILE_STORE_UNSYNCED, peer


def _device(results: Results) -> str:
    return table(
        ("documents", "bare system calls", "n", "median", "p99", "durable save : it"),
        (
            (
                f"{size:,}",
                name,
                str(probe.operations),
                duration(probe.median),
                duration(probe.p99),
                _ratio(found[SAVE][FILE_STORE], probe),
            )
            for size, found in results.sizes.items()
            for name, probe in found[DEVICE].items()
        ),
    )


def _run(run: dict[str, Summaries]) -> str:
    own = writes.mean_of_run(run, FILE_STORE)
    return table(
        (
            "save",
            "mean",
            f"with {writes.LEFT}",
            "median",
            "p99",
            "p99.9",
            "longest",
            f"mean speed of {FILE_STORE} : its",
        ),
        (
            (
                peer,
                *(duration(time) for time in (saves.mean, writes.mean_of_run(run, peer))),
                *(duration(time) for time in (saves.median, saves.p99, saves.p999, saves.longest)),
                factor(writes.mean_of_run(run, peer) / own),
            )
            for peer, saves in run[writes.SAVE].items()
        ),
    )


def _threads(threads: dict[str, Summaries]) -> str:
    one, all_threads = threads[writes.ONE_THREAD], threads[writes.ALL_THREADS]
    return table(
        (
            "time / saves",
            "turns",
            writes.ONE_THREAD,
            f"{writes.THREADS} threads",
            "throughput : one thread's",
            f"throughput of {FILE_STORE} : its",
        ),
        (
            (
                peer,
                str(together.operations),
                duration(one[peer].median),
                duration(together.median),
                _ratio(one[peer], together),
                _ratio(together, all_threads[FILE_STORE]),
            )
            for peer, together in all_threads.items()
        ),
    )


def _batches(batches: dict[str, Summaries]) -> str:
    singles = batches[writes.ONE_BY_ONE]
    return table(
        ("time for all", "n", writes.ONE_BY_ONE, writes.SAVE_ALL, "times as fast"),
        (
            (
                peer,
                str(batch.operations),
                duration(singles[peer].median),
                duration(batch.median),
                _ratio(singles[peer], batch),
            )
            for peer, batch in batches[writes.SAVE_ALL].items()
        ),
    )


def _history(results: Results) -> Iterable[str]:
    yield table(
        ("what", "store", "n", "median", "p99", f"{history.LONG} : it"),
        (
            (
                operation,
                name,
                str(summary.operations),
                duration(summary.median),
                duration(summary.p99),
                _ratio(of_store[history.LONG], summary),
            )
            for operation, of_store in results.history.items()
            for name, summary in of_store.items()
        ),
    )
    yield table(
        ("saves behind it", "peak of memory while its history is read"),
        (
            (f"{saves:,}", f"{peak / 1024:,.0f} KiB")
            for saves, peak in results.history_memory.items()
        ),
    )


def _by_operation(found: dict[str, Summaries]) -> str:
    return table(
        ("operation", "peer", "n", "median", "p99", f"{FILE_STORE} : it"),
        (
            (
                operation,
                peer,
                str(summary.operations),
                duration(summary.median),
                duration(summary.p99),
                _ratio(of_peer[FILE_STORE], summary),
            )
            for operation, of_peer in found.items()
            for peer, summary in of_peer.items()
        ),
    )


def _summaries(summaries: Summaries, own: str) -> str:
    """Return a table with a row for each summary, and the ratio of ``own`` to it."""
    return table(
        ("what", "n", "median", "p99", f"{own} : it"),
        (
            (
                name,
                str(summary.operations),
                duration(summary.median),
                duration(summary.p99),
                _ratio(summaries[own], summary),
            )
            for name, summary in summaries.items()
        ),
    )


def _ratio(own: Summary, other: Summary) -> str:
    return factor(own.median / other.median)
