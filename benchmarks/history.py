# SPDX-License-Identifier: Apache-2.0
"""A long history: the cost of opening a store that has one, and of reading all of it."""

import shutil
import tracemalloc
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import documents
from benchmarks.device import settle
from benchmarks.timing import Samples, Step, interleave
from waggle_fsstore import Environment, FileStore

OPEN: Final = "open, first find_by_id, first save"
CLOSE: Final = "close"

NEW: Final = "new store"
LONG: Final = "long history"

# Also the number of saves in the new store: one for each document.
_DOCUMENTS: Final = 100

# The memory for the whole history is compared with that for a fraction of it. The fraction must
# be longer than a segment of the journal: within a segment, reading more may take more memory.
_FRACTION: Final = 4

MIN_LINES: Final = 20_000


class History(NamedTuple):
    """The samples of each operation and store, and the memory for a history of each length.

    The memory is the peak while all of the history is read, above the usage before, in bytes.
    """

    samples: dict[str, Samples]
    memory: dict[int, int]


def measure(directory: Path, lines: int, rounds: int) -> History:
    """Measure a store with ``lines`` saves in its history, in turns with a new store."""
    roots = {NEW: directory / "history-new", LONG: directory / "history-long"}
    environments = [documents.make(number) for number in range(_DOCUMENTS)]
    memory: dict[int, int] = {}
    try:
        _save(roots[NEW], environments, range(_DOCUMENTS))
        saved = 0
        for length in (lines // _FRACTION, lines):
            _save(roots[LONG], environments, range(saved, length))
            memory[length] = _peak(roots[LONG], length)
            saved = length
        samples = interleave(
            lambda name, number: _opening(
                roots[name], documents.used(environments[number % _DOCUMENTS], lines + number)
            ),
            [*roots],
            rounds=rounds,
            settle=lambda: settle(directory),
        )
    finally:
        for root in roots.values():
            shutil.rmtree(root, ignore_errors=True)
    return History(samples, memory)


def _save(root: Path, environments: list[Environment], numbers: range) -> None:
    with FileStore(root, durable=False) as store:
        for number in numbers:
            store.save(documents.used(environments[number % _DOCUMENTS], number))


def _opening(root: Path, changed: Environment) -> list[Step]:
    opened: list[FileStore] = []

    def open_and_save(environment: Environment) -> None:
        store = FileStore(root)
        opened.append(store)
        store.find_by_id(environment.id)
        store.save(environment)

    return [
        Step(OPEN, open_and_save, [changed], warm=0),
        Step(CLOSE, lambda _: opened.pop().close(), [None], warm=0),
    ]


def _peak(root: Path, lines: int) -> int:
    with FileStore(root) as store:
        # One event is read first: imports and caches are not part of the cost.
        next(store.history())
        tracemalloc.start()
        try:
            found = sum(1 for _ in store.history())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    if found != lines:
        raise RuntimeError(f"{lines} saves were made, and the history has {found}")
    return peak
