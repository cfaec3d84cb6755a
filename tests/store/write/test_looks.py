# SPDX-License-Identifier: Apache-2.0
"""What a change looks at: not at the times of files, and once a second at what hardly changes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.store.fs import lock
from waggle_fsstore.store.fs.linux import file_clock, timeless_status
from waggle_fsstore.testing import make_environment

_SECOND_NS = 1_000_000_000


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths and descriptors whose status was asked for with its times."""
    found: list[str] = []

    def recording(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(file: Any, **options: Any) -> Any:
            found.append(os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file)
            return real(file, **options)

        return look

    for name in ("stat", "lstat", "fstat"):
        monkeypatch.setattr(os, name, recording(getattr(os, name)))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the times of Linux")
@pytest.mark.usefixtures("trusted_change_times")
def test_change_looks_at_the_times_of_no_file_that_it_changes(
    durable_store: FileStore, looks: list[str]
) -> None:
    """A look would give the file, and all files changed after it, a new time at each change."""
    store = durable_store
    for name in "ab":
        store.save(make_environment(id=name))
    looks.clear()
    store.save(make_environment(id="a"))
    store.save_all([make_environment(id=name) for name in "abc"])
    assert {os.path.relpath(path, store.path) for path in looks} == {".waggle/lock"}


def test_status_without_times_is_that_of_the_system(tmp_path: Path) -> None:
    """Links are followed, and a missing file is the error that it is elsewhere."""
    path = tmp_path / "\u00e9 file"
    path.write_text("x")
    (tmp_path / "link").symlink_to(path)
    for one in (path, tmp_path / "link", tmp_path):
        found, expected = timeless_status(str(one)), os.stat(one)
        for name in ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid"):
            assert getattr(found, name) == getattr(expected, name)
        assert os.makedev(found.major, found.minor) == expected.st_dev
    with pytest.raises(FileNotFoundError, match="missing"):
        timeless_status(str(tmp_path / "missing"))


def test_new_umask_is_noticed_within_a_second(
    durable_store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that takes its own rights from new files keeps those to its documents."""
    store = durable_store
    store.save(make_environment(id="a"))
    monkeypatch.setattr(lock, "file_clock", lambda: file_clock() + 2 * _SECOND_NS)
    before = os.umask(0o277)
    try:
        for _ in range(2):
            store.save(make_environment(id="a"))
            assert store.document_path("a").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
