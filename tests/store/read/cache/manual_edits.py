# SPDX-License-Identifier: Apache-2.0
"""Manual edits: the ways in which an operator or another program changes a document."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from waggle_fsstore import FileStore


def rewrite(path: Path, data: bytes) -> None:
    """Overwrite a file in place, as some editors do; its size stays the same."""
    with path.open("r+b") as file:
        file.write(data)


def edited(path: Path) -> bytes:
    data = path.read_bytes()
    assert b'"before"' in data
    return data.replace(b'"before"', b'"after!"')


def in_place(path: Path) -> None:
    rewrite(path, edited(path))


def in_place_with_its_time(path: Path) -> None:
    before = path.stat()
    rewrite(path, edited(path))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _mapped(path: Path) -> None:
    import mmap

    data = edited(path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = data


def by_rename(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(edited(path))
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)


def _copied_with_times(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(edited(path))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    subprocess.run(["cp", "-p", other, path], check=True)


def _linked(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(edited(path))
    link = path.with_name("link")
    os.link(other, link)
    link.replace(path)


def _edited_through_a_link(path: Path) -> None:
    link = path.with_name("link")
    os.link(path, link)
    rewrite(link, edited(link))
    link.unlink()


def _recreated(path: Path) -> None:
    data = edited(path)
    path.unlink()
    path.write_bytes(data)  # Many file systems reuse the inode.


def _swapped(path: Path) -> None:
    a, spare = path.with_name("a.json"), path.with_name("spare")
    path.rename(spare)
    a.rename(path)
    spare.rename(a)


def away_and_back(path: Path) -> None:
    away = path.with_name("away")
    path.rename(away)
    rewrite(away, edited(away))
    away.rename(path)


def _link_to_a_good_one(path: Path) -> None:
    path.rename(path.with_name("target"))
    path.symlink_to("target")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _another_directory(path: Path) -> None:
    old, new = path.parent.with_name("old"), path.parent.with_name("new")
    shutil.copytree(path.parent, new)
    rewrite(new / path.name, edited(path))
    path.parent.rename(old)
    new.rename(path.parent)
    shutil.rmtree(old)


EDITS: dict[str, Callable[[Path], object]] = {
    "in place": in_place,
    "in place, its time set back": in_place_with_its_time,
    "in place, through a map": _mapped,
    "in place, through a link": _edited_through_a_link,
    "in place, while it was away": away_and_back,
    "renamed over": by_rename,
    "cp -p": _copied_with_times,
    "another link": _linked,
    "deleted and recreated": _recreated,
    "swapped with another": _swapped,
    "cut short": lambda path: os.truncate(path, 100),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "no longer readable": lambda path: path.chmod(0),
    "a symbolic link": _link_to_a_good_one,
    "a pipe": _pipe,
    "a directory": _directory,
    "another directory of documents": _another_directory,
}


def rewrite_often(store: FileStore) -> None:
    """Check that each of 500 rewrites of the same size is seen at once."""
    path = store.document_path("b")
    data = path.read_bytes()
    for number in range(500):
        name = f'"{number:06}"'.encode()
        rewrite(path, data.replace(b'"before"', name))
        assert store.find_all()[1].name == f"{number:06}"
