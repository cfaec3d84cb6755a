# SPDX-License-Identifier: Apache-2.0
"""The report: the results as Markdown that also reads well in a terminal."""

from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks import importing, large
from benchmarks.device import APPEND, OVERWRITE, REPLACE
from benchmarks.operations import DEVICE, FIND, OPERATIONS, SAVE
from benchmarks.results import Results, Summaries
from benchmarks.timing import Summary

_DURABLE: Final = "FileStore"
_UNSYNCED: Final = "FileStore unsynced"
_SQLITE: Final = "sqlite3 FULL"
_PROMISE_LITTLE: Final = frozenset({"sqlite3 NORMAL", "lmdb nosync"})

_Row = Sequence[str]


def markdown(results: Results) -> str:
    """The whole report."""
    kind = ", a quick run: the figures are rough" if results.quick else ""
    parts = [
        f"# Benchmarks: {results.name}{kind}",
        _table(("what", "this run"), results.machine.items()),
        *results.remarks,
        "## Reach",
        _table(("what", "target", "measured"), _reach(results)),
        "## When a save has returned",
        _table(("peer", "what it promises"), results.durability.items()),
    ]
    for size, by_operation in results.sizes.items():
        parts += [f"## {size:,} documents", *_size(by_operation)]
    parts += ["## The device", _device(results)]
    parts += ["## Processor time of an unsynced save", _summaries(results.cpu, _UNSYNCED)]
    parts += ["## Import", _summaries(results.imports, importing.EVERYTHING)]
    if results.large:
        parts += [f"## {large.SIZE:,} documents", _summaries(results.large, None)]
    return "\n\n".join(parts) + "\n"


def _reach(results: Results) -> Iterable[_Row]:
    saves = {size: found[SAVE][_DURABLE].median for size, found in results.sizes.items()}
    for probe, target in ((OVERWRITE, "1.3"), (APPEND, "1.3"), (REPLACE, "")):
        flushes = 1 if probe == REPLACE else 2
        measured = [
            (size, save / (flushes * results.sizes[size][DEVICE][probe].median))
            for size, save in saves.items()
        ]
        of = f"{flushes} x ({probe})" if flushes > 1 else probe
        yield (
            f"durable save : {of}",
            f"at most {target}" if target else "none",
            _each(measured),
        )
    finds = [
        (size, found[FIND][_DURABLE].median / found[FIND][_SQLITE].median)
        for size, found in results.sizes.items()
    ]
    yield "find_by_id : sqlite3's", "at most 1", _each(finds)
    spent = results.cpu[_UNSYNCED].median
    yield "processor time of an unsynced save", "under 60 us", _time(spent)
    times = results.imports
    above = times[importing.EVERYTHING].median - times[importing.DEPENDENCIES].median
    yield "import, above the dependencies", "at most 25 ms", _time(above)
    found = ", ".join(results.forbidden) or "none"
    yield f"of {', '.join(importing.FORBIDDEN)} imported", "none", found
    if results.large:
        for name, target in ((large.OPEN, "at once"), (large.FIRST_COUNT, "under 100 ms")):
            what = f"{large.SIZE:,} documents: {name}"
            yield what, target, _time(results.large[name].median)


def _size(by_operation: dict[str, Summaries]) -> Iterable[str]:
    peers = list(by_operation[SAVE])
    counts = [by_operation[name][_DURABLE].operations for name in OPERATIONS]
    header = [f"{name} (n={number})" for name, number in zip(OPERATIONS, counts, strict=True)]
    yield _table(
        ("median", *header),
        (
            (peer, *(_time(by_operation[name][peer].median) for name in OPERATIONS))
            for peer in peers
        ),
    )
    yield _table(
        ("99th percentile", *OPERATIONS),
        ((peer, *(_time(by_operation[name][peer].p99) for name in OPERATIONS)) for peer in peers),
    )
    yield _table(
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
    """What is compared: the store with all, the unsynced one with those that promise as little."""
    for peer in peers:
        if peer != _DURABLE:
            yield _DURABLE, peer
    for peer in peers:
        if peer in _PROMISE_LITTLE:
            yield _UNSYNCED, peer


def _device(results: Results) -> str:
    return _table(
        ("documents", "bare system calls", "n", "median", "p99", "durable save : it"),
        (
            (
                f"{size:,}",
                name,
                str(probe.operations),
                _time(probe.median),
                _time(probe.p99),
                _ratio(found[SAVE][_DURABLE], probe),
            )
            for size, found in results.sizes.items()
            for name, probe in found[DEVICE].items()
        ),
    )


def _summaries(summaries: Summaries, own: str | None) -> str:
    """One line each; with the ratio of ``own`` to each, if it is given."""
    ratio = () if own is None else (f"{own} : it",)
    return _table(
        ("what", "n", "median", "p99", *ratio),
        (
            (
                name,
                str(summary.operations),
                _time(summary.median),
                _time(summary.p99),
                *(() if own is None else (_ratio(summaries[own], summary),)),
            )
            for name, summary in summaries.items()
        ),
    )


def _table(header: _Row, rows: Iterable[_Row]) -> str:
    """A Markdown table whose columns are aligned in plain text too, figures to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    # Markdown wants two characters at least below the header of a column of figures.
    widths = [max(2, *(len(line[column]) for line in lines)) for column in range(len(header))]
    is_figure = [
        column > 0 and all(line[column][:1].isdigit() for line in lines[1:])
        for column in range(len(header))
    ]
    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, is_figure, strict=True)
    ]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_figure, strict=True)
        )
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def _each(measured: Iterable[tuple[int, float]]) -> str:
    return ", ".join(f"{_factor(ratio)} ({size:,})" for size, ratio in measured)


def _ratio(own: Summary, other: Summary) -> str:
    return _factor(own.median / other.median)


def _factor(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:,.0f}"


def _time(seconds: float) -> str:
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        value = seconds * factor
        if value < 999.5:
            # Three digits that count.
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{seconds:.2f} s"
