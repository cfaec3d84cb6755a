# SPDX-License-Identifier: Apache-2.0
"""Cleanup that Ctrl-C cannot skip."""

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def run_with_cleanup(work: Callable[[], _T], cleanup: Callable[[], object]) -> _T:
    """Return ``work()``, and run ``cleanup`` after it, even when either is interrupted.

    Python can raise ``KeyboardInterrupt`` between any two instructions, including before the
    first one of a ``finally`` block, which then skips the rest. Hence the second block:
    ``cleanup`` runs twice, and its second run must find nothing left to do. A second Ctrl-C
    within it is not covered.
    """
    try:
        try:
            return work()
        finally:
            cleanup()
    finally:
        cleanup()
