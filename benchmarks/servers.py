# SPDX-License-Identifier: Apache-2.0
"""Servers that benchmarks start, and what they ask them."""

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MAX_ENVIRONMENTS: Final = 10_000

#: The processes of the servers, by URL.
_PIDS: Final[dict[str, int]] = {}


@contextmanager
def server(path: Path, verb: str = "serve") -> Iterator[str]:
    """Run a server over a store, or with the verb ``ui`` its page alone, and yield its URL."""
    settings = {
        "WAGGLE_STORE_PATH": str(path),
        "WAGGLE_LISTEN_ADDR": "127.0.0.1:0",
        "WAGGLE_MAX_ENVIRONMENTS": str(_MAX_ENVIRONMENTS),
    }
    command = [sys.executable, "-m", "waggle_fsstore", verb]
    with subprocess.Popen(  # noqa: S603  # our own server
        command,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout or ():
                found = re.search(r"(http://[\d.:]+)/", line)
                if found:
                    break
            else:
                raise RuntimeError(f"the server did not start: exit code {process.wait()}")
            _PIDS[found[1]] = process.pid
            # Otherwise a server that logs would fill the pipe, and drop entries.
            threading.Thread(target=process.communicate, daemon=True).start()
            yield found[1]
        finally:
            process.terminate()
            process.wait()


def get(url: str) -> float:
    """Return how many seconds an answer takes."""
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  # our own server
        answer.read()
    return time.perf_counter() - began


def resident_mb(url: str) -> float:
    """Return the resident memory of a server, in MiB."""
    status = Path(f"/proc/{_PIDS[url]}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024
