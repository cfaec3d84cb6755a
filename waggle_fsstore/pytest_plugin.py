# SPDX-License-Identifier: Apache-2.0
"""Fixtures for pytest: a store on ``tmp_path``, a store in memory, and environments for them.

pytest finds this plugin through its entry point. Each fixture imports the package when it is
used: a plugin is loaded before coverage starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from waggle_fsstore import Environment, FileStore, MemoryStore

# The contracts in this package are tests, whose assertions pytest then explains.
pytest.register_assert_rewrite("waggle_fsstore.testing")


@pytest.fixture
def waggle_store(tmp_path: Path) -> Iterator[FileStore]:
    """Yield an empty FileStore on ``tmp_path``, without fsync, so that it costs next to nothing."""
    from waggle_fsstore import FileStore

    with FileStore(tmp_path / "waggle-store", durable=False) as store:
        yield store


@pytest.fixture
def waggle_memory_store() -> Iterator[MemoryStore]:
    """Yield an empty MemoryStore."""
    from waggle_fsstore import MemoryStore

    with MemoryStore() as store:
        yield store


@pytest.fixture
def make_environment() -> Callable[..., Environment]:
    """Return a function that makes valid environments; its arguments replace single fields."""
    from waggle_fsstore.testing.factories import make_environment

    return make_environment
