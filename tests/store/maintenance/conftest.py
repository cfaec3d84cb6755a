# SPDX-License-Identifier: Apache-2.0
"""A store to copy, and the path of a snapshot."""

from pathlib import Path

import pytest

from waggle_fsstore import (
    FileStore,
)
from waggle_fsstore.testing import make_environment


@pytest.fixture
def edited_store(store: FileStore) -> FileStore:
    """A store with a, b and c, and a manual edit of b."""
    for name in ("a", "b", "c"):
        store.save(make_environment(id=name, name=f"first {name}"))
    path = store.document_path("b")
    path.write_text(path.read_text().replace("first b", "edited"))
    return store


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """The path of a snapshot; no directory exists there yet."""
    return tmp_path / "copies" / "one"
