# SPDX-License-Identifier: Apache-2.0
"""The identity of a host, in the directory of its workspaces."""

import os
import stat
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from waggle_fsstore import Environment, LocalProvider, Runtime
from waggle_fsstore.provider import host_id
from waggle_fsstore.provider.host_id import make_host_id, read_host_id


def test_id_is_made_once(tmp_path: Path) -> None:
    """The next start of a server finds the id of the first one."""
    root = str(tmp_path / "disk" / "workspaces")
    assert read_host_id(root) is None
    made = make_host_id(root)
    assert str(uuid.UUID(made)) == made == make_host_id(root) == read_host_id(root)
    (file,) = Path(root).iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == (".host-id", 0o600)


def test_processes_that_start_at_once_have_one_id(tmp_path: Path) -> None:
    """All of them are the same host."""
    for number in range(20):
        root = str(tmp_path / str(number))
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(make_host_id, [root] * 8))) == 1
        assert os.listdir(root) == [".host-id"]


def test_id_that_another_process_made_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not replaced: that process may have registered it already."""
    file, theirs = tmp_path / ".host-id", str(uuid.uuid4())

    def make(path: str) -> None:
        if path.startswith(f"{file}."):  # The other process is faster than the link.
            file.write_text(theirs)

    monkeypatch.setattr(host_id, "_sync", make)
    assert make_host_id(str(tmp_path)) == theirs == file.read_text()


@pytest.mark.parametrize("is_known", [False, True])
def test_id_is_synced_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """After a power cut the host is the same one: file and directories are flushed.

    So they are for an id that is there: the process that made it may have died before that.
    """
    root = tmp_path / "disk" / "workspaces"
    if is_known:
        root.mkdir(parents=True)
        (root / ".host-id").write_text(f"{uuid.uuid4()}\n")
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    made = make_host_id(str(root))
    if not is_known:
        assert synced.pop(0).startswith(str(root / ".host-id."))
    places = [str(root / ".host-id"), str(root), str(root.parent), str(tmp_path)]
    assert synced[: len(places)] == places
    assert read_host_id(str(root)) == made


@pytest.mark.parametrize("text", ["", "maja\n", "\udcff", "0" * 500])
def test_damaged_id_is_refused(tmp_path: Path, text: str) -> None:
    """It is not replaced: the host would lose its environments."""
    (tmp_path / ".host-id").write_bytes(os.fsencode(text))
    for call in (read_host_id, make_host_id):
        with pytest.raises(ValueError, match=r"\.host-id has no UUID: restore it from a backup"):
            call(str(tmp_path))
    assert (tmp_path / ".host-id").read_bytes() == os.fsencode(text)


def test_id_is_not_read_through_link(tmp_path: Path) -> None:
    """A link could name the file of another host."""
    (tmp_path / "other").write_text(str(uuid.uuid4()))
    (tmp_path / ".host-id").symlink_to("other")
    with pytest.raises(OSError, match="symbolic links"):
        read_host_id(str(tmp_path))


def test_failed_write_leaves_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full disk nothing is left that another start could take for an id."""

    def fail(_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host_id, "_sync", fail)
    with pytest.raises(OSError, match="No space"):
        make_host_id(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_files_of_host_are_no_workspaces(tmp_path: Path) -> None:
    """They are neither orphans nor removed with anything."""
    make_host_id(str(tmp_path))
    (tmp_path / ".servers").mkdir()
    provider = LocalProvider(tmp_path)
    environment = Environment(name="n", runtime=Runtime.SHELL, provider=provider.name)
    provider.create(environment)
    assert provider.find_orphans([environment.id]) == []
    provider.remove(environment)
    assert read_host_id(str(tmp_path)) is not None
