# SPDX-License-Identifier: Apache-2.0
"""The write path: a long run including checkpoints, concurrent threads, and batches."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks import documents
from benchmarks.device import settle
from benchmarks.effort import Effort
from benchmarks.peers import Entrant, compare, open_peers
from benchmarks.results import Summaries
from benchmarks.timing import Samples, Step, at_once, interleave, total_time

SAVE: Final = "save"
LEFT: Final = "what the saves left to the kernel"

ONE_THREAD: Final = "one thread"
ALL_THREADS: Final = "all threads"
THREADS: Final = 8

ONE_BY_ONE: Final = "one by one"
SAVE_ALL: Final = "save_all"
BATCH: Final = 1_000

_THREADS_SIZE: Final = 1_000


def measure_run(directory: Path, entrants: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """Measure each save of a long run, and the sync of the file system after each turn.

    A turn is long, so that it includes what a peer does now and then, such as checkpoints. The
    sync at its end is measured too: the data that a peer left to the kernel is its own cost.
    """
    environments = [documents.make(number) for number in range(effort.run_documents)]
    with open_peers(directory, entrants, environments) as peers:
        samples = interleave(
            lambda entrant, number: [
                Step(
                    SAVE,
                    peers[entrant].save,
                    documents.changed(environments, number, effort.run_saves),
                    warm=0,
                ),
                Step(LEFT, settle, [directory], warm=0),
            ],
            [*peers],
            rounds=effort.run_turns,
        )
        compare(peers)
    return samples


def mean_of_run(run: dict[str, Summaries], peer: str) -> float:
    """Return the mean time of a save in seconds, with its share of the sync after each turn."""
    saves, left = run[SAVE][peer], run[LEFT][peer]
    return saves.mean + left.mean * left.operations / saves.operations


def measure_threads(directory: Path, entrants: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """Measure a save of different documents, by one thread and by all threads concurrently."""
    environments = [documents.make(number) for number in range(_THREADS_SIZE)]
    numbers = {ONE_THREAD: 1, "2 threads": 2, "4 threads": 4, ALL_THREADS: THREADS}
    with (
        open_peers(directory, entrants, environments) as peers,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        samples = interleave(
            lambda entrant, number: [
                Step(
                    operation,
                    peers[entrant].save,
                    documents.changed(
                        environments, len(numbers) * number + index, effort.thread_saves
                    ),
                )
                for index, operation in enumerate(numbers)
            ],
            [*peers],
            rounds=effort.thread_rounds,
            limit_s=effort.limit_s,
            measure=lambda step: at_once(step, pool, numbers[step.operation]),
            settle=lambda: settle(directory),
        )
        compare(peers)
    return samples


def measure_batches(directory: Path, entrants: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """Measure saving documents one by one, and as one batch."""
    environments = [documents.make(number) for number in range(BATCH)]
    with open_peers(directory, entrants, environments) as peers:
        samples = interleave(
            lambda entrant, number: [
                Step(
                    ONE_BY_ONE,
                    peers[entrant].save,
                    documents.changed(environments, 2 * number, BATCH),
                ),
                Step(
                    SAVE_ALL,
                    peers[entrant].save_all,
                    [documents.changed(environments, 2 * number + 1, BATCH)],
                ),
            ],
            [*peers],
            rounds=effort.batch_rounds,
            limit_s=effort.limit_s,
            measure=total_time,
            settle=lambda: settle(directory),
        )
        compare(peers)
    return samples
