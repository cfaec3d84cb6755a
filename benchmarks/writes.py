# SPDX-License-Identifier: Apache-2.0
"""The write path: a long run with all that it brings along, threads at once, and batches."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks import documents
from benchmarks.device import settle
from benchmarks.effort import Effort
from benchmarks.peers import Entrant, compare, open_peers
from benchmarks.results import Summaries
from benchmarks.timing import Samples, Step, at_once, interleave, whole

SAVE: Final = "save"
LEFT: Final = "what the saves left to the kernel"

ONE_THREAD: Final = "one thread"
ALL_THREADS: Final = "all threads"
THREADS: Final = 8

ONE_BY_ONE: Final = "one by one"
SAVE_ALL: Final = "save_all"
BATCH: Final = 1_000

_THREADS_SIZE: Final = 1_000


def measure_run(folder: Path, entrants: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """Each save of a long run, and what is still in memory after each turn.

    A turn is long, so that what a peer does now and then falls into it. It ends with having
    everything written, which is measured too: what a peer leaves to the kernel is its own.
    """
    environments = [documents.make(number) for number in range(effort.run_documents)]
    with open_peers(folder, entrants, environments) as peers:
        samples = interleave(
            lambda entrant, number: [
                Step(
                    SAVE,
                    peers[entrant].save,
                    documents.changed(environments, number, effort.run_saves),
                    warm=0,
                ),
                Step(LEFT, settle, [folder], warm=0),
            ],
            [*peers],
            rounds=effort.run_turns,
        )
        compare(peers)
    return samples


def mean_of_run(run: dict[str, Summaries], peer: str) -> float:
    """The time for a save, in seconds, with its share of what was left to the kernel."""
    saves, left = run[SAVE][peer], run[LEFT][peer]
    return saves.mean + left.mean * left.operations / saves.operations


def measure_threads(folder: Path, entrants: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """The time for a save of different documents, by one thread and by all of them at once."""
    environments = [documents.make(number) for number in range(_THREADS_SIZE)]
    numbers = {ONE_THREAD: 1, ALL_THREADS: THREADS}
    with (
        open_peers(folder, entrants, environments) as peers,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        samples = interleave(
            lambda entrant, number: [
                Step(
                    operation,
                    peers[entrant].save,
                    documents.changed(environments, 2 * number + index, effort.thread_saves),
                )
                for index, operation in enumerate(numbers)
            ],
            [*peers],
            rounds=effort.thread_rounds,
            limit=effort.limit,
            measure=lambda step: at_once(step, pool, numbers[step.operation]),
            settle=lambda: settle(folder),
        )
        compare(peers)
    return samples


def measure_batches(folder: Path, entrants: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """The time to save some documents one by one, and the same ones in one batch."""
    environments = [documents.make(number) for number in range(BATCH)]
    with open_peers(folder, entrants, environments) as peers:
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
            limit=effort.limit,
            measure=whole,
            settle=lambda: settle(folder),
        )
        compare(peers)
    return samples
