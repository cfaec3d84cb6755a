# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, for real: the call raises, nothing is lost, the next save works."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from waggle_fsstore import Environment, FileStore
from waggle_fsstore.testing import make_environment


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def large(environment_id: str, name: str) -> Environment:
    return make_environment(id=environment_id, name=name, extra={"padding": "x" * 30_000})


def test_full_disk_fails_saves_whole(small_disk: Path) -> None:
    """A save to a full disk has no effect, and works again once there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    with FileStore(small_disk / "store") as store:
        stored: list[Environment] = []

        def fill() -> None:
            for number in range(100):
                environment = large(f"env-{number:03}", "first")
                store.save(environment)
                stored.append(environment)

        with pytest.raises(OSError, match="No space left on device") as caught:
            fill()
        assert caught.value.errno == errno.ENOSPC
        assert len(stored) >= 2
        for change in (
            lambda: store.save(large("env-000", "second")),
            lambda: store.update("env-000", lambda copy: setattr(copy, "name", "second")),
            lambda: store.save_all([large("env-000", "second"), large("env-001", "second")]),
            lambda: store.create(large("new", "second")),
        ):
            with pytest.raises(OSError, match="No space left on device"):
                change()
        assert store.find_all() == stored
        assert os.listdir(store.path / ".waggle" / "tmp") == []
        ballast.unlink()
        store.delete("env-001")
        store.save(large("env-000", "second"))
        assert store.find_by_id("env-000").name == "second"
    with FileStore(small_disk / "store") as store:
        assert [found.id for found in store.find_all()] == [
            environment.id for environment in stored if environment.id != "env-001"
        ]


def test_file_size_limit_fails_save_whole(tmp_path: Path) -> None:
    """A write beyond the limit of the process has no effect; smaller ones still succeed."""
    old = make_environment(id="a", name="old")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store = FileStore(tmp_path / "store")
            store.save(old)
            # Python would not notice that it cut the bytecode of a module that it imports.
            sys.dont_write_bytecode = True
            resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))
            with pytest.raises(OSError, match="File too large") as caught:
                store.save(large("a", "new"))
            assert caught.value.errno == errno.EFBIG
            assert store.find_by_id("a") == old
            assert os.listdir(store.path / ".waggle" / "tmp") == []
            store.save(make_environment(id="b"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with FileStore(tmp_path / "store") as store:
        assert [found.id for found in store.find_all()] == ["a", "b"]
