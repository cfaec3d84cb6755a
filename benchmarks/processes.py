# SPDX-License-Identifier: Apache-2.0
"""Several processes: saves by four at once, and the first read of a new one."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks import documents
from benchmarks.device import settle
from benchmarks.effort import Effort
from benchmarks.peers import FILE_STORE, SQLITE_FULL, Entrant, entrants, open_peers
from benchmarks.timing import Samples
from benchmarks.workers import run_together, wait_for_the_others

PROCESSES: Final = 4
SAVE: Final = f"save, {PROCESSES} processes"
COLD: Final = "open and find_by_id, new process"

_SIZE: Final = 1_000
_SAVES: Final = 100

#: Prints the nanoseconds of the first read, after the import of what it needs.
_FIRST_READS: Final = {
    FILE_STORE: """
from waggle_fsstore import FileStore
begin = time.perf_counter_ns()
FileStore(path).find_by_id(key)
""",
    SQLITE_FULL: """
import sqlite3
from waggle_fsstore.store.format import codec
begin = time.perf_counter_ns()
connection = sqlite3.connect(path + "/environments.db")
query = "SELECT document FROM environments WHERE id = ?"
codec.decode(connection.execute(query, (key,)).fetchone()[0], path)
""",
}
_PROGRAM: Final = """
import sys, time
path, key = sys.argv[1:]
{read}
print(time.perf_counter_ns() - begin)
"""


def measure(directory: Path, found: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """Measure saves by processes that each keep their store open, and first reads."""
    environments = [documents.make(number) for number in range(_SIZE)]
    samples: dict[str, Samples] = {SAVE: {}, COLD: {}}
    with open_peers(directory, found, environments) as peers:
        roots = {name: directory / f"peer-{index}" for index, name in enumerate(peers)}
        for peer in peers.values():
            peer.close()
        for number in range(effort.import_rounds + 1):
            key = environments[number].id
            for name, read in _FIRST_READS.items():
                program = [sys.executable, "-c", _PROGRAM.format(read=read), str(roots[name]), key]
                spent = int(_output(program))
                if number > 0:  # The first process may have compiled the bytecode.
                    samples[COLD].setdefault(name, []).append(spent)
        for number in range(effort.batch_rounds):
            for name in roots if number % 2 else reversed(roots):
                settle(directory)
                samples[SAVE].setdefault(name, []).append(_save_at_once(name, roots[name], number))
    return samples


def _output(program: list[str]) -> str:
    return subprocess.run(program, capture_output=True, check=True, text=True).stdout  # noqa: S603  # our own program


def _save_at_once(name: str, root: Path, number: int) -> int:
    """Return the mean time of a save, from the begin of the first to the end of the last."""
    program = [sys.executable, "-m", "benchmarks.processes", name, str(root)]
    ended = run_together([[*program, str(number * PROCESSES + one)] for one in range(PROCESSES)])
    times = [[int(time) for time in printed.split()] for printed in ended]
    ends = [end for _, end in times]
    return (max(ends) - min(begin for begin, _ in times)) // (PROCESSES * _SAVES)


def main(name: str, root: str, number: str) -> None:
    """Save in this process: open, report that, wait for a line, save, and print the times."""
    environments = [documents.make(one) for one in range(_SIZE)]
    [entrant] = [one for one in entrants()[0] if one.name == name]
    peer = entrant.open(Path(root), [])
    changed = documents.changed(environments, int(number), _SAVES + 1)
    peer.save(changed.pop())
    wait_for_the_others()
    begin = time.perf_counter_ns()
    for environment in changed:
        peer.save(environment)
    print(begin, time.perf_counter_ns())
    peer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
