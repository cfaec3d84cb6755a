# SPDX-License-Identifier: Apache-2.0
"""Holds the lock of a store for as long as a test wants."""

from collections.abc import Iterator
from contextlib import contextmanager

from waggle_fsstore import FileStore


@contextmanager
def lock_held(store: FileStore) -> Iterator[None]:
    """As a change does that takes its time."""
    lock = store._writer._lock
    lock._acquire(lock.timeout)
    try:
        yield
    finally:
        lock._release()
