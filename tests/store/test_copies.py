# SPDX-License-Identifier: Apache-2.0
"""Copies, also those that are put back over their original, and what is no copy."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.journals import FIRST_SEGMENT
from waggle_fsstore import FileStore
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines, state
from waggle_fsstore.store.journal.changes import last_checkpoint
from waggle_fsstore.testing import make_environment

_SECOND_NS = 1_000_000_000


def put(root: Path, *names: str, close: bool = True) -> None:
    """Save environments with these names, under the ids that they begin with."""
    store = FileStore(root)
    store.save_all([make_environment(id=name[0], name=name) for name in names])
    if close:
        store.close()


def names(root: Path) -> list[str]:
    with FileStore(root) as store:
        return [environment.name for environment in store.find_all()]


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy of a store with a2 and c1, made in use: its documents are a1 and b1."""
    copy = tmp_path / "copy"
    put(root, "a1", "b1")
    shutil.copytree(root / "environments", copy / "environments")
    # As if the copying had begun a second earlier: file times may not be fine enough.
    before = (root / "environments").stat().st_mtime_ns - _SECOND_NS
    os.utime(copy / "environments", ns=(before, before))
    put(root, "a2", "c1")
    with FileStore(root) as store:
        store.delete("b")
    for path in root.iterdir():
        if path.name in ("journal", ".waggle"):
            shutil.copytree(path, copy / path.name)
        elif path.name != "environments":
            shutil.copy2(path, copy / path.name)
    return copy


def by_rsync(source: Path, target: Path, *, in_place: bool = False) -> None:
    """Do as ``rsync -a --delete`` does: skip files of equal size and time, directories last."""
    target.mkdir(exist_ok=True)
    for path in target.iterdir():
        if not (source / path.name).exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted(source.iterdir()):
        there = target / path.name
        if path.is_dir():
            by_rsync(path, there, in_place=in_place)
        elif not there.exists() or times_and_size(path) != times_and_size(there):
            temporary = there if in_place else there.with_name(f".{path.name}.x1y2z3")
            shutil.copy2(path, temporary)
            temporary.replace(there)
    shutil.copystat(source, target)


def times_and_size(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def by_tar(source: Path, target: Path) -> None:
    with subprocess.Popen(["tar", "-C", source, "-cf", "-", "."], stdout=subprocess.PIPE) as pack:
        subprocess.run(["tar", "-C", target, "-xf", "-"], stdin=pack.stdout, check=True)


def by_cp(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "rsync": by_rsync,
    "rsync in place": lambda source, target: by_rsync(source, target, in_place=True),
    "cp": by_cp,
    "tar": by_tar,
}


@pytest.mark.parametrize("state_before", ["running", "rebooted"])
@pytest.mark.parametrize("way", WAYS)
def test_copy_put_back_is_brought_up_to_its_journal(
    root: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, way: str, state_before: str
) -> None:
    """A copy made in use keeps all that its journal has, also over the original, any way."""
    put(root, "a3", close=state_before == "rebooted")
    WAYS[way](copy, root)
    if state_before == "rebooted":
        monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert names(root) == ["a2", "c1"]
    with FileStore(root) as store:
        assert [event.seq for event in store.history()] == [1, 2, 3, 4, 5]
        assert store.save(make_environment(id="d", name="d1")) == 6
    (root / "environments" / "c.json").unlink()
    assert names(root) == ["a2", "d1"]  # It is no copy any more.


def test_copy_with_inode_of_original_is_recognized(
    root: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another disk the directory of a copy may get the inode of that of the original."""
    for name in ("store_id", "marker_id"):
        real = getattr(state, name)
        monkeypatch.setattr(
            state, name, lambda layout, real=real: "1-" + real(layout).rpartition("-")[2]
        )
    put(root, "a2", "c1")
    shutil.rmtree(copy / "journal")
    shutil.copytree(root / "journal", copy / "journal")
    os.utime(copy / "environments")
    monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert names(copy) == ["a2", "c1"]


def touch_marker(root: Path) -> None:
    (root / "waggle.json").chmod(0o640)


def replace_marker(root: Path) -> None:
    shutil.copy2(root / "waggle.json", root / "new")
    (root / "new").replace(root / "waggle.json")


def change_owner(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.chown(path, os.getuid(), os.getgid())


def change_modes(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(0o700)


def move_away_and_back(root: Path) -> None:
    root.rename(root.with_name("moved"))
    root.with_name("moved").rename(root)


def copy_onto_itself(root: Path) -> None:
    backup = root.with_name("backup")
    shutil.copytree(root, backup)
    by_rsync(backup, root)


UNMOVED: dict[str, Callable[[Path], None]] = {
    "chmod of the marker": touch_marker,
    "a new marker": replace_marker,
    "chown -R": change_owner,
    "chmod -R": change_modes,
    "a move": move_away_and_back,
    "an equal copy": copy_onto_itself,
}


@pytest.mark.parametrize("how", UNMOVED)
def test_store_that_stayed_in_place_is_not_replayed(
    root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Other modes, owners and markers bring nothing back, with or without a live writer."""
    put(root, "a1", "b1")
    writer = FileStore(root)
    writer.save(make_environment(id="c", name="c1"))
    UNMOVED[how](root)
    (root / "environments" / "c.json").unlink()
    assert names(root) == ["a1", "b1"]
    writer.save(make_environment(id="d", name="d1"))
    assert names(root) == ["a1", "b1", "d1"]
    writer.close()
    (root / "environments" / "b.json").unlink()
    monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert names(root) == ["a1", "d1"]


def test_clock_set_back_makes_no_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes with an earlier clock do not look like a copy with its times."""
    put(root, "a1", "b1")
    (root / "environments" / "b.json").unlink()
    status = os.stat(root / "environments")
    earlier = status.st_mtime_ns - 3600 * _SECOND_NS
    fields = {"st_mtime_ns": earlier, "st_ctime_ns": earlier}

    class Earlier:
        def __getattr__(self, name: str) -> Any:
            return fields.get(name, getattr(status, name))

    real = os.stat
    directory = str(root / "environments")
    monkeypatch.setattr(
        os, "stat", lambda path, **given: Earlier() if path == directory else real(path, **given)
    )
    assert not state.is_set_back(Layout(str(root)), status.st_mtime_ns)
    fields["st_ctime_ns"] += 1
    assert state.is_set_back(Layout(str(root)), status.st_mtime_ns)


def test_file_system_without_creation_times_knows_copies(
    root: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the marker stands in, and a store that stays in place is not replayed."""
    monkeypatch.setattr(state, "birth_time", lambda _: 0)
    put(root, "a3", "b3")
    (root / "environments" / "b.json").unlink()
    monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert names(root) == ["a3", "c1"]
    assert names(copy) == ["a2", "c1"]


@pytest.fixture
def earlier(root: Path) -> Path:
    """A store as commit 58ba3de left it here: a1, b2, and d1 after the last checkpoint."""
    with tarfile.open(Path(__file__).with_name("written_by_58ba3de.tar.gz")) as packed:
        packed.extractall(root, filter="data")
    segment = root / "journal" / FIRST_SEGMENT
    marker, documents = (os.stat(root / name) for name in ("waggle.json", "environments"))
    data = b""
    for line in segment.read_bytes().rstrip(lines.BLANK).splitlines(keepends=True):
        content = lines.decode(line.rstrip())
        assert content is not None
        if checkpoint := content.get("checkpoint"):
            # It names the place where it was made: say that this was here.
            checkpoint["place"] = f"{documents.st_ino:x}-{marker.st_ino:x}-{marker.st_ctime_ns:x}"
            checkpoint["offset"] = len(data) if checkpoint["through"] else 0
            line = lines.encode("checkpoint", checkpoint)
        data += line
    segment.write_bytes(data.ljust(1 << 16))
    return root


def test_store_of_earlier_version_is_no_copy(earlier: Path) -> None:
    """A checkpoint of an earlier version counts: what was removed before it stays removed."""
    (earlier / "environments" / "b.json").unlink()
    (earlier / "environments" / "d.json").unlink()
    with FileStore(earlier) as store:
        assert [environment.name for environment in store.find_all()] == ["a1", "d1"]
        assert [event.seq for event in store.history()] == [1, 2, 3, 4, 5, 6]
        assert store.save(make_environment(id="e")) == 7
    checkpoint = last_checkpoint(Layout(str(earlier)))
    assert checkpoint is not None
    # Earlier versions find the place that they know.
    assert checkpoint["place"] == state.marker_id(Layout(str(earlier)))


def test_copy_of_store_of_earlier_version_is_recognized(earlier: Path, tmp_path: Path) -> None:
    """Its checkpoint does not count elsewhere."""
    shutil.copytree(earlier, tmp_path / "copy")
    (tmp_path / "copy" / "environments" / "b.json").unlink()
    assert names(tmp_path / "copy") == ["a1", "b2", "d1"]
