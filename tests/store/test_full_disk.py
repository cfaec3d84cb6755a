# SPDX-License-Identifier: Apache-2.0
"""A full disk: a change raises, or uses the reserve; nothing is lost, the next save works."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.store.locks import lock_held
from waggle_fsstore import Environment, FileStore, Status
from waggle_fsstore.store.fs import disk
from waggle_fsstore.store.journal import live_segment
from waggle_fsstore.store.write import reserve
from waggle_fsstore.testing import make_environment


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 256 KiB, or of another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={getattr(request, 'param', '256k')}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
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


@pytest.mark.parametrize("small_disk", ["3m"], indirect=True)
def test_environments_end_on_full_disk(small_disk: Path) -> None:
    """On a disk without a free block environments are still destroyed, until all are gone."""
    ballast = small_disk / "ballast"
    with FileStore(small_disk / "store") as store:
        store.save_all(make_environment(id=f"{number}") for number in range(25))
        fill(ballast)
        with pytest.raises(OSError, match="No space left on device"):
            store.save_all(store.find_all())
    with FileStore(small_disk / "store") as store:
        for number in range(25):
            end(store, f"{number}")
        assert store.find_all() == []
        assert list(store.check()) == []
        ballast.unlink()
        store.save(make_environment(id="next"))
    with FileStore(small_disk / "store") as store:
        store.save(make_environment(id="last"))
        assert disk.sizes_of(f"{store.path}/.waggle/reserve")[1] == 1 << 18


def fill(ballast: Path) -> None:
    """Leave no free block."""
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def end(store: FileStore, environment_id: str) -> None:
    store.update(environment_id, lambda copy: setattr(copy, "status", Status.DESTROYING))
    store.delete(environment_id)


@pytest.fixture
def full_store(durable_store: FileStore, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """A store with a and b, in which each change rotates, on a disk that is full by now.

    It has room for more only while half of the reserve is given up.
    """
    durable_store.save_all([make_environment(id="a"), make_environment(id="b")])
    real = disk._allocate

    def allocate(descriptor: int, size: int) -> bool:
        if reserved(durable_store) > 1 << 17:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, size)

    monkeypatch.setattr(disk, "_allocate", allocate)
    monkeypatch.setattr(live_segment.LiveSegment, "has_room", lambda *_: False)
    return durable_store


def reserved(store: FileStore) -> int:
    return disk.sizes_of(f"{store.path}/.waggle/reserve")[1]


def test_reserve_serves_what_frees_room(full_store: FileStore) -> None:
    """The reserve serves what ends an environment and no other change, and is filled again."""
    for change in (
        lambda: full_store.save(make_environment(id="c")),
        lambda: full_store.update("a", lambda copy: setattr(copy, "name", "other")),
        lambda: full_store.save_all(
            [make_environment(id="a", status=Status.ERROR), large("b", "b")]
        ),
    ):
        with pytest.raises(OSError, match="No space left on device"):
            change()
        assert reserved(full_store) == 1 << 18
    end(full_store, "a")
    full_store.document_path("b").write_bytes(b"{")
    full_store.delete("b")
    assert (full_store.count(), reserved(full_store)) == (0, 1 << 18)
    assert full_store.prune_history(keep_bytes=0).segments_removed > 0
    assert list(full_store.check()) == []


def test_delete_that_shares_a_line_is_served(
    durable_store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delete that was to share a line with a save succeeds, and the save alone fails."""
    durable_store.save_all([make_environment(id="a"), make_environment(id="b")])
    real = live_segment.LiveSegment._create

    def create(self: live_segment.LiveSegment, *given: Any) -> None:
        if reserved(durable_store) > 1 << 17:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, *given)

    monkeypatch.setattr(live_segment.LiveSegment, "_create", create)
    monkeypatch.setattr(live_segment.LiveSegment, "has_room", lambda *_: False)
    with ThreadPoolExecutor() as pool, lock_held(durable_store):
        saving = pool.submit(durable_store.save, make_environment(id="b", name="other"))
        deleting = pool.submit(durable_store.delete, "a")
        waiting = durable_store._writer._queue._waiting
        while len(waiting) < 2:
            os.sched_yield()
    deleting.result()
    with pytest.raises(OSError, match="No space left on device"):
        saving.result()
    assert [found.id for found in durable_store.find_all()] == ["b"]


def test_reserve_grows_with_documents(durable_store: FileStore) -> None:
    """The reserve has room for three documents as large as the largest that was written."""
    durable_store.save(large("a", "a"))
    assert reserved(durable_store) > (1 << 18) + 3 * 30_000 - 4096
    with FileStore(durable_store.path) as again:
        again.save(make_environment(id="b"))
        assert reserved(again) == reserved(durable_store)


def test_lack_of_reserve_fails_no_change(
    durable_store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reserve that cannot be made, whatever is in its place, is no reason to fail."""
    (durable_store.path / ".waggle" / "reserve").mkdir(parents=True)
    assert durable_store.save(make_environment(id="a")) == 1

    def fail(_: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(reserve, "free_bytes", fail)
    with FileStore(durable_store.path) as again:
        assert again.save(make_environment(id="a")) == 2


def test_store_without_sync_has_no_reserve(store: FileStore) -> None:
    """A store for tests reserves nothing."""
    store.save(make_environment(id="a"))
    assert reserved(store) == 0


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
