# SPDX-License-Identifier: Apache-2.0
"""Writing files: only into the file that was opened."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.store.fs.disk import Disk, open_to_write, temp_path
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.testing import make_environment

_WRITES: dict[str, Callable[[str], object]] = {
    "temp": lambda path: Disk(durable=False).write_temp(path, b"new"),
    "in place": lambda path: InPlaceFile(path).overwrite(b"new"),
    "append": open_to_write,
}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("write", _WRITES)
def test_simulated_open_reaches_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str, exists: bool
) -> None:
    """A simulation of ``os.open`` has its own numbers, which are those of real files here."""
    path, precious = tmp_path / "file", tmp_path / "precious"
    if exists:
        path.touch()
    precious.write_bytes(b"precious")
    with precious.open("r+b") as file:
        monkeypatch.setattr(os, "open", lambda *_, **__: file.fileno())
        with pytest.raises(OSError, match=r"a simulated os\.open") as caught:
            _WRITES[write](str(path))
        monkeypatch.undo()
        assert file.read() == b"precious"  # The real file is still open, too.
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, str(path))
    assert precious.stat().st_mode & 0o777 != 0o600


def test_observed_open_is_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may wrap ``os.open``, as long as the files are the real ones."""

    def observed(*arguments: Any, real: Any = os.open, **options: Any) -> int:
        descriptor: int = real(*arguments, **options)
        return descriptor

    monkeypatch.setattr(os, "open", observed)
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="a"))
        assert store.count() == 1


def test_temp_files_are_named_without_system_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save draws no random number, and does not ask the system which user it runs as."""

    def refuse(*_: object) -> None:
        raise AssertionError("a system call that each save would make")

    with FileStore(tmp_path / "store", durable=False) as store:
        store.save(make_environment(id="a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "urandom", refuse)
            patch.setattr(os, "geteuid", refuse, raising=False)
            store.save(make_environment(id="a"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_gives_other_temp_names() -> None:
    """Parent and child, which continue from one state, give no name twice."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, temp_path("").encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as names:
        assert names.read() not in {"", temp_path("")}
