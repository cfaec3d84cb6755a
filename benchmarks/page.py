# SPDX-License-Identifier: Apache-2.0
"""The figures in the docs, written between markers from the results that are kept."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import counts, operations, processes, reads, scale, writes
from benchmarks.device import JOURNALLED
from benchmarks.peers import FILE_STORE, LMDB_SYNC, SQLITE_FULL, SQLITE_HISTORY
from benchmarks.tables import duration, factor, table

_RESULTS: Final = Path(__file__).parent / "results"
_ROOT: Final = Path(__file__).parent.parent
_WIDTH: Final = 140

#: The files with figures, and the names of their parts.
PAGES: Final = {
    _ROOT / "docs" / "benchmarks.md": ("summary", "counts", "machine", "scale"),
    _ROOT / "README.md": ("speed",),
    _ROOT / "docs" / "postgres.md": ("postgres",),
}


def kept_counts() -> counts.Counts:
    """Return the counts that are kept as limits."""
    return dict(json.loads((_RESULTS / "counts.json").read_text())["counts"])


def updated(text: str, names: tuple[str, ...]) -> str:
    """Return a page with the parts that the kept results give."""
    for name in names:
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"the page must have one part named {name!r}")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{_PARTS[name]()}\n{end}{rest.split(end)[1]}"
    return text


class _Speeds:
    """How many times as fast as its peers the store was, in the kept run."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = json.loads((_RESULTS / "ext4-journalled.json").read_text())
        self.date = self.run["machine"]["date"].split()[0]

    def of(self, part: str, operation: str, peer: str) -> float:
        """Return the time of a peer as a multiple of that of the store."""
        return self._ratio(self.run[part][operation], peer)

    def save(self, peer: str) -> float:
        """Return the same for a save by one thread, among a thousand documents."""
        return self._ratio(self.run["sizes"][str(reads.SIZE)][operations.SAVE], peer)

    def to_floor(self) -> float:
        """Return the time of a save as a multiple of that of its bare system calls."""
        sizes = self.run["sizes"][str(reads.SIZE)]
        own = sizes[operations.SAVE][FILE_STORE]["median"]
        return float(own / sizes[operations.DEVICE][JOURNALLED]["median"])

    @staticmethod
    def _ratio(found: dict[str, Any], peer: str) -> float:
        return float(found[peer]["median"] / found[FILE_STORE]["median"])


def won(ratio: float) -> str:
    """Return a ratio in a sentence that is true only if the store is faster."""
    if ratio <= 1:
        raise ValueError("the store has lost here: write this sentence again")
    return factor(ratio)


def lost(ratio: float) -> str:
    """Return a ratio in a sentence that is true only if the store is slower."""
    if ratio >= 1:
        raise ValueError("the store has won here: write this sentence again")
    return factor(ratio)


def _filled(text: str) -> str:
    """Return paragraphs in lines of the width of the other docs."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(
        textwrap.fill(one, _WIDTH, break_long_words=False, break_on_hyphens=False)
        for one in paragraphs
    )


def _summary() -> str:
    speeds = _Speeds()
    threads = f"with {writes.THREADS} threads"
    saves = [speeds.of("threads", writes.ALL_THREADS, peer) for peer in (SQLITE_FULL, LMDB_SYNC)]
    one = [speeds.of("threads", writes.ONE_THREAD, peer) for peer in (SQLITE_FULL, SQLITE_HISTORY)]
    again = [speeds.of("reads", reads.FIND_AGAIN, one) for one in (SQLITE_FULL, LMDB_SYNC)]
    lists = [speeds.of("reads", reads.LIST_AGAIN, one) for one in (SQLITE_FULL, LMDB_SYNC)]
    sizes = _kept_scale()["sizes"]
    listed, checked = (
        {size: duration(found[name]) for size, found in sizes.items() if name in found}
        for name in ("find_all, first", "check")
    )
    return _filled(f"""
**Where the store wins:** {threads}, a durable save has {won(saves[0])} times the speed of sqlite3
and {won(saves[1])} times that of LMDB, because one fsync serves all threads that wait. Saves by
{processes.PROCESSES} processes at once have
{won(speeds.of("processes", processes.SAVE, SQLITE_FULL))} times the speed of sqlite3. A document
that was found or saved before is found {won(again[0])} and {won(again[1])} times as fast, and all
of 1,000 are listed again {won(lists[0])} and {won(lists[1])} times as fast, because only what may
have changed is decoded again.

**Where it loses:** a durable save by one thread has {lost(speeds.save(SQLITE_FULL))} of the speed
of sqlite3, {lost(speeds.save(SQLITE_HISTORY))} where sqlite3 keeps a history too ({lost(one[0])}
and {lost(one[1])} with what the checkpoints of both take), because it creates and renames a file
where sqlite3 writes into open ones; those bare system calls alone take
1/{factor(speeds.to_floor())} of its time. `save_all` of 1,000 has
{lost(speeds.of("batches", writes.SAVE_ALL, SQLITE_FULL))} of the speed, the first `find_all` of a
process {lost(speeds.of("reads", reads.LIST_FIRST, SQLITE_FULL))}, and a `count` after a change
{lost(speeds.of("reads", reads.COUNT_CHANGED, SQLITE_FULL))}.

**Where a directory of files stops being the right tool:** about 10,000 documents. To list all of
them the first time takes {listed["10000"]} there, {listed["100000"]} for 100,000, and `fsck`
{checked["10000"]} and {checked["100000"]}; `find_by_id` and `save` take about as long as among ten.

These are ratios of medians of one [run on ext4 with a
journal](../benchmarks/results/ext4-journalled.md), {speeds.date}. Its table *Reach* has more.""")


def _speed() -> str:
    speeds = _Speeds()
    one = [speeds.save(peer) for peer in (SQLITE_FULL, SQLITE_HISTORY)]
    together = speeds.of("threads", writes.ALL_THREADS, SQLITE_FULL)
    again = speeds.of("reads", reads.FIND_AGAIN, SQLITE_FULL)
    batch = speeds.of("batches", writes.SAVE_ALL, SQLITE_FULL)
    return _filled(f"""
By one thread, a durable save has {lost(one[0])} of the speed of sqlite3, and {lost(one[1])} of that
of sqlite3 with a history; with {writes.THREADS} threads, which share fsyncs, it is {won(together)}
times as fast. A document in memory is found {won(again)} times as fast. `save_all` of
{writes.BATCH:,} has {lost(batch)} of the speed ([all figures](docs/benchmarks.md)).""")


def _counts() -> str:
    rows = ((name, f"{count:,.1f}") for name, count in kept_counts().items())
    return table(("one call", "count"), rows)


def _kept_scale() -> dict[str, Any]:
    return dict(json.loads((_RESULTS / "scale.json").read_text()))


def _postgres() -> str:
    """Return the rates of the store, and what they are of a bare transaction."""
    from benchmarks.postgres import rate_text  # It needs psycopg.

    kept = json.loads((_RESULTS / "postgres.json").read_text())
    one, three = kept["1"], kept["3"]
    rows = []
    for name in one:
        row = [name]
        for found in (one[name], three[name]):
            ours, bare = found["PostgresStore"], found["bare"]
            row += [rate_text(ours), f"{ours / bare:.2f}"]
        rows.append((*row, rate_text(one[name]["FileStore"])))
    header = ("a second", "one node", "of bare", "three nodes", "of bare", "files")
    about = kept["machine"]
    where = f"{about['processor']}, {about['file system'].partition(' ')[0]}, {about['date']}:"
    return f"{_filled(where)}\n\n{table(header, rows)}"


_PARTS: Final[dict[str, Callable[[], str]]] = {
    "summary": _summary,
    "speed": _speed,
    "counts": _counts,
    "machine": lambda: table(("what", "this run"), _kept_scale()["machine"].items()),
    "postgres": _postgres,
    "scale": lambda: scale.markdown(_kept_scale()),
}

if __name__ == "__main__":
    for page, parts in PAGES.items():
        page.write_text(updated(page.read_text(), parts))
