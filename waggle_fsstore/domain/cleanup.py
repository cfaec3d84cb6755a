# SPDX-License-Identifier: Apache-2.0
"""Cleanup that Ctrl-C cannot skip."""

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def run_with_cleanup(work: Callable[[], _T], cleanup: Callable[[], object]) -> _T:
    """Return ``work()``, and run ``cleanup`` after it, also when either is interrupted.

    Python raises ``KeyboardInterrupt`` between any two instructions, so also at the first one
    of a ``finally`` block, whose rest is then skipped. Hence the second block: ``cleanup`` runs
    twice, and its second run must find nothing left to do. A second Ctrl-C within it is beyond
    this function.
    """
    try:
        try:
            return work()
        finally:
            cleanup()
    finally:
        cleanup()
