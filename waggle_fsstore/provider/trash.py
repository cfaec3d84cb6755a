# SPDX-License-Identifier: Apache-2.0
"""The trash: removed workspaces, how long they are kept, and how they are emptied.

The name of an entry says all that is known of it: the directory of the environment, whether
its files are kept, since when, and a random part. So moving a workspace here is one rename. A
workspace that cannot be moved, usually because something is mounted in it, stays in its place;
its entry is an empty file.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.size import Size
from waggle_fsstore.provider.emptying import StoppedError, disk_usage, remove_tree
from waggle_fsstore.provider.mounts import mount_points
from waggle_fsstore.provider.workspace_dirs import TRASH, make_dir, move, write_new

# How long servers have run over this trash, in milliseconds.
_CLOCK: Final = ".lived"

# A disk with less room than this, or than a hundredth of it, is full.
_MIN_FREE_BYTES: Final = 64 << 20
_MIN_FREE_SHARE: Final = 0.01

_entry: Final = re.compile(r"([^.]+)\.(keep|drop)(-in-place)?\.([0-9]+)\.([0-9a-f]{16})").fullmatch

_log: Final = logging.getLogger(__name__)


class Entry(NamedTuple):
    """An entry of the trash.

    - ``workspace``: the name of the directory that it had in the root directory.
    - ``is_kept``: whether it may be brought back.
    - ``in_place``: whether the workspace could not be moved.
    - ``since_ms``: the lived time at which it was removed.
    - ``key``: unique, and higher than that of every entry that was there before.
    """

    workspace: str
    is_kept: bool
    in_place: bool
    since_ms: int
    key: str

    @property
    def name(self) -> str:
        """The file name."""
        intent = "keep" if self.is_kept else "drop"
        place = "-in-place" if self.in_place else ""
        return f"{self.workspace}.{intent}{place}.{self.since_ms}.{self.key}"

    @property
    def age(self) -> tuple[int, str]:
        """The key by which entries are sorted, oldest first."""
        return self.since_ms, self.key


class Trash:
    """The trash of a root directory, which several processes may use.

    An expired workspace is kept for ``keep``, in time that servers lived through, while all of
    them take at most ``limit``. Any other is emptied at once.
    """

    def __init__(self, root: str, keep: timedelta, limit: Size) -> None:
        self._root = root
        self._path = os.path.join(root, TRASH)
        self._keep_ms = keep // timedelta(milliseconds=1)
        self._limit = limit
        self._emptying = threading.Lock()
        self._sizes: dict[str, int] = {}
        # By key: what could not be emptied, and why.
        self._stuck: dict[str, str] = {}
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._emptying = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return not self._entries()

    @property
    def in_place(self) -> set[str]:
        """The names of the removed workspaces that are still in their place."""
        return {entry.workspace for entry in self._entries() if entry.in_place}

    @property
    def size_bytes(self) -> int:
        """How much the kept workspaces take, as far as it was measured."""
        return sum(tuple(self._sizes.values()))

    def kept_since(self) -> datetime | None:
        """Return when the oldest workspace that is kept came here, ``None`` without any.

        At the latest: a copy has the times of its files, and a later one of its entry.
        """
        times = []
        for entry in self._entries():
            if entry.is_kept:
                with suppress(FileNotFoundError):
                    status = os.lstat(self._path_of(entry))
                    times.append(min(status.st_ctime, status.st_mtime))
        return datetime.fromtimestamp(min(times), UTC) if times else None

    @property
    def orphans(self) -> int:
        """How many entries could not be emptied."""
        return len(self._stuck)

    def put(self, workspace: str, entry: str, *, keep: bool) -> None:
        """Move ``entry`` of the root directory here: a directory of an environment."""
        target = self._new(workspace, keep=keep, in_place=False)
        move(os.path.join(self._root, entry), self._path_of(target))

    def put_in_place(self, workspace: str, *, keep: bool, reason: str) -> None:
        """Record that a workspace was removed that cannot be moved, for a reason."""
        for entry in self._entries_of(workspace):
            if entry.in_place and entry.is_kept == keep:
                return
        target = self._new(workspace, keep=keep, in_place=True)
        write_new(self._path_of(target), "")
        self._note(target, reason)

    def drop(self, workspace: str) -> None:
        """Keep nothing any more of a workspace that was removed before."""
        for entry in self._entries_of(workspace):
            if entry.is_kept:
                with suppress(FileNotFoundError):
                    os.rename(self._path_of(entry), self._path_of(entry._replace(is_kept=False)))

    def newest(self, workspace: str) -> Entry | None:
        """Return what was removed last of a workspace, unless its files are dropped."""
        found = self._entries_of(workspace)
        newest = max(found, key=lambda entry: entry.age, default=None)
        return newest if newest is not None and newest.is_kept else None

    def take_back(self, entry: Entry) -> None:
        """Move an entry back to its place. Raises ``FileNotFoundError`` if it is gone."""
        if entry.in_place:
            os.unlink(self._path_of(entry))
        else:
            move(self._path_of(entry), self._place_of(entry))
        self._forget(entry)

    def live(self, time_lived: timedelta) -> None:
        """Add to the lived time of the servers."""
        if not self.is_empty:
            now = self._now_ms() + time_lived // timedelta(milliseconds=1)
            new = os.path.join(self._path, f"{_CLOCK}.{os.urandom(4).hex()}")
            try:
                write_new(new, f"{now}\n")
                os.replace(new, os.path.join(self._path, _CLOCK))
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(new)  # On a full disk each sweep would leave one.
                raise

    def move_unmounted(self, known: Collection[str]) -> None:
        """Move the removed workspaces that are still in their place, where that is possible now.

        One whose name is ``known`` belongs to an environment again, and stays.
        """
        for entry in self._entries():
            if not entry.in_place or entry.workspace in known:
                continue
            if mounted := mount_points(self._place_of(entry)):
                self._note(entry, why_mounted(mounted[0]))
                continue
            try:
                move(self._place_of(entry), self._path_of(entry._replace(in_place=False)))
            except FileNotFoundError:
                pass  # Another process moved it.
            except OSError as error:
                self._note(entry, os.strerror(error.errno or 0))
                continue
            with suppress(FileNotFoundError):
                os.unlink(self._path_of(entry))
            self._forget(entry)

    def empty(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Empty what is due: dropped, kept for long enough, or the oldest above the limit."""
        with self._emptying, suppress(StoppedError):
            kept = []
            now = self._now_ms()
            for entry in self._moved_entries():
                if entry.is_kept and now - entry.since_ms < self._keep_ms:
                    kept.append(entry)
                else:
                    self._discard(entry, is_stopping)
            self._sizes = {entry.key: self._size_of(entry) for entry in kept}
            limit = self._limit.of(self._total_bytes()) if kept else 0
            for entry in kept:
                if self.size_bytes <= limit and not self._is_disk_full():
                    break
                self._discard(entry, is_stopping)

    def free_space(self) -> bool:
        """Empty the oldest entry for a full disk; return false if there is none."""
        with self._emptying:
            for entry in self._moved_entries():
                if entry.key not in self._stuck:
                    _log.warning("the disk is full: emptying %s", self._path_of(entry))
                    self._discard(entry, lambda: False)
                    return True
        return False

    def _discard(self, entry: Entry, is_stopping: Callable[[], bool]) -> None:
        """Empty an entry. It is marked first, so that no partial workspace is brought back."""
        if mounted := mount_points(self._path_of(entry)):
            self._note(entry, why_mounted(mounted[0]))
            return
        try:
            dropped = entry._replace(is_kept=False)
            os.rename(self._path_of(entry), self._path_of(dropped))
            remove_tree(self._path_of(dropped), is_stopping)
        except FileNotFoundError:
            pass  # Another process emptied it, or brought it back.
        except OSError as error:
            # Without the name of the file, which is another one at each attempt.
            self._note(entry._replace(is_kept=False), os.strerror(error.errno or 0))
            return
        self._forget(entry)

    def _note(self, entry: Entry, reason: str) -> None:
        """Tell the operator once why an entry cannot be emptied."""
        if self._stuck.get(entry.key) != reason:
            path = self._place_of(entry) if entry.in_place else self._path_of(entry)
            _log.warning("%s: a removed workspace cannot be emptied: %s", path, reason)
        self._stuck[entry.key] = reason

    def _forget(self, entry: Entry) -> None:
        self._stuck.pop(entry.key, None)
        self._sizes.pop(entry.key, None)

    def _new(self, workspace: str, *, keep: bool, in_place: bool) -> Entry:
        with suppress(FileExistsError):
            make_dir(self._path)
        number = 1 + max((int(entry.key[:8], 16) for entry in self._entries()), default=0)
        key = f"{number:08x}{os.urandom(4).hex()}"
        return Entry(workspace, keep and self._keep_ms > 0, in_place, self._now_ms(), key)

    def _now_ms(self) -> int:
        """Return the lived time. A lost clock continues with the newest entry."""
        try:
            with open(os.path.join(self._path, _CLOCK), encoding="ascii") as file:
                lived = int(file.read())
        except (FileNotFoundError, ValueError):
            lived = 0
        return max([lived, *(entry.since_ms for entry in self._entries())])

    def _entries(self) -> list[Entry]:
        try:
            names = os.listdir(self._path)
        except FileNotFoundError:
            return []
        return list(_parsed(names))

    def _moved_entries(self) -> list[Entry]:
        """Return the entries that can be emptied, oldest first."""
        found = [entry for entry in self._entries() if not entry.in_place]
        return sorted(found, key=lambda entry: entry.age)

    def _entries_of(self, workspace: str) -> list[Entry]:
        return [entry for entry in self._entries() if entry.workspace == workspace]

    def _size_of(self, entry: Entry) -> int:
        if entry.key in self._sizes:
            return self._sizes[entry.key]
        return disk_usage(self._path_of(entry))

    def _path_of(self, entry: Entry) -> str:
        return os.path.join(self._path, entry.name)

    def _place_of(self, entry: Entry) -> str:
        return os.path.join(self._root, entry.workspace)

    def _total_bytes(self) -> int:
        status = os.statvfs(self._root)
        return status.f_blocks * status.f_frsize

    def _is_disk_full(self) -> bool:
        status = os.statvfs(self._root)
        free = status.f_bavail * status.f_frsize
        return free < min(_MIN_FREE_BYTES, _MIN_FREE_SHARE * self._total_bytes())


def why_mounted(place: str) -> str:
    """Return the reason for which a workspace with a mount is not moved."""
    return f"{place} is mounted there: unmount it"


def _parsed(names: list[str]) -> Iterator[Entry]:
    for name in names:
        match = _entry(name)
        if match is not None:
            workspace, intent, in_place, since, key = match.groups()
            yield Entry(workspace, intent == "keep", in_place is not None, int(since), key)
