# SPDX-License-Identifier: Apache-2.0
"""A cluster of three real nodes on loopback: a primary, and standbys of which it waits for one."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.store.postgres.servers import as_unprivileged, make_accessible, programs_of

_NAMES: Final = ("a", "b", "c")
_NODES: Final = len(_NAMES)
_POLL_S: Final = 0.02
_TIMEOUT_S: Final = 60
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",
    # Not in the shared memory of the system, where a killed server would leave files.
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "32MB",
    "max_connections": "100",
    # Its default is 5 s, for which no standby would be back after the end of a primary.
    "wal_retrieve_retry_interval": "200ms",
}


class Node:
    """A server of the cluster."""

    def __init__(
        self, name: str, port: int, directory: Path, version: int, settings: dict[str, str]
    ) -> None:
        self.name = name
        self.port = port
        self._settings = settings
        self._directory = directory
        self._programs = programs_of(version)
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make the first primary."""
        options = ("--auth=trust", "--username=waggle", "--no-sync", "--encoding=UTF8")
        self._run("initdb", *options, "--locale=C", "-D", self._data)

    def copy(self, primary: "Node") -> None:
        """Become a new standby of a primary."""
        shutil.rmtree(self._data, ignore_errors=True)
        source = f"{primary.address} application_name={self.name}"
        options = ("--checkpoint=fast", "--no-sync", "--write-recovery-conf")
        self._run("pg_basebackup", *options, "-d", source, "-D", self._data)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        given = {
            **_SETTINGS,
            **self._settings,
            "port": self.port,
            "unix_socket_directories": self._directory,
        }
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        self._process = self._begin("postgres", "-D", self._data, *options)
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(psycopg.OperationalError):
                self.ask("SELECT 1")
                return
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(_POLL_S)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        """Kill all its processes, as the loss of its machine would.

        The first process comes last: without it, a session that waits for a standby would stop
        waiting, and show other sessions a change that no standby has.
        """
        if self._process is None or not self.is_running():
            return
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)  # It would begin to recover.
        for child in children(pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def is_running(self) -> bool:
        """Return whether it was started and has not been killed."""
        return self._process is not None and self._process.poll() is None

    def follow(self, primary: "Node") -> None:
        """Follow another primary."""
        source = f"{primary.address} application_name={self.name}"
        self.ask(f"ALTER SYSTEM SET primary_conninfo = '{source}'")
        self.ask("SELECT pg_reload_conf()")

    def wait_until_cut_off(self) -> None:
        """Wait until all that the dead primary had sent is received.

        Otherwise a standby may still get more than the one that is promoted, and could not follow.
        """
        query = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        deadline = time.monotonic() + _TIMEOUT_S
        while self.ask(query):
            assert time.monotonic() < deadline, "the connection to the primary has not ended"
            time.sleep(_POLL_S)

    def ask(self, statement: str) -> Any:
        """Return the first value of the first row of a statement."""
        with psycopg.connect(f"{self.address} connect_timeout=5", autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def log(self) -> str:
        """Return what the server has logged."""
        return self._log.read_text()

    @property
    def address(self) -> str:
        """Where libpq finds it."""
        return f"host=127.0.0.1 port={self.port} user=waggle dbname=postgres"

    @property
    def _data(self) -> str:
        return str(self._directory / self.name)

    @property
    def _log(self) -> Path:
        return self._directory / f"{self.name}.log"

    def _run(self, program: str, *arguments: str) -> None:
        assert self._begin(program, *arguments).wait(_TIMEOUT_S) == 0, self._log.read_text()

    def _begin(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return as_unprivileged(self._programs / program, *arguments, log=self._log)


class Cluster:
    """Up to three nodes, of which one is the primary."""

    def __init__(
        self, directory: Path, version: int, nodes: int, *, fsync: bool, is_synchronous: bool
    ) -> None:
        settings = {"fsync": "on" if fsync else "off"}
        if is_synchronous and nodes > 1:
            settings["synchronous_standby_names"] = f"ANY 1 ({', '.join(_NAMES)})"
        self.nodes = [
            Node(name, port, directory, version, settings)
            for name, port in zip(_NAMES[:nodes], free_ports(nodes), strict=True)
        ]
        self.primary = self.nodes[0]
        hosts = ",".join("127.0.0.1" for _ in self.nodes)
        ports = ",".join(str(node.port) for node in self.nodes)
        self.url = f"postgresql://waggle@/postgres?host={hosts}&port={ports}&connect_timeout=1"

    def start(self) -> None:
        """Start all nodes, and wait until all standbys are synchronous."""
        self.primary.make()
        self.primary.start()
        for node in self.standbys():
            node.copy(self.primary)
            node.start()
        self.wait_for_standbys()

    def cut_off_standbys(self) -> None:
        """Let no standby get anything more from the primary."""
        for node in self.standbys():
            node.ask("ALTER SYSTEM SET primary_conninfo = ''")
            node.ask("SELECT pg_reload_conf()")
        for node in self.standbys():
            node.wait_until_cut_off()

    def standbys(self) -> list[Node]:
        """Return the nodes that are not the primary."""
        return [node for node in self.nodes if node is not self.primary]

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby that has received the most."""
        self.primary.kill()
        for node in self.standbys():
            node.wait_until_cut_off()
        position = "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn"
        first, second = sorted(self.standbys(), key=lambda node: node.ask(position), reverse=True)
        assert first.ask("SELECT pg_promote()")
        second.follow(first)
        self.primary = first

    def repair(self) -> None:
        """Make a new standby of the node that was killed."""
        (lost,) = (node for node in self.standbys() if not node.is_running())
        lost.copy(self.primary)
        lost.start()
        self.wait_for_standbys()

    def wait_for_standbys(self) -> None:
        """Wait until all standbys confirm what they have received."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('quorum', 'async')"
        deadline = time.monotonic() + _TIMEOUT_S
        while self.primary.ask(query) < len(self.standbys()):
            if time.monotonic() > deadline:
                logs = "\n".join(node.log()[-2000:] for node in self.nodes)
                raise AssertionError(f"no standby follows the primary:\n{logs}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.kill()


@contextmanager
def running_cluster(
    version: int, *, nodes: int = _NODES, fsync: bool = False, is_synchronous: bool = True
) -> Iterator[Cluster]:
    """Yield a running cluster, which is removed at the end.

    It needs no fsync where only nodes are killed, and the machine stays up.
    """
    directory = Path(tempfile.mkdtemp(prefix="waggle-pg-"))
    make_accessible(directory)
    try:
        cluster = Cluster(directory, version, nodes, fsync=fsync, is_synchronous=is_synchronous)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()
    finally:
        shutil.rmtree(directory)


def children(pid: int) -> Iterator[int]:
    """Yield the children of a process."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name of a program may contain spaces and parentheses.
            _, parent, *_ = entry.read_text().rpartition(")")[2].split()
            if int(parent) == pid:
                yield int(entry.parent.name)


def free_ports(count: int) -> list[int]:
    """Return ports that no program listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
