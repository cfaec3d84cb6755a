# SPDX-License-Identifier: Apache-2.0
"""When a signature proves that a file is unchanged."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from waggle_fsstore.store.fs import linux
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.read import stat_signature
from waggle_fsstore.store.read.stat_signature import settled_signature, signature_of

pytestmark = pytest.mark.usefixtures("trusted_change_times")

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND + 5


def status(changed: int, mode: int = stat.S_IFREG | 0o600) -> Any:
    rest = {"st_ino": 1, "st_size": 1, "st_mtime_ns": changed}
    return SimpleNamespace(st_ctime_ns=changed, st_mode=mode, st_dev=1, **rest)


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
def test_file_settles_two_seconds_after_its_change(changed: int, settled: bool) -> None:
    """A change time that a later change may share, or that lies ahead, proves nothing."""
    assert (settled_signature(status(changed), "directory", NOW) is not None) == settled


def test_whole_second_times_never_settle() -> None:
    """A file system that counts whole seconds too easily gives two changes the same time."""
    assert settled_signature(status(NOW - 60 * SECOND - 5), "directory", NOW) is None


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_irregular_files_never_settle(kind: int) -> None:
    """The target of a link or a device can change while the link stays the same."""
    assert settled_signature(status(NOW - 60 * SECOND, kind), "directory", NOW) is None


def test_nothing_settles_without_clock() -> None:
    """Without a clock of file times, shown by a 0, no file settles."""
    assert settled_signature(status(1), "directory", 0) is None


def test_file_clock_is_never_ahead_of_changes(tmp_path: Path) -> None:
    """No change gets a time before an earlier reading of the clock."""
    path = tmp_path / "file"
    for number in range(200):
        before = file_clock()
        path.write_text(str(number))
        assert path.stat().st_ctime_ns >= before


def test_unknown_file_systems_are_untrusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type of the file system decides; files mounted from another one are untrusted."""
    monkeypatch.undo()
    device = tmp_path.stat().st_dev
    for kind, trusted in [("ext4", True), ("vfat", False), ("nfs4", False), ("", False)]:
        monkeypatch.setattr(linux, "filesystem_type", lambda _, kind=kind: kind)
        stat_signature._has_change_times.cache_clear()
        assert stat_signature._has_change_times(str(tmp_path), device) == trusted
        assert not stat_signature._has_change_times(str(tmp_path), device + 1)
    stat_signature._has_change_times.cache_clear()


def test_every_kind_of_change_alters_signature(tmp_path: Path) -> None:
    """A change of contents, mode, links, name or times gives another signature."""
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
