# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the command line tests: a default store of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from waggle_fsstore.store.file_store import FileStore


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the path of the default store, which does not exist yet; no other is in reach."""
    path = tmp_path / "default"
    monkeypatch.setenv("WAGGLE_STORE_PATH", str(path))
    monkeypatch.setenv("WAGGLE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def store(root: Path) -> Iterator[FileStore]:
    """Yield the default store, opened without the command line."""
    with FileStore(root, durable=False) as store:
        yield store
