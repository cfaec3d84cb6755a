# SPDX-License-Identifier: Apache-2.0
"""Timing: rounds in which all entrants take turns, and summaries of the samples."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import ceil, inf
from statistics import fmean, median
from threading import Barrier
from typing import Any, Final, NamedTuple

# The times of single calls, by entrant, in nanoseconds.
Samples = dict[str, list[int]]

_MIN_ROUNDS: Final = 3

_clock: Final = time.perf_counter_ns


class Step(NamedTuple):
    """Calls of one operation: ``call`` once for each of the arguments.

    The first ``warm`` calls are not counted: they find the caches as the previous entrant
    left them.
    """

    operation: str
    call: Callable[[Any], object]
    arguments: Sequence[Any]
    warm: int = 1


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A summary of samples: their number, and in seconds the mean, percentiles and maximum."""

    operations: int
    mean: float
    median: float
    p99: float
    p999: float
    longest: float


def each_call(step: Step) -> list[int]:
    """Return the time of each call."""
    call = step.call
    clock = _clock
    times = []
    for argument in step.arguments:
        begin = clock()
        call(argument)
        times.append(clock() - begin)
    return times[step.warm :]


def total_time(step: Step) -> list[int]:
    """Return the time of all calls together."""
    begin = _clock()
    for argument in step.arguments:
        step.call(argument)
    return [_clock() - begin]


def processor_time(step: Step) -> list[int]:
    """Return the mean processor time of the calls, including that of the kernel.

    The process clock is too coarse for a single call.
    """
    begin = time.process_time_ns()
    for argument in step.arguments:
        step.call(argument)
    return [(time.process_time_ns() - begin) // len(step.arguments)]


def at_once(step: Step, pool: Executor, threads: int) -> list[int]:
    """Return the mean time of a call, with ``threads`` threads that share the arguments."""
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
    limit_s: float = inf,
    measure: Callable[[Step], list[int]] = each_call,
    settle: Callable[[], object] = lambda: None,
) -> dict[str, Samples]:
    """Return the samples of each operation and entrant.

    In each round every entrant has a turn, in an order that rotates and reverses, so that
    other load on the machine affects all of them alike. The first round is not counted. Ends
    after ``rounds`` rounds, or after ``limit_s`` seconds once there are a few. ``settle`` is
    called before each step.
    """
    samples: dict[str, Samples] = {}
    deadline = time.monotonic() + limit_s
    for number in range(rounds + 1):
        if number > _MIN_ROUNDS and time.monotonic() > deadline:
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
    """Return the summary for each entrant."""
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
