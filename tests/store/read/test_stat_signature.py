# SPDX-License-Identifier: Apache-2.0
"""When a file is known to be as it was."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from waggle_fsstore.store.fs import linux
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.read import stat_signature
from waggle_fsstore.store.read.stat_signature import is_settled, signature_of

pytestmark = pytest.mark.usefixtures("trusted_change_times")

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND + 5


def status(changed: int, mode: int = stat.S_IFREG | 0o600) -> Any:
    return SimpleNamespace(st_ctime_ns=changed, st_mode=mode, st_dev=1)


@pytest.mark.parametrize(
    ("changed", "settled"),
    [
        (NOW - 3 * SECOND, True),
        (NOW - 2 * SECOND - 1, True),
        (NOW - 2 * SECOND, False),
        (NOW - 1, False),
        (NOW + 1, False),
        (NOW + 3600 * SECOND, False),
    ],
)
def test_only_what_was_changed_some_time_ago_is_settled(changed: int, settled: bool) -> None:
    """A time that a change to come may have too tells nothing; nor does one to come."""
    assert is_settled(status(changed), "folder", NOW) == settled


def test_times_of_whole_seconds_are_not_trusted() -> None:
    """A file system that counts in seconds gives two changes the same time too easily."""
    assert not is_settled(status(NOW - 60 * SECOND - 5), "folder", NOW)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_only_regular_files_settle(kind: int) -> None:
    """What is behind a link or a device changes without it."""
    assert not is_settled(status(NOW - 60 * SECOND, kind), "folder", NOW)


def test_no_clock_no_trust() -> None:
    """Where there is no clock of files, which is told by a 0, nothing settles."""
    assert not is_settled(status(1), "folder", 0)


def test_the_clock_of_files_is_not_behind(tmp_path: Path) -> None:
    """A change is never given a time before what the clock said already."""
    path = tmp_path / "file"
    for number in range(200):
        before = file_clock()
        path.write_text(str(number))
        assert path.stat().st_ctime_ns >= before


def test_only_known_file_systems_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type of the file system decides, and files of another one in its folder do not count."""
    monkeypatch.undo()
    device = tmp_path.stat().st_dev
    for kind, trusted in [("ext4", True), ("vfat", False), ("nfs4", False), ("", False)]:
        monkeypatch.setattr(linux, "filesystem_type", lambda _, kind=kind: kind)
        stat_signature._has_change_times.cache_clear()
        assert stat_signature._has_change_times(str(tmp_path), device) == trusted
        assert not stat_signature._has_change_times(str(tmp_path), device + 1)
    stat_signature._has_change_times.cache_clear()


def test_a_signature_knows_each_sort_of_change(tmp_path: Path) -> None:
    """Contents, mode, links, name, and a time set back: each gives another signature."""
    path = tmp_path / "file"
    path.write_text("before")
    other = tmp_path / "other"
    with path.open("rb") as file:
        first = os.fstat(file.fileno())
        seen = [signature_of(first)]
        for change in (
            lambda: path.write_text("after!"),
            lambda: os.utime(path, ns=(first.st_atime_ns, first.st_mtime_ns)),
            lambda: path.chmod(0o400),
            lambda: path.chmod(0o600),
            lambda: os.link(path, other),
            lambda: other.unlink(),
            lambda: os.rename(path, other),
            lambda: os.rename(other, path),
        ):
            while file_clock() <= seen[-1][0]:
                pass
            change()
            seen.append(signature_of(os.fstat(file.fileno())))
    assert len(set(seen)) == len(seen)
