# SPDX-License-Identifier: Apache-2.0
"""Access to files keeps to the workspace while the programs in it change paths."""

import ctypes
import errno
import os
import resource
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.provider.conftest import NODE, SHELL, environment, failure_of, mode_of, umask
from waggle_fsstore import Environment, WorkspaceGoneError, WorkspacePathError
from waggle_fsstore.provider import files as module
from waggle_fsstore.provider import layout
from waggle_fsstore.provider.emptying import remove_tree
from waggle_fsstore.provider.files import WorkspaceFiles
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.sandbox.limits import MIB
from waggle_fsstore.testing import FilesContract

SECRET = b"of the host"
ROUNDS = 1500


class TestWorkspaceFiles(FilesContract):
    @pytest.fixture
    def files(self, root: Path, home: Path) -> WorkspaceFiles:  # noqa: ARG002
        return WorkspaceFiles(root)

    @pytest.fixture
    def environment(self) -> Environment:
        return SHELL


@pytest.fixture
def home(provider: LocalProvider) -> Path:
    """The home directory of a new workspace."""
    provider.create(SHELL)
    return Path(provider.locate(SHELL))


@pytest.fixture
def files(root: Path, home: Path) -> WorkspaceFiles:  # noqa: ARG001
    return WorkspaceFiles(root)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host with a file, neither of which a test changes."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_bytes(SECRET)
    yield directory
    assert (directory / "file").read_bytes() == SECRET
    assert os.listdir(directory) == ["file"]


def read(files: WorkspaceFiles, path: str) -> bytes:
    return files.read(SHELL, path, offset=0, limit=1_000_000).content


def calls(files: WorkspaceFiles, path: str) -> list[Callable[[], object]]:
    """Return a read, a write and a listing of the path."""
    return [
        lambda: read(files, path),
        lambda: files.write(SHELL, path, b"written"),
        lambda: files.entries(SHELL, path),
    ]


def assert_refused(files: WorkspaceFiles, path: str, reason: str) -> None:
    for call in calls(files, path):
        with pytest.raises(WorkspacePathError) as caught:
            call()
        assert reason in caught.value.reason
        assert caught.value.workspace_path == path


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


@contextmanager
def in_time() -> Iterator[None]:
    """Interrupt a system call of the block that does not return."""

    def fail(*_: object) -> None:
        raise AssertionError("blocked")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def exchange(one: Path, other: Path) -> None:
    """Exchange two entries in one step, or skip the test."""
    libc, exchanging = ctypes.CDLL(None, use_errno=True), 2
    arguments = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        result = libc.renamex_np(*arguments, exchanging)
    elif hasattr(libc, "renameat2"):
        here = -100  # AT_FDCWD
        result = libc.renameat2(here, arguments[0], here, arguments[1], exchanging)
    else:
        pytest.skip("no function of the C library exchanges two entries")
    if result:
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            pytest.skip("this file system cannot exchange two entries")
        raise OSError(code, os.strerror(code))


def after(
    patch: pytest.MonkeyPatch, function: str, name: str, change: Callable[[], object]
) -> Callable[[], bool]:
    """Make a change after the first call of a function of ``os`` for a name; return if it was."""
    real = getattr(os, function)
    is_due = True

    def changing(path: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal is_due
        result = real(path, *arguments, **options)
        if path == name.encode() and is_due:
            is_due = False
            change()
        return result

    patch.setattr(os, function, changing)
    return lambda: not is_due


# Links


@pytest.mark.parametrize(
    "target",
    [
        *(
            "{outside}",
            "{outside}/.",
            "../../../outside",
            "/..{outside}",
            "/proc/self/root{outside}",
        ),
        *("/home/sandbox/../../..{outside}", "/home/sandbox/../../../outside", "/var/tmp"),  # noqa: S108
        *("dir/../..", "..", "../", "/", "../../b/home", "{home}", "{home}/..", "/home/other"),
    ],
)
def test_link_out_of_workspace_is_refused(
    files: WorkspaceFiles,
    provider: LocalProvider,
    home: Path,
    outside: Path,
    target: str,
) -> None:
    """Nothing is read, written or listed through a link that leads out, to wherever."""
    provider.create(environment("b"))
    (home / "dir").mkdir()
    (home / "link").symlink_to(target.format(outside=outside, home=home))
    (home / "second").symlink_to("link")
    (home / "dir" / "third").symlink_to("../link/file")
    for path in ("link", "link/", "link/file", "link/new/file", "second/file", "dir/third"):
        assert_refused(files, path, "leads out of the workspace")
    assert os.listdir(provider.locate(environment("b"))) == []
    assert sorted(os.listdir(home)) == ["dir", "link", "second"]
    assert sorted(os.listdir(home.parent)) == [".waggle-workspace", "home", "tmp"]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        *(("link", "dir"), ("link", "./dir/"), ("link", "/home/sandbox/dir"), ("dir/link", ".")),
        *(
            ("dir/link", "../dir"),
            ("link", "/home//./sandbox/dir/."),
            ("dir/link", "../dir/../dir"),
        ),
        *(("link", "tmp/b"), ("tmp/link", "b")),
    ],
)
def test_link_in_workspace_is_followed(
    files: WorkspaceFiles, home: Path, link: str, target: str
) -> None:
    """A link means what it means to a program in the environment, so its target may be absolute."""
    (home / "dir").mkdir()
    (home / "tmp").symlink_to("/tmp")  # noqa: S108
    (home.parent / "tmp" / "b").symlink_to("/home/sandbox/dir")
    os.symlink(target, home.parent / "tmp" / "link" if link == "tmp/link" else home / link)
    files.write(SHELL, f"{link}/new/file", b"1")
    assert (home / "dir" / "new" / "file").read_bytes() == b"1"
    assert read(files, f"{link}/new/file") == b"1"
    assert [entry.name for entry in files.entries(SHELL, f"{link}/new")] == ["file"]


def test_dangling_link_is_written_through(files: WorkspaceFiles, home: Path) -> None:
    """The target of a link is missing for a read, and made by a write, as for a program."""
    (home / "dir").mkdir()
    (home / "dir" / "link").symlink_to("../target")
    with pytest.raises(WorkspacePathError, match="does not exist"):
        read(files, "dir/link")
    files.write(SHELL, "dir/link", b"1")
    assert (home / "target").read_bytes() == b"1"
    assert (home / "dir" / "link").is_symlink()


def test_looped_link_is_refused(files: WorkspaceFiles, home: Path) -> None:
    """Links that lead to themselves or to each other end the walk."""
    (home / "self").symlink_to("self")
    (home / "absolute").symlink_to("/home/sandbox/absolute/x")
    (home / "one").symlink_to("two")
    (home / "two").symlink_to("one")
    for path in ("self", "self/file", "absolute", "one", "two/file"):
        assert_refused(files, path, "leads through more than 40 links")


def test_chain_of_links_is_limited(files: WorkspaceFiles, home: Path) -> None:
    """As many links are followed as Linux follows, and no more."""
    (home / "0").write_bytes(b"1")
    for number in range(1, 42):
        (home / str(number)).symlink_to(str(number - 1))
    assert read(files, "40") == b"1"
    with pytest.raises(WorkspacePathError, match="leads through more than 40 links"):
        read(files, "41")


# What is no regular file


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_special_file_is_refused_at_once(
    files: WorkspaceFiles, home: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A pipe, a socket or a device is neither opened nor walked through, and nothing blocks."""
    monkeypatch.chdir(home)  # The address of a socket has to be short.
    if kind == "pipe":
        os.mkfifo("special")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("special")
    else:
        try:
            os.mknod("special", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root can make devices, and not everywhere")
    Path("link").symlink_to("special")
    for path in ("special", "link"):
        read_it, write_it, list_it = calls(files, path)
        for call, wanted in ((read_it, "file"), (write_it, "file"), (list_it, "directory")):
            with in_time(), pytest.raises(WorkspacePathError) as caught:
                call()
            assert caught.value.reason == f"is not a {wanted}, but a {kind}"
        with in_time():
            assert_refused(files, f"{path}/file", f"leads through a {kind}")


# What programs change on the way


def test_file_swapped_for_link_leads_nowhere(
    files: WorkspaceFiles, home: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that becomes a link after the server has looked at it is not followed."""

    def swap() -> None:
        (home / "file").unlink()
        (home / "file").symlink_to(outside / "file")

    for call in calls(files, "file")[:2]:
        with suppress(FileNotFoundError):
            (home / "file").unlink()
        (home / "file").write_bytes(b"1")
        with monkeypatch.context() as patch:
            has_changed = after(patch, "stat", "file", swap)
            with pytest.raises(WorkspacePathError, match="leads out of the workspace"):
                call()
        assert has_changed()


def test_directory_swapped_for_link_leads_nowhere(
    files: WorkspaceFiles, home: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a directory, on the way or at the end."""
    for number, path in enumerate(["file", "new/file", "."]):
        for kind, call in enumerate(calls(files, f"dir-{number}/{path}")):
            directory, link = home / f"dir-{number}", home / f"link-{number}-{kind}"
            directory.mkdir()
            link.symlink_to(outside)
            with monkeypatch.context() as patch:
                has_changed = after(
                    patch, "stat", directory.name, partial(exchange, directory, link)
                )
                with pytest.raises(WorkspacePathError, match="leads out of the workspace"):
                    call()
            assert has_changed()
            directory.unlink()


def test_file_swapped_for_pipe_does_not_block(
    files: WorkspaceFiles, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that becomes a pipe after the server has looked at it is not waited for."""

    def swap() -> None:
        (home / "file").unlink()
        os.mkfifo(home / "file")

    for call in calls(files, "file")[:2]:
        with suppress(FileNotFoundError):
            (home / "file").unlink()
        (home / "file").write_bytes(b"1")
        before = descriptors()
        with monkeypatch.context() as patch:
            has_changed = after(patch, "stat", "file", swap)
            with in_time(), pytest.raises(WorkspacePathError, match="is not a file, but a pipe"):
                call()
        assert has_changed()
        assert descriptors() == before


def test_moved_directory_does_not_lead_up(
    files: WorkspaceFiles, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent of a directory is the one that the path has, wherever a program moves it."""
    (home / "a" / "b").mkdir(parents=True)

    def move() -> None:
        (home / "a" / "b").rename(home.parent / "tmp" / "b")
        (home / "a" / "b").mkdir()

    has_changed = after(monkeypatch, "open", "b", move)
    with pytest.raises(WorkspacePathError, match="does not exist"):
        read(files, "a/b/../../.waggle-workspace")
    assert has_changed()


def test_file_made_concurrently_is_overwritten(
    files: WorkspaceFiles, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may make the file or its directory after the server has found it missing."""
    real = os.stat

    def look(path: Any, **options: Any) -> os.stat_result:
        try:
            return real(path, **options)
        except FileNotFoundError:
            if path == b"dir":
                (home / "dir").mkdir()
            elif path == b"file":
                (home / "dir" / "file").write_bytes(b"of the program")
            raise

    monkeypatch.setattr(os, "stat", look)
    files.write(SHELL, "dir/file", b"1")
    assert (home / "dir" / "file").read_bytes() == b"1"


def test_directory_swapped_at_each_look_ends_the_walk(
    files: WorkspaceFiles, home: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is always faster than the server makes it give up, and wait for nothing."""
    (home / "dir").mkdir()
    (home / "link").symlink_to(outside)
    real = os.stat

    def look(path: Any, **options: Any) -> os.stat_result:
        if path != b"dir":
            return real(path, **options)
        if (home / "dir").is_symlink():
            exchange(home / "dir", home / "link")
        found = real(path, **options)
        exchange(home / "dir", home / "link")
        return found

    monkeypatch.setattr(module, "_MAX_STEPS", 100)
    monkeypatch.setattr(os, "stat", look)
    for call in calls(files, "dir/file"):
        with pytest.raises(WorkspacePathError, match="takes too long to resolve"):
            call()


def test_directory_exchanged_for_link_all_the_time_leads_nowhere(
    files: WorkspaceFiles, home: Path, outside: Path
) -> None:
    """While a program keeps exchanging a directory and a link, nothing outside is touched."""
    (home / "dir").mkdir()
    (home / "dir" / "file").write_bytes(b"inside")
    (home / "link").symlink_to(outside)
    barrier, is_over = threading.Barrier(2), threading.Event()

    def attack() -> None:
        barrier.wait()
        while not is_over.is_set():
            exchange(home / "dir", home / "link")

    results: list[object] = []
    reasons: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        attacking = pool.submit(attack)
        barrier.wait()
        try:
            for _ in range(ROUNDS):
                for call in (
                    lambda: read(files, "dir/file"),
                    lambda: files.write(SHELL, "dir/file", b"inside"),
                    lambda: files.write(SHELL, "dir/second", b"1"),
                    lambda: files.entries(SHELL, "dir")[0].size,
                ):
                    try:
                        results.append(call())
                    except WorkspacePathError as error:
                        reasons.append(error.reason)
        finally:
            is_over.set()
        attacking.result()
    assert set(results) <= {b"inside", b"", 6, 0, 1}
    assert {reason.partition(",")[0] for reason in reasons} == {"leads out of the workspace"}


# Limits


def test_deep_path_needs_few_descriptors(files: WorkspaceFiles, home: Path) -> None:
    """A path of a thousand directories is walked with three descriptors, also back up."""
    path = "d/" * 1000
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(map(int, descriptors()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 5, limits[1]))
        files.write(SHELL, f"{path}file", b"1")
        assert read(files, f"{path}../../{'d/' * 2}file") == b"1"
        assert [entry.name for entry in files.entries(SHELL, path)] == ["file"]
        with pytest.raises(WorkspacePathError, match="takes too long to resolve"):
            read(files, path + "../" * 600)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        remove_tree(str(home))


def test_access_leaks_no_descriptor(files: WorkspaceFiles, home: Path, outside: Path) -> None:
    """Whether a call succeeds or fails, it closes what it has opened."""
    os.mkfifo(home / "pipe")
    (home / "out").symlink_to(outside)
    (home / "loop").symlink_to("loop")
    (home / "home").symlink_to("/home/sandbox")
    before = descriptors()
    paths = [
        "file",
        "dir/file",
        "home/dir/../file",
        "dir",
        "pipe",
        "out/file",
        "loop/file",
        "no/no",
    ]
    for path in [*paths, "..", "dir/../..", "/etc", "", "x" * 300, "home/home/" * 20]:
        for call in calls(files, path):
            with suppress(WorkspacePathError):
                call()
    with suppress(WorkspaceGoneError):
        files.read(environment("other"), "file", offset=0, limit=1)
    assert descriptors() == before
    assert (home / "dir" / "file").read_bytes() == b"written"


def test_long_directory_is_refused(files: WorkspaceFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with more entries than the limit is refused, and the reason has the limit."""
    monkeypatch.setattr(module, "_MAX_ENTRIES", 3)
    for name in "abc":
        files.write(SHELL, f"dir/{name}", b"")
    assert len(files.entries(SHELL, "dir")) == 3
    files.write(SHELL, "dir/d", b"")
    with pytest.raises(WorkspacePathError, match="has more than 3 entries"):
        files.entries(SHELL, "dir")


# What a write leaves


def test_write_ignores_umask(files: WorkspaceFiles, home: Path) -> None:
    """What a write makes has the usual modes, under any umask of the server."""
    with umask(0o077):
        files.write(SHELL, "dir/file", b"")
    assert mode_of(home / "dir") == 0o755
    assert mode_of(home / "dir" / "file") == 0o644


def test_overwritten_file_keeps_mode_and_links(files: WorkspaceFiles, home: Path) -> None:
    """A write changes the content in its place, so mode and hard links stay."""
    script = home / "script"
    script.write_bytes(b"old")
    script.chmod(0o750)
    (home / "same").hardlink_to(script)
    files.write(SHELL, "script", b"new")
    assert mode_of(script) == 0o750
    assert (home / "same").read_bytes() == b"new"


def test_new_files_belong_to_owner(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each directory and file that a write makes is given to the owner of the home directory."""
    given = {}

    def give(descriptor: int, user: int, group: int) -> None:
        given[os.fstat(descriptor).st_ino] = (user, group)

    real = os.geteuid()
    owner = home.stat()
    monkeypatch.setattr(os, "fchown", give)
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    (home / "old").mkdir()
    files = WorkspaceFiles(root)
    files.write(SHELL, "old/dir/below/file", b"1")
    directory = home / "old" / "dir"
    made = [directory, directory / "below", directory / "below" / "file"]
    assert given == {path.stat().st_ino: (owner.st_uid, owner.st_gid) for path in made}
    given.clear()
    files.write(SHELL, "old/dir/below/file", b"2")
    read(files, "old/dir/below/file")
    assert given == {}


def test_write_beyond_limit_of_workspace_is_refused(root: Path, home: Path) -> None:
    """A workspace takes no more than its limit, with all that is in it, and can be emptied."""
    files = WorkspaceFiles(root, max_bytes=100_000)
    (home / "old").write_bytes(b"1" * 60_000)
    with pytest.raises(WorkspacePathError, match="may take 100000 bytes"):
        files.write(SHELL, "new", b"2" * 60_000)
    assert not (home / "new").exists()
    (home / "old").unlink()
    assert files.write(SHELL, "new", b"2" * 60_000) == 60_000
    with pytest.raises(WorkspacePathError, match="may take 100000 bytes"):
        files.write(SHELL, "third", b"3" * 60_000)


def test_room_that_programs_have_taken_is_taken(root: Path, home: Path) -> None:
    """What a program wrote between two writes counts too, and so does what it removed."""
    files = WorkspaceFiles(root, max_bytes=8 * MIB)
    files.write(SHELL, "small", b"1")
    (home / "large").write_bytes(bytes(7 * MIB))
    with pytest.raises(WorkspacePathError, match="may take"):
        files.write(SHELL, "new", bytes(2 * MIB))
    (home / "large").unlink()
    assert files.write(SHELL, "new", bytes(2 * MIB)) == 2 * MIB


def test_full_disk_leaves_part_of_file(
    files: WorkspaceFiles, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails on the way says why, and leaves what was written."""
    real = os.write

    def write(descriptor: int, content: Any) -> int:
        if len(content) <= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:3])

    monkeypatch.setattr(os, "write", write)
    before = descriptors()
    failure = failure_of(files.write, SHELL, "file", b"0123456789")
    assert failure.reason == "cannot write the file: No space left on device"
    assert descriptors() == before
    assert (home / "file").read_bytes() == b"012345"


def test_short_system_calls_are_continued(
    files: WorkspaceFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads and writes that the kernel ends early are continued."""
    write, pread = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:3]))
    monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, 3), at))
    files.write(SHELL, "file", b"0123456789")
    assert read(files, "file") == b"0123456789"


# Entries


def test_links_are_listed_as_links(files: WorkspaceFiles, home: Path, outside: Path) -> None:
    """An entry says nothing about what a link points to."""
    (home / "dir").symlink_to(outside)
    (home / "nowhere").symlink_to("missing")
    found = [(one.name, one.is_dir, one.mode[0], one.size) for one in files.entries(SHELL, ".")]
    assert found == [("dir", False, "l", len(str(outside))), ("nowhere", False, "l", 7)]


def test_entry_that_vanishes_is_skipped(
    files: WorkspaceFiles, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that a program removes while its directory is listed is left out."""
    real = os.scandir

    @contextmanager
    def scan(directory: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        with real(directory) as entries:
            found = list(entries)
            (home / "a").unlink()
            yield iter(found)

    for name in "abc":
        files.write(SHELL, name, b"")
    monkeypatch.setattr(os, "scandir", scan)
    assert [entry.name for entry in files.entries(SHELL, ".")] == ["b", "c"]


def test_name_of_bytes_is_shown_with_question_marks(files: WorkspaceFiles, home: Path) -> None:
    """Each byte of a name that is not UTF-8 is a question mark; the file itself can be read."""
    try:
        Path(os.fsdecode(os.fsencode(home) + b"/a\xff\xfeb")).write_bytes(b"1")
    except OSError:
        pytest.skip("this file system refuses such names")
    (home / "\ufffd").write_bytes(b"")
    assert [entry.name for entry in files.entries(SHELL, ".")] == ["a??b", "\ufffd"]
    assert read(files, "a\udcff\udcfeb") == b"1"


@pytest.mark.parametrize(("modified_s", "year"), [(-(1 << 60), 1), (1 << 60, 9999), (0, 1970)])
def test_any_time_of_file_is_shown(modified_s: int, year: int) -> None:
    """A program can give a file a time that no date can show: the nearest one is shown."""
    status = os.stat_result((stat.S_IFREG, 1, 1, 1, 0, 0, 0, 0, modified_s, 0))
    assert module._file_entry("file", status).modified.year == year


# Workspaces


def test_unusable_workspace_is_reported(
    files: WorkspaceFiles, provider: LocalProvider, home: Path, outside: Path
) -> None:
    """What has no whole workspace has no files, and the reason says what is wrong."""
    workspace = home.parent
    reason = failure_of(files.entries, environment(runtime=NODE.runtime), ".").reason
    assert reason == "its workspace was made for another environment"
    (workspace / ".waggle-workspace").unlink()
    assert failure_of(files.entries, SHELL, ".").reason == "its workspace is incomplete"
    workspace.rename(outside.parent / "moved")
    assert failure_of(files.entries, SHELL, ".").reason == "its workspace is gone"
    workspace.symlink_to(outside.parent / "moved")
    assert failure_of(files.entries, SHELL, ".").reason == "its workspace is not a directory"
    workspace.unlink()
    provider.root.rename(outside.parent / "moved-root")
    assert "mount its disk" in failure_of(files.entries, SHELL, ".").reason


def test_workspace_removed_on_the_way_is_gone(
    files: WorkspaceFiles, provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workspace may be removed at any time, which is no fault of the path."""
    require = layout.require

    def require_then_remove(*arguments: Any) -> object:
        found = require(*arguments)
        provider.remove(SHELL)
        return found

    monkeypatch.setattr(layout, "require", require_then_remove)
    failure = failure_of(files.write, SHELL, "file", b"")
    assert isinstance(failure, WorkspaceGoneError)
