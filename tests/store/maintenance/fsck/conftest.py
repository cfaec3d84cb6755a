# SPDX-License-Identifier: Apache-2.0
"""The store that fsck examines."""

import pytest

from waggle_fsstore import (
    FileStore,
)
from waggle_fsstore.testing import make_environment


@pytest.fixture
def store(store: FileStore) -> FileStore:
    """A store with a, b and c, of which b is at its second version."""
    for name in ("a", "b", "c"):
        store.save(make_environment(id=name, name=f"first {name}"))
    store.save(make_environment(id="b", name="second b"))
    return store
