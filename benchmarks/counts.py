# SPDX-License-Identifier: Apache-2.0
"""The counts: instructions and system calls of single operations, which no load changes.

``python -m benchmarks.counts`` prints them, ``--check`` fails where one is above its limit in
``results/counts.json``, and ``--record`` makes what is measured the new limits. An operation is
run 50 and 150 times in fresh processes; the difference leaves out the start of the process.
"""

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from benchmarks import documents
from benchmarks.tables import table
from waggle_fsstore import FileStore
from waggle_fsstore.store.format import codec

_LIMITS: Final = Path(__file__).parent / "results" / "counts.json"
_FEW_CALLS: Final = 50
_MANY_CALLS: Final = 150

#: A count may exceed its limit by this factor: builds of one CPython version differ a little.
_TOLERANCE: Final = 1.03

_TICK: Final = timedelta(milliseconds=1)

# Only then does the status of a file prove that it is unchanged.
_SETTLING_TIME_S: Final = 2.5

_SYSTEM_CALLS: Final = "system calls"
_INSTRUCTIONS: Final = "user instructions"

Counts = dict[str, float]


def _save(store: FileStore, calls: int) -> None:
    environment = documents.make(0)
    for _ in range(calls):
        environment.last_used += _TICK
        store.save(environment)


def _find(store: FileStore, calls: int) -> None:
    environment = documents.make(0)
    store.save(environment)
    time.sleep(_SETTLING_TIME_S)
    for _ in range(calls):
        store.find_by_id(environment.id)


def _encode(_: FileStore, calls: int) -> None:
    environment = documents.make(0)
    for _number in range(calls):
        codec.encode(environment, 1)


def _decode(_: FileStore, calls: int) -> None:
    data = codec.encode(documents.make(0), 1)
    for _number in range(calls):
        codec.decode(data, "document")


_OPERATIONS: Final[dict[str, Callable[[FileStore, int], None]]] = {
    "save": _save,
    "find_by_id": _find,
    "encode": _encode,
    "decode": _decode,
}


def measure(directory: Path) -> Counts:
    """Return the counts of each operation, with stores below ``directory``."""
    missing = [name for name in ("strace", "valgrind") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"install {' and '.join(missing)}: the counts need them")
    counts: Counts = {}
    for operation in _OPERATIONS:
        if operation in ("save", "find_by_id"):
            counts[f"{operation}, {_SYSTEM_CALLS}"] = per_call(system_calls, operation, directory)
        counts[f"{operation}, {_INSTRUCTIONS}"] = per_call(instructions, operation, directory)
    return counts


def per_call(count: Callable[[list[str], Path], int], operation: str, directory: Path) -> float:
    """Return a count per call of an operation, with stores below ``directory``."""
    few, many = (
        count(
            [sys.executable, "-m", "benchmarks.counts", "--run", operation, str(calls)], directory
        )
        for calls in (_FEW_CALLS, _MANY_CALLS)
    )
    return (many - few) / (_MANY_CALLS - _FEW_CALLS)


def system_calls(command: list[str], directory: Path) -> int:
    """Return how many system calls a command makes."""
    with tempfile.NamedTemporaryFile() as report:
        _run(["strace", "-f", "-c", "-U", "calls,name", "-o", report.name, *command], directory)
        total = re.search(r"^\s*(\d+) total$", Path(report.name).read_text(), re.MULTILINE)
    if total is None:
        raise RuntimeError("strace reported no total")
    return int(total[1])


def instructions(command: list[str], directory: Path) -> int:
    """Return how many instructions a command executes, without those of the kernel."""
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    total = re.search(r"Collected : (\d+)", _run([*tool, *command], directory))
    if total is None:
        raise RuntimeError("callgrind reported no total")
    return int(total[1])


def _run(command: list[str], directory: Path) -> str:
    """Return what a command reports, run with bytecode and a fixed order of hashes."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "BENCH_DIRECTORY": str(directory),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603  # a measuring tool and this module
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stderr


def too_high(counts: Counts, limits: Counts) -> list[str]:
    """Return a sentence for each count that exceeds its limit or has none."""
    found = []
    for name, count in counts.items():
        limit = limits.get(name)
        if limit is None:
            found.append(f"{name}: {count:,.1f}, and no limit is recorded")
        elif count > limit * _TOLERANCE:
            found.append(f"{name}: {count:,.1f} exceeds the limit of {limit:,.1f}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counts", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(), help="where the store is created")
    parser.add_argument("--check", action="store_true", help="fail if a count exceeds its limit")
    parser.add_argument("--record", action="store_true", help="make these counts the limits")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        operation, calls = options.run
        gc.disable()  # Whether a collection falls into the run would change the counts.
        with (
            tempfile.TemporaryDirectory(dir=os.environ["BENCH_DIRECTORY"]) as temporary,
            FileStore(Path(temporary) / "store") as store,
        ):
            _OPERATIONS[operation](store, int(calls))
        return 0
    counts = measure(options.dir.resolve())
    print(table(("per call", "count"), ((name, f"{count:,.1f}") for name, count in counts.items())))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if options.record:
        _LIMITS.write_text(json.dumps({"python": version, "counts": counts}, indent=2) + "\n")
    if options.check:
        return _check(counts, version)
    return 0


def _check(counts: Counts, version: str) -> int:
    recorded = json.loads(_LIMITS.read_text())
    if version != recorded["python"]:
        print(f"instructions are compared with Python {recorded['python']} only", file=sys.stderr)
        counts = {name: count for name, count in counts.items() if name.endswith(_SYSTEM_CALLS)}
    failures = too_high(counts, recorded["counts"])
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
