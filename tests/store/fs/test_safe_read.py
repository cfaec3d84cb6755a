# SPDX-License-Identifier: Apache-2.0
"""Reads of single files: which errors concern the file, and which the process."""

import errno
import os
from pathlib import Path

import pytest

from waggle_fsstore import CorruptDocumentError, UnsupportedFormatError
from waggle_fsstore.store.fs.safe_read import BadFile, modified_at, read_or_error, read_regular


def fail(error: Exception) -> bytes:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        CorruptDocumentError("a.json", "is broken"),
        UnsupportedFormatError("a.json", 2, 1),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"),
        PermissionError(errno.EACCES, "Permission denied", "a.json"),
        OSError(errno.EIO, "Input/output error", "a.json"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_of_one_file_is_returned(error: BadFile) -> None:
    """An error that concerns one file is the result, so that other files are read on."""
    assert read_or_error(lambda: fail(error)) is error


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_lack_of_resources_is_raised(code: int) -> None:
    """A lack of descriptors or memory is raised with its errno and the path of the file."""
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        read_or_error(lambda: fail(OSError(code, os.strerror(code), "a.json")))
    assert (caught.value.errno, caught.value.filename) == (code, "a.json")


def test_other_errors_are_raised() -> None:
    """An error that does not concern a file, such as a bug, is raised."""
    with pytest.raises(KeyError):
        read_or_error(lambda: fail(KeyError("id")))


@pytest.mark.parametrize("size", [0, 1, 9, 10])
def test_regular_file_is_read(tmp_path: Path, size: int) -> None:
    """A file is read whole up to the limit, also if it is empty."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert read_or_error(lambda: read_regular(str(path), 10)) == b"x" * size
    os.utime(path, (5, 7.5))
    assert modified_at(str(path)) == 7.5


@pytest.mark.parametrize("kind", ["large", "link", "directory", "pipe", "device"])
def test_irregular_file_is_corrupt(tmp_path: Path, kind: str) -> None:
    """Anything but a regular file of bounded size is corrupt, and reading it never blocks."""
    path = tmp_path / "file"
    if kind == "large":
        path.write_bytes(b"x" * 11)
    elif kind == "link":
        path.symlink_to(__file__)
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path(os.devnull)
    with pytest.raises(CorruptDocumentError, match=f"is a.*{kind}|is larger than 10"):
        read_regular(str(path), 10)
