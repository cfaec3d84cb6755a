# SPDX-License-Identifier: Apache-2.0
"""A trial by hand with Patroni, which decides by itself which of three nodes is the primary.

``python -m tests.store.postgres.patroni PROGRAM`` prints what 32 writers and a watcher meet. The
program is that of ``pip install 'patroni[raft,psycopg3]' psycopg-binary``, in an environment of
its own. Everything runs on loopback, in a temporary directory, and is removed at the end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

from tests.store.postgres.cluster import children, free_ports
from tests.store.postgres.load import Load
from tests.store.postgres.servers import as_unprivileged, make_accessible, programs_of

_VERSION: Final = 18
_WRITERS: Final = 32
_LOAD_S: Final = 5.0
# Longer than Patroni takes to notice a lost machine: WAGGLE_STORE_TIMEOUT.
_CALL_S: Final = 45.0
_TIMEOUT_S: Final = 120
_POLL_S: Final = 0.05
_HOST: Final = "127.0.0.1"
_USER: Final = "waggle"

#: What all nodes share: docs/postgres.md says why.
_SHARED: Final = {
    "ttl": 20,
    "loop_wait": 5,
    "retry_timeout": 5,
    "primary_start_timeout": 0,
    "synchronous_mode": True,
    "synchronous_mode_strict": True,
    "postgresql": {
        "use_pg_rewind": True,
        "parameters": {
            "wal_retrieve_retry_interval": "200ms",
            "dynamic_shared_memory_type": "mmap",
        },
    },
}


class _Ports(NamedTuple):
    server: int
    manager: int
    raft: int


class _Node:
    """A node: Patroni, and the server that it runs."""

    def __init__(self, name: str, all_ports: dict[str, _Ports], directory: Path) -> None:
        self.name = name
        self._ports = all_ports[name]
        self.address = f"{_HOST}:{self._ports.server}"
        self._data = directory / name
        self._log = directory / f"{name}.log"
        others = [ports for one, ports in all_ports.items() if one != name]
        own = {
            "scope": "waggle",
            "name": name,
            "raft": {
                "data_dir": f"{directory}/raft-{name}",
                "self_addr": f"{_HOST}:{self._ports.raft}",
                "partner_addrs": [f"{_HOST}:{ports.raft}" for ports in others],
            },
            "restapi": _listening(self._ports.manager),
            "bootstrap": {"dcs": _SHARED, "initdb": [{"encoding": "UTF8"}, {"locale": "C"}]},
            "postgresql": {
                **_listening(self._ports.server),
                "data_dir": str(self._data),
                "bin_dir": str(programs_of(_VERSION)),
                "pgpass": f"{directory}/pgpass-{name}",
                "authentication": {
                    "superuser": {"username": _USER},
                    "replication": {"username": "replicator"},
                },
                "parameters": {"unix_socket_directories": str(directory)},
                "pg_hba": [f"{kind} trust" for kind in ("local all all", *_FROM_HERE)],
            },
        }
        self._settings = directory / f"{name}.json"  # YAML too.
        self._settings.write_text(json.dumps(own))
        make_accessible(self._settings)
        self._manager: subprocess.Popen[bytes] | None = None

    def start(self, program: Path) -> None:
        """Start the manager, unless it runs."""
        if self._manager is None or self._manager.poll() is not None:
            self._manager = as_unprivileged(program, str(self._settings), log=self._log)

    def kill_manager(self) -> None:
        """Kill Patroni alone: its server goes on."""
        if self._manager is not None:
            self._manager.kill()
            self._manager.wait()

    def kill_server(self) -> None:
        """Kill all processes of the server, the first one last."""
        with suppress(FileNotFoundError, ProcessLookupError):
            first = int((self._data / "postmaster.pid").read_text().split()[0])
            os.kill(first, signal.SIGSTOP)  # It would begin to recover.
            for child in children(first):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.kill(first, signal.SIGKILL)

    def kill(self) -> None:
        """Kill both, as the loss of the machine would."""
        self.kill_manager()
        self.kill_server()

    def call(self, path: str, **body: str) -> bool:
        """Make a call to the manager; return whether it said yes."""
        connection = HTTPConnection(_HOST, self._ports.manager, timeout=_TIMEOUT_S)
        with closing(connection), suppress(OSError, HTTPException):
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
            return connection.getresponse().status == HTTPStatus.OK
        return False

    def is_primary(self) -> bool:
        """Return what the server says, not the manager."""
        with suppress(psycopg.Error):
            url = f"postgresql://{_USER}@{self.address}/postgres?connect_timeout=1"
            with psycopg.connect(url) as connection:
                row = connection.execute(b"SELECT NOT pg_is_in_recovery()").fetchone()
                return row == (True,)
        return False

    def log(self) -> str:
        """Return the end of what the manager and the server have logged."""
        return self._log.read_text()[-4000:]


_FROM_HERE: Final = (f"host all all {_HOST}/32", f"host replication all {_HOST}/32")


def _listening(port: int) -> dict[str, str]:
    return {"listen": f"{_HOST}:{port}", "connect_address": f"{_HOST}:{port}"}


class _Trial:
    def __init__(self, program: Path, directory: Path) -> None:
        self._program = program
        ports = free_ports(9)
        names = {name: _Ports(*ports[n * 3 : n * 3 + 3]) for n, name in enumerate("abc")}
        self.nodes = [_Node(name, names, directory) for name in names]
        hosts = ",".join(node.address for node in self.nodes)
        self._url = f"postgresql://{_USER}@{hosts}/postgres?target_session_attrs=primary"

    def run(self) -> None:
        """Try all ways to lose a primary, under one load."""
        self._wait_until_whole()
        load = Load(self._url, _WRITERS, timeout=_CALL_S)
        try:
            self._lose_primary(load, "switchover", self._switch_over)
            self._lose_primary(load, "kill -9 of the server", _Node.kill_server)
            self._lose_primary(load, "kill -9 of the server and of Patroni", _Node.kill)
            self._lose_primary(load, "kill -9 of Patroni alone", _Node.kill_manager)
        finally:
            load.end()
        events = load.check()
        _say(f"{len(load.acknowledged)} acknowledged, {len(load.own(events))} stored, once each")
        _say(f"a watcher saw {len(load.seen)} of {len(events)} events, in order")

    def _lose_primary(self, load: Load, what: str, lose: Callable[[_Node], object]) -> None:
        """Measure one way, from the loss until all nodes are back."""
        time.sleep(_LOAD_S)
        (old,) = self._primaries()
        errors, acknowledged = len(load.errors), len(load.acknowledged)
        load.longest_s = load.longest_gap_s = 0.0
        begun = time.monotonic()
        lose(old)
        self._wait(lambda: any(one is not old for one in self._primaries()))
        promoted_s = time.monotonic() - begun
        time.sleep(_LOAD_S)
        count = len(self._primaries())
        self._wait_until_whole()
        back_s = time.monotonic() - begun
        time.sleep(_LOAD_S)
        found = Counter(type(error).__name__ for error in load.errors[errors:])
        _say(f"{what}: another node is primary after {promoted_s:.1f} s")
        _say(f"  {count} primaries then; all nodes are back after {back_s:.1f} s")
        _say(f"  {len(load.acknowledged) - acknowledged} changes acknowledged")
        _say(f"  longest time without one {load.longest_gap_s:.1f} s, call {load.longest_s:.1f} s")
        _say(f"  errors: {dict(found)}")

    def _switch_over(self, old: _Node) -> None:
        (standby,) = [node for node in self.nodes if node.call("/synchronous")]
        assert old.call("/switchover", leader=old.name, candidate=standby.name)

    def _primaries(self) -> list[_Node]:
        return [node for node in self.nodes if node.is_primary()]

    def _wait_until_whole(self) -> None:
        """Start what does not run, and wait for one primary, and for standbys that stream."""
        for node in self.nodes:
            node.start(self._program)

        def is_whole() -> bool:
            return (
                len(self._primaries()) == 1
                and sum(node.call("/replica?lag=1MB") for node in self.nodes) == 2
                and any(node.call("/synchronous") for node in self.nodes)
            )

        self._wait(is_whole)

    def _wait(self, is_so: Callable[[], Any]) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not is_so():
            assert time.monotonic() < deadline, "\n".join(node.log() for node in self.nodes)
            time.sleep(_POLL_S)


def main(program: str) -> None:
    """Run the trial, and remove everything."""
    directory = Path(tempfile.mkdtemp(prefix="waggle-patroni-"))
    make_accessible(directory)
    trial = _Trial(Path(program), directory)
    try:
        trial.run()
    finally:
        for node in trial.nodes:
            node.kill()
        shutil.rmtree(directory)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
