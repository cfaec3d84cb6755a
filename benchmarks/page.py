# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/benchmarks.md, written between markers from the results that are kept."""

import json
from pathlib import Path
from typing import Final

from benchmarks import counts, scale
from benchmarks.tables import table

_RESULTS: Final = Path(__file__).parent / "results"

PAGE: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def kept_counts() -> counts.Counts:
    """Return the counts that are kept as limits."""
    return dict(json.loads((_RESULTS / "counts.json").read_text())["counts"])


def updated(text: str) -> str:
    """Return the page with the tables that the kept results give."""
    kept_scale = json.loads((_RESULTS / "scale.json").read_text())
    parts = {
        "counts": table(
            ("one call", "count"),
            ((name, f"{count:,.1f}") for name, count in kept_counts().items()),
        ),
        "machine": table(("what", "this run"), kept_scale["machine"].items()),
        "scale": scale.markdown(kept_scale),
    }
    for name, part in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{PAGE.name} must have one part named {name!r}")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{part}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
