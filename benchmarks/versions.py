# SPDX-License-Identifier: Apache-2.0
"""Two versions of the package, interleaved in one run.

``python -m benchmarks.versions PYTHON`` compares with the package that the interpreter PYTHON of
another checkout imports. Each round starts a fresh process of each version, in turns.
"""

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

_DOCUMENTS: Final = 1_000
_CALLS: Final = 200
_ROUNDS: Final = 11
_QUICK_ROUNDS: Final = 3

# Only then does a signature of a file prove anything.
_SETTLING_TIME_S: Final = 2.5


def measure_here(directory: Path) -> dict[str, float]:
    """Return the median of each operation of the package that this process imports."""
    # By its path: this file runs as a program, in the environment of another checkout.
    make, used = _documents()
    begin = time.perf_counter()
    from waggle_fsstore import FileStore

    found = {"import FileStore": time.perf_counter() - begin}
    environments = [make(number) for number in range(_DOCUMENTS)]
    changed = [used(environment, 1) for environment in environments]
    with FileStore(directory / "store") as store:
        found["save_all, new"] = _median(store.save_all, [environments])
        found["save_all"] = _median(store.save_all, [changed])
        found["save"] = _median(store.save, [used(each, 2) for each in environments[:_CALLS]])
        found["find_by_id, just saved"] = _median(
            store.find_by_id, [each.id for each in environments[:_CALLS]]
        )
        time.sleep(_SETTLING_TIME_S)
        found["find_by_id, first"] = _median(
            FileStore(directory / "store").find_by_id, [each.id for each in environments[:_CALLS]]
        )
        again = [environments[0].id] * _CALLS
        found["find_by_id, again"] = _median(store.find_by_id, again)
        found["find_all, first"] = _median(lambda _: store.find_all(), [None])
        found["find_all, again"] = _median(lambda _: store.find_all(), [None] * 20)
        found["count, unchanged"] = _median(lambda _: store.count(), [None] * 20)
    begin = time.perf_counter()
    with FileStore(directory / "store") as opened:  # The other one keeps its memory meanwhile.
        opened.find_by_id(again[0])
    found["open, find_by_id"] = time.perf_counter() - begin
    return found


def _documents() -> tuple[Callable[[int], Any], Callable[[Any, int], Any]]:
    module = runpy.run_path(str(Path(__file__).with_name("documents.py")))
    return module["make"], module["used"]


def _median(call: Callable[[Any], object], arguments: Sequence[Any]) -> float:
    times = []
    for argument in arguments:
        begin = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - begin)
    return median(times)


def compare(other: str, directory: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the medians over all rounds of each operation: of the other version, and of this."""
    pythons = (other, sys.executable)
    samples: dict[str, dict[str, list[float]]] = {python: {} for python in pythons}
    for number in range(rounds):
        for python in pythons if number % 2 else reversed(pythons):
            with tempfile.TemporaryDirectory(prefix=".bench-", dir=directory) as temporary:
                # -P keeps this directory off the path: each version imports its own package.
                done = subprocess.run(  # noqa: S603  # the interpreter that the caller named
                    [python, "-P", __file__, "--here", temporary],
                    capture_output=True, check=True, text=True, cwd=temporary,
                )  # fmt: skip
            for name, seconds in json.loads(done.stdout).items():
                samples[python].setdefault(name, []).append(seconds)
    return {
        name: (median(samples[other][name]), median(samples[sys.executable][name]))
        for name in samples[other]
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("python", nargs="?", help="the interpreter of the other checkout")
    parser.add_argument("--dir", type=Path, default=Path(), help="the file system to measure")
    parser.add_argument("--quick", action="store_true", help="three rounds only")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        print(json.dumps(measure_here(options.here)))
        return 0
    if options.python is None:
        parser.error("name the interpreter of the other checkout")
    from benchmarks.tables import duration, factor, table

    found = compare(options.python, options.dir, _QUICK_ROUNDS if options.quick else _ROUNDS)
    print(
        table(
            ("1,000 documents, median", "other", "this", "other : this"),
            (
                (name, duration(other), duration(own), factor(other / own))
                for name, (other, own) in found.items()
            ),
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
