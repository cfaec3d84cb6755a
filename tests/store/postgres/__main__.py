# SPDX-License-Identifier: Apache-2.0
"""What ``make cluster`` shows: two servers on three nodes, of which the primary is killed.

All of it runs on loopback, in temporary directories, and is removed at the end.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.server.client import ask, talk
from tests.server.processes import HttpServer
from tests.store.postgres.cluster import running_cluster
from tests.store.postgres.load import Load

_VERSION: Final = 18
_WRITERS: Final = 32
_LOAD_S: Final = 3.0


def main() -> None:
    """Run the story, and print each step. Raises ``AssertionError`` where it is not true."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waggle-")))
        _say(f"starting three nodes of PostgreSQL {_VERSION}, one synchronous standby at least")
        cluster = stack.enter_context(running_cluster(_VERSION, fsync=True))
        _say("starting two servers, as two hosts: a and b")
        first, second = (
            stack.enter_context(
                HttpServer(cluster.url, WAGGLE_HOST=name, WAGGLE_WORKSPACES=str(directory / name))
            )
            for name in ("a", "b")
        )
        made = _call(first, "create_environment", runtime="shell", name="one")
        _say(f"created through a: {made['name']}, {made['status']}, in {made['workspace']}")
        (found,) = _call(second, "list_environments")["environments"]
        _say(f"listed through b:  {found['name']}, {found['status']}, on host {found['host']}")
        load = Load(cluster.url, _WRITERS)
        try:
            time.sleep(_LOAD_S)
            so_far = len(load.acknowledged)
            _say(f"{so_far} changes of {_WRITERS} writers so far; kill -9 of the primary")
            cluster.fail_over()
            _say("a standby is promoted")
            time.sleep(_LOAD_S)
        finally:
            load.end()
        events = load.check()
        assert not load.errors, load.errors
        acknowledged, stored = len(load.acknowledged), len(load.own(events))
        _say(f"acknowledged {acknowledged}, stored {stored}: each of them once, none is lost")
        _say(f"a watcher saw {len(load.seen)} of {len(events)} events, in order")
        _say(f"the longest call took {load.longest_s:.2f} s")
        gone = _call(second, "destroy_environment", environment_id=made["environment_id"])
        assert not Path(made["workspace"]).exists()
        _say(f"destroyed through b, by host a: {gone['status']}, its files are gone")


def _call(server: HttpServer, tool: str, **arguments: object) -> dict[str, Any]:
    return talk(server.url, lambda client: ask(client, tool, **arguments))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
