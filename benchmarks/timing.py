# SPDX-License-Identifier: Apache-2.0
"""Timing: rounds in which all that is compared takes turns, and what is made of the samples."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import ceil, inf
from statistics import fmean, median
from threading import Barrier
from typing import Any, Final, NamedTuple

# What one call takes, of one entrant, in nanoseconds.
Samples = dict[str, list[int]]

_FEWEST_ROUNDS: Final = 3

_clock: Final = time.perf_counter_ns


class Step(NamedTuple):
    """Calls of one operation: ``call`` once for each of the arguments.

    The first ``warm`` of them are not counted: they find the caches as the entrant
    before left them.
    """

    operation: str
    call: Callable[[Any], object]
    arguments: Sequence[Any]
    warm: int = 1


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Samples in short: how many, and in seconds their mean, percentiles and the longest."""

    operations: int
    mean: float
    median: float
    p99: float
    p999: float
    longest: float


def each(step: Step) -> list[int]:
    """What each call takes."""
    call = step.call
    clock = _clock
    times = []
    for argument in step.arguments:
        begin = clock()
        call(argument)
        times.append(clock() - begin)
    return times[step.warm :]


def whole(step: Step) -> list[int]:
    """What all calls take together."""
    begin = _clock()
    for argument in step.arguments:
        step.call(argument)
    return [_clock() - begin]


def processor_time(step: Step) -> list[int]:
    """The processor time of a call, the kernel's part included, as the mean of all of them.

    The clock of the process is too coarse for one.
    """
    begin = time.process_time_ns()
    for argument in step.arguments:
        step.call(argument)
    return [(time.process_time_ns() - begin) // len(step.arguments)]


def at_once(step: Step, pool: Executor, threads: int) -> list[int]:
    """The time a call takes of the whole, when so many threads take the next argument in turn."""
    start = Barrier(threads)
    left = iter(step.arguments)

    def work() -> tuple[int, int]:
        start.wait()
        begin = _clock()
        for argument in left:
            step.call(argument)
        return begin, _clock()

    working = [pool.submit(work) for _ in range(threads)]
    begins, ends = zip(*(thread.result() for thread in working), strict=True)
    return [(max(ends) - min(begins)) // len(step.arguments)]


def interleave(
    steps: Callable[[str, int], Iterable[Step]],
    entrants: Sequence[str],
    *,
    rounds: int,
    limit: float = inf,
    measure: Callable[[Step], list[int]] = each,
    settle: Callable[[], object] = lambda: None,
) -> dict[str, Samples]:
    """The samples of each operation and entrant.

    In each round every entrant has its turn, in an order that rotates and reverses, so
    that whatever else the machine does hits all of them alike. A first round is not
    counted. Ends after ``rounds``, or after ``limit`` seconds once there are a few.
    ``settle`` is called before each step.
    """
    samples: dict[str, Samples] = {}
    deadline = time.monotonic() + limit
    for number in range(rounds + 1):
        if number > _FEWEST_ROUNDS and time.monotonic() > deadline:
            break
        for entrant in _order(entrants, number):
            for step in steps(entrant, number):
                settle()
                times = measure(step)
                if number > 0:
                    of_operation = samples.setdefault(step.operation, {})
                    of_operation.setdefault(entrant, []).extend(times)
    return {
        operation: {entrant: found[entrant] for entrant in entrants if entrant in found}
        for operation, found in samples.items()
    }


def summarise(samples: Samples) -> dict[str, Summary]:
    """The summary for each entrant."""
    return {entrant: _summary(sorted(times)) for entrant, times in samples.items()}


def _summary(times: list[int]) -> Summary:
    return Summary(
        operations=len(times),
        mean=fmean(times) / 1e9,
        median=median(times) / 1e9,
        p99=times[ceil(len(times) * 0.99) - 1] / 1e9,
        p999=times[ceil(len(times) * 0.999) - 1] / 1e9,
        longest=times[-1] / 1e9,
    )


def _order(entrants: Sequence[str], number: int) -> list[str]:
    first = number % len(entrants)
    order = [*entrants[first:], *entrants[:first]]
    if number // len(entrants) % 2:
        order.reverse()
    return order
