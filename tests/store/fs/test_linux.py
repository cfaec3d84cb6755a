# SPDX-License-Identifier: Apache-2.0
"""Where the system lacks a call, or Python lacks ctypes, the store works without it."""

import sys

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.store.fs import linux
from waggle_fsstore.store.read.inotify import DirectoryWatcher
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="calls of Linux")


def test_python_without_ctypes_is_enough(
    durable_store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ctypes changes are made, synced one by one, and found by looking at the files."""
    monkeypatch.setitem(sys.modules, "ctypes", None)
    linux._function.cache_clear()
    linux._statx_function.cache_clear()
    durable_store.save_all(make_environment(id=f"{number}") for number in range(120))
    durable_store.prune_history(keep_bytes=0)
    for expected in (120, 121):
        assert len(durable_store.find_all()) == expected
        durable_store.save(make_environment(id=f"new-{expected}"))
    durable_store.close()
    with FileStore(durable_store.path) as again:
        assert again.count() == 122
        assert list(again.check()) == []
    root = str(durable_store.path)
    assert (linux.mount_id(root), linux.can_syncfs(root)) == (0, False)
    assert DirectoryWatcher.try_open(root) is None
