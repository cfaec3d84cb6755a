# SPDX-License-Identifier: Apache-2.0
"""Stores to test: a module whose tests begin with documents adds them by overriding a fixture."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.store.read import stat_signature


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The path of the store; no directory exists there yet."""
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[FileStore]:
    """An empty store that skips every fsync."""
    with FileStore(root, durable=False) as store:
        yield store


@pytest.fixture
def durable_store(root: Path) -> Iterator[FileStore]:
    """An empty store."""
    with FileStore(root) as store:
        yield store


@pytest.fixture
def trusted_change_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the change times of every file system, so that the test runs the same on each."""
    monkeypatch.setattr(stat_signature, "_has_change_times", lambda *_: True)
