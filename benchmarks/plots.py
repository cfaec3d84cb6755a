# SPDX-License-Identifier: Apache-2.0
"""The plots: SVG files drawn from the saved results, beside them."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.writes import ALL_THREADS, ONE_THREAD, THREADS

_LOCAL: Final = Path(__file__).parent / "results" / "local"
_SIZE_INCHES: Final = (8.0, 4.5)
_COLOURS: Final = 10
_MICROSECONDS: Final = 1e6

# Without these an unchanged plot would differ in each run.
mpl.rcParams["svg.hashsalt"] = "waggle-fsstore"
_METADATA: Final = {"Date": None}


def draw_scale(scale: dict[str, Any], file: Path) -> None:
    """Draw the time of each operation against the number of documents."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    sizes = scale["sizes"]
    names = dict.fromkeys(name for found in sizes.values() for name in found)
    # The colours begin again after ten: these have other marks.
    for index, name in enumerate(names):
        points = [(int(size), found[name]) for size, found in sizes.items() if name in found]
        numbers, seconds = zip(*points, strict=True)
        style = "--" if name.endswith("again") else "-"
        marker = "o" if index < _COLOURS else "s"
        axes.plot(
            numbers, [each * _MICROSECONDS for each in seconds], style, marker=marker, label=name
        )
    axes.set(xscale="log", yscale="log", xlabel="documents", ylabel="microseconds")
    axes.set_title("Time of an operation against the number of documents")
    _save(figure, file)


def draw_threads(results: dict[str, Any], file: Path) -> None:
    """Draw the saves a second of each peer against the number of threads."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    threads = results["threads"]
    numbers = {int(name.split()[0]): found for name, found in threads.items() if name[0].isdigit()}
    numbers = {1: threads[ONE_THREAD], **numbers, THREADS: threads[ALL_THREADS]}
    for peer in next(iter(numbers.values())):
        rates = [1 / found[peer]["median"] for found in numbers.values()]
        axes.plot([*numbers], rates, marker="o", label=peer)
    axes.set(xlabel="threads", ylabel="durable saves a second", ylim=(0, None))
    axes.set_xticks([*numbers])
    axes.set_title("Durable saves a second against the number of threads")
    _save(figure, file)


def draw_postgres(results: dict[str, Any], file: Path) -> None:
    """Draw the saves a second of files and databases against the number of threads."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for nodes, title in (("1", "one node"), ("3", "three nodes")):
        saves = {name: found for name, found in results[nodes].items() if " threads" in name}
        threads = [int(name.split()[1]) for name in saves]
        for side in next(iter(saves.values())):
            if side == "FileStore" and nodes == "3":
                continue  # It is the same, beside another load.
            label = side if side == "FileStore" else f"{side}, {title}"
            style = "--" if side == "bare" else "-"
            rates = [found[side] for found in saves.values()]
            axes.plot(threads, rates, style, marker="o", label=label)
    axes.set(xlabel="threads", ylabel="durable saves a second", ylim=(0, None))
    axes.set_xticks(threads)
    axes.set_title("Durable saves a second in files and in PostgreSQL")
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    axes = figure.axes[0]
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(file, metadata=_METADATA)
    print(f"drawn: {file.name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what the results of a directory contain, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("--out", type=Path, default=_LOCAL, help="the directory of the results")
    options, _ = parser.parse_known_args(arguments)
    for file in sorted(options.out.glob("*.json")):
        results = json.loads(file.read_text())
        if file.name == "scale.json":
            draw_scale(results, file.with_suffix(".svg"))
        elif file.name == "postgres.json":
            draw_postgres(results, file.with_suffix(".svg"))
        elif results.get("threads"):
            draw_threads(results, file.with_name(f"{file.stem}-threads.svg"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
