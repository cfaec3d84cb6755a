# SPDX-License-Identifier: Apache-2.0
"""FileStore against MemoryStore: both answer the same to each sequence of calls."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import rule

from tests.store.state_machine import Stores
from waggle_fsstore import FileStore


class FileStores(Stores):
    """Handles on a FileStore."""

    def make_place(self) -> None:
        self.root = Path(tempfile.mkdtemp()) / "store"

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "root"):
            shutil.rmtree(self.root.parent)

    def open(self) -> FileStore:
        return FileStore(self.root, durable=False)

    def read(self, environment_id: str) -> str | None:
        path = self._path(environment_id)
        return path.read_text() if path.exists() else None

    def write(self, environment_id: str, text: str) -> None:
        self._path(environment_id).write_text(text)

    @rule()
    def lose_the_internal_files(self) -> None:
        """As ``git clean`` does: the journal remembers all numbers."""
        shutil.rmtree(self.root / ".waggle", ignore_errors=True)

    def _path(self, environment_id: str) -> Path:
        store: FileStore = self.handles[0]
        return store.document_path(environment_id)


FileStores.TestCase.settings = settings(max_examples=150, stateful_step_count=25)
TestStores = pytest.mark.longest(FileStores.TestCase)
