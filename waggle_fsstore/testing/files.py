# SPDX-License-Identifier: Apache-2.0
"""The contract of access to the files of environments."""

from datetime import UTC, datetime, timedelta

import pytest

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import ProviderError, WorkspacePathError
from waggle_fsstore.domain.workspace_file import MAX_FILE_BYTES, SANDBOX_HOME
from waggle_fsstore.service.files import Files
from waggle_fsstore.testing.factories import make_environment

_ALL = 1 << 30


class FilesContract:
    """Subclass it and define two fixtures: ``files``, and ``environment``, which has a workspace.

    The workspace may have files already, but none whose name begins with ``test``.
    """

    @pytest.mark.parametrize("content", [b"", b"text\n", b"\0\xff\r\n" * 99_999])
    def test_written_file_is_read(
        self, files: Files, environment: Environment, content: bytes
    ) -> None:
        """A file has the bytes that were written, which may be any."""
        assert files.write(environment, "test", content) == len(content)
        assert files.read(environment, "test", offset=0, limit=_ALL) == (content, len(content))

    def test_read_returns_part(self, files: Files, environment: Environment) -> None:
        """A read returns the bytes from the offset up to the limit, and the size of the file."""
        files.write(environment, "test", b"0123456789")
        for offset in (0, 1, 9, 10, 11, 1 << 70):
            for limit in (0, 1, 5, 10, 11, 1 << 70):
                part = files.read(environment, "test", offset=offset, limit=limit)
                assert part.content == b"0123456789"[offset : offset + limit]
                assert part.size == 10

    def test_write_replaces_whole_file(self, files: Files, environment: Environment) -> None:
        """Nothing is left of a longer content."""
        files.write(environment, "test", b"a long content")
        files.write(environment, "test", b"short")
        assert _content(files, environment, "test") == b"short"

    def test_write_makes_missing_directories(self, files: Files, environment: Environment) -> None:
        """A write makes the directories on the way, and uses those that exist."""
        files.write(environment, "test/b/c/one", b"1")
        files.write(environment, "test/b/two", b"2")
        assert _content(files, environment, "test/b/c/one") == b"1"
        names = [(entry.name, entry.is_dir) for entry in files.entries(environment, "test/b")]
        assert names == [("c", True), ("two", False)]

    def test_absolute_path_is_that_of_programs(
        self, files: Files, environment: Environment
    ) -> None:
        """A path is relative to the home directory, or absolute as a program would write it."""
        files.write(environment, f"{SANDBOX_HOME}/test/file", b"1")
        assert _content(files, environment, "test/file") == b"1"
        names = [entry.name for entry in files.entries(environment, f"{SANDBOX_HOME}/test")]
        assert names == ["file"]
        assert files.entries(environment, ".") == files.entries(environment, SANDBOX_HOME)

    def test_temp_directory_is_beside_home(self, files: Files, environment: Environment) -> None:
        """The directory ``/tmp`` can be used, and is another one than the home directory."""
        files.write(environment, "/tmp/test/file", b"1")  # noqa: S108
        assert _content(files, environment, "/tmp//test/file") == b"1"  # noqa: S108
        assert "test" in [entry.name for entry in files.entries(environment, "/tmp/")]  # noqa: S108
        assert "test" not in [entry.name for entry in files.entries(environment, ".")]

    @pytest.mark.parametrize(
        "path",
        ["./test/b", "test//b", "test/./b", "test/../test/b", "test/c/../b", "test/c/d/../../b"],
    )
    def test_dots_in_path_are_resolved(
        self, files: Files, environment: Environment, path: str
    ) -> None:
        """A path may have dots and empty names in it, which mean what they mean to a program."""
        files.write(environment, "test/c/d/file", b"")
        files.write(environment, path, b"1")
        assert _content(files, environment, "test/b") == b"1"
        assert _content(files, environment, path) == b"1"

    @pytest.mark.parametrize(
        "path",
        [
            *("..", "../test", "test/../..", "test/../../a", "/tmp/..", "/tmp/../a"),  # noqa: S108
            *("/", "//", "/.", "/home", "/home/other/test", "/etc/passwd", f"{SANDBOX_HOME}2/test"),
            *(f"{SANDBOX_HOME}/..", f"{SANDBOX_HOME}/../test", "/proc/self/environ"),
            "/tmp2/test",  # noqa: S108
        ],
    )
    def test_path_out_of_workspace_is_refused(
        self, files: Files, environment: Environment, path: str
    ) -> None:
        """No path leads out of the home directory and ``/tmp``, past anything that is there."""
        files.write(environment, "test/file", b"")
        _assert_refused(files, environment, path, "leads out of the workspace")

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("", "is empty"),
            ("test\0", "has a NUL character"),
            ("\ud800", "is not valid Unicode"),
            ("test/" * 1000, "is longer than 4096 bytes"),
            ("x" * 300, "has a name that is too long"),
        ],
    )
    def test_invalid_path_is_refused(
        self, files: Files, environment: Environment, path: str, reason: str
    ) -> None:
        """A path that no file can have is refused with the reason."""
        _assert_refused(files, environment, path, reason)

    def test_missing_path_is_reported(self, files: Files, environment: Environment) -> None:
        """A missing file or directory is neither read nor listed, and no read makes it."""
        for path in ("test", "test/b", f"{SANDBOX_HOME}/test"):
            with pytest.raises(WorkspacePathError, match="does not exist") as caught:
                _content(files, environment, path)
            assert caught.value.workspace_path == path
            with pytest.raises(WorkspacePathError, match="does not exist"):
                files.entries(environment, path)

    @pytest.mark.parametrize("path", ["test", "test/", "test/.", "test/b/..", ".", SANDBOX_HOME])
    def test_directory_is_no_file(self, files: Files, environment: Environment, path: str) -> None:
        """A directory is neither read nor overwritten."""
        files.write(environment, "test/b/file", b"")
        for call in (
            lambda: _content(files, environment, path),
            lambda: files.write(environment, path, b""),
        ):
            with pytest.raises(WorkspacePathError, match="is not a file, but a directory"):
                call()

    def test_file_is_no_directory(self, files: Files, environment: Environment) -> None:
        """A file is not listed, and no path leads through it."""
        files.write(environment, "test", b"1")
        with pytest.raises(WorkspacePathError, match="is not a directory, but a file"):
            files.entries(environment, "test")
        for path in ("test/", "test/.", "test/..", "test/b", "test/b/c"):
            _assert_refused(files, environment, path, "leads through a file")
        assert _content(files, environment, "test") == b"1"

    def test_largest_file_is_written(self, files: Files, environment: Environment) -> None:
        """A file may have as many bytes as the limit says."""
        content = b"x" * MAX_FILE_BYTES
        assert files.write(environment, "test", content) == MAX_FILE_BYTES
        assert _content(files, environment, "test") == content

    def test_too_large_write_changes_nothing(self, files: Files, environment: Environment) -> None:
        """More bytes than that are refused before anything is changed."""
        files.write(environment, "test", b"1")
        for path in ("test", "test2/file"):
            with pytest.raises(WorkspacePathError, match=f"more than {MAX_FILE_BYTES}"):
                files.write(environment, path, b"x" * (MAX_FILE_BYTES + 1))
        assert _content(files, environment, "test") == b"1"
        assert "test2" not in [entry.name for entry in files.entries(environment, ".")]

    def test_entries_describe_files(self, files: Files, environment: Environment) -> None:
        """Entries are listed by name, with size, kind, mode, and the time of the last change."""
        before = datetime.now(UTC) - timedelta(seconds=5)
        for name in ("b", "é", "A", "a b", ".hidden", "-a", "line\nbreak", "\U0001f41d"):
            files.write(environment, f"test/{name}", b"12345")
        files.write(environment, "test/c/file", b"")
        found = files.entries(environment, "test")
        names = [entry.name for entry in found]
        assert names == ["-a", ".hidden", "A", "a b", "b", "c", "line\nbreak", "é", "\U0001f41d"]
        for entry in found:
            is_dir = entry.name == "c"
            assert entry.is_dir == is_dir
            assert entry.mode == ("drwxr-xr-x" if is_dir else "-rw-r--r--")
            assert is_dir or entry.size == 5
            assert before <= entry.modified <= datetime.now(UTC) + timedelta(seconds=5)
            assert entry.modified.utcoffset() == timedelta(0)

    def test_files_need_workspace(self, files: Files) -> None:
        """Where an environment has no workspace, nothing is read, written or listed."""
        environment = make_environment(id="unknown")
        for call in (
            lambda: _content(files, environment, "test"),
            lambda: files.write(environment, "test", b""),
            lambda: files.entries(environment, "."),
        ):
            with pytest.raises(ProviderError):
                call()


def _content(files: Files, environment: Environment, path: str) -> bytes:
    part = files.read(environment, path, offset=0, limit=_ALL)
    assert len(part.content) == part.size
    return bytes(part.content)


def _assert_refused(files: Files, environment: Environment, path: str, reason: str) -> None:
    """Assert that a path is neither read, written nor listed, for this reason."""
    for call in (
        lambda: _content(files, environment, path),
        lambda: files.write(environment, path, b"overwritten"),
        lambda: files.entries(environment, path),
    ):
        with pytest.raises(WorkspacePathError) as caught:
            call()
        assert reason in caught.value.reason
        assert caught.value.workspace_path == path
