# SPDX-License-Identifier: Apache-2.0
"""A long history: what it costs to open a store that has one, and to go through all of it."""

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

# As many in the new store, where each was saved once.
_DOCUMENTS: Final = 100

# Memory is compared with that for this part of the history. It must be longer than any piece
# in which a store may keep its journal: within one, reading more of it may well take more.
_PART: Final = 4

SHORTEST: Final = 20_000


class History(NamedTuple):
    """The samples of each operation and store; and the memory for a history of each length.

    The latter is the peak while all of it is read, above what was there before, in bytes.
    """

    samples: dict[str, Samples]
    memory: dict[int, int]


def measure(folder: Path, lines: int, rounds: int) -> History:
    """Save so many times, read the history of it, and open this store and a new one by turns."""
    roots = {NEW: folder / "history-new", LONG: folder / "history-long"}
    environments = [documents.make(number) for number in range(_DOCUMENTS)]
    memory: dict[int, int] = {}
    try:
        _save(roots[NEW], environments, range(_DOCUMENTS))
        saved = 0
        for length in (lines // _PART, lines):
            _save(roots[LONG], environments, range(saved, length))
            memory[length] = _peak(roots[LONG], length)
            saved = length
        samples = interleave(
            lambda name, number: _opening(
                roots[name], documents.used(environments[number % _DOCUMENTS], lines + number)
            ),
            [*roots],
            rounds=rounds,
            settle=lambda: settle(folder),
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
        # One was read before: what is imported and made once is not the history's.
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
