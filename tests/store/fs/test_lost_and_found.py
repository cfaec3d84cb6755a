# SPDX-License-Identifier: Apache-2.0
"""What goes to lost+found, and that each content is kept once."""

import errno
import os
from pathlib import Path

import pytest

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.lost_and_found import move_in, save_copy

DISK = Disk(durable=False)


@pytest.fixture
def layout(root: Path) -> Layout:
    root.mkdir()
    return Layout(str(root))


def test_equal_contents_are_kept_once(layout: Layout) -> None:
    """The same contents get one file, other contents the next number."""
    first = save_copy(layout, DISK, "a", ".json", 3, b"one")
    other = save_copy(layout, DISK, "a", ".json", 3, b"two")
    assert [Path(path).name for path in (first, other)] == ["a.3.json", "a.4.json"]
    assert save_copy(layout, DISK, "a", ".json", 3, b"two") == other
    assert save_copy(layout, DISK, "a", ".json", 3, b"one") == first


def test_unreadable_file_stops_no_copy(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in lost+found that cannot be read is not equal to anything, and no failure."""
    save_copy(layout, DISK, "a", ".json", 1, b"one")

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(lost_and_found, "read_regular", fail)
    monkeypatch.setattr(lost_and_found, "_are_equal", fail)
    assert Path(save_copy(layout, DISK, "a", ".json", 1, b"one")).name == "a.2.json"
    source = Path(layout.root, "bad.json")
    source.write_bytes(b"one")
    assert Path(move_in(layout, DISK, str(source), "a", ".json", 1)).name == "a.3.json"


def test_copy_lists_no_directory(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy looks at files of its own stem only, however full lost+found is."""
    save_copy(layout, DISK, "a", ".json", 1, b"one")
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("lost+found is listed"))
    assert Path(save_copy(layout, DISK, "b", ".json", 1, b"one")).name == "b.1.json"
