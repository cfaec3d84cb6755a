# SPDX-License-Identifier: Apache-2.0
"""What killed servers have left is ended by the next one, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.provider.sandbox.leftovers import _parent, end_leftovers, name_for

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or b"waggle" in Path("/proc/1/cmdline").read_bytes(),
    reason="needs Linux, and a first process that is no server",
)

#: Starts a process with a name, and prints its id; its parent then ends.
START = """
import subprocess, sys
print(subprocess.Popen([sys.argv[1], "1000"], executable="/bin/sleep", stdout=2).pid)
"""


def orphan(name: str) -> int:
    command = [sys.executable, "-c", START, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    pid = int(done.stdout)
    until(lambda: _parent(pid) != os.getpid())
    return pid


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline


def is_running(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/cmdline").read_bytes()) if _parent(pid) else False


def test_leftovers_of_same_workspaces_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of the same directory of workspaces end, and those of another one do not."""
    name, other = name_for(str(tmp_path)), name_for(str(tmp_path / "other"))
    left, elsewhere = orphan(name), orphan(other)
    if _parent(left) != 1:
        os.kill(left, 9)
        os.kill(elsewhere, 9)
        pytest.skip("the first process does not adopt orphans here")
    own = subprocess.Popen([name, "1000"], executable="/bin/sleep")
    until(lambda: is_running(own.pid))  # It has its name a moment after it has started.
    killed: list[int] = []
    kill = os.kill

    def recorded(pid: int, number: int) -> None:
        killed.append(pid)  # A killed process still runs for a moment.
        kill(pid, number)

    monkeypatch.setattr(os, "kill", recorded)
    try:
        end_leftovers(name)
        assert killed == [left]  # Neither that of a server that runs, nor one elsewhere.
        until(lambda: not is_running(left))
    finally:
        own.kill()
        own.wait()
        os.kill(elsewhere, 9)
