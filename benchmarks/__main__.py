# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m benchmarks``: measures everything, and prints and saves a report."""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from benchmarks import history, importing, machine, operations, peers, processes, reads, writes
from benchmarks.effort import FULL, QUICK
from benchmarks.report import markdown
from benchmarks.results import Results, Summaries
from benchmarks.timing import Samples, summarise

_LOCAL: Final = Path(__file__).parent / "results" / "local"
_MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks, and return the exit code."""
    options = _parser().parse_args(arguments)
    # As with Ctrl-C, so that the temporary files are removed.
    signal.signal(signal.SIGTERM, _stop)
    try:
        results = _run(options)
    except KeyboardInterrupt:
        print("interrupted: no report is saved", file=sys.stderr)
        return 130
    report = markdown(results)
    print(report, end="")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{results.name}.md").write_text(report, encoding="utf-8")
    (options.out / f"{results.name}.json").write_text(
        json.dumps(asdict(results), indent=2) + "\n", encoding="utf-8"
    )
    return 0


def _run(options: argparse.Namespace) -> Results:
    effort = QUICK if options.quick else FULL
    entrants, remark = peers.entrants()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.dir) as temporary:
        directory = Path(temporary)
        kind = machine.file_system_type(directory)
        results = Results(
            name=options.name or kind,
            quick=options.quick,
            machine=machine.describe(directory),
            durability={entrant.name: entrant.durability for entrant in entrants},
            remarks=[remark] if remark else [],
        )
        if kind in _MEMORY_FILE_SYSTEMS:
            results.remarks.append(
                "This file system is in memory: a sync has no device to reach and costs"
                " nothing, so ratios to it are meaningless."
            )
        for size in options.sizes:
            _report_progress(f"{size:,} documents")
            results.sizes[size] = _summaries(operations.measure(directory, entrants, size, effort))
        synced = [entrant for entrant in entrants if entrant.is_synced]
        _report_progress("a long run")
        results.run = _summaries(writes.measure_run(directory, synced, effort))
        _report_progress("threads")
        results.threads = _summaries(writes.measure_threads(directory, synced, effort))
        _report_progress("batches")
        results.batches = _summaries(writes.measure_batches(directory, synced, effort))
        _report_progress("reads")
        results.reads = _summaries(reads.measure(directory, synced, effort))
        _report_progress("processes")
        results.processes = _summaries(processes.measure(directory, synced, effort))
        if light := peers.light_entrants():
            _report_progress("small libraries")
            results.durability |= {entrant.name: entrant.durability for entrant in light}
            own = [one for one in entrants if one.name.startswith(peers.FILE_STORE)]
            results.light = _summaries(
                operations.measure(directory, [*own, *light], reads.SIZE, QUICK)
            )
        lines = options.history or effort.history_lines
        _report_progress(f"a history of {lines:,} saves")
        past = history.measure(directory, lines, rounds=effort.history_rounds)
        results.history = _summaries(past.samples)
        results.history_memory = past.memory
        _report_progress("processor time")
        results.cpu = summarise(operations.measure_cpu(directory, entrants, effort))
        _report_progress("import")
        imports = importing.measure(rounds=effort.import_rounds)
        results.imports = summarise(imports.samples)
        results.forbidden = imports.forbidden
        _report_progress("done")
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="The stores and their peers side by side. See benchmarks/README.md.",
    )
    parser.add_argument(
        "--dir",
        type=_directory,
        default=Path(),
        help="measure on the file system of this directory, in a temporary subdirectory"
        " (default: the current directory)",
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=[10, 1_000, 10_000],
        help="numbers of documents (default: 10,1000,10000)",
    )
    parser.add_argument(
        "--history",
        type=_length,
        help="the number of saves in the history of the store that is opened"
        f" (default: {FULL.history_lines:,}, with --quick {QUICK.history_lines:,})",
    )
    parser.add_argument("--quick", action="store_true", help="a rough run, in a fifth of the time")
    parser.add_argument(
        "--out", type=Path, default=_LOCAL, help="write here (default: benchmarks/results/local)"
    )
    parser.add_argument("--name", help="of the files written (default: the file system's type)")
    return parser


def _summaries(samples: dict[str, Samples]) -> dict[str, Summaries]:
    return {operation: summarise(found) for operation, found in samples.items()}


def _sizes(text: str) -> list[int]:
    sizes = text.split(",")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 10,1000")
    return [int(size) for size in sizes]


def _length(text: str) -> int:
    if not text.isdecimal() or int(text) < history.MIN_LINES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of at least {history.MIN_LINES:,}"
        )
    return int(text)


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return path


def _report_progress(text: str) -> None:
    """Print progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
