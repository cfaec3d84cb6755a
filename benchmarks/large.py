# SPDX-License-Identifier: Apache-2.0
"""The large store: opening it, counting and saving, with 100,000 documents."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from benchmarks import documents
from benchmarks.device import settle
from benchmarks.timing import Samples
from waggle_fsstore import FileStore

SIZE: Final = 100_000

OPEN: Final = "open"
FIRST_COUNT: Final = "first count after it"
COUNT: Final = "count again"
FIRST_SAVE: Final = "open, first save"

_T = TypeVar("_T")


def measure(directory: Path, rounds: int) -> Samples:
    """Open a store of 100,000 documents, count them and save one, in each round."""
    root = directory / "large"
    samples: Samples = {OPEN: [], FIRST_COUNT: [], COUNT: [], FIRST_SAVE: []}
    try:
        documents.fill(root, SIZE)
        settle(directory)
        for number in range(rounds + 1):
            kept = samples if number else {name: [] for name in samples}
            with _timed(kept[OPEN], lambda: FileStore(root)) as store:
                _timed(kept[FIRST_COUNT], store.count)
                found = _timed(kept[COUNT], store.count)
            if found != SIZE:
                raise RuntimeError(f"{SIZE} documents were stored, and {found} are counted")
            changed = documents.used(documents.make(number), 1 + number)
            begin = time.perf_counter_ns()
            with FileStore(root) as store:
                store.save(changed)
                kept[FIRST_SAVE].append(time.perf_counter_ns() - begin)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return samples


def _timed(samples: list[int], call: Callable[[], _T]) -> _T:
    begin = time.perf_counter_ns()
    result = call()
    samples.append(time.perf_counter_ns() - begin)
    return result
