# SPDX-License-Identifier: Apache-2.0
"""Access to the files of workspaces on this machine, which programs may change at any time.

Those programs can replace any directory by a link while a path is being resolved. So the kernel
resolves no path below a workspace: each name is opened relative to the descriptor of its directory,
and never if it is a link, whose target is read and then walked as a path of the workspace.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Final

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import ProviderError, WorkspaceGoneError, WorkspacePathError
from waggle_fsstore.domain.workspace_file import MAX_FILE_BYTES, SANDBOX_HOME, FileEntry, FilePart
from waggle_fsstore.provider import layout
from waggle_fsstore.provider.layout import HOME, TMP
from waggle_fsstore.provider.sandbox.limits import DiskWatch
from waggle_fsstore.provider.workspace_dirs import dir_name

#: The modes of what is made here. It belongs to the agent, as if its programs had made it.
_FILE_MODE: Final = 0o644
_DIR_MODE: Final = 0o755

_MAX_PATH_BYTES: Final = 4096
_MAX_LINKS: Final = 40  # As in Linux.
_MAX_ENTRIES: Final = 10_000
_MAX_KNOWN: Final = 10_000

# How many names are looked at for one path. Each ".." walks again from the top.
_MAX_STEPS: Final = 10_000

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# Neither a pipe nor a lease of a program on its file (fcntl(2), F_SETLEASE) may block the server.
_FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK

# The directories of a workspace, and where a program in it finds them.
_MOUNTS: Final = {
    HOME: os.fsencode(SANDBOX_HOME).split(b"/")[1:],
    TMP: [b"tmp"],
}

# The errors of a call whose entry a program has just replaced by one of another kind, or made.
_REPLACED: Final = frozenset(
    {
        *(errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
        *(errno.ENXIO, errno.EOPNOTSUPP),  # Of pipes and sockets.
    }
)

# The errors that are those of the path.
_REASONS: Final = {
    errno.ENOENT: "does not exist",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.EILSEQ: "has a name that is not valid here",
}

_KINDS: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}

# Files can have any time, also one that a ``datetime`` cannot.
_FIRST_TIME_S: Final = datetime.min.replace(tzinfo=UTC).timestamp()
_LAST_TIME_S: Final = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()


class WorkspaceFiles:
    """The files of the workspaces in the directory ``root``, as ``Files`` describes.

    What is made belongs to the owner of the home directory; the umask has no influence. An existing
    file is overwritten in its place: its mode, owner and hard links stay. Those cannot lead out,
    because the home directory and ``/tmp`` are separate mounts of the sandbox, and no hard link
    crosses a mount. A workspace takes at most ``max_bytes``.

    A write that fails, on a full disk for example, leaves the directories that it made, and the
    file with a part of the content. Concurrent writes of one file can mix. Nothing is synced.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        max_bytes: int = sys.maxsize,
        provider_name: str = "local-2",
    ) -> None:
        self._root = os.path.abspath(root)
        self._max_bytes = max_bytes
        self._provider = provider_name
        # By environment.
        self._disks: dict[str, DiskWatch] = {}

    def read(self, environment: Environment, path: str, *, offset: int, limit: int) -> FilePart:
        """Return up to ``limit`` bytes of a file, from an offset on."""
        with self._walking(environment, path, "read the file") as walk:
            descriptor = walk.open_file(os.O_RDONLY)
            try:
                size = os.fstat(descriptor).st_size
                return FilePart(_read(descriptor, offset, min(limit, size - offset)), size)
            finally:
                os.close(descriptor)

    def write(self, environment: Environment, path: str, content: bytes, *, offset: int = 0) -> int:
        """Write a file from an offset on, with the directories on the way; return its size."""
        if len(content) > MAX_FILE_BYTES:
            reason = f"cannot be written: {len(content)} bytes are more than {MAX_FILE_BYTES}"
            raise WorkspacePathError(path, reason)
        with self._walking(environment, path, "write the file", may_make=True) as walk:
            self._take_room(environment, path, len(content))
            descriptor = walk.open_file(os.O_WRONLY)
            try:
                os.ftruncate(descriptor, offset)
                os.lseek(descriptor, offset, os.SEEK_SET)
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)
        return offset + len(content)

    def entries(self, environment: Environment, path: str) -> list[FileEntry]:
        """Return the entries of a directory, by name. At most 10,000 are listed."""
        with (
            self._walking(environment, path, "list the directory") as walk,
            os.scandir(walk.open_directory()) as scan,
        ):
            found = list(islice(scan, _MAX_ENTRIES + 1))
            if len(found) > _MAX_ENTRIES:
                raise WorkspacePathError(path, f"has more than {_MAX_ENTRIES} entries")
            entries = []
            for one in found:
                with suppress(FileNotFoundError):  # A program removed it.
                    entries.append(_file_entry(one.name, one.stat(follow_symlinks=False)))
        return sorted(entries)

    @contextmanager
    def _walking(
        self,
        environment: Environment,
        path: str,
        action: str,
        *,
        may_make: bool = False,
    ) -> Iterator["_Walk"]:
        """Yield a walk along a path, and translate each ``OSError`` of the block."""
        try:
            workspace = self._open_workspace(environment)
            try:
                home = os.stat(HOME, dir_fd=workspace, follow_symlinks=False)
                hand_over = partial(_hand_over, home.st_uid, home.st_gid) if may_make else None
                with closing(_Walk(workspace, path, hand_over)) as walk:
                    yield walk
            finally:
                os.close(workspace)
        except OSError as error:
            if error.errno in _REASONS:
                raise WorkspacePathError(path, _REASONS[error.errno]) from error
            reason = error.strerror or type(error).__name__
            raise ProviderError(self._provider, f"cannot {action}: {reason}") from error

    def _open_workspace(self, environment: Environment) -> int:
        """Return a descriptor of the directory of the whole workspace; raise if it is not there."""
        layout.require(self._root, environment, self._provider)
        directory = os.path.join(self._root, dir_name(environment.id))
        try:
            return os.open(directory, _DIRECTORY_FLAGS)
        except FileNotFoundError as error:
            raise WorkspaceGoneError(self._provider, "its workspace is gone") from error

    def _take_room(self, environment: Environment, path: str, size: int) -> None:
        """Raise :class:`WorkspacePathError` if a workspace has no room for a file of some size."""
        known = self._disks.get(environment.id)
        if known is None:
            directory = os.path.join(self._root, dir_name(environment.id))
            known = DiskWatch((f"{directory}/{HOME}", f"{directory}/{TMP}"), self._max_bytes)
            if len(self._disks) >= _MAX_KNOWN:
                self._disks.clear()
            self._disks[environment.id] = known
        if not known.take(size):
            reason = f"cannot be written: an environment may take {self._max_bytes} bytes"
            raise WorkspacePathError(path, reason)


def _hand_over(owner: int, group: int, descriptor: int, mode: int) -> None:
    """Give what was made its mode, under any umask, and its owner, if that is another user."""
    os.fchmod(descriptor, mode)
    if owner != os.geteuid():
        os.fchown(descriptor, owner, group)


class _Walk:
    """A walk along a path of a workspace, as a program in its sandbox would resolve it.

    It holds one descriptor, that of the directory reached, however deep that is. So a ``..``
    walks again from the top, because the entry ``..`` of a directory can lead elsewhere once a
    program has moved it. Missing directories and files are made if there is a function
    ``hand_over``, which is called with the descriptor of each and its mode.
    """

    def __init__(
        self, workspace: int, path: str, hand_over: Callable[[int, int], None] | None = None
    ) -> None:
        self._workspace = workspace
        self._path = path
        self._hand_over = hand_over
        self._steps = self._links = 0
        self._top = HOME
        self._passed: list[bytes] = []  # From the top to the directory reached.
        self._ahead: list[bytes] = []  # The next name is the last of the list.
        self._reached: int | None = None
        self._aim(_encode(path))

    def open_file(self, flags: int) -> int:
        """Return a descriptor of the regular file at the end of the path, which the caller closes.

        ``flags`` say whether to read or to write it.
        """
        while True:
            name = self._walk_to_last()
            with self._looking_again(name):
                try:
                    mode = self._mode_of(name)
                except FileNotFoundError:
                    if self._hand_over is None:
                        raise
                    return self._make_file(name, flags, self._hand_over)
                if not stat.S_ISLNK(mode):
                    self._check_regular(mode)
                    opened = os.open(name, flags | _FILE_FLAGS, dir_fd=self._directory())
                    return self._checked(opened)
                self._follow(name)

    def open_directory(self) -> int:
        """Return a descriptor of the directory at the end of the path; :meth:`close` closes it."""
        while (name := self._walk_to_last()) != b".":
            self._enter(name)
        return self._directory()

    def close(self) -> None:
        """Close the descriptor of the directory reached."""
        if self._reached is not None:
            os.close(self._reached)
            self._reached = None

    def _walk_to_last(self) -> bytes:
        """Walk to where the last name is, and return it: ``.`` for the directory reached."""
        while self._ahead:
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise self._failure("takes too long to resolve")
            name = self._ahead.pop()
            if name == b"..":
                if not self._passed:
                    raise self._leads_out()
                self._start(self._top, self._passed[:-1])
            elif name != b".":
                if not self._ahead:
                    return name
                self._enter(name)
        return b"."

    def _enter(self, name: bytes) -> None:
        """Walk into a directory, or to where a link leads; make what is missing, if asked to."""
        with self._looking_again(name):
            try:
                mode = self._mode_of(name)
            except FileNotFoundError:
                if self._hand_over is None:
                    raise
                self._make_directory(name, self._hand_over)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                self._follow(name)
                return
            if not stat.S_ISDIR(mode):
                verb = "leads through" if self._ahead else "is not a directory, but"
                raise self._failure(f"{verb} {_kind(mode)}")
            below = os.open(name, _DIRECTORY_FLAGS, dir_fd=self._directory())
            self.close()
            self._reached = below
            self._passed.append(name)

    @contextmanager
    def _looking_again(self, name: bytes) -> Iterator[None]:
        """Put the name ahead again if a program has replaced its entry during the block."""
        try:
            yield
        except OSError as error:
            if error.errno not in _REPLACED:
                raise
            self._ahead.append(name)

    def _mode_of(self, name: bytes) -> int:
        return os.stat(name, dir_fd=self._directory(), follow_symlinks=False).st_mode

    def _follow(self, name: bytes) -> None:
        """Walk to where a link leads next."""
        try:
            target = os.readlink(name, dir_fd=self._directory())
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._ahead.append(name)  # A program has just replaced the link.
            return
        self._links += 1
        if self._links > _MAX_LINKS:
            raise self._failure(f"leads through more than {_MAX_LINKS} links")
        self._aim(target)

    def _aim(self, target: bytes) -> None:
        """Walk along this path first: from the directory reached, or from its top."""
        names = _names(target)
        if target.startswith(b"/"):
            for top, mount in _MOUNTS.items():
                if names[: len(mount)] == mount:
                    self._start(top, names[len(mount) :])
                    return
            raise self._leads_out()
        self._ahead.extend(reversed(names))

    def _start(self, top: str, names: list[bytes]) -> None:
        """Walk along these names first, from the top."""
        self.close()
        self._top = top
        self._passed = []
        self._ahead.extend(reversed(names))

    def _directory(self) -> int:
        if self._reached is None:
            self._reached = os.open(self._top, _DIRECTORY_FLAGS, dir_fd=self._workspace)
        return self._reached

    def _make_directory(self, name: bytes, hand_over: Callable[[int, int], None]) -> None:
        os.mkdir(name, _DIR_MODE, dir_fd=self._directory())
        made = os.open(name, _DIRECTORY_FLAGS, dir_fd=self._directory())
        try:
            hand_over(made, _DIR_MODE)
        finally:
            os.close(made)

    def _make_file(self, name: bytes, flags: int, hand_over: Callable[[int, int], None]) -> int:
        flags |= os.O_CREAT | os.O_EXCL | _FILE_FLAGS
        made = os.open(name, flags, _FILE_MODE, dir_fd=self._directory())
        try:
            hand_over(made, _FILE_MODE)
        except BaseException:
            os.close(made)
            raise
        return made

    def _checked(self, descriptor: int) -> int:
        """Return the descriptor; close it and raise if a program replaced the file before that."""
        try:
            self._check_regular(os.fstat(descriptor).st_mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_regular(self, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise self._failure(f"is not a file, but {_kind(mode)}")

    def _leads_out(self) -> WorkspacePathError:
        return self._failure(f"leads out of the workspace, which is {SANDBOX_HOME} and /tmp")

    def _failure(self, reason: str) -> WorkspacePathError:
        return WorkspacePathError(self._path, reason)


def _encode(path: str) -> bytes:
    """Return a path as the bytes that the kernel knows, or raise if it is none."""
    try:
        encoded = path.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise WorkspacePathError(path, "is not valid Unicode") from error
    if not encoded:
        raise WorkspacePathError(path, "is empty: the home directory is .")
    if b"\0" in encoded:
        raise WorkspacePathError(path, "has a NUL character")
    if len(encoded) > _MAX_PATH_BYTES:
        raise WorkspacePathError(path, f"is longer than {_MAX_PATH_BYTES} bytes")
    return encoded


def _names(path: bytes) -> list[bytes]:
    """Return the names in a path. The last one is ``.`` if the path can only be a directory."""
    names = path.split(b"/")
    end = [b"."] if names[-1] in (b"", b".") else []
    return [name for name in names if name not in (b"", b".")] + end


def _read(descriptor: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def _file_entry(name: str, status: os.stat_result) -> FileEntry:
    modified_s = min(max(status.st_mtime, _FIRST_TIME_S), _LAST_TIME_S)
    return FileEntry(
        name=os.fsencode(name).decode(errors="surrogateescape").encode(errors="replace").decode(),
        size=status.st_size,
        is_dir=stat.S_ISDIR(status.st_mode),
        mode=stat.filemode(status.st_mode),
        modified=datetime.fromtimestamp(modified_s, UTC),
    )


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device")
