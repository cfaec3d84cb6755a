# SPDX-License-Identifier: Apache-2.0
"""The scale: how the cost of each operation grows with the number of documents and of changes.

``python -m benchmarks.scale`` writes ``scale.json`` after each size. Started again, it continues
with the first size that is missing. All times are medians in seconds.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import documents, machine
from benchmarks.device import settle
from benchmarks.tables import duration, table
from waggle_fsstore import FileStore

SIZES: Final = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
_QUICK_SIZES: Final = SIZES[:4]
_LOCAL: Final = Path(__file__).parent / "results" / "local"

#: An operation on all documents is skipped where it would take longer, by its time at the
#: previous size: the run is to end.
_LIMIT_S: Final = 90.0

#: A call is repeated this often, or until the calls have taken this long together.
_ROUNDS: Final = 99
_LONG_S: Final = 2.0

# Only then does a signature prove anything.
_SETTLING_TIME_S: Final = 2.5

_HISTORY_SAVES: Final = 20_000
_QUICK_HISTORY_SAVES: Final = 2_000
_EXTRAPOLATED_SAVES: Final = 100_000_000

#: By number of documents, the median of each operation in seconds.
Scale = dict[int, dict[str, float]]


def measure(
    directory: Path, size: int, previous: dict[str, float], growth: float
) -> dict[str, float]:
    """Return the medians with ``size`` documents, ``growth`` times as many as in ``previous``."""
    root = directory / "store"
    copies = (directory / f"copy-{number}" for number in count())
    found: dict[str, float] = {}
    try:
        documents.fill(root, size)
        settle(directory)
        found["open and close"] = _median(lambda: FileStore(root).close())
        with FileStore(root) as store:
            ids = iter(
                documents.pick([documents.make(n).id for n in range(min(size, 1_000))], 0, _ROUNDS)
            )
            found["first save"] = _once(lambda: store.save(documents.used(documents.make(0), 1)))
            changes = count(2)
            found["save"] = _median(
                lambda: store.save(documents.used(documents.make(0), next(changes)))
            )
            found["find_by_id"] = _median(lambda: store.find_by_id(next(ids)))
            time.sleep(_SETTLING_TIME_S)
            whole: dict[str, Callable[[], object]] = {
                "count, first": store.count,
                "find_all, first": store.find_all,
                "iter_all": lambda: sum(1 for _ in store.iter_all()),
                "check": lambda: list(store.check()),
                "snapshot": lambda: store.snapshot(next(copies)),
            }
            for name, call in whole.items():
                if (name in previous and previous[name] * growth < _LIMIT_S) or not previous:
                    found[name] = _once(call)
                if name.endswith(", first") and name in found:
                    found[name.replace("first", "again")] = _median(call)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return found


def measure_history(directory: Path, saves: int) -> dict[str, float]:
    """Return the bytes and the seconds that each save in the history costs its reader."""
    root = directory / "history"
    try:
        with FileStore(root, durable=False) as store:
            for number in range(saves):
                store.save(documents.used(documents.make(number % 100), number))
            seconds = _once(lambda: sum(1 for _ in store.history()))
        used = sum(path.stat().st_blocks * 512 for path in (root / "journal").iterdir())
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return {"saves": saves, "bytes": used / saves, "seconds": seconds / saves}


def markdown(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the table of a run as it was saved."""
    sizes = results["sizes"]
    names = dict.fromkeys(name for found in sizes.values() for name in found)
    rows = [
        (
            name,
            *(duration(found[name]) if name in found else "not run" for found in sizes.values()),
        )
        for name in names
    ]
    history = results["history"]["measured"]
    total_bytes = history["bytes"] * _EXTRAPOLATED_SAVES
    total_s = history["seconds"] * _EXTRAPOLATED_SAVES
    return "\n\n".join(
        [
            table(("documents", *(f"{int(size):,}" for size in sizes)), rows),
            (
                f"The history of {int(history['saves']):,} saves takes {history['bytes']:,.0f}"
                f" bytes a save, and {history['seconds'] * 1e6:.1f} us to read it. By"
                f" extrapolation, {_EXTRAPOLATED_SAVES:,} saves take {total_bytes / 1e9:,.0f} GB"
                f" and {total_s / 60:,.0f} minutes to read."
            ),
        ]
    )


def _once(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _median(call: Callable[[], object]) -> float:
    times = [_once(call)]
    while len(times) < _ROUNDS and sum(times) < _LONG_S:
        times.append(_once(call))
    return median(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing in the results, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(), help="the file system to measure")
    parser.add_argument("--out", type=Path, default=_LOCAL, help="the directory of scale.json")
    parser.add_argument("--quick", action="store_true", help="up to 10,000 documents only")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "scale.json"
    results = json.loads(file.read_text()) if file.exists() else {"sizes": {}, "history": {}}
    results.setdefault("machine", machine.describe(options.dir))
    sizes = _QUICK_SIZES if options.quick else SIZES
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.dir) as temporary:
        previous: dict[str, float] = {}
        for before, size in zip((1, *sizes), sizes, strict=False):
            if str(size) not in results["sizes"]:
                print(f"{size:,} documents", file=sys.stderr)
                growth = size / before
                work = Path(temporary, str(size))
                work.mkdir()
                results["sizes"][str(size)] = measure(work, size, previous, growth)
                file.write_text(json.dumps(results, indent=2) + "\n")
            previous = results["sizes"][str(size)]
        if not results["history"]:
            saves = _QUICK_HISTORY_SAVES if options.quick else _HISTORY_SAVES
            results["history"]["measured"] = measure_history(Path(temporary), saves)
            file.write_text(json.dumps(results, indent=2) + "\n")
    print(markdown(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
