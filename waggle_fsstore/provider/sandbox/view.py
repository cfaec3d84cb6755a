# SPDX-License-Identifier: Apache-2.0
"""What a program in a sandbox sees of the machine, as arguments of bubblewrap.

No source and no target of a mount is below a directory that the program may change: a program
could put a link there, and see what it points to at the next call.
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.provider.host_tools import search_path
from waggle_fsstore.provider.sandbox.bubblewrap import Bubblewrap

_log: Final = logging.getLogger(__name__)

#: Where the code of a call is, read-only.
CODE_DIR: Final = "/run/waggle"

_ID: Final = "1000"  # Inside. Outside, it is the user of the server, or that of the sandbox.

_SYSTEM_DIRS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
# What programs need to resolve libraries, time zones and certificates. No accounts, no secrets.
_ETC: Final = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types"),
    *("ssl/certs", "ssl/openssl.cnf", "ca-certificates", "pki/tls/certs", "pki/ca-trust/extracted"),
)
_SHM_SIZE: Final = 64 * 1024 * 1024

# Where the outer of two sandboxes shows the workspace to the inner one.
_STAGE: Final = "/waggle"

_PASSWD: Final = (
    f"sandbox:x:{_ID}:{_ID}:sandbox:{SANDBOX_HOME}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
)
_GROUP: Final = f"sandbox:x:{_ID}:\nnogroup:x:65534:\n"
_HOSTS: Final = "127.0.0.1 localhost\n::1 localhost\n"

#: Files that every program sees, by path.
ETC_FILES: Final = {
    "/etc/passwd": _PASSWD.encode(),
    "/etc/group": _GROUP.encode(),
    "/etc/hosts": _HOSTS.encode(),
}

# What a program needs to find other machines, if it has the network.
_NETWORK_FILES: Final = ("/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/hosts", "/etc/gai.conf")

_OWN_DIRS: Final = (".venv/bin", ".local/bin", "node_modules/.bin")


class Programs(NamedTuple):
    """The interpreters of this machine, and the directories outside of ``/usr`` they are in.

    - ``python``: that of the server, outside of its venv. The others are "" if missing.
    """

    python: str
    node: str
    npm: str
    shell: str
    directories: tuple[str, ...]

    @property
    def path(self) -> str:
        """The search path of a program."""
        own = [f"{SANDBOX_HOME}/{name}" for name in _OWN_DIRS]
        found = [os.path.dirname(one) for one in (self.python, self.node) if one]
        return ":".join(dict.fromkeys([*own, *found, "/usr/local/bin", "/usr/bin", "/bin"]))


def find_programs() -> Programs:
    """Search this machine for the interpreters."""
    python = getattr(sys, "_base_executable", "") or sys.executable
    node, npm, shell = (shutil.which(name, path=search_path()) or "" for name in _NAMES)
    directories = [sys.base_prefix, *(_prefix_of(one) for one in (python, node, npm) if one)]
    outside = tuple(dict.fromkeys(one for one in directories if not is_below(one, "/usr")))
    return Programs(python, node, npm, shell, outside)


_NAMES: Final = ("node", "npm", "sh")


def why_unsafe(directories: Iterable[str], private: Iterable[str]) -> str:
    """Return why some directories may not be seen by programs; "" if they may.

    They may hold none of the ``private`` paths, such as that of the store, and no home directory.
    Nor may the directories of the system, which every program sees, hold a private path.
    """
    private = [os.path.realpath(path) for path in private]
    for directory in ("/usr", *_SYSTEM_DIRS):
        if any(is_below(path, os.path.realpath(directory)) for path in private):
            return f"programs see all of {directory}, with the store, its workspaces or its tokens"
    for directory in directories:
        real = os.path.realpath(directory)
        for path in [*private, os.path.expanduser("~"), "/root", "/home", "/etc", "/run", "/var"]:
            if is_below(os.path.realpath(path), real):
                _log.warning("programs may not see %s, where an interpreter is", directory)
                return "an interpreter is in a directory that programs may not see"
    return ""


def base_arguments(programs: Programs) -> list[str]:
    """Return the arguments that show the system and the interpreters, read-only."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for path in _SYSTEM_DIRS:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    found = [path for path in (f"/etc/{name}" for name in _ETC) if os.path.exists(path)]
    return arguments + bind_arguments([*found, *programs.directories])


def bind_arguments(paths: Iterable[str]) -> list[str]:
    """Return the arguments that show files and directories in their place, read-only."""
    arguments: list[str] = []
    for path in paths:
        arguments += [*_parents(path), "--ro-bind", path, path]
    return arguments


def inner_arguments(
    programs: Programs,
    mounts: Mapping[str, str],
    readable: Mapping[str, str],
    files: Mapping[str, int],
    environment: Mapping[str, str],
    *,
    has_network: bool = False,
) -> list[str]:
    """Return the arguments of a sandbox.

    ``mounts`` are the directories that the program may change, ``readable`` those that it may only
    read: source by target. ``files`` are descriptors to read the contents of files from, by path.
    """
    arguments = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", *([] if has_network else ["--unshare-net"])]
    arguments += ["--disable-userns", "--uid", _ID, "--gid", _ID, "--cap-drop", "ALL"]
    arguments += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in environment.items():
        arguments += ["--setenv", name, value]
    arguments += ["--perms", "0755", "--dir", "/etc", *base_arguments(programs)]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--size", str(_SHM_SIZE), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
    arguments += _parents(f"{CODE_DIR}/code")
    for path, descriptor in files.items():
        arguments += ["--perms", "0444", "--ro-bind-data", str(descriptor), path]
    arguments += ["--symlink", f"{SANDBOX_HOME}/node_modules", f"{CODE_DIR}/node_modules"]
    for option, places in (("--ro-bind", readable), ("--bind", mounts)):
        for target, source in places.items():
            arguments += [*_parents(target), option, source, target]
    arguments += [*_parents(f"{SANDBOX_HOME}/"), "--chdir", SANDBOX_HOME]
    for path in ("/proc", "/dev", "/"):
        arguments += ["--remount-ro", path]
    return arguments


def network_files() -> dict[str, bytes]:
    """Return the files of this machine that say how to find others, by path."""
    found = {}
    for path in _NETWORK_FILES:
        with suppress(OSError), open(path, "rb") as file:
            found[path] = file.read()
    return found


def outer_command(
    bubblewrap: Bubblewrap,
    programs: Programs,
    mounts: Mapping[str, str],
    user: tuple[int, int],
    info: int,
) -> tuple[list[str], dict[str, str]]:
    """Return the command by which root becomes another user, and the mounts that this user sees.

    The user could reach none of the directories below one that only root may enter, such as its
    home directory. So root makes a first sandbox that shows them, and nothing else, in which
    bubblewrap then runs as that user. Its processes have a namespace, whose end is that of all of
    them: one that is root without rights could not kill those of another user. Its first process
    is written to the descriptor ``info``.
    """
    staged: dict[str, str] = {}
    arguments = ["--unshare-pid", "--die-with-parent", "--info-fd", str(info)]
    arguments += ["--perms", "0755", "--dir", "/etc"]
    arguments += [*base_arguments(programs), *bind_arguments(bubblewrap.directories)]
    arguments += ["--proc", "/proc", "--dev-bind", "/dev", "/dev"]
    # Bubblewrap builds the inner sandbox at /tmp.
    arguments += ["--perms", "0755", "--dir", "/tmp", "--perms", "0755", "--dir", _STAGE]  # noqa: S108
    # Only where one /proc is visible as a whole may the inner sandbox have its own.
    arguments += ["--bind", "/proc", f"{_STAGE}/proc"]
    for number, (target, source) in enumerate(mounts.items()):
        staged[target] = f"{_STAGE}/{number}"
        arguments += ["--bind", source, staged[target]]
    uid, gid = user
    become = ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
    become += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return [bubblewrap.program, *arguments, "--", *become], staged


def _parents(path: str) -> list[str]:
    """Return the arguments that make the parents of a path: bubblewrap's own are for root only."""
    names = path.lstrip("/").split("/")[:-1]
    arguments: list[str] = []
    for count in range(1, len(names) + 1):
        arguments += ["--perms", "0755", "--dir", "/" + "/".join(names[:count])]
    return arguments


def _prefix_of(program: str) -> str:
    """Return where an interpreter is installed, such as ``/usr`` for ``/usr/bin/node``."""
    return os.path.dirname(os.path.dirname(os.path.realpath(program)))


def is_below(path: str, directory: str) -> bool:
    """Return whether a path is a directory or below it; both are absolute."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")
