# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: a store of the test, and documents in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from waggle_fsstore.store.file_store import FileStore


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The path of the default store, which does not exist yet; no other one is in reach."""
    path = tmp_path / "default"
    monkeypatch.setenv("WAGGLE_STORE_PATH", str(path))
    monkeypatch.setenv("WAGGLE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def store(root: Path) -> Iterator[FileStore]:
    """The default store, opened past the command line."""
    with FileStore(root, durable=False) as store:
        yield store
