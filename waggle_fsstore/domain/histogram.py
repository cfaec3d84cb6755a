# SPDX-License-Identifier: Apache-2.0
"""Histograms: how long operations of one kind took, counted in a few buckets."""

from bisect import bisect_left
from typing import Final

#: Upper bounds of the buckets, in seconds, for what a disk does.
OF_A_DISK: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

#: Those for what a caller waits for.
OF_A_CALL: Final = (0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Histogram:
    """The number of operations in each bucket, and the seconds that all of them took.

    A bucket has the durations up to its bound, and above that of the bucket before; the last one
    has no bound. Adding takes no lock, so that it can neither wait nor fail: CPython switches
    threads only at calls and jumps.
    """

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one operation."""
        bucket = bisect_left(self.bounds, seconds)
        self.counts[bucket] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        """The number of operations."""
        return sum(self.counts)
