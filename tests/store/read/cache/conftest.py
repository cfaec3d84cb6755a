# SPDX-License-Identifier: Apache-2.0
"""Stores whose documents are cached."""

import pytest

from tests.store.read.cache.listings import ALWAYS, NEVER
from waggle_fsstore import FileStore
from waggle_fsstore.store.read import change_detector, stat_signature
from waggle_fsstore.testing import make_environment


@pytest.fixture(params=[NEVER, ALWAYS], ids=["by signature", "by inotify"])
def store(
    store: FileStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> FileStore:
    """A store with documents a, b and c, which detects changes by signature or by inotify."""
    if request.param == ALWAYS:
        request.getfixturevalue("needs_inotify")
    monkeypatch.setattr(change_detector, "_MIN_WATCHED_DOCUMENTS", request.param)
    store.save_all(make_environment(id=name, name="before", labels={"n": name}) for name in "abc")
    return store


@pytest.fixture
def cached_from_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache documents from the next clock tick on, the earliest time that is ever safe."""
    monkeypatch.setattr(stat_signature, "_SETTLING_TIME_NS", 0)
