# SPDX-License-Identifier: Apache-2.0
"""Fixtures for pytest: a store on ``tmp_path``, one in memory, and environments to put in.

Found by pytest through its entry point. It imports the package only inside the
fixtures: a plugin is loaded before coverage starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from waggle_fsstore import Environment, FileStore, MemoryStore

pytest.register_assert_rewrite(
    "waggle_fsstore.testing.audit",
    "waggle_fsstore.testing.repository",
    "waggle_fsstore.testing.history",
    "waggle_fsstore.testing.persistence",
    "waggle_fsstore.testing.transactional",
    "waggle_fsstore.testing.update",
    "waggle_fsstore.testing.watch",
)


@pytest.fixture
def waggle_store(tmp_path: Path) -> Iterator[FileStore]:
    """An empty FileStore on ``tmp_path``, without flushes, so that it costs next to nothing."""
    from waggle_fsstore import FileStore

    with FileStore(tmp_path / "waggle-store", durable=False) as store:
        yield store


@pytest.fixture
def waggle_memory_store() -> Iterator[MemoryStore]:
    """An empty MemoryStore."""
    from waggle_fsstore import MemoryStore

    with MemoryStore() as store:
        yield store


@pytest.fixture
def make_environment() -> Callable[..., Environment]:
    """The function that makes a valid environment; its arguments replace single fields."""
    from waggle_fsstore.testing.factories import make_environment

    return make_environment
