# SPDX-License-Identifier: Apache-2.0
"""What the host of the attacks has, which no program in a sandbox may reach."""

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.provider.sandbox.attacks import DENIED

CANARY: Final = "waggle-canary"

_NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")


@contextmanager
def host(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield, by name, what an attack needs to know of it. A directory has some of its files."""
    name = f"{CANARY}-{os.getpid()}"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in (f"\0{name}", os.path.relpath(directory / "socket")):
            stack.enter_context(_listening(address))
        secret = directory / "secret"
        secret.write_text(CANARY)
        descriptor = os.open(secret, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.set_inheritable(descriptor, True)
        shm = Path("/dev/shm", name)  # noqa: S108  # The host's.
        shm.write_text(CANARY)
        stack.callback(shm.unlink)
        os.environ["WAGGLE_CANARY"] = name
        stack.callback(os.environ.pop, "WAGGLE_CANARY")
        victim = stack.enter_context(
            subprocess.Popen(["/bin/sh", "-c", "read waggle_victim"], stdin=subprocess.PIPE)
        )
        stack.callback(victim.kill)
        yield {
            "canary": name,
            "secret": str(secret),
            "socket": str(directory / "socket"),
            "abstract": name,
            "port": listener.getsockname()[1],
            "addresses": _addresses(),
            "descriptor": descriptor,
            "shm": name,
            "key": stack.enter_context(_segment()),
            "queue": stack.enter_context(_message_queue(name)),
            "victim": victim.pid,
            "denied": DENIED,
            "prefixes": [sys.base_prefix],
            "namespaces": {one: os.readlink(f"/proc/self/ns/{one}") for one in _NAMESPACES},
        }


@contextmanager
def _listening(address: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        yield


def _addresses() -> list[str]:
    """Return the IPv4 addresses of this machine, as far as its routes say."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [probe.getsockname()[0]]


@contextmanager
def _segment() -> Iterator[int]:
    """Yield the key of a System V segment of shared memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x57A6_0000 + os.getpid() % 65_536
    number = libc.shmget(key, 4096, 0o1666)
    assert number >= 0
    try:
        yield key
    finally:
        libc.shmctl(number, 0, None)


@contextmanager
def _message_queue(name: str) -> Iterator[str]:
    """Yield the name of a POSIX message queue."""
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    queue = library.mq_open(f"/{name}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    try:
        yield name
    finally:
        if queue >= 0:
            os.close(queue)
        library.mq_unlink(f"/{name}".encode())
