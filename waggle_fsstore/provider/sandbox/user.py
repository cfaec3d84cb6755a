# SPDX-License-Identifier: Apache-2.0
"""The user that programs run as: never root."""

import os
import pwd
import shutil
from contextlib import suppress
from hashlib import blake2b
from typing import Final

# The range that systemd reserves for containers, in steps of what one of them gets
# (https://systemd.io/UIDS-GIDS).
_FIRST_ID: Final = 524_288
_LAST_ID: Final = 1_878_982_656
_STEP: Final = 65_536
_MAX_TRIES: Final = 100

_ADVICE: Final = (
    "make a user and set WAGGLE_SANDBOX_USER: "
    "useradd --system --no-create-home --shell /usr/sbin/nologin waggle-sandbox"
)


def sandbox_user(root: str, name: str = "") -> tuple[int, int] | None:
    """Return the user and group that programs run as; ``None`` for those of this process.

    A server that runs as root takes the user called ``name``, or else one of the ids that are
    reserved for containers, always the same for one directory of workspaces, ``root``. Raises
    ``LookupError`` with the reason if there is no such user.
    """
    if os.geteuid() != 0:
        if name:
            raise LookupError("WAGGLE_SANDBOX_USER is for servers that run as root")
        return None
    with suppress(FileNotFoundError):
        if os.stat(root).st_uid != 0:
            raise LookupError("the workspaces belong to another user: run this as that user")
    if shutil.which("setpriv", path=os.defpath) is None:
        raise LookupError("root needs setpriv to become another user: install util-linux")
    return _named(name) if name else _reserved(os.path.realpath(root))


def _named(name: str) -> tuple[int, int]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise LookupError(f"WAGGLE_SANDBOX_USER: no user {name!r:.100}; {_ADVICE}") from None
    if entry.pw_uid == 0:
        raise LookupError("WAGGLE_SANDBOX_USER: programs never run as root")
    return entry.pw_uid, entry.pw_gid


def _reserved(root: str) -> tuple[int, int]:
    """Return an id that is assigned to no user, one that other directories hardly have."""
    steps = (_LAST_ID - _FIRST_ID) // _STEP
    start = int.from_bytes(blake2b(os.fsencode(root), digest_size=8).digest())
    for number in range(start, start + _MAX_TRIES):
        uid = _FIRST_ID + number % steps * _STEP
        if not _is_assigned(uid):
            return uid, uid
    raise LookupError(_ADVICE)


def _is_assigned(uid: int) -> bool:
    with suppress(KeyError):
        pwd.getpwuid(uid)
        return True
    with suppress(OSError), open("/etc/subuid", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, _, numbers = line.strip().partition(":")
            first, _, count = numbers.partition(":")
            if first.isdigit() and count.isdigit() and 0 <= uid - int(first) < int(count):
                return True
    return False
